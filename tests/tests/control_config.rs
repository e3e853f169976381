//! Pushes of a configuration, from control's API to the gateway and back: verdicts, owned keys, and what control shows meanwhile.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use winston_tests::control::Control;
use winston_tests::tenant::{Tenant, hash};
use winston_tests::trial::{CONFIG, Host, config, restarting, setup, value};
use winston_tests::wait::eventually;

/// A tenant that got its first configuration from control, and runs with it.
fn start(name: &str) -> Result<(Control, Tenant, Host)> {
    let control = Tenant::control()?;
    let tenant = Tenant::create(&control, &format!("{name}@test.example"))?;
    tenant.push(CONFIG, &config("first", &json!({})))?;
    let (setup, _) = setup(tenant.sidecar()?)?;
    let host = Host::of(setup.start()?);
    wait_for_verdict(&tenant, 1, "applied")?;
    host.wait_until_good()?;
    Ok((control, tenant, host))
}

fn wait_for_verdict(tenant: &Tenant, generation: u64, verdict: &str) -> Result<Value> {
    eventually(&format!("the verdict {verdict} about {generation}"), || {
        let told = tenant.get(&format!("/config/verdicts?generation={generation}"))?;
        if told["verdicts"][0]["verdict"] == verdict { Ok(Some(told["verdicts"][0].clone())) } else { bail!("{told}") }
    })
}

#[test]
fn every_push_of_a_configuration_gets_its_verdict() -> Result<()> {
    let (_control, tenant, host) = start("verdicts")?;
    let first = host.on_disk()?;

    let generation = tenant.push(CONFIG, "garbage {")?;
    let verdict = wait_for_verdict(&tenant, generation, "invalid")?;
    assert!(verdict["issues"][0]["message"].is_string(), "{verdict}");
    assert_eq!(host.on_disk()?, first);

    let generation = tenant.push(CONFIG, &restarting("bad", &json!({"start": "refuse"})))?;
    let verdict = wait_for_verdict(&tenant, generation, "rolled_back")?;
    assert!(verdict["lines"].to_string().contains("the stand-in refuses"), "{verdict}");
    tenant.wait_until_even(&host.sidecar)?;
    let listed = tenant.listed(CONFIG)?;
    assert_eq!(
        (&listed["hash"], &listed["pending"], &listed["conflict"]),
        (&json!(hash(&first)), &json!(false), &Value::Null)
    );
    assert_eq!(host.on_disk()?, first);

    let good = config("good", &json!({}));
    let generation = tenant.push(CONFIG, &good)?;
    let verdict = wait_for_verdict(&tenant, generation, "applied")?;
    assert_eq!(verdict["hash"], hash(&good));
    assert_eq!(tenant.get("/config")?["verdict"]["generation"], generation);
    tenant.wait_until_even(&host.sidecar)?;
    assert_eq!((host.on_disk()?, tenant.listed(CONFIG)?["hash"].clone()), (good.clone(), json!(hash(&good))));

    // A removal would end the tenant at its next start.
    let answer = tenant.call("DELETE", &format!("/files/{CONFIG}"), &[], b"")?.expect(200)?.json()?;
    wait_for_verdict(&tenant, answer["generation"].as_u64().context("generation")?, "invalid")?;
    assert_eq!(host.on_disk()?, good);
    Ok(())
}

/// The first configuration ever is refused: there is none then, on either side, and the next one is tried out as if nothing had been.
#[test]
fn a_first_configuration_can_be_bad() -> Result<()> {
    let control = Tenant::control()?;
    let tenant = Tenant::create(&control, "bad-first@test.example")?;
    tenant.push(CONFIG, "garbage {")?;
    let (setup, _) = setup(tenant.sidecar()?)?;
    let host = Host::of(setup.start()?);
    wait_for_verdict(&tenant, 1, "invalid")?;
    assert!(host.on_disk().is_err());
    tenant.push(CONFIG, &config("bad", &json!({"start": "refuse"})))?;
    wait_for_verdict(&tenant, 2, "rolled_back")?;
    assert!(host.on_disk().is_err());
    let good = config("good", &json!({}));
    tenant.push(CONFIG, &good)?;
    wait_for_verdict(&tenant, 3, "applied")?;
    assert_eq!(host.on_disk()?, good);
    Ok(())
}

