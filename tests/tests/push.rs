//! Pushes on their way down: what control wants reaches the disk of a real sidecar, and never costs an edit that was made there.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use winston_tests::control::Control;
use winston_tests::http::free_address;
use winston_tests::sidecar::{Setup, Sidecar};
use winston_tests::tenant::{Tenant, hash};
use winston_tests::wait::eventually;

const SOUL: &str = "workspace/SOUL.md";
const CONFIG: &str = ".openclaw/openclaw.json";

/// A control, one tenant of it and its running sidecar.
fn start(name: &str) -> Result<(Control, Tenant, Sidecar)> {
    let control = Tenant::control()?;
    let tenant = Tenant::create(&control, &format!("{name}@test.example"))?;
    let sidecar = tenant.sidecar()?.start()?;
    tenant.wait_until_even(&sidecar)?;
    Ok((control, tenant, sidecar))
}

fn read(data: &Path, path: &str) -> Option<String> {
    std::fs::read_to_string(data.join(path)).ok()
}

/// Waits until control has what the sidecar has, and expects the history of a path.
fn expect_history(tenant: &Tenant, sidecar: &Sidecar, path: &str, wanted: &[&str]) -> Result<()> {
    tenant.wait_until_even(sidecar)?;
    assert_eq!(sidecar.history(path)?, wanted);
    Ok(())
}

/// Creating, replacing, pushing again and deleting: on disk, in the journal with its generation, and confirmed.
#[test]
fn a_push_is_on_disk_recorded_and_confirmed() -> Result<()> {
    let (_control, tenant, sidecar) = start("push")?;
    let actor = [("X-Winston-Actor", "Test Person")];
    let pushed = tenant.push_with(SOUL, "one", &actor)?.expect(200)?.json()?;
    let changes = tenant.wait_until_even(&sidecar)?;
    assert_eq!(read(sidecar.data(), SOUL).as_deref(), Some("one"));
    assert_eq!(changes.len(), 1);
    for (key, value) in [("source", json!("system")), ("action", json!("create")), ("actor", json!("Test Person"))] {
        assert_eq!(changes[0][key], value, "{changes:?}");
    }
    // The version that was stored by the push is the one that arrived.
    assert_eq!((&changes[0]["generation"], &changes[0]["version"]), (&pushed["generation"], &pushed["version"]));
    assert_eq!(tenant.listed(SOUL)?["pending"], false);

    // The same again is confirmed too, and changes nothing.
    assert_eq!(tenant.push(SOUL, "one")?, 2);
    let changes = tenant.wait_until_even(&sidecar)?;
    assert_eq!((changes.len(), tenant.listed(SOUL)?["pending"].as_bool()), (1, Some(false)));

    sidecar.agent_writes(SOUL, "agent's")?;
    sidecar.wait_for_history(SOUL, &["system create", "agent update"])?;
    tenant.wait_until_even(&sidecar)?;
    tenant.push(SOUL, "two")?;
    tenant.wait_until_even(&sidecar)?;
    assert_eq!(read(sidecar.data(), SOUL).as_deref(), Some("two"));

    tenant.call("DELETE", &format!("/files/{SOUL}"), &[], b"")?.expect(200)?;
    let history = ["system create", "agent update", "system update", "system delete"];
    expect_history(&tenant, &sidecar, SOUL, &history)?;
    assert_eq!((read(sidecar.data(), SOUL), tenant.listed(SOUL)?), (None, Value::Null));
    assert_eq!(sidecar.status()?["sync"]["conflicts"], json!([]));
    Ok(())
}

