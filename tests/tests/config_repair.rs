//! A configuration that was edited by hand and that the gateway refuses gives way to the last one that was good, by itself.

use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use winston_tests::http::free_address;
use winston_tests::sidecar::Setup;
use winston_tests::trial::{CONFIG, Host, config, setup};
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
