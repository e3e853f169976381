//! A push that meets an edit it cannot be merged with: both versions are kept until somebody decides, and the decision lasts.

use anyhow::{Result, bail};
use serde_json::{Value, json};
use winston_tests::control::Control;
use winston_tests::sidecar::Sidecar;
use winston_tests::tenant::{Tenant, hash};
use winston_tests::wait::eventually;

const SOUL: &str = "workspace/SOUL.md";

/// A tenant whose agent changed the line that was pushed at the same time.
fn conflict(name: &str) -> Result<(Control, Tenant, Sidecar)> {
    let control = Tenant::control()?;
    let tenant = Tenant::create(&control, &format!("{name}@test.example"))?;
    let sidecar = tenant.sidecar()?.start()?;
    sidecar.agent_writes(SOUL, "base\n")?;
    sidecar.wait_for_history(SOUL, &["agent create"])?;
    tenant.wait_until_even(&sidecar)?;
    provoke(&tenant, &sidecar, "local\n", "pushed\n")?;
    Ok((control, tenant, sidecar))
}

fn provoke(tenant: &Tenant, sidecar: &Sidecar, local: &str, pushed: &str) -> Result<()> {
    sidecar.pause()?;
    sidecar.agent_writes(SOUL, local)?;
    tenant.push(SOUL, pushed)?;
    sidecar.resume()?;
    tenant.wait_until_even(sidecar)?;
    let listed = sidecar.get("/conflicts")?.expect(200)?.json()?;
    assert_eq!(listed["conflicts"][0]["path"], SOUL, "{listed}");
    Ok(())
}

fn content(sidecar: &Sidecar) -> Result<String> {
    Ok(std::fs::read_to_string(sidecar.data().join(SOUL))?)
}

fn resolve(sidecar: &Sidecar, body: &Value) -> Result<winston_tests::http::Answer> {
    let actor = [("X-Winston-Actor", "Test Person")];
    sidecar.call("POST", &format!("/conflicts/{SOUL}"), &actor, body.to_string().as_bytes())
}

/// The conflict is gone everywhere: here, in the status, in control, and after a kill.
fn expect_settled(tenant: &Tenant, sidecar: Sidecar, wanted: &str) -> Result<Sidecar> {
    assert_eq!(content(&sidecar)?, wanted);
    assert_eq!(sidecar.get("/conflicts")?.expect(200)?.json()?, json!({ "conflicts": [] }));
    sidecar.get(&format!("/conflicts/{SOUL}"))?.expect(404)?;
    tenant.wait_until_even(&sidecar)?;
    eventually("control knows", || {
        let listed = tenant.listed(SOUL)?;
        if listed["conflict"].is_null() { Ok(Some(())) } else { bail!("{listed}") }
    })?;
    let sidecar = sidecar.kill()?.start()?;
    tenant.wait_until_even(&sidecar)?;
    assert_eq!(sidecar.status()?["sync"]["conflicts"], json!([]));
    assert_eq!(content(&sidecar)?, wanted);
    Ok(sidecar)
}

#[test]
fn a_conflict_shows_every_side() -> Result<()> {
    let (_control, _tenant, sidecar) = conflict("sides")?;
    let shown = sidecar.get(&format!("/conflicts/{SOUL}"))?.expect(200)?.json()?;
    for (key, value) in [
        ("local", json!("local\n")),
        ("pushed", json!("pushed\n")),
        ("base", json!("base\n")),
        ("merged", json!(null)),
        ("local_hash", json!(hash("local\n"))),
        ("current_hash", json!(hash("local\n"))),
        ("pushed_hash", json!(hash("pushed\n"))),
    ] {
        assert_eq!(shown[key], value, "{key}: {shown}");
    }
    assert!(shown["since"].is_string() && shown["generation"].is_u64(), "{shown}");
    assert_eq!(sidecar.get("/conflicts/workspace/other.md")?.expect(404)?.json()?["code"], "no_conflict");
    // The same conflict after a kill.
    let before = sidecar.get("/conflicts")?.json()?;
    let sidecar = sidecar.kill()?.start()?;
    assert_eq!(sidecar.get("/conflicts")?.json()?, before);
    Ok(())
}

#[test]
fn theirs_replaces_exactly_what_was_looked_at() -> Result<()> {
    let (_control, tenant, sidecar) = conflict("theirs")?;
    sidecar.agent_writes(SOUL, "moved on\n")?;
    let refused = resolve(&sidecar, &json!({"resolution": "theirs", "local_hash": hash("local\n")}))?.expect(412)?;
    assert_eq!(refused.json()?["current_hash"], hash("moved on\n"));
    assert_eq!(content(&sidecar)?, "moved on\n");

    let done =
        resolve(&sidecar, &json!({"resolution": "theirs", "local_hash": hash("moved on\n")}))?.expect(200)?.json()?;
    assert_eq!(done["hash"], hash("pushed\n"));
    let sidecar = expect_settled(&tenant, sidecar, "pushed\n")?;
    let last = sidecar.changes()?.pop().unwrap_or_default();
    assert_eq!((&last["source"], &last["actor"]), (&json!("admin"), &json!("Test Person")));
    // Nothing is lost: every version that there was is in control.
    let versions = tenant.versions(SOUL)?;
    for version in ["base\n", "local\n", "moved on\n", "pushed\n"] {
        assert!(versions.contains(&hash(version)), "{version}");
    }
    Ok(())
}

