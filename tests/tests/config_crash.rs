//! A sidecar that dies at each step of a change of the configuration, and volumes that fill up: the old set or the new one is there, as a whole.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use winston_tests::process::skip;
use winston_tests::script::{ScriptedControl, check_in_answer, ordinary};
use winston_tests::sidecar::Setup;
use winston_tests::tenant::hash;
use winston_tests::trial::{CONFIG, Host, config, setup, value};
use winston_tests::wait::eventually;

const SOUL: &str = "workspace/SOUL.md";

/// Pushes a configuration and a file of the workspace in one generation, and remembers the verdicts that it is told.
fn control(config: Value, soul: Value) -> Result<(ScriptedControl, Arc<Mutex<Vec<Value>>>)> {
    let told = Arc::new(Mutex::new(Vec::new()));
    let verdicts = Arc::clone(&told);
    let hashes = [hash(config.to_string()), hash(soul.to_string())];
    let control = ScriptedControl::start(move |seen| {
        let content = |at: usize| format!("GET /api/sidecar/contents/{}", hashes[at]);
        match seen.call.as_str() {
            "POST /api/sidecar/check-in" => {
                let new = seen.body["verdicts"].as_array().cloned().unwrap_or_default();
                verdicts.lock().unwrap_or_else(PoisonError::into_inner).extend(new);
                let mut answer = check_in_answer(0);
                answer["desired_generation"] = json!(7);
                (200, answer)
            }
            "GET /api/sidecar/desired" => {
                let file = |path: &str, hash: &str| json!({"path": path, "generation": 7, "hash": hash, "base": "any"});
                let files = json!([file(SOUL, &hashes[1]), file(CONFIG, &hashes[0])]);
                (200, json!({"generation": 7, "files": files}))
            }
            call if call == content(0) => (200, config.clone()),
            call if call == content(1) => (200, soul.clone()),
            _ => ordinary(seen).unwrap_or((404, json!({"error": "no", "code": "no"}))),
        }
    })?;
    Ok((control, told))
}

/// A tenant that runs with a good configuration and knows of no control yet.
fn before() -> Result<Setup> {
    let (setup, _) = setup(Setup::new()?)?;
    std::fs::create_dir_all(setup.data().join("workspace"))?;
    std::fs::write(setup.data().join(SOUL), "\"old\"")?;
    let host = Host::start(&setup, &config("old", &json!({})))?;
    host.sidecar.kill()
}

/// Lets the sidecar die at a step of this push, starts it again, and gives which set is there in the end, with the verdict.
fn dies_at(point: &str, pushed: &Value) -> Result<Option<(bool, Value)>> {
    let setup = before()?;
    let (control, told) = control(pushed.clone(), json!("new"))?;
    let setup = setup.env("WINSTON_CONTROL_URL", &control.url());
    let doomed = match setup.clone().failpoints(&format!("{point}=kill")) {
        Ok(doomed) => doomed,
        Err(reason) => {
            skip("config_crash", &reason);
            return Ok(None);
        }
    };
    dies(&doomed, point)?;
    let host = Host::of(setup.start()?);
    let verdict = eventually("a verdict is told", || {
        let told = told.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(told.iter().rev().find(|verdict| verdict["generation"] == 7).cloned())
    })?;
    host.wait_for("nothing is open", |report| report["activity"] == "idle" && report["open"].is_null())?;
    host.gateway.wait_until_ready(None)?;
    let (config, soul) = (host.on_disk()?, std::fs::read_to_string(host.sidecar.data().join(SOUL))?);
    // Text against text: a value compares with what it holds.
    let new = pushed.to_string();
    let is_new = config == new;
    ensure!(is_new || config.contains("\"old\""), "{point}: {config}");
    ensure!(soul == if is_new { "\"new\"" } else { "\"old\"" }, "{point}: half a set: {soul} with {config}");
    for name in ["transaction", "old", "new"] {
        ensure!(!host.sidecar.data().join(".winston/config").join(name).exists(), "{point}: {name} is left");
    }
    ensure!(
        std::fs::read_dir(host.sidecar.data().join(".winston/staging"))?.next().is_none(),
        "{point}: staging is not empty"
    );
    Ok(Some((is_new, verdict)))
}

