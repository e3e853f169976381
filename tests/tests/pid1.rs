//! The entrypoint as a real process: as PID 1 of its own namespaces, and as an ordinary subreaper.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use winston_tests::process::{Entrypoint, Mode, bin, is_root, namespaces, skip};

/// A sidecar that runs until it is told to end. `sleep` in the background and `wait`, because a shell handles a trap
/// only between commands. The sleeper's output is closed: it must not look like a survivor.
const FOREVER: &str = "sleep 1000 >&- 2>&- &\necho ready\nwhile :; do wait; done";

/// Runs a test in both modes, or says why one is impossible.
fn in_both_modes(test: &str, body: impl Fn(Mode) -> Result<()>) -> Result<()> {
    body(Mode::Subreaper).context("as a subreaper")?;
    as_pid1(test, || body(Mode::Pid1).context("as PID 1"))
}

fn as_pid1(test: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    match namespaces() {
        Ok(_) => body(),
        Err(reason) => {
            skip(test, reason);
            Ok(())
        }
    }
}

fn as_root(test: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    if is_root() {
        return body();
    }
    skip(test, "only root can change owners and users");
    Ok(())
}

#[test]
fn the_exit_code_is_the_sidecars() -> Result<()> {
    in_both_modes("the_exit_code_is_the_sidecars", |mode| {
        for (script, expected) in [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill -SEGV $$", 139)] {
            let (code, ..) = Entrypoint::new(mode, script)?.start()?.finish()?;
            assert_eq!(code, expected, "{script}");
        }
        Ok(())
    })
}

#[test]
fn a_real_time_signal_ends_it_too() -> Result<()> {
    in_both_modes("a_real_time_signal_ends_it_too", |mode| {
        let (code, ..) = Entrypoint::new(mode, "kill -40 $$")?.start()?.finish()?;
        assert_eq!(code, 168);
        Ok(())
    })
}

#[test]
fn signals_are_forwarded() -> Result<()> {
    in_both_modes("signals_are_forwarded", |mode| {
        let script = format!(
            "for s in HUP QUIT USR2 INT; do trap \"echo got $s\" $s; done\ntrap 'echo got TERM; exit 3' TERM\n{FOREVER}"
        );
        for signal in ["HUP", "QUIT", "USR2", "INT"] {
            let mut entrypoint = Entrypoint::new(mode, &script)?.start()?;
            entrypoint.expect("ready")?;
            entrypoint.signal(format!("SIG{signal}").parse()?)?;
            entrypoint.expect(&format!("got {signal}"))?;
            if signal != "INT" {
                entrypoint.signal(Signal::SIGTERM)?;
                entrypoint.expect("got TERM")?;
                assert_eq!(entrypoint.finish()?.0, 3);
            }
        }
        Ok(())
    })
}

/// `nohup`, and a shell that starts something in the background, leave signals ignored. A program inherits that, and a shell
/// cannot even set a trap for a signal that was ignored at its start.
#[test]
fn signals_that_were_ignored_arrive_too() -> Result<()> {
    in_both_modes("signals_that_were_ignored_arrive_too", |mode| {
        let script = format!(
            "for s in HUP QUIT INT; do trap \"echo got $s\" $s; done\ntrap 'echo got TERM; exit 3' TERM\n{FOREVER}"
        );
        for signal in ["HUP", "QUIT", "INT"] {
            let mut entrypoint = Entrypoint::new(mode, &script)?.ignoring("HUP INT QUIT").start()?;
            entrypoint.expect("ready")?;
            entrypoint.signal(format!("SIG{signal}").parse()?)?;
            entrypoint.expect(&format!("got {signal}"))?;
            entrypoint.signal(Signal::SIGTERM)?;
            if signal != "INT" {
                entrypoint.expect("got TERM")?;
                assert_eq!(entrypoint.finish()?.0, 3);
            }
        }
        Ok(())
    })
}

