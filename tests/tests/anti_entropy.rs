//! What the sidecar does when control turns out to have something else: other files, another journal, another process.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use winston_tests::control::Control;
use winston_tests::http::free_address;
use winston_tests::script::{Reply, ScriptedControl, Seen, check_in_answer, ordinary};
use winston_tests::sidecar::{Setup, Sidecar};
use winston_tests::tenant::{Tenant, block_on, hash};
use winston_tests::wait::eventually;

const CHECK_IN: &str = "POST /api/sidecar/check-in";
const MANIFEST: &str = "POST /api/sidecar/manifest";
const CHANGES: &str = "POST /api/sidecar/changes";

/// A check-in is answered with what the sidecar has, and `more`.
fn agree(seen: &Seen, more: &Value) -> Reply {
    let mut answer = check_in_answer(seen.body["head_seq"].as_u64().unwrap_or(0));
    for (key, value) in more.as_object().into_iter().flatten() {
        answer[key] = value.clone();
    }
    (200, answer)
}

fn start(control: &ScriptedControl) -> Result<Sidecar> {
    Setup::new()?.env("WINSTON_CONTROL_URL", &control.url()).start()
}

/// Control lacks a file, has another content of one, and has one that is gone: each is stated once more, with the author of the version, and
/// what only seems to differ costs no record.
#[test]
fn what_control_has_wrong_is_stated_once_more() -> Result<()> {
    let control = ScriptedControl::start(|seen| ordinary(seen).unwrap_or_else(|| agree(seen, &json!({}))))?;
    let sidecar = start(&control)?;
    for path in ["a.md", "b.md", "c.md"] {
        sidecar.put(path, path)?.expect(200)?;
    }
    sidecar.agent_writes("workspace/agent.md", "agent's")?;
    sidecar.wait_for_history("workspace/agent.md", &["agent create"])?;
    let before = sidecar.changes()?.len();
    let differing = json!([
        {"path": "a.md", "present": true, "hash": hash("old")},
        {"path": "c.md", "present": true, "hash": hash("c.md")},
        {"path": "gone.md", "present": true, "hash": hash("gone")},
        {"path": "workspace/agent.md", "present": false, "hash": null},
    ]);
    control.change(move |seen| match seen.call.as_str() {
        CHECK_IN => agree(seen, &json!({ "manifest_differs": true })),
        MANIFEST => (200, json!({ "stale": false, "differing": differing.clone() })),
        _ => ordinary(seen).unwrap_or_default(),
    });
    eventually("the repairs", || Ok((sidecar.status()?["sync"]["repairs"] == 3).then_some(())))?;
    let changes = sidecar.changes()?;
    let told = |change: &Value| {
        json!([change["path"], change["source"], change["action"], change["previous_hash"], change["hash"]])
    };
    let repairs: Vec<_> = changes.iter().skip(before).map(told).collect();
    let wanted = [
        json!(["a.md", "admin", "update", hash("old"), hash("a.md")]),
        json!(["gone.md", "agent", "delete", hash("gone"), null]),
        json!(["workspace/agent.md", "agent", "create", null, hash("agent's")]),
    ];
    assert_eq!(repairs, wanted);
    // The question goes on; the answer is at most one comparison a minute.
    let asked = control.count(CHECK_IN);
    eventually("more check-ins", || Ok((control.count(CHECK_IN) > asked + 2).then_some(())))?;
    assert_eq!(sidecar.status()?["sync"]["compares"], 1);
    assert_eq!(control.count(MANIFEST), 1);
    // What is compared is what is there.
    let range = control.seen().into_iter().find(|seen| seen.call == MANIFEST).context("a range")?.body;
    let paths: Vec<_> = range["files"].as_array().context("files")?.iter().map(|file| file["path"].clone()).collect();
    assert_eq!(paths, ["a.md", "b.md", "c.md", "workspace/agent.md"]);
    assert!(range["through"].is_null() && range["after"].is_null(), "{range}");
    Ok(())
}

/// A range that control cannot compare yet is sent again, and nothing is repaired.
#[test]
fn a_stale_comparison_repairs_nothing() -> Result<()> {
    let control = ScriptedControl::start(|seen| match seen.call.as_str() {
        CHECK_IN => agree(seen, &json!({ "manifest_differs": true })),
        MANIFEST => (200, json!({ "stale": true })),
        _ => ordinary(seen).unwrap_or_default(),
    })?;
    let sidecar = start(&control)?;
    sidecar.put("a.md", "a")?.expect(200)?;
    eventually("the range is sent again", || Ok((control.count(MANIFEST) >= 2).then_some(())))?;
    assert_eq!(sidecar.status()?["sync"]["repairs"], 0);
    assert_eq!(sidecar.history("a.md")?, ["admin create"]);
    Ok(())
}

