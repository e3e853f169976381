//! The data directory: what is made in it, whose it becomes, and what is said when it cannot be used.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use winston_tests::process::{Entrypoint, Mode, is_root};

use crate::{FOREVER, as_pid1, as_root, in_both_modes, message, mode_of};

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

/// Where the agent can write it may put links, and what it left behind must not keep anybody from starting.
#[test]
fn temporary_files_are_the_tenants_own_and_the_cache_stays() -> Result<()> {
    let script = r#"echo "$WINSTON_GATEWAY_TMPDIR" "$TMPDIR"
[ -n "$WINSTON_GATEWAY_TMPDIR" ] || exit 0
cd "$WINSTON_GATEWAY_TMPDIR" || exit 1
ls -A; readlink node-compile-cache
touch left .behind; mkdir -p a/b; ln -s /etc a/etc; echo code > node-compile-cache/module"#;
    let uid = if is_root() { "64001" } else { "" };
    let plan = Entrypoint::new(Mode::Subreaper, script)?.env("WINSTON_GATEWAY_UID", uid);
    let cache = plan.data().join(".home/.cache/node-compile-cache");
    let start = || -> Result<(String, Vec<String>)> {
        let (code, mut lines, log) = plan.start()?.finish()?;
        assert_eq!(code, 0, "{log}");
        assert!(!log.contains("does without"), "{log}");
        Ok((lines.remove(0), lines))
    };
    let (first, listed) = start()?;
    let (theirs, ours) = first.split_once(' ').context("two directories")?;
    assert!(theirs.starts_with(&format!("{ours}/winston-{uid}")), "{first}");
    assert_eq!(listed, ["node-compile-cache", &cache.display().to_string()]);
    assert!(!Path::new(theirs).exists(), "an orderly end leaves none");
    assert!(cache.join("module").exists());

    // As a kill leaves it, with what an agent could have done to it.
    std::fs::create_dir_all(Path::new(theirs).join("old/deep"))?;
    std::fs::write(Path::new(theirs).join("old/deep/file"), "")?;
    symlink("/etc/passwd", Path::new(theirs).join("node-compile-cache"))?;
    if is_root() {
        std::os::unix::fs::chown(theirs, Some(64_001), Some(64_001))?;
    }
    let (again, listed) = start()?;
    assert_eq!((again, listed.len()), (first.clone(), 2), "{listed:?}");
    assert!(cache.join("module").exists());

    // Where somebody else was first, or a link leads away, the gateway goes without.
    symlink("/etc", theirs)?;
    let (_, lines, log) = plan.start()?.finish()?;
    assert!(log.contains("does without"), "{log}");
    assert!(lines[0].starts_with(' '), "{lines:?}");
    std::fs::remove_file(theirs)?;
    if is_root() {
        std::fs::create_dir(theirs)?;
        std::os::unix::fs::chown(theirs, Some(64_002), Some(64_002))?;
        let (_, lines, log) = plan.start()?.finish()?;
        assert!(log.contains("does without"), "{log}");
        assert!(lines[0].starts_with(' '), "{lines:?}");
        std::fs::remove_dir(theirs)?;
    }
    std::fs::remove_dir_all(&cache)?;
    symlink("/etc", &cache)?;
    let log = plan.start()?.finish()?.2;
    assert!(log.contains("does without"), "{log}");
    Ok(())
}
