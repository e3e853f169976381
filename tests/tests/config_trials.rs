//! Changes of the gateway's configuration with a gateway that does what it is told: every way in which a trial can end.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use winston_tests::sidecar::Setup;
use winston_tests::trial::{CONFIG, Host, config, restarting, setup, validations, value};
use winston_tests::wait::eventually;

fn start() -> Result<Host> {
    let (setup, _) = setup(Setup::new()?)?;
    Host::start(&setup, &config("old", &json!({})))
}

/// The gateway is ready with what is on disk, in the same process as before or in another one.
fn expect_serving(host: &Host, content: &str, before: i32, same: bool) -> Result<i32> {
    assert_eq!(host.on_disk()?, content);
    let pid = host.gateway.wait_until_ready(None)?;
    assert_eq!(pid == before, same, "pid {before}, then {pid}");
    Ok(pid)
}

#[test]
fn a_change_that_the_gateway_takes_over_is_kept() -> Result<()> {
    let host = start()?;
    let pid = host.gateway.wait_until_ready(None)?;
    let new = config("new", &json!({}));
    let verdict = host.put(&new)?.expect(200)?.json()?;
    assert_eq!((&verdict["verdict"], &verdict["success"]), (&json!("applied"), &json!(true)), "{verdict}");
    expect_serving(&host, &new, pid, true)?;
    assert_eq!(host.sidecar.history(CONFIG)?, ["agent create", "admin update"]);
    let good = host.sidecar.get("/config/good")?.expect(200)?.json()?;
    assert_eq!(good["sets"].as_array().map(Vec::len), Some(2), "{good}");
    // Nothing of the transaction is left.
    for name in ["transaction", "old", "new"] {
        assert!(!host.sidecar.data().join(".winston/config").join(name).exists(), "{name}");
    }
    assert_eq!(host.report()?["activity"], "idle");
    // The same again is in place already.
    let verdict = host.put(&new)?.expect(200)?.json()?;
    assert_eq!(verdict["reason"], "it was in place already");
    Ok(())
}

#[test]
fn a_change_that_needs_a_restart_gets_one() -> Result<()> {
    let host = start()?;
    let mut pid = host.gateway.wait_until_ready(None)?;
    let new = restarting("new", &json!({}));
    host.put(&new)?.expect(200)?;
    pid = expect_serving(&host, &new, pid, false)?;
    // Also when only the gateway knows.
    for reload in ["restart", "exit"] {
        let new = restarting("new", &json!({"reload": reload}));
        let verdict = host.put(&new)?.expect(200)?.json()?;
        assert_eq!(verdict["verdict"], "applied", "{verdict}");
        pid = expect_serving(&host, &new, pid, false)?;
    }
    Ok(())
}

/// What is refused before it reaches the disk, by the gateway's validation or by our own checks.
#[test]
fn what_is_invalid_changes_nothing() -> Result<()> {
    let host = start()?;
    let pid = host.gateway.wait_until_ready(None)?;
    let (old, history) = (host.on_disk()?, host.sidecar.history(CONFIG)?);
    let changed = |pointer: &str, new: Value| {
        let mut config = value("x", &json!({}));
        if let Some(place) = config.pointer_mut(pointer) {
            *place = new;
        }
        config.to_string()
    };
    let unknown = config("x", &json!({})).replace("\"ui\"", "\"invalid\"");
    let cases = [
        (unknown, "invalid"),
        ("{ this is not JSON".to_owned(), ""),
        (String::new(), ""),
        (config("x", &json!({"validate": "invalid"})), "invalid"),
        (changed("/gateway", json!({"bind": "loopback"})), "gateway.mode"),
        (changed("/gateway", json!({"mode": "local", "port": 1})), "gateway.port"),
        (changed("/gateway/auth/token", json!("${NO_SUCH_VARIABLE}")), "gateway.auth.token"),
    ];
    for (content, path) in cases {
        let verdict = host.put(&content)?.expect(422)?.json()?;
        assert_eq!((&verdict["verdict"], &verdict["code"]), (&json!("invalid"), &json!("config_invalid")), "{verdict}");
        let issues = verdict["issues"].as_array().context("issues")?;
        assert!(path.is_empty() || issues.iter().any(|issue| issue["path"] == path), "{verdict}");
    }
    expect_serving(&host, &old, pid, true)?;
    assert_eq!(host.sidecar.history(CONFIG)?, history);
    Ok(())
}