/// Locks name process ids; in a new container these are somebody else's.
#[test]
fn lock_files_go_when_their_owner_is_gone() -> Result<()> {
    let plan = Entrypoint::new(Mode::Subreaper, "exit 0")?;
    let tmp = plan.data().join(".openclaw/tmp/openclaw-1000");
    let sessions = plan.data().join(".openclaw/agents/main/sessions");
    let outside = tempfile::tempdir()?;
    std::fs::create_dir_all(&tmp)?;
    std::fs::create_dir_all(&sessions)?;
    let ours = std::process::id();
    let nobody = i32::MAX;
    let write = |path: &Path, content: &str| std::fs::write(path, content);
    for dir in [tmp.as_path(), sessions.as_path(), outside.path()] {
        write(&dir.join("gone.lock"), &format!("{{\"pid\":{nobody}}}"))?;
        write(&dir.join("another.lock"), &format!("{{\"pid\":{ours},\"startTime\":1}}"))?;
        // It may be the owner: it is older than the file, and the file says no more.
        write(&dir.join("alive.lock"), &format!("{{\"pid\":{ours}}}"))?;
        write(&dir.join("unknown.lock"), "no owner")?;
        write(&dir.join("gone.lock.sqlite"), &format!("{{\"pid\":{nobody}}}"))?;
    }
    symlink(outside.path(), plan.data().join(".openclaw/tmp/openclaw-1001"))?;
    symlink(outside.path().join("gone.lock"), tmp.join("link.lock"))?;
    let left = |dir: &Path| -> Result<Vec<String>> {
        let names = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names = names.collect::<Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    };
    let log = plan.start()?.finish()?.2;
    assert_eq!(left(&sessions)?, ["alive.lock", "gone.lock.sqlite", "unknown.lock"], "{log}");
    assert_eq!(left(&tmp)?, ["alive.lock", "gone.lock.sqlite", "link.lock", "unknown.lock"], "{log}");
    assert_eq!(left(outside.path())?.len(), 5, "outside");

    // Somebody else uses the volume: nothing is sure.
    write(&tmp.join("gone.lock"), &format!("{{\"pid\":{nobody}}}"))?;
    let other = Entrypoint::new(Mode::Subreaper, &format!("trap 'exit 0' TERM\n{FOREVER}"))?
        .env("WINSTON_DATA_DIR", &plan.data().to_string_lossy());
    let mut other = other.start()?;
    other.expect("ready")?;
    write(&tmp.join("gone.lock"), &format!("{{\"pid\":{nobody}}}"))?;
    let log = plan.start()?.finish()?.2;
    assert!(log.contains("another winston-entrypoint"), "{log}");
    assert!(tmp.join("gone.lock").exists());
    other.signal(Signal::SIGTERM)?;
    assert_eq!(other.finish()?.0, 0);
    Ok(())
}

#[test]
fn the_inspector_signal_is_refused() -> Result<()> {
    in_both_modes("the_inspector_signal_is_refused", |mode| {
        let script = format!("trap 'echo got USR1' USR1\ntrap 'echo got HUP' HUP\ntrap 'exit 0' TERM\n{FOREVER}");
        let mut entrypoint = Entrypoint::new(mode, &script)?.start()?;
        entrypoint.expect("ready")?;
        entrypoint.signal(Signal::SIGUSR1)?;
        entrypoint.expect_log("SIGUSR1 is not passed on")?;
        entrypoint.signal(Signal::SIGHUP)?;
        entrypoint.expect("got HUP")?;
        entrypoint.signal(Signal::SIGTERM)?;
        assert_eq!(entrypoint.finish()?.0, 0);
        Ok(())
    })
}

#[test]
fn the_second_term_hurries() -> Result<()> {
    in_both_modes("the_second_term_hurries", |mode| {
        let script = format!("trap 'echo got TERM' TERM\n{FOREVER}");
        let mut entrypoint = Entrypoint::new(mode, &script)?.env("WINSTON_STOP_GRACE_SECONDS", "600").start()?;
        entrypoint.expect("ready")?;
        entrypoint.signal(Signal::SIGTERM)?;
        entrypoint.expect("got TERM")?;
        entrypoint.signal(Signal::SIGTERM)?;
        assert_eq!(entrypoint.finish()?.0, 137);
        Ok(())
    })
}

#[test]
fn grace_has_an_end() -> Result<()> {
    in_both_modes("grace_has_an_end", |mode| {
        let script = format!("trap 'echo got TERM' TERM\n{FOREVER}");
        let mut entrypoint = Entrypoint::new(mode, &script)?.env("WINSTON_STOP_GRACE_SECONDS", "1").start()?;
        entrypoint.expect("ready")?;
        let asked = Instant::now();
        entrypoint.signal(Signal::SIGTERM)?;
        entrypoint.expect("got TERM")?;
        assert_eq!(entrypoint.finish()?.0, 137);
        assert!(asked.elapsed() >= Duration::from_secs(1));
        Ok(())
    })
}

