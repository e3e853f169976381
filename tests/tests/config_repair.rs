//! A configuration that was edited by hand and that the gateway refuses gives way to the last one that was good, by itself.

use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use winston_tests::http::free_address;
use winston_tests::process::skip;
use winston_tests::sidecar::Setup;
use winston_tests::trial::{CONFIG, Host, config, restarting, setup};
use winston_tests::wait::eventually;

fn start() -> Result<Host> {
    let (setup, _) = setup(Setup::new()?)?;
    Host::start(&setup, &config("old", &json!({})))
}

fn wait_until_repaired(host: &Host, old: &str) -> Result<Value> {
    eventually("the good configuration is in place", || {
        Ok((host.on_disk().ok().as_deref() == Some(old)).then_some(()))
    })?;
    host.gateway.wait_until_ready(None)?;
    host.wait_for("the repair is told", |report| {
        report["repair"]["seq"].is_u64() && report["last"]["verdict"] == "rolled_back"
    })
}

/// By the agent's hand and through the file API; what they wrote is kept, and said.
#[test]
fn what_a_start_refuses_gives_way() -> Result<()> {
    let host = start()?;
    let old = host.on_disk()?;
    let bad =
        ["garbage {".to_owned(), config("bad", &json!({"start": "refuse"})), old.replace("\"local\"", "\"remote\"")];
    for (round, bad) in bad.iter().enumerate() {
        let pid = host.gateway.wait_until_ready(None)?;
        let agent = round % 2 == 0;
        if agent {
            host.sidecar.agent_writes(CONFIG, bad)?;
        } else {
            host.sidecar.put(CONFIG, bad)?.expect(200)?;
        }
        // A running gateway goes on, and what is on disk stays as they wrote it.
        let wanted = if agent { "agent update" } else { "admin update" };
        eventually("their version is recorded", || {
            Ok((host.sidecar.history(CONFIG)?.last().map(String::as_str) == Some(wanted)).then_some(()))
        })?;
        assert_eq!((host.on_disk()?, host.gateway.wait_until_ready(None)?), (bad.clone(), pid));

        let started = Instant::now();
        host.gateway.order("restart")?;
        let report = wait_until_repaired(&host, &old)?;
        println!("round {round}: serving again after {} ms", started.elapsed().as_millis());
        let history = host.sidecar.history(CONFIG)?;
        assert_eq!(history[history.len() - 2..], [wanted, "system update"]);
        let rejected = report["repair"]["rejected"].as_str().context("rejected")?;
        assert!(report["last"]["reason"].as_str().is_some_and(|reason| reason.contains(rejected)), "{report}");
        // Two within a second share a name.
        assert!(host.sidecar.data().join(rejected).is_file());
        if round == 0 {
            assert_eq!(&std::fs::read_to_string(host.sidecar.data().join(rejected))?, bad);
        }
        host.wait_until_good()?;
    }
    Ok(())
}

/// A configuration that is gone comes back as well.
#[test]
fn a_removed_configuration_comes_back() -> Result<()> {
    let host = start()?;
    let old = host.on_disk()?;
    std::fs::remove_file(host.sidecar.data().join(CONFIG))?;
    host.gateway.order("restart")?;
    wait_until_repaired(&host, &old)?;
    Ok(())
}

/// Across a restart of the sidecar: the good set is on the volume.
#[test]
fn a_start_with_a_bad_configuration_ends_with_a_good_one() -> Result<()> {
    let host = start()?;
    let old = host.on_disk()?;
    let setup = host.sidecar.kill()?;
    std::fs::write(setup.data().join(CONFIG), "garbage {")?;
    let host = Host::of(setup.start()?);
    wait_until_repaired(&host, &old)?;
    Ok(())
}

