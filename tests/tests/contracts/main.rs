//! The contracts of the two first sidecars, row by row: method, path, request, status, and every key of the answer with its type, in a
//! table that can be read beside their sources. What they got wrong (WD in the defect list) is marked where a row differs from them.

mod first;
mod later;
mod table;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use winston_tests::sidecar::{Setup, Sidecar};

use table::Body::None as Empty;
use table::{Row, check, error};

/// A tenant with something in every place that either of them has a word about.
fn tenant() -> Result<Sidecar> {
    let sidecar = Setup::new()?.env("WINSTON_TENANT_ID", "test-tenant").start()?;
    sidecar.agent_writes(".openclaw/openclaw.json", "{}")?;
    sidecar.agent_writes(".openclaw/gateway.token", "secret")?;
    sidecar.agent_writes(".openclaw/credentials/x.json", "secret")?;
    sidecar.agent_writes(".openclaw/skills/old/SKILL.md", "old")?;
    sidecar.agent_writes(".openclaw/.winston/changes.jsonl", "old log")?;
    std::fs::create_dir_all(sidecar.data().join("workspace"))?;
    std::os::unix::fs::symlink("nowhere", sidecar.data().join("dangling"))?;
    std::os::unix::fs::symlink("nowhere", sidecar.data().join(".openclaw/dangling"))?;
    sidecar.wait_for_history(".openclaw/skills/old/SKILL.md", &["agent create"])?;
    Ok(sidecar)
}

/// One file with two names is one file and one change.
#[test]
fn both_contracts_show_one_store_and_one_history() -> Result<()> {
    let sidecar = tenant()?;
    let headers = [("Content-Type", "application/json")];
    sidecar.call("PUT", "/winston/files/SOUL.md", &headers, br#"{"content":"later"}"#)?.expect(200)?;
    assert_eq!(sidecar.get("/files/workspace/SOUL.md")?.expect(200)?.json()?["content"], "later");
    assert_eq!(std::fs::read(sidecar.data().join("workspace/SOUL.md"))?, b"later");
    assert!(!sidecar.data().join(".openclaw/SOUL.md").exists());
    sidecar.put("workspace/SOUL.md", "first")?.expect(200)?;
    sidecar.call("DELETE", "/files/workspace/SOUL.md", &[], b"")?.expect(200)?;
    // Outside of what the later contract can name.
    sidecar.put("elsewhere.md", "x")?.expect(200)?;
    assert_eq!(sidecar.history("workspace/SOUL.md")?, ["admin create", "admin update", "admin delete"]);
    let later = sidecar.get("/winston/changes?limit=3")?.expect(200)?.json()?;
    let told: Vec<_> = later["changes"]
        .as_array()
        .context("changes")?
        .iter()
        .map(|change| (change["file"].clone(), change["action"].clone()))
        .collect();
    assert_eq!(told, ["created", "modified", "deleted"].map(|action| (json!("SOUL.md"), json!(action))));
    Ok(())
}

/// Old clients know three words; a rename has a fourth, and one number.
#[test]
fn a_rename_is_two_changes_to_old_clients() -> Result<()> {
    let sidecar = tenant()?;
    sidecar.put(".openclaw/skills/one.md", "x")?.expect(200)?;
    let to = json!({"to": ".openclaw/skills/two.md"}).to_string();
    let moved = sidecar.call(
        "POST",
        "/files/.openclaw/skills/one.md?op=move",
        &[("Content-Type", "application/json")],
        to.as_bytes(),
    )?;
    let seq = moved.expect(200)?.json()?["seq"].clone();

    let told = |target: &str, path: &str| -> Result<Vec<Value>> {
        let changes = sidecar.get(target)?.expect(200)?.json()?["changes"].take();
        let changes = changes.as_array().cloned().context("changes")?;
        Ok(changes.into_iter().map(|change| json!([change[path], change["action"]])).collect())
    };
    let v1 = told("/changes?limit=2", "path")?;
    assert!(v1.contains(&json!([".openclaw/skills/two.md", "create"])), "{v1:?}");
    assert!(v1.contains(&json!([".openclaw/skills/one.md", "delete"])), "{v1:?}");
    let v2 = told("/winston/changes", "file")?;
    assert_eq!(v2[v2.len() - 2..].iter().filter(|change| change[0] == "skills/two.md").count(), 1, "{v2:?}");
    assert!(v2.contains(&json!(["skills/two.md", "created"])), "{v2:?}");
    assert!(v2.contains(&json!(["skills/one.md", "deleted"])), "{v2:?}");

    let after = seq.as_u64().context("seq")? - 1;
    let page = sidecar.get(&format!("/changes?after={after}&limit=9"))?.expect(200)?.json()?;
    let change = &page["changes"][0];
    let found = [&change["seq"], &change["action"], &change["path"], &change["previous_path"]];
    assert_eq!(json!(found), json!([seq, "rename", ".openclaw/skills/two.md", ".openclaw/skills/one.md"]));
    Ok(())
}

#[test]
fn a_workspace_inside_the_state_directory_has_the_same_names() -> Result<()> {
    let setup = Setup::new()?;
    let workspace = setup.data().join(".openclaw/workspace").display().to_string();
    let sidecar = setup.env("OPENCLAW_WORKSPACE_DIR", &workspace).start()?;
    let headers = [("Content-Type", "application/json")];
    sidecar.call("PUT", "/winston/files/USER.md", &headers, br#"{"content":"u"}"#)?.expect(200)?;
    assert_eq!(sidecar.history(".openclaw/workspace/USER.md")?, ["admin create"]);
    let root = sidecar.get("/winston/files/")?.expect(200)?.json()?;
    let names: Vec<_> = root["files"].as_array().context("files")?.iter().map(|item| item["name"].clone()).collect();
    assert_eq!(names.iter().filter(|name| **name == "USER.md").count(), 1);
    assert_eq!(names.iter().filter(|name| **name == "workspace").count(), 1);
    Ok(())
}

/// What a program asks that looks after many tenants.
#[test]
fn version_and_metrics() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("a.md", "a")?.expect(200)?;
    sidecar.get("/nothing")?.expect(404)?;
    check(
        &sidecar,
        &[
            Row(false, "GET", "/version", Empty, 401, error("Unauthorized")),
            Row(false, "GET", "/metrics", Empty, 401, error("Unauthorized")),
            Row(
                true,
                "GET",
                "/version",
                Empty,
                200,
                json!({ "service": "=winston-sidecar", "version": "string", "protocol": "int" }),
            ),
        ],
    )?;
    let metrics = sidecar.get("/metrics")?.expect(200)?;
    assert!(metrics.header("content-type").is_some_and(|kind| kind.starts_with("text/plain; version=0.0.4")));
    let text = metrics.text();
    for line in [
        "winston_journal_head_seq 1",
        "winston_watch_files 1",
        "winston_sync_state{state=\"disabled\"} 1",
        "winston_gateway_state{state=\"disabled\"} 1",
        "winston_http_answers_total{status=\"4xx\"} 3",
        "winston_http_streams{kind=\"events\"} 0",
    ] {
        assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let value = line.rsplit_once(' ').context("value")?.1;
        value.parse::<f64>().with_context(|| line.to_owned())?;
    }
    Ok(())
}