#[test]
fn two_thousand_orphans_leave_no_zombie() -> Result<()> {
    // Zombies are counted by state and parent until there is none, for as many looks as a fast machine does in
    // seconds. The count of orphans is bounded by WINSTON_TEST_ORPHANS.
    let orphans = std::env::var("WINSTON_TEST_ORPHANS").unwrap_or_else(|_| "2000".to_owned());
    let script = format!(
        r#"i=0
while [ $i -lt {orphans} ]; do ( : & ); i=$((i + 1)); done
zombies() {{ cat /proc/[0-9]*/stat 2>&- | awk -v p=$PPID '$3 == "Z" && $4 == p' | wc -l; }}
look=0
while [ "$(zombies)" -ne 0 ] && [ $look -lt 500 ]; do look=$((look + 1)); done
echo "made $i, zombies $(zombies)""#
    );
    in_both_modes("two_thousand_orphans_leave_no_zombie", |mode| {
        let entrypoint = Entrypoint::new(mode, &script)?.start()?;
        entrypoint.expect(&format!("made {orphans}, zombies 0"))
    })
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    // Three leftovers in sessions of their own: one that ends when asked, one that does not listen, one with a child.
    // All hold the output, so its end proves that they are gone.
    let script = r#"setsid sh -c 'trap "echo bye; exit" TERM; echo up; sleep 1000 >&- & while :; do wait; done' &
setsid sh -c 'trap "" TERM; echo up; while :; do sleep 1000; done' &
setsid sh -c 'sh -c "echo up; sleep 1000" & wait' &
read go < "$WINSTON_DATA_DIR/go"
exit 5"#;
    in_both_modes("nothing_is_left_behind", |mode| {
        let plan = Entrypoint::new(mode, script)?;
        std::fs::create_dir(plan.data())?;
        let go = plan.data().join("go");
        nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU)?;
        let mut entrypoint = plan.start()?;
        for _ in 0..3 {
            entrypoint.expect("up")?;
        }
        std::fs::write(&go, "\n")?;
        let (code, lines, _) = entrypoint.finish()?;
        assert_eq!(code, 5);
        assert_eq!(lines, ["bye"], "asked before it was killed");
        Ok(())
    })
}

#[test]
fn a_killed_entrypoint_stops_its_sidecar() -> Result<()> {
    let script = format!("echo $$\ntrap 'echo got TERM; exit' TERM\n{FOREVER}");
    let mut entrypoint = Entrypoint::new(Mode::Subreaper, &script)?.start()?;
    let sidecar = Pid::from_raw(entrypoint.line()?.parse()?);
    entrypoint.expect("ready")?;
    let sleepers = winston_tests::process::children(sidecar)?;
    entrypoint.signal(Signal::SIGKILL)?;
    entrypoint.expect("got TERM")?;
    for sleeper in sleepers {
        let _ = kill(sleeper, Signal::SIGKILL); // nobody is left to do it
    }
    assert_eq!(entrypoint.wait()?, 137);
    Ok(())
}

#[test]
fn every_mistake_is_listed_at_once() -> Result<()> {
    let mut entrypoint = Entrypoint::new(Mode::Subreaper, "echo started")?
        .env("WINSTON_SIDECAR_TOKEN", "short-secret")
        .env("WINSTON_TENANT_ID", "")
        .env("WINSTON_CONTROL_URL", "control")
        .env("OPENCLAW_STATE_DIR", "/elsewhere")
        .start()?;
    let (code, lines, log) = entrypoint.finish()?;
    assert_eq!(code, 64);
    assert_eq!(lines, [""; 0]);
    let names: Vec<_> = log.lines().map(message).collect::<Result<_>>()?;
    for (line, name) in
        names.iter().zip(["WINSTON_SIDECAR_TOKEN", "WINSTON_TENANT_ID", "WINSTON_CONTROL_URL", "OPENCLAW_STATE_DIR"])
    {
        assert!(line.starts_with(name), "{line}");
    }
    assert_eq!(names.len(), 4);
    assert!(!log.contains("short-secret"));
    Ok(())
}