/// Two pushes of one path before the sidecar can ask: the second one wins, and the first one is not taken for a local edit.
#[test]
fn of_two_quick_pushes_the_second_is_there_in_the_end() -> Result<()> {
    let (_control, tenant, sidecar) = start("quick")?;
    for (first, second) in [("one", "two"), ("three", "four")] {
        sidecar.pause()?;
        tenant.push(SOUL, first)?;
        tenant.push(SOUL, second)?;
        sidecar.resume()?;
        tenant.wait_until_even(&sidecar)?;
        assert_eq!(read(sidecar.data(), SOUL).as_deref(), Some(second));
        let listed = tenant.listed(SOUL)?;
        assert_eq!((&listed["pending"], &listed["conflict"]), (&json!(false), &Value::Null), "{listed}");
        assert_eq!(listed["hash"], hash(second));
    }
    assert_eq!(tenant.versions(SOUL)?, ["one", "two", "three", "four"].map(hash));
    Ok(())
}

/// A push that is made when the one before is on disk already, but before control can know that, is no conflict either.
#[test]
fn a_push_on_the_heels_of_another_is_no_conflict() -> Result<()> {
    let (_control, tenant, sidecar) = start("heels")?;
    let path = sidecar.data().join(SOUL);
    for round in 0..8 {
        let (first, second) = (format!("first {round}"), format!("second {round}"));
        tenant.push(SOUL, &first)?;
        eventually("the first push is on disk", || Ok((std::fs::read_to_string(&path)? == first).then_some(())))?;
        sidecar.pause()?;
        tenant.push(SOUL, &second)?;
        sidecar.resume()?;
        tenant.wait_until_even(&sidecar)?;
        assert_eq!(read(sidecar.data(), SOUL), Some(second), "round {round}");
        assert_eq!(sidecar.status()?["sync"]["conflicts"], json!([]), "round {round}");
    }
    Ok(())
}

/// What was pushed while the sidecar was down, the newest of several, is applied at its start.
#[test]
fn a_push_waits_for_a_sidecar_that_is_down() -> Result<()> {
    let (_control, tenant, sidecar) = start("down")?;
    tenant.push("workspace/USER.md", "user")?;
    tenant.wait_until_even(&sidecar)?;
    let setup = sidecar.kill()?;
    tenant.push(SOUL, "one")?;
    tenant.push(SOUL, "two")?;
    tenant.call("DELETE", "/files/workspace/USER.md", &[], b"")?.expect(200)?;
    assert_eq!(tenant.listed(SOUL)?["pending"], true);
    assert_eq!(read(setup.data(), SOUL), None);
    let sidecar = setup.start()?;
    expect_history(&tenant, &sidecar, SOUL, &["system create"])?;
    assert_eq!(read(sidecar.data(), SOUL).as_deref(), Some("two"));
    assert_eq!(read(sidecar.data(), "workspace/USER.md"), None);
    assert_eq!(tenant.listed(SOUL)?["pending"], false);
    Ok(())
}

/// Pushes `pushed` while the agent writes `edited` and control cannot know; waits for the conflict.
fn provoke_conflict(tenant: &Tenant, sidecar: &Sidecar, edited: &str, pushed: &str) -> Result<()> {
    sidecar.pause()?;
    sidecar.agent_writes(SOUL, edited)?;
    let generation = tenant.push(SOUL, pushed)?;
    sidecar.resume()?;
    tenant.wait_until_even(sidecar)?;

    assert_eq!(read(sidecar.data(), SOUL).as_deref(), Some(edited));
    let local = sidecar.status()?["sync"]["conflicts"].take();
    let told = [&local[0]["path"], &local[0]["generation"], &local[0]["local_hash"], &local[0]["pushed_hash"]];
    assert_eq!(json!(told), json!([SOUL, generation, hash(edited), hash(pushed)]), "{local}");
    assert!(local[0]["since"].is_string() && local[1].is_null(), "{local}");
    let seen = json!({"generation": generation, "pushed_hash": hash(pushed), "local_hash": hash(edited)});
    eventually("the conflict in control", || {
        let listed = tenant.listed(SOUL)?;
        let told = listed["conflict"] == seen && listed["hash"] == hash(edited) && listed["pending"] == false;
        if told { Ok(Some(())) } else { bail!("{listed}") }
    })?;
    let versions = tenant.versions(SOUL)?;
    assert!([edited, pushed].iter().all(|content| versions.contains(&hash(content))), "{versions:?}");
    Ok(())
}