/// When the newest good one is refused too (something around it has changed), the one before it is tried.
#[test]
fn older_good_ones_are_tried_as_well() -> Result<()> {
    let host = start()?;
    let oldest = host.on_disk()?;
    host.put(&config("newer", &json!({})))?.expect(200)?;
    let setup = host.sidecar.kill()?;
    // The newest good set turns bad where it lies: as if an update of the gateway did not like it any more.
    let newest = setup.data().join(".winston/config/good/2");
    let bad = config("bad", &json!({"start": "refuse"}));
    std::fs::write(newest.join("0"), &bad)?;
    let manifest = std::fs::read_to_string(newest.join("set.json"))?;
    let was = winston_tests::tenant::hash(config("newer", &json!({})));
    std::fs::write(newest.join("set.json"), manifest.replace(&was, &winston_tests::tenant::hash(&bad)))?;
    std::fs::write(setup.data().join(CONFIG), "garbage {")?;
    let host = Host::of(setup.start()?);
    wait_until_repaired(&host, &oldest)?;
    Ok(())
}

/// The exit code of a refused configuration, for another reason: the newest good configuration is what is there once that is over. Some reasons are
/// known by the gateway's words, and nothing is tried then.
#[test]
fn what_else_is_wrong_costs_no_configuration() -> Result<()> {
    const DENIED: &str = "Gateway failed to start: EACCES: permission denied, mkdir '/data/.openclaw/state' | gateway.maintenance_required";
    for (words, likely, cause) in [(DENIED, json!("no_permission"), "failed"), ("new words", json!(null), "bad_config")]
    {
        let host = start()?;
        for marker in ["second", "third"] {
            host.put(&config(marker, &json!({})))?.expect(200)?;
        }
        let newest = host.on_disk()?;
        let trouble = host.sidecar.data().join(".home/trouble");
        std::fs::write(&trouble, words)?;
        host.gateway.order("restart")?;
        let last = eventually("it is given up", || {
            let status = host.gateway.status()?;
            let versions = host.sidecar.history(CONFIG)?;
            // Without known words all three are tried, and the newest comes back.
            let tried = cause == "failed" || versions.len() == 6;
            let over = status["state"] == "crash_looping" || status["state"] == "backoff";
            Ok((over && tried && !status["last_exit"].is_null()).then_some(status["last_exit"].clone()))
        })?;
        ensure!(last["likely"] == likely && last["cause"] == cause, "{last}");
        ensure!(host.on_disk()? == newest, "{words}: {}", host.on_disk()?);
        std::fs::remove_file(&trouble)?;
        host.gateway.order("start")?;
        host.gateway.wait_until_ready(None)?;
        ensure!(host.on_disk()? == newest, "{words}: {}", host.on_disk()?);
    }
    Ok(())
}

/// One that the disk has spoiled is no reason to stop there.
#[test]
fn a_damaged_good_one_is_left_out() -> Result<()> {
    let host = start()?;
    let oldest = host.on_disk()?;
    host.put(&config("newer", &json!({})))?.expect(200)?;
    let setup = host.sidecar.kill()?;
    std::fs::write(setup.data().join(".winston/config/good/2/0"), "spoiled")?;
    std::fs::write(setup.data().join(CONFIG), "garbage {")?;
    let host = Host::of(setup.start()?);
    wait_until_repaired(&host, &oldest)?;
    Ok(())
}

/// Puts something in the place of the configuration that is no file of ours to read.
fn put_in_the_way(data: &Path, what: &str) -> Result<()> {
    let file = data.join(CONFIG);
    std::fs::remove_file(&file)?;
    match what {
        "directory" => {
            std::fs::create_dir(&file)?;
            std::fs::write(file.join("within"), "theirs")?;
        }
        "fifo" => ensure!(Command::new("mkfifo").arg(&file).status()?.success(), "mkfifo"),
        "link" => {
            std::fs::write(data.join(".openclaw/elsewhere"), "garbage {")?;
            std::os::unix::fs::symlink("elsewhere", &file)?;
        }
        "dangling link" => std::os::unix::fs::symlink("nowhere", &file)?,
        _ => std::fs::write(&file, "{".repeat(LARGEST + 1))?,
    }
    Ok(())
}

/// What [`put_in_the_way`] has made.
fn is_there(path: &Path, what: &str) -> Result<bool> {
    let meta = path.symlink_metadata()?;
    Ok(match what {
        "directory" => std::fs::read_to_string(path.join("within"))? == "theirs",
        "fifo" => meta.file_type().is_fifo(),
        "large" => meta.is_file() && meta.len() == LARGEST as u64 + 1,
        _ => meta.is_symlink(),
    })
}