#[test]
fn the_command_line() -> Result<()> {
    let run = |arguments: &[&str]| -> Result<(i32, String)> {
        let output = Command::new(bin("winston-entrypoint")?).args(arguments).output()?;
        let code = output.status.code().context("a signal")?;
        Ok((code, String::from_utf8(output.stdout)?))
    };
    let (code, help) = run(&["--help"])?;
    assert_eq!(code, 0);
    assert!(help.contains("Examples:") && help.contains("WINSTON_SIDECAR_TOKEN"));
    assert!(run(&["--version"])?.1.starts_with("winston-entrypoint "));
    assert!(run(&["--variables"])?.1.starts_with("| `WINSTON_"));
    for wrong in [&["--nonsense"][..], &["extra"], &["--help", "extra"]] {
        assert_eq!(run(wrong)?.0, 64, "{wrong:?}");
    }
    Ok(())
}

#[test]
fn seeds_are_laid_out_for_the_sidecar() -> Result<()> {
    in_both_modes("seeds_are_laid_out_for_the_sidecar", |mode| {
        let plan =
            Entrypoint::new(mode, "exit 0")?.env("WINSTON_OPENCLAW_JSON", "e30=").env("WINSTON_SOUL_MD", "# Soul");
        let seeds = plan.data().join(".winston/seed");
        plan.start()?.finish()?;
        let config = seeds.join(".openclaw/openclaw.json");
        assert_eq!(std::fs::read_to_string(&config)?, "{}");
        assert_eq!(mode_of(&config)?, 0o600);
        let soul = std::fs::read_to_string(seeds.join("workspace/SOUL.md"))?;
        assert_eq!(soul, "# Soul");
        assert!(!plan.data().join("workspace/SOUL.md").exists(), "the sidecar has the only write path");

        let plan = plan.env("WINSTON_SOUL_MD", "");
        plan.start()?.finish()?;
        assert!(config.exists());
        assert!(!seeds.join("workspace/SOUL.md").exists(), "taken away");
        Ok(())
    })
}

#[test]
fn the_sidecar_gets_no_seeds_and_what_was_resolved() -> Result<()> {
    let mut entrypoint = Entrypoint::new(Mode::Subreaper, "echo \"$#\"; env")?
        .env("WINSTON_TENANT_ID", "")
        .env("TENANT_ID", "older-name")
        .env("WINSTON_SOUL_MD", "# Soul")
        .env("WINSTON_OPENCLAW_JSON", "{}")
        .env("SOMETHING_ELSE", "kept")
        .start()?;
    let (_, lines, _) = entrypoint.finish()?;
    assert_eq!(lines[0], "0", "nothing in argv");
    let has = |start: &str| lines.iter().any(|line| line.starts_with(start));
    assert!(!has("WINSTON_SOUL_MD") && !has("WINSTON_OPENCLAW_JSON"));
    assert!(has("WINSTON_SIDECAR_TOKEN=test-token-"));
    assert!(has("WINSTON_TENANT_ID=older-name"));
    assert!(has("OPENCLAW_STATE_DIR=/") && has("OPENCLAW_WORKSPACE_DIR=/"));
    assert!(has("SOMETHING_ELSE=kept"));
    Ok(())
}

#[test]
fn directories_have_their_modes() -> Result<()> {
    in_both_modes("directories_have_their_modes", |mode| {
        let plan = Entrypoint::new(mode, "exit 0")?;
        plan.start()?.finish()?;
        for (path, expected) in [
            (".openclaw", 0o700),
            ("workspace", 0o755),
            (".home", 0o700),
            (".winston", 0o700),
            (".winston/seed", 0o700),
        ] {
            assert_eq!(mode_of(&plan.data().join(path))?, expected, "{path}");
        }
        Ok(())
    })
}