/// Expects that there is no conflict any more, on either side, and that the disk has this.
fn expect_resolved(tenant: &Tenant, sidecar: &Sidecar, content: &str) -> Result<()> {
    tenant.wait_until_even(sidecar)?;
    assert_eq!(read(sidecar.data(), SOUL).as_deref(), Some(content));
    assert_eq!(sidecar.status()?["sync"]["conflicts"], json!([]));
    let listed = tenant.listed(SOUL)?;
    assert_eq!((&listed["conflict"], &listed["hash"]), (&Value::Null, &json!(hash(content))), "{listed}");
    Ok(())
}

/// A push that meets an edit: the edit stays, both versions are kept, everybody can see it, and two ways lead out.
#[test]
fn a_push_that_meets_an_edit_is_a_conflict_until_somebody_decides() -> Result<()> {
    let (_control, tenant, sidecar) = start("conflict")?;
    tenant.push(SOUL, "base")?;
    tenant.wait_until_even(&sidecar)?;

    provoke_conflict(&tenant, &sidecar, "agent one", "pushed one")?;
    // It outlives a restart of the sidecar.
    let sidecar = sidecar.kill()?.start()?;
    assert_eq!(sidecar.status()?["sync"]["conflicts"][0]["local_hash"], hash("agent one"));
    // Whoever has not seen the agent's version is refused; whoever has may replace it.
    let blind = [("If-Match", format!("\"{}\"", hash("pushed one")))];
    let refused = tenant.push_with(SOUL, "merged", &[(blind[0].0, &blind[0].1)])?.expect(412)?;
    assert_eq!(refused.json()?["current_hash"], hash("agent one"));
    let seen = format!("\"{}\"", hash("agent one"));
    tenant.push_with(SOUL, "merged", &[("If-Match", &seen)])?.expect(200)?;
    expect_resolved(&tenant, &sidecar, "merged")?;

    provoke_conflict(&tenant, &sidecar, "agent two", "pushed two")?;
    tenant.push(&format!("{SOUL}?force=true"), "forced")?;
    expect_resolved(&tenant, &sidecar, "forced")?;

    // Force replaces even what nobody has seen yet, and keeps it in history first.
    sidecar.pause()?;
    sidecar.agent_writes(SOUL, "agent three")?;
    tenant.push(&format!("{SOUL}?force=true"), "forced again")?;
    sidecar.resume()?;
    expect_resolved(&tenant, &sidecar, "forced again")?;
    let changes = tenant.changes()?;
    let story: Vec<_> = changes.iter().map(|change| (change["source"].as_str(), change["hash"].clone())).collect();
    let wanted = [
        ("system", "base"),
        ("agent", "agent one"),
        ("system", "merged"),
        ("agent", "agent two"),
        ("system", "forced"),
        ("agent", "agent three"),
        ("system", "forced again"),
    ];
    assert_eq!(story, wanted.map(|(source, content)| (Some(source), json!(hash(content)))));
    Ok(())
}

/// A push of a deletion that meets an edit is a conflict as well.
#[test]
fn a_deletion_does_not_take_an_edit_along() -> Result<()> {
    let (_control, tenant, sidecar) = start("deletion")?;
    tenant.push(SOUL, "base")?;
    tenant.wait_until_even(&sidecar)?;
    sidecar.pause()?;
    sidecar.agent_writes(SOUL, "agent's")?;
    tenant.call("DELETE", &format!("/files/{SOUL}"), &[], b"")?.expect(200)?;
    sidecar.resume()?;
    expect_history(&tenant, &sidecar, SOUL, &["system create", "agent update"])?;
    assert_eq!(read(sidecar.data(), SOUL).as_deref(), Some("agent's"));
    assert_eq!(sidecar.status()?["sync"]["conflicts"][0]["local_hash"], hash("agent's"));
    Ok(())
}