/// The first configuration's gateway ends for a reason that may be another one: it stays, or there would be no gateway that could do better.
#[test]
fn a_first_configuration_stays_while_nobody_refuses_it() -> Result<()> {
    let control = Tenant::control()?;
    let tenant = Tenant::create(&control, "first-stays@test.example")?;
    let first = config("first", &json!({"start": "crash"}));
    tenant.push(CONFIG, &first)?;
    let (setup, _) = setup(tenant.sidecar()?)?;
    let host = Host::of(setup.start()?);
    let verdict = wait_for_verdict(&tenant, 1, "applied")?;
    assert!(verdict["reason"].as_str().is_some_and(|reason| reason.contains("there is no earlier one")), "{verdict}");
    assert_eq!(host.on_disk()?, first);
    let sets = host.sidecar.get("/config/good")?.json()?;
    assert_eq!(sets["sets"].as_array().map(Vec::len), Some(0), "{sets}");
    let good = config("good", &json!({}));
    let generation = tenant.push(CONFIG, &good)?;
    wait_for_verdict(&tenant, generation, "applied")?;
    host.wait_until_good()?;
    assert_eq!(host.on_disk()?, good);
    Ok(())
}

/// Two pushes in a row: the second one waits for the first one's verdict.
#[test]
fn a_push_during_a_trial_waits() -> Result<()> {
    let (_control, tenant, host) = start("waits")?;
    let bad = tenant.push(CONFIG, &config("bad", &json!({"crashAfterMs": 800})))?;
    host.wait_for("the trial", |report| report["activity"] == "watching")?;
    let good = tenant.push(CONFIG, &config("good", &json!({})))?;
    wait_for_verdict(&tenant, bad, "rolled_back")?;
    wait_for_verdict(&tenant, good, "applied")?;
    assert_eq!(host.on_disk()?, config("good", &json!({})));
    Ok(())
}

/// The repair of a bad push, made while that was on trial over an edit of the agent's: nobody edits anything meanwhile, so it is no conflict.
#[test]
fn a_push_over_one_that_is_taken_back_is_no_conflict() -> Result<()> {
    let (_control, tenant, host) = start("repair")?;
    host.sidecar.agent_saves(CONFIG, config("theirs", &json!({})))?;
    host.sidecar.wait_for_history(CONFIG, &["system create", "agent update"])?;
    tenant.wait_until_even(&host.sidecar)?;
    let bad_config = config("bad", &json!({"crashAfterMs": 900}));
    let bad = tenant.push(CONFIG, &bad_config)?;
    eventually("control knows that the bad one is on disk", || {
        let changes = tenant.changes()?;
        let is_there = changes.iter().any(|change| change["hash"] == hash(&bad_config));
        if is_there { Ok(Some(())) } else { bail!("{changes:?} {}", host.report()?) }
    })?;
    let good = tenant.push(CONFIG, &config("good", &json!({})))?;
    wait_for_verdict(&tenant, bad, "rolled_back")?;
    wait_for_verdict(&tenant, good, "applied")?;
    assert_eq!(host.on_disk()?, config("good", &json!({})));
    Ok(())
}

/// An edit of the agent's that control does not know yet: a conflict, and nothing is tried out.
#[test]
fn a_push_that_meets_an_edit_is_a_conflict() -> Result<()> {
    let (_control, tenant, host) = start("conflict")?;
    host.sidecar.pause()?;
    let theirs = config("theirs", &json!({}));
    host.sidecar.agent_writes(CONFIG, &theirs)?;
    let generation = tenant.push(CONFIG, &config("pushed", &json!({})))?;
    host.sidecar.resume()?;
    wait_for_verdict(&tenant, generation, "conflict")?;
    assert_eq!(host.on_disk()?, theirs);
    tenant.wait_until_even(&host.sidecar)?;
    assert_eq!(tenant.listed(CONFIG)?["conflict"]["generation"], generation);
    Ok(())
}