/// The number is the same and the record is another: the volume was restored from a copy and went on. Its journal becomes another one, and
/// everything is sent again under the new identity.
#[test]
fn another_record_under_the_same_number_is_another_journal() -> Result<()> {
    let control = ScriptedControl::start(|seen| ordinary(seen).unwrap_or_else(|| agree(seen, &json!({}))))?;
    let sidecar = start(&control)?;
    sidecar.put("a.md", "one")?.expect(200)?;
    sidecar.put("a.md", "two")?.expect(200)?;
    let record = sidecar.changes()?[1].clone();
    let at: winston_wire::Timestamp = record["timestamp"].as_str().context("a time")?.parse()?;
    let epoch = sidecar.status()?["journal"]["epoch"].clone();

    // The same record: nothing happens.
    let same =
        json!({"acked_change": {"seq": 2, "path": "a.md", "timestamp_us": at.as_microsecond(), "hash": hash("two")}});
    let known = same.clone();
    control.change(move |seen| ordinary(seen).unwrap_or_else(|| agree(seen, &known)));
    let asked = control.count(CHECK_IN);
    eventually("more check-ins", || Ok((control.count(CHECK_IN) > asked + 2).then_some(())))?;
    assert_eq!(sidecar.status()?["journal"]["epoch"], epoch);

    let mut other = same;
    other["acked_change"]["hash"] = hash("a way of its own").into();
    let old = epoch.clone();
    control.change(move |seen| match seen.call.as_str() {
        CHECK_IN if seen.body["epoch"] == old => agree(seen, &other),
        CHECK_IN => (200, check_in_answer(0)),
        _ => ordinary(seen).unwrap_or_default(),
    });
    let sent = eventually("everything is sent again", || {
        let mut batches = control.seen().into_iter().filter(|seen| seen.call == CHANGES && seen.body["epoch"] != epoch);
        Ok(batches.next_back().map(|batch| batch.body))
    })?;
    assert_eq!(sent["changes"].as_array().map(Vec::len), Some(2), "{sent}");
    Ok(())
}

/// Superseded: nothing is sent and nothing applied any more, and the file API stays. Only a restart makes it a session that is served.
#[test]
fn a_superseded_sidecar_is_silent_and_serves_files() -> Result<()> {
    let control = ScriptedControl::start(|seen| ordinary(seen).unwrap_or_else(|| agree(seen, &json!({}))))?;
    let sidecar = start(&control)?;
    sidecar.put("a.md", "one")?.expect(200)?;
    sidecar.wait_for_sync_state("connected")?;
    let refused = || (409, json!({ "error": "another session", "code": "superseded" }));
    control.change(move |_| refused());
    let sync = sidecar.wait_for_sync_state("superseded")?;
    assert!(sync["error"].as_str().is_some_and(|error| error.contains("restart")), "{sync}");
    sidecar.wait_for_log("sync state")?;

    // Every loop may have had one call under way; after that there is silence, whatever happens on the disk.
    for content in ["two", "three", "four"] {
        sidecar.put("a.md", content)?.expect(200)?;
    }
    let quiet = eventually("no further calls", || {
        let before = control.seen().len();
        std::thread::park_timeout(std::time::Duration::from_secs(3));
        let after = control.seen().len();
        if before == after { Ok(Some(after)) } else { bail!("{before} calls, then {after}") }
    })?;
    control.change(|seen| match seen.call.as_str() {
        "GET /api/sidecar/desired" => {
            (200, json!({"generation": 1, "files": [{"path": "a.md", "generation": 1, "hash": null, "base": "any"}]}))
        }
        _ => ordinary(seen).unwrap_or_else(|| agree(seen, &json!({}))),
    });
    sidecar.put("b.md", "still here")?.expect(200)?;
    assert_eq!(sidecar.get("/files/a.md")?.expect(200)?.json()?["content"], "four");
    assert_eq!(control.seen().len(), quiet);

    // A process that is started anew is a new session, and names it in every call but the check-in.
    let sidecar = sidecar.kill()?.start()?;
    sidecar.wait_for_sync_state("connected")?;
    eventually("the push is applied", || Ok((!sidecar.data().join("a.md").exists()).then_some(())))?;
    let sessions = |call: &str| -> Vec<_> {
        control.seen().into_iter().skip(quiet).filter(|seen| seen.call == call).map(|seen| seen.session).collect()
    };
    assert!(sessions(CHECK_IN).iter().all(Option::is_none));
    let named = control.seen().into_iter().skip(quiet).find(|seen| seen.call == CHECK_IN).context("a check-in")?;
    let session = named.body["session"].as_str().map(str::to_owned);
    assert!(session.is_some() && sessions("GET /api/sidecar/desired").iter().all(|known| *known == session));
    Ok(())
}

/// A real control whose sidecars check in every second.
fn real_control() -> Result<Control> {
    let address = free_address()?.to_string();
    block_on(Control::start(&[("WINSTON_CONTROL_LISTEN", &address), ("WINSTON_HEARTBEAT_SECONDS", "1")]))
}