#[test]
fn ours_stays_and_the_next_push_starts_from_it() -> Result<()> {
    let (_control, tenant, sidecar) = conflict("ours")?;
    resolve(&sidecar, &json!({"resolution": "ours"}))?.expect(200)?;
    let sidecar = expect_settled(&tenant, sidecar, "local\n")?;
    tenant.push(SOUL, "next\n")?;
    tenant.wait_until_even(&sidecar)?;
    assert_eq!(content(&sidecar)?, "next\n");
    Ok(())
}

/// Whoever names the version that they looked at keeps that one, and no other that has come since.
#[test]
fn ours_is_the_version_that_was_looked_at() -> Result<()> {
    let (_control, tenant, sidecar) = conflict("looked-at")?;
    sidecar.agent_writes(SOUL, "moved on\n")?;
    let refused = resolve(&sidecar, &json!({"resolution": "ours", "local_hash": hash("local\n")}))?.expect(412)?;
    assert_eq!(refused.json()?["current_hash"], hash("moved on\n"));
    let listed = sidecar.get("/conflicts")?.expect(200)?.json()?;
    assert_eq!(listed["conflicts"][0]["path"], SOUL, "{listed}");
    assert_eq!(content(&sidecar)?, "moved on\n");
    let done =
        resolve(&sidecar, &json!({"resolution": "ours", "local_hash": hash("moved on\n")}))?.expect(200)?.json()?;
    assert_eq!(done["hash"], hash("moved on\n"));
    expect_settled(&tenant, sidecar, "moved on\n")?;
    Ok(())
}

#[test]
fn a_third_content_ends_it_too() -> Result<()> {
    let (_control, tenant, sidecar) = conflict("third")?;
    resolve(&sidecar, &json!({"resolution": "merged"}))?.expect(400)?;
    resolve(&sidecar, &json!({"resolution": "somehow"}))?.expect(400)?;
    resolve(&sidecar, &json!({"resolution": "merged", "content": "both\n"}))?.expect(200)?;
    expect_settled(&tenant, sidecar, "both\n")?;
    Ok(())
}

/// Without anybody's resolution: a push that finds what it wants, and an agent that writes what was pushed.
#[test]
fn a_conflict_ends_when_both_sides_have_the_same() -> Result<()> {
    let (_control, tenant, sidecar) = conflict("same")?;
    tenant.push(SOUL, "local\n")?;
    tenant.wait_until_even(&sidecar)?;
    let sidecar = expect_settled(&tenant, sidecar, "local\n")?;

    provoke(&tenant, &sidecar, "again\n", "wanted\n")?;
    sidecar.agent_writes(SOUL, "wanted\n")?;
    eventually("it settles itself", || Ok((sidecar.status()?["sync"]["conflicts"] == json!([])).then_some(())))?;
    expect_settled(&tenant, sidecar, "wanted\n")?;
    Ok(())
}

/// A pushed deletion does not remove an edit, and a pushed edit does not undo a deletion: both wait for a person.
#[test]
fn edits_and_deletions_do_not_win_over_each_other() -> Result<()> {
    let (_control, tenant, sidecar) = conflict("deletes")?;
    resolve(&sidecar, &json!({"resolution": "ours"}))?.expect(200)?;
    tenant.wait_until_even(&sidecar)?;

    sidecar.pause()?;
    sidecar.agent_saves(SOUL, "edited\n")?;
    tenant.call("DELETE", &format!("/files/{SOUL}"), &[], b"")?.expect(200)?;
    sidecar.resume()?;
    tenant.wait_until_even(&sidecar)?;
    assert_eq!(content(&sidecar)?, "edited\n");
    let listed = sidecar.get("/conflicts")?.json()?;
    assert_eq!(listed["conflicts"][0]["pushed_hash"], json!(null), "{listed}");
    resolve(&sidecar, &json!({"resolution": "theirs"}))?.expect(200)?;
    assert!(!sidecar.data().join(SOUL).exists());
    tenant.wait_until_even(&sidecar)?;

    tenant.push(SOUL, "new\n")?;
    tenant.wait_until_even(&sidecar)?;
    // The agent's version, so that its removal is an edit, too.
    sidecar.agent_saves(SOUL, "agent's\n")?;
    tenant.wait_until_even(&sidecar)?;
    sidecar.wait_for_history(
        SOUL,
        &["agent create", "agent update", "agent update", "admin delete", "system create", "agent update"],
    )?;
    tenant.wait_until_even(&sidecar)?;
    sidecar.pause()?;
    std::fs::remove_file(sidecar.data().join(SOUL))?;
    tenant.push(SOUL, "edit\n")?;
    sidecar.resume()?;
    tenant.wait_until_even(&sidecar)?;
    assert!(!sidecar.data().join(SOUL).exists());
    resolve(&sidecar, &json!({"resolution": "theirs"}))?.expect(200)?;
    assert_eq!(content(&sidecar)?, "edit\n");
    Ok(())
}
