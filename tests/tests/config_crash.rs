//! A sidecar that dies at each step of a change of the configuration, and volumes that fill up: the old set or the new one is there, as a whole.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use winston_tests::parallel::each;
use winston_tests::process::skip;
use winston_tests::script::{ScriptedControl, check_in_answer, ordinary};
use winston_tests::sidecar::Setup;
use winston_tests::tenant::hash;
use winston_tests::trial::{CONFIG, Host, config, setup, value};
use winston_tests::wait::eventually;

const SOUL: &str = "workspace/SOUL.md";

/// Pushes a configuration and a file of the workspace in one generation, and remembers the verdicts that it is told.
fn control(config: Value, soul: Value) -> Result<(ScriptedControl, Arc<Mutex<Vec<Value>>>)> {
    let (control, told) = pushing(config, soul, [json!("any"), json!("any")], 0..0)?;
    Ok((control, told.verdicts))
}

/// What control was told in check-ins.
#[derive(Clone, Default)]
struct Told {
    verdicts: Arc<Mutex<Vec<Value>>>,
    /// The last list of them.
    conflicts: Arc<Mutex<Value>>,
}

/// The same with a base for each, and a file of the workspace whose content cannot be had when it is asked for at these times.
fn pushing(config: Value, soul: Value, bases: [Value; 2], failures: Range<usize>) -> Result<(ScriptedControl, Told)> {
    let told = Told::default();
    let (verdicts, conflicts) = (Arc::clone(&told.verdicts), Arc::clone(&told.conflicts));
    let asked = AtomicUsize::new(0);
    let hashes = [hash(config.to_string()), hash(soul.to_string())];
    let control = ScriptedControl::start(move |seen| {
        let content = |at: usize| format!("GET /api/sidecar/contents/{}", hashes[at]);
        match seen.call.as_str() {
            "POST /api/sidecar/check-in" => {
                let new = seen.body["verdicts"].as_array().cloned().unwrap_or_default();
                verdicts.lock().unwrap_or_else(PoisonError::into_inner).extend(new);
                conflicts.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&seen.body["conflicts"]);
                let mut answer = check_in_answer(0);
                answer["desired_generation"] = json!(7);
                (200, answer)
            }
            "GET /api/sidecar/desired" => {
                let file = |path: &str, hash: &str, base: &Value| json!({"path": path, "generation": 7, "hash": hash, "base": base});
                let files = json!([file(SOUL, &hashes[1], &bases[1]), file(CONFIG, &hashes[0], &bases[0])]);
                (200, json!({"generation": 7, "files": files}))
            }
            call if call == content(0) => (200, config.clone()),
            call if call == content(1) && failures.contains(&asked.fetch_add(1, Ordering::Relaxed)) => {
                (503, json!({"error": "not now", "code": "busy"}))
            }
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

/// Cases at once: each of them mostly waits.
const AT_ONCE: usize = 6;

/// Whether there is a sidecar with failpoints; says so when there is none.
fn can_fail(test: &str) -> Result<bool> {
    let failing = Setup::new()?.failpoints("");
    if let Err(reason) = &failing {
        skip(test, reason);
    }
    Ok(failing.is_ok())
}

fn failing(setup: &Setup, points: &str) -> Result<Setup> {
    setup.clone().failpoints(points).map_err(|reason| anyhow!("{reason}"))
}

/// Lets the sidecar die at a step of this push, starts it again, and gives which set is there in the end, with the verdict.
fn dies_at(point: &str, pushed: &Value) -> Result<(bool, Value)> {
    let setup = before()?;
    let (control, told) = control(pushed.clone(), json!("new"))?;
    let setup = setup.env("WINSTON_CONTROL_URL", &control.url());
    dies(&failing(&setup, &format!("{point}=kill"))?, point)?;
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
    Ok((is_new, verdict))
}

#[test]
fn a_good_push_arrives_whatever_it_dies_at() -> Result<()> {
    if !can_fail("a_good_push_arrives_whatever_it_dies_at")? {
        return Ok(());
    }
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
    each(points, AT_ONCE, |point| {
        let (is_new, verdict) = dies_at(point, &value("new", &json!({})))?;
        ensure!(is_new && verdict["verdict"] == "applied", "{verdict}");
        Ok(())
    })
}

#[test]
fn a_bad_push_is_taken_back_whatever_it_dies_at() -> Result<()> {
    if !can_fail("a_bad_push_is_taken_back_whatever_it_dies_at")? {
        return Ok(());
    }
    let mut bad = value("bad", &json!({"start": "refuse"}));
    bad["discovery"] = json!({"x": 1});
    let points =
        ["config-on-trial", "config-return", "config-returning", "config-returned", "config-verdict", "config-done"];
    each(points, AT_ONCE, |point| {
        let (is_new, verdict) = dies_at(point, &bad)?;
        ensure!(!is_new && verdict["verdict"] == "rolled_back", "{verdict}");
        Ok(())
    })
}

/// A file of the set that meets an edit is in conflict, also when the sidecar dies between the verdict and the end of the round.
#[test]
fn what_a_verdict_leaves_over_is_told_whatever_it_dies_at() -> Result<()> {
    if !can_fail("what_a_verdict_leaves_over_is_told_whatever_it_dies_at")? {
        return Ok(());
    }
    let bad = value("bad", &json!({"validate": "invalid"}));
    let refused = value("bad", &json!({"start": "refuse", "reload": "refuse"}));
    let cases = [
        ("config-verdict", value("new", &json!({})), "applied"),
        ("config-done", bad, "invalid"),
        ("config-verdict", refused, "rolled_back"),
    ];
    each(cases, AT_ONCE, |(point, pushed, verdict)| {
        let setup = before()?;
        let (control, told) = pushing(pushed.clone(), json!("new"), [json!("any"), json!("0".repeat(64))], 0..0)?;
        let setup = setup.env("WINSTON_CONTROL_URL", &control.url());
        dies(&failing(&setup, &format!("{point}=kill"))?, point)?;
        let host = Host::of(setup.start()?);
        eventually("control knows both", || {
            let verdicts = told.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
            let conflicts = told.conflicts.lock().unwrap_or_else(PoisonError::into_inner);
            let is_told = verdicts.iter().any(|told| told["generation"] == 7 && told["verdict"] == *verdict);
            if is_told && conflicts[0]["path"] == SOUL && conflicts[0]["local_hash"] == hash("\"old\"") {
                return Ok(Some(()));
            }
            bail!("{verdicts:?} {conflicts}")
        })?;
        ensure!(std::fs::read_to_string(host.sidecar.data().join(SOUL))? == "\"old\"");
        Ok(())
    })
}

/// A push whose configuration is in conflict brings its other file, though that could not be had for a while.
#[test]
fn a_file_of_a_set_is_not_forgotten_when_it_cannot_be_had_at_once() -> Result<()> {
    let bases = [json!("0".repeat(64)), json!("any")];
    let (control, _told) = pushing(value("new", &json!({})), json!("new"), bases, 1..3)?;
    let host = Host::of(before()?.env("WINSTON_CONTROL_URL", &control.url()).start()?);
    eventually("the file is there", || {
        let soul = std::fs::read_to_string(host.sidecar.data().join(SOUL))?;
        if soul == "\"new\"" { Ok(Some(())) } else { bail!("{soul}") }
    })
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
    if !can_fail("a_repair_that_is_interrupted_is_done_again")? {
        return Ok(());
    }
    each(["config-rejected", "config-repaired"], AT_ONCE, |point| {
        let setup = before()?;
        std::fs::write(setup.data().join(CONFIG), "garbage {")?;
        dies(&failing(&setup, &format!("{point}=kill"))?, point)?;
        let host = Host::of(setup.start()?);
        host.gateway.wait_until_ready(None)?;
        ensure!(host.on_disk()? == config("old", &json!({})), "{}", host.on_disk()?);
        Ok(())
    })
}

/// Each write of a change fails once with a full volume: the change is refused and nothing of it stays, or it is made; the next one is made.
#[test]
fn a_full_volume_at_each_write_leaves_the_old_set_or_the_new_one() -> Result<()> {
    if !can_fail("a_full_volume_at_each_write_leaves_the_old_set_or_the_new_one")? {
        return Ok(());
    }
    let points = ["config-content", "config-state", "stage-write", "stage-sync"];
    let cases = points.into_iter().flat_map(|point| (1..=4).map(move |time| (point, time)));
    each(cases, AT_ONCE, |(point, time)| {
        let (setup, _) = setup(Setup::new()?)?;
        let failing = failing(&setup, &format!("{point}=enospc@{}x1", time + 1))?;
        let host = Host::start(&failing, &config("old", &json!({})))?;
        let mut refused = 0;
        for round in 0..3 {
            let (old, new) = (host.on_disk()?, config(&format!("round {round}"), &json!({})));
            let answer = host.put(&new)?;
            let there = host.on_disk()?;
            match answer.status {
                200 => ensure!(there == new, "{}", answer.text()),
                507 => ensure!(there == old, "{}", answer.text()),
                _ => bail!("{} {}", answer.status, answer.text()),
            }
            refused += usize::from(answer.status == 507);
        }
        ensure!(refused <= 1, "{refused} changes were refused");
        host.gateway.wait_until_ready(None)?;
        Ok(())
    })
}