/// One call that is told of another process speaks for all: the others are not tried, although each of them would be answered, and a push that was
/// on its way is not applied.
#[test]
fn a_process_that_was_superseded_in_one_call_is_silent_in_all() -> Result<()> {
    let control = ScriptedControl::start(|seen| ordinary(seen).unwrap_or_else(|| agree(seen, &json!({}))))?;
    let sidecar = start(&control)?;
    sidecar.put("a.md", "one")?.expect(200)?;
    eventually("it is sent", || Ok((sidecar.status()?["journal"]["acked_seq"] == 1).then_some(())))?;
    let refused = |seen: &Seen| (seen.call == CHECK_IN).then(|| (409, json!({ "error": "", "code": "superseded" })));
    control.change(move |seen| refused(seen).or_else(|| ordinary(seen)).unwrap_or_default());
    sidecar.wait_for_sync_state("superseded")?;
    let asked = |call: &str| control.count(call);
    let (sent, desired) = (asked(CHANGES), asked("GET /api/sidecar/desired"));
    control.change(move |seen| match seen.call.as_str() {
        "GET /api/sidecar/desired" => {
            (200, json!({"generation": 1, "files": [{"path": "a.md", "generation": 1, "hash": null, "base": "any"}]}))
        }
        _ => refused(seen).or_else(|| ordinary(seen)).unwrap_or_default(),
    });
    for number in 0..20 {
        sidecar.put("b.md", &format!("{number}"))?.expect(200)?;
    }
    let (_, setup) = sidecar.stop()?;
    assert_eq!(asked(CHANGES), sent);
    assert!(asked("GET /api/sidecar/desired") <= desired + 1, "one may have been under way");
    assert!(setup.data().join("a.md").exists());
    Ok(())
}

/// A statement on a control's own database.
fn sql(control: &Control, statements: &str) -> Result<()> {
    let url = format!("host={} user=winston dbname=postgres", control.socket_dir().display());
    block_on(async {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute(statements).await
    })??;
    Ok(())
}

/// With a real control: rows that went wrong in its database are right again, without anybody writing a file.
#[test]
fn a_damaged_database_is_repaired_from_the_disk() -> Result<()> {
    let control = real_control()?;
    let tenant = Tenant::create(&control, "repair@test.example")?;
    let sidecar = tenant.sidecar()?.start()?;
    for path in ["a.md", "b.md", "c.md"] {
        sidecar.put(path, path)?.expect(200)?;
    }
    tenant.wait_until_even(&sidecar)?;
    sql(
        &control,
        "UPDATE current_files SET hash = sha256('other') WHERE file_path = 'a.md';
         DELETE FROM current_files WHERE file_path = 'b.md';
         UPDATE journals SET digest = NULL, files = NULL;",
    )?;
    eventually("the repairs", || {
        let sync = sidecar.status()?["sync"].take();
        if sync["repairs"] == 2 { Ok(Some(())) } else { bail!("{sync}") }
    })?;
    tenant.wait_until_even(&sidecar)?;
    for path in ["a.md", "b.md", "c.md"] {
        assert_eq!(tenant.listed(path)?["hash"], hash(path), "{path}");
    }
    assert_eq!(sidecar.history("b.md")?, ["admin create", "admin create"]);
    Ok(())
}

/// With a real control: the second process with a token is served, the first one falls silent.
#[test]
fn of_two_sidecars_with_one_token_the_later_one_is_served() -> Result<()> {
    let control = real_control()?;
    let tenant = Tenant::create(&control, "twice@test.example")?;
    let first = tenant.sidecar()?.start()?;
    first.put("a.md", "first")?.expect(200)?;
    tenant.wait_until_even(&first)?;
    let second = tenant.sidecar()?.start()?;
    second.wait_for_sync_state("connected")?;
    first.wait_for_sync_state("superseded")?;
    first.put("a.md", "unheard")?.expect(200)?;
    second.put("b.md", "second")?.expect(200)?;
    tenant.push("pushed.md", "pushed")?;
    tenant.wait_until_even(&second)?;
    assert!(second.data().join("pushed.md").exists() && !first.data().join("pushed.md").exists());
    assert_eq!(first.status()?["sync"]["state"], "superseded");
    assert!(!tenant.versions("a.md")?.contains(&hash("unheard")));

    // What the first one has is sent when it is the one that is served again.
    drop(second);
    let first = first.kill()?.start()?;
    first.wait_for_sync_state("connected")?;
    eventually("its changes arrive", || Ok(tenant.versions("a.md")?.contains(&hash("unheard")).then_some(())))?;

    // Its journal is the one that counts, although the other one began later.
    tenant.wait_until_even(&first)?;
    assert_eq!(tenant.listed("a.md")?["hash"], hash("unheard"));
    assert_eq!(tenant.listed("b.md")?, Value::Null);
    let newest = tenant.get("/changes?limit=1")?;
    assert_eq!(newest["changes"][0]["epoch"], first.status()?["journal"]["epoch"], "{newest}");
    tenant.push("a.md", "pushed over what is there")?;
    tenant.wait_until_even(&first)?;
    assert_eq!(first.get("/files/a.md")?.expect(200)?.json()?["content"], "pushed over what is there");
    assert_eq!(tenant.get("/conflicts")?["count"], 0);
    Ok(())
}