/// First boot: everything that control wants is put in place, and the configuration, which starts the gateway, comes last.
#[test]
fn the_first_boot_gets_its_files_from_control_the_configuration_last() -> Result<()> {
    let control = Tenant::control()?;
    let tenant = Tenant::create(&control, "first@test.example")?;
    let setup = tenant.sidecar()?;
    seed(&setup, &[(SOUL, "seeded"), ("workspace/IDENTITY.md", "seeded")])?;
    // Pushed first, so that the order of the pushes is not the order that is asked for.
    let pushed = [(CONFIG, "{}"), (SOUL, "soul"), ("workspace/AGENTS.md", "agents"), ("workspace/z.md", "z")];
    for (path, content) in pushed {
        tenant.push(path, content)?;
    }
    let sidecar = setup.start()?;
    let changes = tenant.wait_until_even(&sidecar)?;
    for (path, content) in pushed {
        assert_eq!(read(sidecar.data(), path).as_deref(), Some(content), "{path}");
    }
    let paths: Vec<_> = changes.iter().filter(|change| change["generation"].is_u64()).collect();
    assert_eq!(paths.len(), pushed.len(), "{changes:#?}");
    assert_eq!(paths.last().context("changes")?["path"], CONFIG);
    // Control's files win over seeds; seeds fill in the rest.
    assert_eq!(sidecar.history(SOUL)?, ["system create"]);
    assert_eq!(read(sidecar.data(), "workspace/IDENTITY.md").as_deref(), Some("seeded"));
    Ok(())
}

/// Puts files where entrypoint leaves them for the first boot.
fn seed(setup: &Setup, files: &[(&str, &str)]) -> Result<()> {
    for (path, content) in files {
        let path = setup.data().join(".winston/seed").join(path);
        std::fs::create_dir_all(path.parent().context("a directory")?)?;
        std::fs::write(path, content)?;
    }
    Ok(())
}

/// First boot without control: the seeds are applied as `system`, only where nothing is; a later start ignores them.
#[test]
fn the_first_boot_without_control_uses_the_seeds() -> Result<()> {
    let nobody = format!("http://{}", free_address()?);
    let setup = Setup::new()?.env("WINSTON_CONTROL_URL", &nobody);
    std::fs::create_dir(setup.data().join("workspace"))?;
    std::fs::write(setup.data().join("workspace/AGENTS.md"), "there before")?;
    seed(&setup, &[(SOUL, "soul"), ("workspace/AGENTS.md", "seeded"), (CONFIG, "{}")])?;
    let sidecar = setup.start()?;
    sidecar.wait_for_history(CONFIG, &["system create"])?;
    assert_eq!(sidecar.history(SOUL)?, ["system create"]);
    assert_eq!(read(sidecar.data(), SOUL).as_deref(), Some("soul"));
    assert_eq!(sidecar.history("workspace/AGENTS.md")?, ["agent create"]);
    assert_eq!(read(sidecar.data(), "workspace/AGENTS.md").as_deref(), Some("there before"));
    assert_eq!(sidecar.changes()?.last().context("changes")?["path"], CONFIG);
    sidecar.wait_for_sync_state("unreachable")?;

    let setup = sidecar.kill()?;
    seed(&setup, &[(SOUL, "another"), ("workspace/USER.md", "late")])?;
    let sidecar = setup.start()?;
    eventually("the seeds are gone", || {
        Ok((!sidecar.data().join(".winston/seed/workspace/USER.md").exists()).then_some(()))
    })?;
    assert_eq!(read(sidecar.data(), SOUL).as_deref(), Some("soul"));
    assert_eq!(read(sidecar.data(), "workspace/USER.md"), None);
    Ok(())
}