#[test]
fn what_root_left_behind_is_given_away() -> Result<()> {
    as_root("what_root_left_behind_is_given_away", || {
        let plan = Entrypoint::new(Mode::Subreaper, "exit 0")?
            .env("WINSTON_GATEWAY_UID", "1000")
            .env("WINSTON_GATEWAY_GID", "1001");
        let data = plan.data();
        let at = |path: &str| data.join(path);
        std::fs::create_dir_all(at("workspace/deep/er"))?;
        std::fs::create_dir_all(at(".winston"))?;
        let outside = tempfile::NamedTempFile::new()?;
        std::fs::write(at("operator.txt"), "root's own")?;
        std::fs::write(at("workspace/deep/er/file"), "left behind")?;
        std::fs::write(at("workspace/other"), "somebody else's")?;
        std::os::unix::fs::chown(at("workspace/other"), Some(4242), Some(4242))?;
        std::fs::hard_link(at("operator.txt"), at("workspace/hard"))?;
        symlink(outside.path(), at("workspace/soft"))?;
        symlink("/etc", at("workspace/etc"))?;
        // Deeper than anybody works, and than the walk goes.
        let mut deep = at("workspace/deep");
        for _ in 0..300 {
            deep.push("d");
            std::fs::create_dir(&deep)?;
        }

        let (_, _, log) = plan.start()?.finish()?;
        let owner = |path: &Path| std::fs::symlink_metadata(path).map(|meta| (meta.uid(), meta.gid()));
        for path in [".openclaw", ".home", "workspace", "workspace/deep/er/file", "workspace/soft"] {
            assert_eq!(owner(&at(path))?, (1000, 1001), "{path}");
        }
        assert_eq!(owner(&at("operator.txt"))?, (0, 0), "behind a hard link");
        assert_eq!(owner(&at("workspace/other"))?, (4242, 4242));
        assert_eq!(owner(outside.path())?, (0, 0), "behind a symbolic link");
        assert_eq!(owner(Path::new("/etc"))?.0, 0);
        assert_eq!(owner(&at(".winston"))?, (0, 0));
        assert_eq!(mode_of(&at(".winston"))?, 0o700);
        assert_eq!(mode_of(&data)? & 0o011, 0o011, "the gateway can pass");
        assert!(log.contains("some entries keep their owner"), "{log}");

        // The second start believes the mark, unless a directory itself changed hands.
        std::fs::write(at("workspace/late"), "left behind later")?;
        plan.start()?.finish()?;
        assert_eq!(owner(&at("workspace/late"))?.0, 0);
        std::os::unix::fs::chown(at("workspace"), Some(0), Some(0))?;
        plan.start()?.finish()?;
        assert_eq!(owner(&at("workspace/late"))?.0, 1000);
        Ok(())
    })
}

/// Who owns a directory can rename what is in it: a bind mount of the agent's user must not leave it that power.
#[test]
fn the_agent_cannot_put_a_history_of_its_own_in_place() -> Result<()> {
    as_root("the_agent_cannot_put_a_history_of_its_own_in_place", || {
        let plan = Entrypoint::new(Mode::Subreaper, "echo started")?.env("WINSTON_GATEWAY_UID", "1000");
        let data = plan.data();
        std::fs::create_dir(&data)?;
        std::os::unix::fs::chown(&data, Some(1000), Some(1000))?;
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o1770))?;
        assert_eq!(plan.start()?.finish()?.0, 0);
        let meta = std::fs::metadata(&data)?;
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (0, 0, 0o1751));

        let agent = |script: &str| -> Result<bool> {
            let mut command = Command::new("sh");
            command.args(["-c", script]).current_dir(&data).stderr(Stdio::null());
            Ok(command.gid(1000).uid(1000).status()?.success())
        };
        assert!(agent("touch workspace/a .openclaw/a .home/a")?, "its own directories");
        for attempt in ["mv .winston .stolen", "mkdir new", "touch new", "rmdir workspace", "ls .winston"] {
            assert!(!agent(attempt)?, "{attempt}");
        }

        // One that was put there before, when it could.
        std::os::unix::fs::chown(data.join(".winston"), Some(1000), Some(1000))?;
        let (code, lines, log) = plan.start()?.finish()?;
        assert_eq!((code, lines), (77, vec![]), "{log}");
        let error = message(log.lines().last().context("a line")?)?;
        let path = data.join(".winston").display().to_string();
        for part in [path.as_str(), "uid 1000", "forged", &format!("chown -R root {path}")] {
            assert!(error.contains(part), "{part:?} in {error:?}");
        }
        let meta = std::fs::metadata(data.join(".winston"))?;
        assert_eq!(meta.uid(), 1000, "left as it was found");
        Ok(())
    })
}