const LARGEST: usize = 64 * 1024;

/// What is no file that could be read does not stop it: it goes aside as it is.
#[test]
fn what_is_no_file_gives_way_too() -> Result<()> {
    for what in ["directory", "fifo", "link", "dangling link", "large"] {
        let (setup, _) = setup(Setup::new()?.env("WINSTON_MAX_FILE_BYTES", &LARGEST.to_string()))?;
        let host = Host::start(&setup, &config("old", &json!({})))?;
        let old = host.on_disk()?;
        // Whoever reads a FIFO waits for a writer, and a gateway may do so for minutes before its start has failed.
        if what != "fifo" {
            put_in_the_way(host.sidecar.data(), what)?;
            host.gateway.order("restart")?;
            let report = wait_until_repaired(&host, &old).with_context(|| what.to_owned())?;
            let rejected = host.sidecar.data().join(report["repair"]["rejected"].as_str().context("rejected")?);
            ensure!(is_there(&rejected, what)?, "{what}: {report}");
        }

        // Again, at a start: no gateway has to fail first.
        let setup = host.sidecar.kill()?;
        put_in_the_way(setup.data(), what)?;
        let host = Host::of(setup.start()?);
        eventually("the good configuration is in place", || {
            // We would wait for a writer too.
            let is_file = host.sidecar.data().join(CONFIG).symlink_metadata()?.is_file();
            Ok((is_file && host.on_disk().ok().as_deref() == Some(&old)).then_some(()))
        })
        .with_context(|| what.to_owned())?;
        host.gateway.wait_until_ready(None)?;
    }
    Ok(())
}

/// The same while a configuration is tried: the trial ends, and what was before it comes back.
#[test]
fn what_is_no_file_ends_a_trial() -> Result<()> {
    for what in ["directory", "large"] {
        let base = Setup::new()?.env("WINSTON_MAX_FILE_BYTES", &LARGEST.to_string());
        let (setup, _) = setup(base)?;
        let setup = setup.env("WINSTON_PROBATION_START_SECONDS", "5");
        let host = Host::start(&setup, &config("old", &json!({})))?;
        let old = host.on_disk()?;
        host.submit(&restarting("bad", &json!({"start": "hang"})))?;
        eventually("it is tried", || Ok(host.on_disk()?.contains("bad").then_some(())))?;
        put_in_the_way(host.sidecar.data(), what)?;
        eventually("the good configuration is in place", || {
            Ok((host.on_disk().ok().as_deref() == Some(&old)).then_some(()))
        })
        .with_context(|| what.to_owned())?;
        host.gateway.wait_until_ready(None)?;
    }
    Ok(())
}

/// However often the agent does it, a bounded number of them is kept.
#[test]
fn directories_in_the_way_do_not_pile_up() -> Result<()> {
    let host = start()?;
    let old = host.on_disk()?;
    let state = host.sidecar.data().join(".openclaw");
    for year in 2000..2010 {
        let within = state.join(format!("openclaw.json.rejected.{year}0101T000000Z/a/b"));
        std::fs::create_dir_all(&within)?;
        std::fs::write(within.join("theirs"), "x")?;
    }
    put_in_the_way(host.sidecar.data(), "directory")?;
    host.gateway.order("restart")?;
    wait_until_repaired(&host, &old)?;
    assert_eq!(rejected(&state)?.len(), 5);
    assert_eq!(std::fs::read_dir(host.sidecar.data().join(".winston/staging"))?.count(), 0);
    Ok(())
}

fn rejected(state: &Path) -> Result<Vec<String>> {
    let names = std::fs::read_dir(state)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.collect::<std::io::Result<_>>()?;
    names.retain(|name| name.starts_with("openclaw.json.rejected."));
    Ok(names)
}