#[test]
fn a_good_push_arrives_whatever_it_dies_at() -> Result<()> {
    let points = [
        "config-staged",
        "tx-intent",
        "tx-swapped",
        "tx-dirs-synced",
        "tx-journalled",
        "config-swapped",
        "config-on-trial",
        "config-kept",
        "config-verdict",
        "config-done",
    ];
    for point in points {
        let Some((is_new, verdict)) = dies_at(point, &value("new", &json!({})))? else { return Ok(()) };
        assert!(is_new && verdict["verdict"] == "applied", "{point}: {verdict}");
    }
    Ok(())
}

#[test]
fn a_bad_push_is_taken_back_whatever_it_dies_at() -> Result<()> {
    let mut bad = value("bad", &json!({"start": "refuse"}));
    bad["discovery"] = json!({"x": 1});
    for point in
        ["config-on-trial", "config-return", "config-returning", "config-returned", "config-verdict", "config-done"]
    {
        let Some((is_new, verdict)) = dies_at(point, &bad)? else { return Ok(()) };
        assert!(!is_new && verdict["verdict"] == "rolled_back", "{point}: {verdict}");
    }
    Ok(())
}

/// Starts a sidecar that is to die there, perhaps before it answers for the first time.
fn dies(doomed: &Setup, point: &str) -> Result<()> {
    match doomed.start() {
        Ok(mut sidecar) => eventually(&format!("the sidecar dies at {point}"), || sidecar.ended()).map(drop),
        Err(error) if error.to_string().contains("ended during its start") => Ok(()),
        Err(error) => Err(error),
    }
}

/// The repair of an edit by hand, interrupted: their version or the good one is there, and then the good one.
#[test]
fn a_repair_that_is_interrupted_is_done_again() -> Result<()> {
    for point in ["config-rejected", "config-repaired"] {
        let setup = before()?;
        std::fs::write(setup.data().join(CONFIG), "garbage {")?;
        let doomed = match setup.clone().failpoints(&format!("{point}=kill")) {
            Ok(doomed) => doomed,
            Err(reason) => {
                skip("a_repair_that_is_interrupted_is_done_again", &reason);
                return Ok(());
            }
        };
        dies(&doomed, point)?;
        let host = Host::of(setup.start()?);
        host.gateway.wait_until_ready(None)?;
        assert_eq!(host.on_disk()?, config("old", &json!({})), "{point}");
    }
    Ok(())
}

/// Each write of a change fails once with a full volume: the change is refused and nothing of it stays, or it is made; the next one is made.
#[test]
fn a_full_volume_at_each_write_leaves_the_old_set_or_the_new_one() -> Result<()> {
    for point in ["config-content", "config-state", "stage-write", "stage-sync"] {
        for time in 1..=4 {
            let (setup, _) = setup(Setup::new()?)?;
            let failing = match setup.clone().failpoints(&format!("{point}=enospc@{}x1", time + 1)) {
                Ok(failing) => failing,
                Err(reason) => {
                    skip("a_full_volume_at_each_write_leaves_the_old_set_or_the_new_one", &reason);
                    return Ok(());
                }
            };
            let host = Host::start(&failing, &config("old", &json!({})))?;
            let mut refused = 0;
            for round in 0..3 {
                let (old, new) = (host.on_disk()?, config(&format!("round {round}"), &json!({})));
                let answer = host.put(&new)?;
                let there = host.on_disk()?;
                match answer.status {
                    200 => ensure!(there == new, "{point}@{time}: {}", answer.text()),
                    507 => ensure!(there == old, "{point}@{time}: {}", answer.text()),
                    _ => bail!("{point}@{time}: {} {}", answer.status, answer.text()),
                }
                refused += usize::from(answer.status == 507);
            }
            ensure!(refused <= 1, "{point}@{time}: {refused} changes were refused");
            host.gateway.wait_until_ready(None)?;
        }
    }
    Ok(())
}