#[test]
fn an_unusable_data_directory_is_one_clear_line() -> Result<()> {
    let fails = |plan: &Entrypoint, expected: i32, parts: &[&str]| -> Result<()> {
        let (code, lines, log) = plan.start()?.finish()?;
        assert_eq!(code, expected, "{log}");
        assert_eq!(lines, [""; 0], "no sidecar was started");
        let error = log.lines().last().context("a line")?;
        let error = message(error)?;
        for part in parts {
            assert!(error.contains(part), "{part:?} in {error:?}");
        }
        Ok(())
    };
    let sidecar = "echo started";

    let plan = Entrypoint::new(Mode::Subreaper, sidecar)?.env("WINSTON_DATA_DIR", "/missing/data");
    fails(&plan, 73, &["/missing/data", "parent is missing", "WINSTON_DATA_DIR"])?;

    let plan = Entrypoint::new(Mode::Subreaper, sidecar)?;
    std::fs::create_dir(plan.data())?;
    symlink("/tmp", plan.data().join("workspace"))?;
    fails(&plan, 73, &["workspace is no directory, or a symbolic link"])?;

    let plan = Entrypoint::new(Mode::Subreaper, sidecar)?;
    std::fs::write(plan.data(), "a file")?;
    fails(&plan, 73, &["data/ is no directory"])?;

    let name = "an_unusable_data_directory_is_one_clear_line";
    as_root(name, || {
        let plan = Entrypoint::new(Mode::Subreaper, sidecar)?.user(65534)?;
        std::fs::create_dir(plan.data())?;
        fails(&plan, 77, &["uid 65534", "permission denied", "start as root", "chown -R 65534"])
    })?;
    as_pid1(name, || {
        let plan = Entrypoint::new(Mode::Pid1, sidecar)?.prelude(
            "mkdir -p \"$WINSTON_DATA_DIR\"; mount --bind \"$WINSTON_DATA_DIR\" \"$WINSTON_DATA_DIR\"
             mount -o remount,bind,ro \"$WINSTON_DATA_DIR\"",
        );
        fails(&plan, 74, &["read-only file system", "mount the volume read-write"])
    })
}

/// A tenant whose volume has filled up must come back after a restart: only then can anybody make room.
#[test]
fn a_full_volume_does_not_keep_the_tenant_down() -> Result<()> {
    as_pid1("a_full_volume_does_not_keep_the_tenant_down", || {
        let plan = Entrypoint::new(Mode::Pid1, "echo started")?.prelude(
            "mount -t tmpfs -o size=64k tmpfs \"$WINSTON_DATA_DIR\"; cd \"$WINSTON_DATA_DIR\"
             mkdir -p .winston/seed .openclaw workspace .home
             dd if=/dev/zero of=fill bs=4k 2>/dev/null || true; cd /",
        );
        std::fs::create_dir(plan.data())?;
        let (code, lines, log) = plan.start()?.finish()?;
        assert_eq!((code, lines), (0, vec!["started".to_owned()]), "{log}");
        assert!(log.contains("the volume is full"), "{log}");
        Ok(())
    })
}

#[test]
fn a_missing_volume_is_said() -> Result<()> {
    const WARNING: &str = "the data directory is no volume";
    as_pid1("a_missing_volume_is_said", || {
        let plan = Entrypoint::new(Mode::Pid1, "exit 0")?;
        let without = plan.start()?.finish()?.2;
        let plan = plan.prelude("mount -t tmpfs tmpfs \"$WINSTON_DATA_DIR\"");
        let with = plan.start()?.finish()?.2;
        assert!(!with.contains(WARNING), "{with}");
        // On a machine whose temporary directory is a mount of its own there is nothing to warn about.
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let data = plan.data();
        if !points.filter(|point| *point != "/").any(|point| data.starts_with(point)) {
            assert!(without.contains(WARNING), "{without}");
        }
        Ok(())
    })
}

#[test]
fn a_missing_sidecar_is_said() -> Result<()> {
    let plan = Entrypoint::new(Mode::Subreaper, "exit 0")?;
    let plan = plan.env("WINSTON_SIDECAR_BIN", "/missing/sidecar");
    let (code, _, log) = plan.start()?.finish()?;
    assert_eq!(code, 127);
    assert!(log.contains("/missing/sidecar") && log.contains("WINSTON_SIDECAR_BIN"));
    let plan = plan.env("WINSTON_SIDECAR_BIN", "/etc/passwd");
    assert_eq!(plan.start()?.finish()?.0, 126);
    Ok(())
}

/// The message of a log line, which must be a JSON object with a level.
fn message(line: &str) -> Result<String> {
    let value: serde_json::Value = serde_json::from_str(line).context(line.to_owned())?;
    assert!(value["level"].is_string(), "{line}");
    Ok(value["message"].as_str().context("no message")?.to_owned())
}

fn mode_of(path: &Path) -> Result<u32> {
    let meta = std::fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    Ok(meta.permissions().mode() & 0o7777)
}