/// Without the gateway's validation our own checks decide, and the verdict says so.
#[test]
fn a_validation_that_cannot_be_had_is_said() -> Result<()> {
    let (setup, _) = setup(Setup::new()?)?;
    let setup = setup.env("WINSTON_VALIDATION_SECONDS", "1");
    let host = Host::start(&setup, &config("old", &json!({})))?;
    for validate in ["hang", "garbage", "fail"] {
        let new = config("new", &json!({"validate": validate}));
        let verdict = host.put(&new)?.expect(200)?.json()?;
        let reason = verdict["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("without the gateway's own validation"), "{verdict}");
        host.put(&new.replace("\"local\"", "\"remote\""))?.expect(422)?;
        assert_eq!(host.on_disk()?, new);
    }
    // Nothing that was asked is left running.
    let left = validations(setup.data())?;
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

/// What a validation started goes with it, also when it ended in order.
#[test]
fn a_validation_leaves_nothing_behind() -> Result<()> {
    let (setup, _) = setup(Setup::new()?)?;
    let host = Host::start(&setup, &config("old", &json!({})))?;
    let verdict = host.put(&config("new", &json!({"validate": "leave"})))?.expect(200)?.json()?;
    assert_eq!(verdict["reason"].as_str().filter(|reason| reason.contains("without")), None, "{verdict}");
    let left = validations(setup.data())?;
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

/// An end of the gateway, after which everything is killed that it left behind, does not touch a validation.
#[test]
fn a_validation_outlives_the_gateway() -> Result<()> {
    let (setup, _) = setup(Setup::new()?)?;
    let host = Host::start(&setup, &config("old", &json!({})))?;
    let new = config("new", &json!({"validate": "wait"}));
    host.submit(&new)?;
    let before = eventually("the validation and its child", || {
        Ok(Some(validations(setup.data())?).filter(|found| found.len() == 2))
    })?;
    host.gateway.order("restart")?.expect(200)?;
    assert_eq!(validations(setup.data())?, before);
    std::fs::write(setup.data().join(".home/go"), "")?;
    let report = host.wait_for("the verdict", |report| report["activity"] == "idle" && !report["last"].is_null())?;
    let reason = report["last"]["reason"].as_str().unwrap_or_default();
    assert!(report["last"]["verdict"] == "applied" && !reason.contains("without"), "{report}");
    assert!(validations(setup.data())?.is_empty());
    Ok(())
}

/// A gateway that writes its configuration at each start, and ends, is in a crash loop all the same; somebody's new one ends that.
#[test]
fn a_gateway_that_writes_its_own_configuration_gets_into_a_crash_loop() -> Result<()> {
    let host = start()?;
    host.sidecar.agent_writes(CONFIG, config("bad", &json!({"start": "restamp"})))?;
    host.gateway.order("restart")?.expect(200)?;
    host.gateway.wait_for("a crash loop", |status| status["state"] == "crash_looping")?;
    // What the last one wrote is known, and ends nothing.
    eventually("what was written last is recorded", || {
        let there = winston_tests::tenant::hash(&host.on_disk()?);
        Ok((host.report()?["hash"] == there).then_some(()))
    })?;
    assert_eq!(host.gateway.status()?["state"], "crash_looping");
    host.sidecar.agent_writes(CONFIG, config("good", &json!({})))?;
    host.gateway.wait_until_ready(None)?;
    Ok(())
}

/// What the gateway does not do well with goes back, and the gateway serves with what was there before.
#[test]
fn a_gateway_that_does_not_do_well_gets_its_old_configuration_back() -> Result<()> {
    let (setup, _) = setup(Setup::new()?)?;
    let setup = setup.env("WINSTON_PROBATION_START_SECONDS", "2");
    let host = Host::start(&setup, &config("old", &json!({})))?;
    let old = host.on_disk()?;
    let refused = json!({"start": "refuse", "apiKey": "very-secret-value"});
    let cases = [
        (restarting("new", &refused), "configuration was refused"),
        (restarting("new", &json!({"start": "crash"})), "ended"),
        (restarting("new", &json!({"start": "hang"})), "not ready within 2 s"),
        (restarting("new", &json!({"crashAfterMs": 300})), "ended"),
        (config("new", &json!({"reload": "crash"})), "ended"),
    ];
    for (new, reason) in cases {
        let verdict = host.put(&new)?.expect(422)?.json()?;
        assert_eq!(verdict["code"], "config_rolled_back", "{verdict}");
        assert!(verdict["reason"].as_str().is_some_and(|text| text.contains(reason)), "{verdict}");
        if reason.contains("refused") {
            let lines = verdict["lines"].to_string();
            assert!(lines.contains("the stand-in refuses secret") && !lines.contains("very-secret"), "{verdict}");
        }
        assert_eq!(host.on_disk()?, old);
        eventually("the gateway serves with the old configuration", || {
            let last = host.gateway.log_text(1)?;
            let ready = host.gateway.status()?["state"] == "ready";
            Ok((ready && last.contains("ready with \"old\"")).then_some(()))
        })?;
    }
    let history = host.sidecar.history(CONFIG)?;
    assert_eq!(history[history.len() - 2..], ["admin update", "system update"]);
    Ok(())
}

/// A reload that is refused: the gateway never stopped serving.
#[test]
fn a_refused_reload_costs_no_restart() -> Result<()> {
    let host = start()?;
    let (pid, old) = (host.gateway.wait_until_ready(None)?, host.on_disk()?);
    let verdict = host.put(&config("new", &json!({"reload": "refuse"})))?.expect(422)?.json()?;
    assert_eq!(verdict["verdict"], "rolled_back", "{verdict}");
    assert!(verdict["reason"].as_str().is_some_and(|text| text.contains("config reload skipped")), "{verdict}");
    expect_serving(&host, &old, pid, true)?;
    Ok(())
}

/// What the gateway writes into its configuration meanwhile is neither an edit nor lost.
#[test]
fn a_rewrite_by_the_gateway_is_kept() -> Result<()> {
    let host = start()?;
    let verdict = host.put(&config("new", &json!({"reload": "rewrite"})))?.expect(200)?.json()?;
    assert_eq!(verdict["verdict"], "applied", "{verdict}");
    let on_disk: Value = serde_json::from_str(&host.on_disk()?)?;
    assert_eq!((&on_disk["meta"]["lastTouchedVersion"], &on_disk["ui"]["marker"]), (&json!("stand-in"), &json!("new")));

    // And it does not keep a bad one in place.
    let old = host.on_disk()?;
    let bad = config("bad", &json!({"reload": "rewrite", "crashAfterMs": 500}));
    let verdict = host.put(&bad)?.expect(422)?.json()?;
    assert_eq!((&verdict["verdict"], &verdict["kept"]), (&json!("rolled_back"), &Value::Null), "{verdict}");
    assert_eq!(host.on_disk()?, old);
    Ok(())
}

/// What the agent writes while a set is on trial is not taken back with it.
#[test]
fn an_edit_meanwhile_stays() -> Result<()> {
    let host = start()?;
    // Another key: it stays, and only what came with the set goes.
    host.submit(&config("new", &json!({"crashAfterMs": 900})))?;
    host.wait_for("the trial", |report| report["activity"] == "watching")?;
    let mut edited: Value = serde_json::from_str(&host.on_disk()?)?;
    edited["agents"] = json!({"theirs": true});
    host.sidecar.agent_writes(CONFIG, format!("{edited:#}\n"))?;
    host.wait_for("the verdict", |report| report["last"]["verdict"] == "rolled_back")?;
    let on_disk: Value = serde_json::from_str(&host.on_disk()?)?;
    assert_eq!((&on_disk["agents"]["theirs"], &on_disk["ui"]["marker"]), (&json!(true), &json!("old")));
    host.wait_until_good()?;

    // The same key: it is theirs now.
    host.submit(&config("newer", &json!({"crashAfterMs": 900})))?;
    host.wait_for("the trial", |report| report["activity"] == "watching")?;
    let theirs = config("theirs", &json!({}));
    host.sidecar.agent_writes(CONFIG, &theirs)?;
    host.wait_for("the verdict", |report| report["activity"] == "idle" && report["last"]["generation"].is_null())?;
    host.wait_until_good()?;
    assert_eq!(host.on_disk()?, theirs);
    Ok(())
}

/// Changes wait for each other; whoever names another version than the one that is there then is refused.
#[test]
fn changes_are_tried_out_one_after_the_other() -> Result<()> {
    let host = start()?;
    let bad = config("bad", &json!({"crashAfterMs": 700}));
    host.submit(&bad)?;
    host.wait_for("the trial", |report| report["activity"] == "watching")?;
    let good = config("good", &json!({}));
    let verdict = host.put(&good)?.expect(200)?.json()?;
    assert_eq!(verdict["verdict"], "applied", "{verdict}");
    assert_eq!(host.on_disk()?, good);
    let octets = ("Content-Type", "application/octet-stream");
    let stale = format!("\"{}\"", winston_tests::tenant::hash(&bad));
    host.sidecar.call("PUT", "/config", &[octets, ("If-Match", &stale)], bad.as_bytes())?.expect(412)?;
    let fresh = format!("\"{}\"", winston_tests::tenant::hash(&good));
    let newer = config("newer", &json!({}));
    host.sidecar.call("PUT", "/config", &[octets, ("If-Match", &fresh)], newer.as_bytes())?.expect(200)?;
    Ok(())
}

/// A gateway that somebody has stopped stays stopped.
#[test]
fn a_stopped_gateway_is_not_started_for_a_trial() -> Result<()> {
    let host = start()?;
    host.gateway.order("stop")?.expect(200)?;
    let new = restarting("new", &json!({}));
    let verdict = host.put(&new)?.expect(200)?.json()?;
    assert!(verdict["reason"].as_str().is_some_and(|text| text.contains("not tried")), "{verdict}");
    assert_eq!((host.on_disk()?, &host.gateway.status()?["state"]), (new, &json!("stopped")));
    assert_eq!(host.sidecar.get("/config/good")?.json()?["sets"].as_array().map(Vec::len), Some(1));
    Ok(())
}

/// Good sets are listed, bounded, and come back on request, as a change like any other.
#[test]
fn a_good_set_comes_back_on_request() -> Result<()> {
    let host = start()?;
    for round in 0..6 {
        host.put(&config(&format!("round {round}"), &json!({})))?.expect(200)?;
    }
    let good = host.sidecar.get("/config/good")?.json()?;
    let seqs: Vec<_> = good["sets"].as_array().context("sets")?.iter().filter_map(|set| set["seq"].as_u64()).collect();
    assert_eq!(seqs, [7, 6, 5, 4, 3]);
    // Without a number: the newest that is not in place.
    host.sidecar.call("POST", "/config/rollback", &[], b"")?.expect(200)?;
    assert_eq!(host.on_disk()?, config("round 4", &json!({})));
    host.sidecar.call("POST", "/config/rollback", &[], b"{\"to\": 4}")?.expect(200)?;
    assert_eq!(host.on_disk()?, config("round 2", &json!({})));
    host.sidecar.call("POST", "/config/rollback", &[], b"{\"to\": 1}")?.expect(404)?;
    Ok(())
}

/// Without a gateway there is nothing to try anything out with.
#[test]
fn without_a_gateway_there_are_no_trials() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let answer = sidecar.get("/config")?.expect(409)?.json()?;
    assert_eq!(answer["code"], "gateway_disabled");
    Ok(())
}