/// What control owns is enforced; what it does not name is the tenant's, also through whole pushes; what it gives up keeps its value.
#[test]
fn control_owns_some_keys_and_the_tenant_the_others() -> Result<()> {
    let (_control, tenant, host) = start("owned")?;
    let on_disk = || -> Result<Value> { Ok(serde_json::from_str(&host.on_disk()?)?) };
    let own = |patch: &Value| -> Result<u64> {
        let body = json!({"content": patch.to_string()}).to_string();
        let answer =
            tenant.call("PUT", &format!("/files/{CONFIG}?merge=true"), &[], body.as_bytes())?.expect(200)?.json()?;
        answer["generation"].as_u64().context("generation")
    };
    let generation = own(&json!({"logging": {"level": "warn"}}))?;
    wait_for_verdict(&tenant, generation, "applied")?;
    assert_eq!((&on_disk()?["logging"]["level"], &on_disk()?["ui"]["marker"]), (&json!("warn"), &json!("first")));
    let shown = tenant.get("/config")?;
    assert_eq!(
        (&shown["owned"]["patch"], &shown["owned"]["generation"]),
        (&json!({"logging": {"level": "warn"}}), &json!(generation))
    );
    host.wait_for("the keys are told", |report| report["owned"]["keys"] == json!(["logging.level"]))?;

    // The agent changes both: its own stays, control's comes back.
    let mut edited = on_disk()?;
    edited["logging"]["level"] = json!("debug");
    edited["messages"] = json!({"theirs": true});
    host.sidecar.agent_writes(CONFIG, edited.to_string())?;
    eventually("the owned key is enforced", || {
        let there = on_disk()?;
        Ok((there["logging"]["level"] == "warn" && there["messages"]["theirs"] == true).then_some(()))
    })?;
    host.wait_for("nothing is open", |report| report["activity"] == "idle")?;
    tenant.wait_until_even(&host.sidecar)?;

    // A whole push does not name the key, and it is there all the same.
    let generation = tenant.push(CONFIG, &value("second", &json!({})).to_string())?;
    wait_for_verdict(&tenant, generation, "applied")?;
    assert_eq!((&on_disk()?["logging"]["level"], &on_disk()?["ui"]["marker"]), (&json!("warn"), &json!("second")));

    // What the gateway would not start with is not owned either.
    let generation = own(&json!({"gateway": {"mode": null}}))?;
    wait_for_verdict(&tenant, generation, "invalid")?;
    assert_eq!(on_disk()?["gateway"]["mode"], "local");

    let answer = tenant.call("DELETE", &format!("/files/{CONFIG}?merge=true"), &[], b"")?.expect(200)?.json()?;
    wait_for_verdict(&tenant, answer["generation"].as_u64().context("generation")?, "applied")?;
    let mut edited = on_disk()?;
    assert_eq!(edited["logging"]["level"], "warn");
    edited["logging"]["level"] = json!("debug");
    host.sidecar.agent_writes(CONFIG, edited.to_string())?;
    host.wait_until_good()?;
    assert_eq!(on_disk()?["logging"]["level"], "debug");
    assert_eq!(tenant.get("/config")?["owned"], Value::Null);
    Ok(())
}

#[test]
fn keys_are_owned_in_the_configuration_only() -> Result<()> {
    let control = Tenant::control()?;
    let tenant = Tenant::create(&control, "only@test.example")?;
    let put = |path: &str, body: &str, headers: &[(&str, &str)]| {
        let body = json!({"content": body}).to_string();
        tenant.call("PUT", &format!("/files/{path}?merge=true"), headers, body.as_bytes())
    };
    put("workspace/x.json", "{}", &[])?.expect(400)?;
    put(CONFIG, "[]", &[])?.expect(400)?;
    put(CONFIG, "{} // no", &[])?.expect(400)?;
    put(CONFIG, "{}", &[("If-None-Match", "*")])?.expect(400)?;
    put(CONFIG, "{}", &[])?.expect(200)?;
    Ok(())
}