/// On a full volume nothing can be kept, so nothing is left in the place of what was kept before.
#[test]
fn a_full_volume_loses_no_refused_one() -> Result<()> {
    let (setup, _) = setup(Setup::new()?)?;
    let good = config("old", &json!({}));
    let prepare = format!("mkdir -p .openclaw .home; printf '%s' '{good}' > {CONFIG}");
    let setup = match setup.volume("4m", &prepare)? {
        Ok(setup) => setup,
        Err(reason) => {
            skip("a_full_volume_loses_no_refused_one", &reason);
            return Ok(());
        }
    };
    let host = Host::of(setup.start()?);
    host.wait_until_good()?;
    let good = host.on_disk()?;
    let volume = host.sidecar.volume();
    let state = volume.join(".openclaw");
    let known: Vec<_> = (2000..2005).map(|year| format!("openclaw.json.rejected.{year}0101T000000Z")).collect();
    for name in &known {
        std::fs::write(state.join(name), "an earlier one")?;
    }
    // Its content is recorded while there is room.
    std::fs::write(volume.join(CONFIG), format!("garbage {{{}", "x".repeat(20_000)))?;
    eventually("their version is recorded", || {
        Ok((host.sidecar.history(CONFIG)?.last().map(String::as_str) == Some("agent update")).then_some(()))
    })?;
    let filler = volume.join("filler.tmp");
    let filled = Command::new("dd").args(["if=/dev/zero", "bs=4096", &format!("of={}", filler.display())]).output()?;
    ensure!(!filled.status.success(), "dd should have met the end of the volume");
    host.gateway.order("restart")?;
    host.wait_for("the trouble is told", |report| {
        report["trouble"].as_str().is_some_and(|trouble| trouble.contains("no space left"))
    })?;
    let mut left = rejected(&state)?;
    left.sort();
    assert_eq!(left, known);
    std::fs::remove_file(filler)?;
    wait_until_repaired(&host, &good)?;
    assert_eq!(rejected(&state)?.len(), 5);
    Ok(())
}

/// Without a good one there is nothing to be done, and nothing is done.
#[test]
fn without_a_good_one_nothing_is_touched() -> Result<()> {
    let (setup, _) = setup(Setup::new()?)?;
    std::fs::write(setup.data().join(CONFIG), "garbage {")?;
    let host = Host::of(setup.start()?);
    host.gateway.wait_for("a crash loop", |status| status["state"] == "crash_looping")?;
    assert_eq!(host.on_disk()?, "garbage {");
    let report = host.report()?;
    assert_eq!((&report["repair"], &report["standing"]), (&Value::Null, &json!("refused")), "{report}");
    Ok(())
}

/// A volume whose configuration is gone, and no control: the last good one is better than a seed.
#[test]
fn a_start_without_a_configuration_and_without_control_takes_the_last_good_one() -> Result<()> {
    let host = start()?;
    let old = host.on_disk()?;
    let setup = host.sidecar.kill()?;
    std::fs::remove_file(setup.data().join(CONFIG))?;
    let seed = setup.data().join(".winston/seed").join(CONFIG);
    std::fs::create_dir_all(seed.parent().context("a directory")?)?;
    std::fs::write(&seed, config("seed", &json!({})))?;
    let host = Host::of(setup.env("WINSTON_CONTROL_URL", &format!("http://{}", free_address()?)).start()?);
    eventually("the good configuration is in place", || {
        Ok((host.on_disk().ok().as_deref() == Some(&old)).then_some(()))
    })?;
    host.gateway.wait_until_ready(None)?;
    Ok(())
}

/// An edit under a running gateway that a start would refuse is told before anybody restarts it.
#[test]
fn a_bad_edit_is_told_while_the_gateway_runs() -> Result<()> {
    let host = start()?;
    host.sidecar.agent_writes(CONFIG, "garbage {")?;
    host.wait_for("the edit is judged", |report| report["standing"] == "refused")?;
    let good = config("good", &json!({}));
    host.sidecar.agent_writes(CONFIG, &good)?;
    host.wait_until_good()?;
    let sets = host.sidecar.get("/config/good")?.json()?;
    assert_eq!(sets["sets"][0]["files"][0]["hash"], winston_tests::tenant::hash(&good), "{sets}");
    Ok(())
}
