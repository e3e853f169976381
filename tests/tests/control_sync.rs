//! The control API for sidecars, pushes, and control's own database.

use std::process::Command;

use hyper::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use winston_tests::control::{Client, Control, text, until};
use winston_wire::{ContentHash, MAX_BATCH_CHANGES};

const EPOCH: &str = "0190a000-0000-7000-8000-000000000001";

fn hash(content: &str) -> String {
    ContentHash::from_bytes(Sha256::digest(content).into()).to_string()
}

/// A change that writes `content`; a delete without.
fn change(seq: u64, path: &str, content: Option<&str>) -> Value {
    let mut change = json!({
        "seq": seq,
        "timestamp": "2026-01-02T03:04:05Z",
        "path": path,
        "source": "agent",
        "action": if content.is_some() { "update" } else { "delete" },
    });
    if let Some(content) = content {
        change["hash"] = hash(content).into();
        change["size"] = content.len().into();
    }
    change
}

async fn send(sidecar: &Client, changes: Vec<Value>) -> Value {
    let batch = json!({"epoch": EPOCH, "changes": changes});
    let answer = sidecar.post("/api/sidecar/changes", &batch).await;
    answer.expect(200).json()
}

async fn upload(sidecar: &Client, content: &str) {
    let path = format!("/api/sidecar/contents/{}", hash(content));
    let put = sidecar.call(Method::PUT, &path, &[], content.to_owned());
    let _ = put.await.expect(204);
}

fn check_in(head_seq: u64, applied_generation: u64, conflicts: Value) -> Value {
    json!({
        "protocol": winston_wire::PROTOCOL_VERSION,
        "version": "0.1.0",
        "epoch": EPOCH,
        "session": "0190b3a0-0000-7000-8000-000000000001",
        "started_at": "2026-01-02T03:04:05Z",
        "head_seq": head_seq,
        "applied_generation": applied_generation,
        "gateway": {"state": "ready", "since": "2026-01-02T03:04:05Z", "reason": "a\u{0}b", "port": 18789, "restarts": 0},
        "conflicts": conflicts,
    })
}

#[tokio::test]
async fn a_batch_is_committed_once_and_only_with_its_contents() {
    let control = Control::start(&[]).await;
    let admin = control.admin();
    let (id, sidecar) = control.tenant("batch@test.example").await;
    let batch = vec![
        change(1, "workspace/a.md", Some("one")),
        change(2, "workspace/a.md", Some("two")),
        change(3, "workspace/b.md", None),
    ];
    let answer = send(&sidecar, batch.clone()).await;
    assert_eq!(answer["acked_seq"], 0);
    assert_eq!(answer["contents_wanted"], json!([hash("one"), hash("two")]));

    upload(&sidecar, "one").await;
    let answer = send(&sidecar, batch.clone()).await;
    assert_eq!(answer["acked_seq"], 1);
    assert_eq!(answer["contents_wanted"], json!([hash("two")]));

    upload(&sidecar, "two").await;
    // The same batch from several connections at once, and again.
    let (first, second) = tokio::join!(send(&sidecar, batch.clone()), send(&sidecar, batch.clone()));
    for answer in [first, second, send(&sidecar, batch).await] {
        assert_eq!(answer["acked_seq"], 3);
        assert_eq!(answer["contents_wanted"], json!([]));
    }
    let changes = admin.get(&format!("/api/tenants/{id}/changes")).await;
    let changes = changes.expect(200).json();
    assert_eq!(changes["count"], 3);
    assert_eq!(changes["changes"][0]["seq"], 3);
    let versions = format!("/api/tenants/{id}/versions?path=workspace/a.md");
    let versions = admin.get(&versions).await.expect(200).json();
    assert_eq!(versions["count"], 2);

    // A gap commits nothing and tells where to start.
    let answer = send(&sidecar, vec![change(5, "workspace/a.md", Some("one"))]).await;
    assert_eq!(answer["acked_seq"], 3);
    let lost = json!({"epoch": EPOCH, "changes": [change(5, "c.md", None)], "lost": [4]});
    let answer = sidecar.post("/api/sidecar/changes", &lost).await;
    assert_eq!(answer.expect(200).json()["acked_seq"], 5);

    let old = text(&versions["versions"][1]["id"].to_string().into());
    let file = format!("/api/tenants/{id}/files/workspace/a.md");
    let now = admin.get(&file).await.expect(200).json();
    assert_eq!(now["content"], "two");
    let then = admin.get(&format!("{file}?version={old}")).await;
    assert_eq!(then.expect(200).json()["content"], "one");

    for (changes, code) in [
        (vec![change(6, "a", None), change(8, "a", None)], "bad_sequence"),
        (vec![change(6, "../a", None)], "bad_path"),
        ((6..=6 + MAX_BATCH_CHANGES as u64).map(|seq| change(seq, "a", None)).collect(), "too_many_changes"),
    ] {
        let batch = json!({"epoch": EPOCH, "changes": changes});
        let answer = sidecar.post("/api/sidecar/changes", &batch).await;
        assert_eq!(answer.expect(400).code(), code);
    }
    let path = format!("/api/sidecar/contents/{}", hash("one"));
    let wrong = sidecar.call(Method::PUT, &path, &[], "two").await;
    assert_eq!(wrong.expect(422).code(), "hash_mismatch");
}

/// A sidecar may be newer than its control: a state that control does not know is stored as that, and refused by nobody.
#[tokio::test]
async fn every_state_of_a_gateway_is_taken_in() {
    let control = Control::start(&[]).await;
    let (id, sidecar) = control.tenant("states@test.example").await;
    for (state, stored, health) in [
        ("ready", "ready", "healthy"),
        ("adopted", "adopted", "starting"),
        ("degraded", "degraded", "degraded"),
        ("crash_looping", "crash_looping", "unhealthy"),
        ("levitating", "unknown", "unknown"),
    ] {
        let mut report = check_in(0, 0, json!([]));
        report["gateway"]["state"] = state.into();
        report["gateway"]["suppressed"] = json!(["telegram"]);
        report["gateway"]["mood"] = json!({"of": "a newer sidecar"});
        let _ = sidecar.post("/api/sidecar/check-in", &report).await.expect(200);
        let instance = control.admin().get(&format!("/api/tenants/{id}/instance")).await.expect(200).json();
        assert_eq!((&instance["gateway"]["state"], &instance["health_status"]), (&json!(stored), &json!(health)));
        assert_eq!(instance["gateway"]["suppressed"], json!(["telegram"]));
    }
}

/// Of a verdict without end only so much is kept, and it keeps no sidecar from checking in.
#[tokio::test]
async fn a_verdict_is_kept_as_far_as_it_fits() {
    let control = Control::start(&[]).await;
    let (id, sidecar) = control.tenant("verdict@test.example").await;
    let mut report = check_in(0, 0, json!([]));
    let lines: Vec<String> = (0..2000).map(|number| format!("{number:05} {}", "\u{e4}".repeat(200))).collect();
    report["verdicts"] = json!([
        {"verdict": "invalid", "reason": "\u{e4}".repeat(100_000), "at": "2026-01-02T03:04:05Z",
         "issues": [{"path": "a", "message": "wrong"}], "lines": lines, "kept": ["x".repeat(1 << 20), "y"]},
        {"verdict": "applied", "reason": "as usual", "at": "2026-01-02T03:04:06Z", "lines": ["one", "two"]},
    ]);
    let _ = sidecar.post("/api/sidecar/check-in", &report).await.expect(200);
    let answer = control.admin().get(&format!("/api/tenants/{id}/config/verdicts")).await.expect(200);
    let verdicts = answer.json()["verdicts"].take();
    assert_eq!((&verdicts[0]["reason"], &verdicts[0]["lines"]), (&json!("as usual"), &json!(["one", "two"])));
    assert!(answer.body.len() < 70 << 10, "{} bytes", answer.body.len());
    assert_eq!(verdicts[1]["reason"].as_str().map(str::len), Some(4096));
    assert_eq!(verdicts[1]["issues"][0]["message"], "wrong");
    assert_eq!(verdicts[1]["kept"], json!([]));
    report["verdicts"][0]["kept"] = json!(["z"]);
    report["verdicts"][0]["at"] = json!("2026-01-02T03:04:07Z");
    let _ = sidecar.post("/api/sidecar/check-in", &report).await.expect(200);
    let verdicts = control.admin().get(&format!("/api/tenants/{id}/config/verdicts")).await.expect(200).json();
    let newest = &verdicts["verdicts"][0];
    assert_eq!(newest["kept"], json!(["z"]));
    // The newest lines, in order.
    let kept = newest["lines"].as_array().unwrap();
    assert!(kept.len() > 100 && kept.len() < 200, "{}", kept.len());
    assert_eq!(kept[..], json!(lines[lines.len() - kept.len()..]).as_array().unwrap()[..]);
}

#[tokio::test]
async fn no_tenant_sees_anothers_files() {
    let control = Control::start(&[]).await;
    let admin = control.admin();
    let (first, sidecar) = control.tenant("first@test.example").await;
    let (second, other) = control.tenant("second@test.example").await;
    upload(&sidecar, "private").await;
    send(&sidecar, vec![change(1, "workspace/a.md", Some("private"))]).await;
    let content = format!("/api/sidecar/contents/{}", hash("private"));
    let own = sidecar.get(&content).await.expect(200);
    assert_eq!(own.body, "private");
    let _ = other.get(&content).await.expect(404);
    // Having the hash is not having the content.
    let answer = send(&other, vec![change(1, "workspace/a.md", Some("private"))]).await;
    assert_eq!(answer["contents_wanted"], json!([hash("private")]));

    let versions = admin.get(&format!("/api/tenants/{first}/versions")).await;
    let version = &versions.expect(200).json()["versions"][0]["id"];
    let path = format!("/api/tenants/{second}/files/workspace/a.md?version={version}");
    let _ = admin.get(&path).await.expect(404);
}

#[tokio::test]
async fn a_push_names_what_it_replaces_and_wakes_the_sidecar() {
    let control = Control::start(&[]).await;
    let admin = control.admin();
    let (id, sidecar) = control.tenant("push@test.example").await;
    let path = format!("/api/tenants/{id}/files/workspace/SOUL.md");
    let poll = sidecar.clone();
    let waiting = tokio::spawn(async move { poll.get("/api/sidecar/desired?wait=55").await });

    let put = async |headers: &[(&str, &str)], content: &str| {
        let body = json!({"content": content}).to_string();
        admin.call(Method::PUT, &path, headers, body).await
    };
    let first = put(&[("if-none-match", "*"), ("x-winston-actor", "Test Person")], "one").await;
    let first = first.expect(200).json();
    assert_eq!(first["hash"], hash("one"));
    assert_eq!(first["generation"], 1);
    let woken = waiting.await.unwrap().expect(200).json();
    assert_eq!(woken["files"][0]["path"], "workspace/SOUL.md");
    assert_eq!(woken["files"][0]["base"], "absent");
    assert_eq!(woken["files"][0]["actor"], "Test Person");

    // The version that is pushed is the newest, and the disk has none yet.
    let stale = put(&[("if-match", &format!("\"{}\"", hash("zero")))], "two").await;
    let stale = stale.expect(412);
    assert_eq!(stale.code(), "precondition_failed");
    assert_eq!(stale.json()["current_hash"], hash("one"));
    let _ = put(&[("if-none-match", "*")], "two").await.expect(412);
    let second = put(&[("if-match", &format!("\"{}\"", hash("one")))], "two").await;
    let second = second.expect(200).json();
    // A refused push leaves no trace, not even a generation.
    assert_eq!(second["generation"], 2);
    let desired = sidecar.get("/api/sidecar/desired?generation=1").await;
    let desired = desired.expect(200).json();
    assert_eq!(desired["files"][0]["base"], "absent");
    assert_eq!(desired["files"][0]["hash"], hash("two"));

    // Its arrival on disk is not another version.
    let mut applied = change(1, "workspace/SOUL.md", Some("two"));
    applied["source"] = "system".into();
    applied["generation"] = 2.into();
    assert_eq!(send(&sidecar, vec![applied]).await["acked_seq"], 1);
    let report = check_in(1, 2, json!([]));
    let answer = sidecar.post("/api/sidecar/check-in", &report).await;
    let answer = answer.expect(200).json();
    assert_eq!(answer["tenant_id"], id.as_str());
    assert_eq!(answer["acked_seq"], 1);
    assert_eq!(answer["desired_generation"], 2);
    let versions = admin.get(&format!("/api/tenants/{id}/versions")).await;
    assert_eq!(versions.expect(200).json()["count"], 2);
    let changes = admin.get(&format!("/api/tenants/{id}/changes")).await;
    let changes = changes.expect(200).json();
    assert_eq!(changes["changes"][0]["version"], second["version"]);
    let file = admin.get(&path).await.expect(200);
    assert_eq!(file.json()["pending"], false);
    assert_eq!(file.header("etag"), format!("\"{}\"", hash("two")));

    // The agent edits, then somebody pushes: the base is what the agent wrote.
    upload(&sidecar, "agent").await;
    send(&sidecar, vec![change(2, "workspace/SOUL.md", Some("agent"))]).await;
    let _ = put(&[], "three").await.expect(200);
    let desired = sidecar.get("/api/sidecar/desired?generation=2").await;
    let desired = desired.expect(200).json();
    assert_eq!(desired["files"][0]["base"], hash("agent"));

    // The push met an edit: both sides are shown, the local file is the current one.
    let conflict = json!([{"path": "workspace/SOUL.md", "generation": 3, "local_hash": hash("agent")}]);
    let report = check_in(2, 3, conflict);
    let _ = sidecar.post("/api/sidecar/check-in", &report).await.expect(200);
    let listed = admin.get(&format!("/api/tenants/{id}/files")).await;
    let listed = &listed.expect(200).json()["files"][0];
    assert_eq!(listed["hash"], hash("agent"));
    assert_eq!(listed["conflict"]["pushed_hash"], hash("three"));
    assert_eq!(listed["pending"], false);

    let forced = format!("{path}?force=true");
    let _ = admin.call(Method::DELETE, &forced, &[], "").await.expect(200);
    let desired = sidecar.get("/api/sidecar/desired?generation=3").await;
    let desired = desired.expect(200).json();
    assert_eq!(desired["files"][0]["base"], "any");
    assert_eq!(desired["files"][0]["hash"], Value::Null);
    let _ = admin.get(&path).await.expect(404);

    // Who forced his push did not force those behind it: they are for what the journal says is on disk.
    let base = async || {
        let desired = sidecar.get("/api/sidecar/desired?generation=4").await.expect(200).json();
        text(&desired["files"][0]["base"])
    };
    let _ = put(&[], "four").await.expect(200);
    assert_eq!(base().await, hash("agent"));
    let _ = admin.call(Method::PUT, &forced, &[], json!({"content": "five"}).to_string()).await.expect(200);
    assert_eq!(base().await, "any");
    let _ = put(&[("if-match", &format!("\"{}\"", hash("five")))], "six").await.expect(200);
    assert_eq!(base().await, hash("agent"));
    let elsewhere = format!("/api/tenants/{id}/files/workspace/USER.md");
    for query in ["?force=true", ""] {
        let body = json!({"content": query}).to_string();
        let _ = admin.call(Method::PUT, &format!("{elsewhere}{query}"), &[], body).await.expect(200);
    }
    let desired = sidecar.get("/api/sidecar/desired?generation=8").await.expect(200).json();
    assert_eq!(desired["files"][0]["base"], "absent");
}

/// Control has only the record of it, and yet it is there.
#[tokio::test]
async fn a_file_over_the_size_limit_is_present() {
    let control = Control::start(&[]).await;
    let admin = control.admin();
    let (id, sidecar) = control.tenant("large@test.example").await;
    let path = format!("/api/tenants/{id}/files/workspace/large.bin");
    let mut large = change(1, "workspace/large.bin", None);
    large["action"] = "create".into();
    large["content_omitted"] = true.into();
    large["size"] = (1u64 << 40).into();
    assert_eq!(send(&sidecar, vec![large]).await["acked_seq"], 1);
    let _ = sidecar.post("/api/sidecar/check-in", &check_in(1, 0, json!([]))).await.expect(200);

    assert_eq!(admin.get(&path).await.expect(404).code(), "content_omitted");
    let put = async |header: &str, value: &str| {
        admin.call(Method::PUT, &path, &[(header, value)], json!({"content": "small"}).to_string()).await
    };
    assert_eq!(put("if-none-match", "*").await.expect(412).code(), "precondition_failed");
    let _ = put("if-match", &format!("\"{}\"", hash("small"))).await.expect(412);
    // Nobody can name its version, so what is not forced ends as a conflict.
    let deleted = admin.call(Method::DELETE, &path, &[], "").await.expect(200).json();
    assert_eq!((&deleted["generation"], &deleted["hash"]), (&json!(1), &Value::Null));
    let desired = sidecar.get("/api/sidecar/desired").await.expect(200).json();
    assert_eq!((&desired["files"][0]["hash"], &desired["files"][0]["base"]), (&Value::Null, &json!("absent")));
    // While its end is on its way it is not there any more, as with every file.
    let _ = admin.call(Method::DELETE, &path, &[], "").await.expect(404);
    let conflict = json!([{"path": "workspace/large.bin", "generation": 1, "local_hash": null}]);
    let _ = sidecar.post("/api/sidecar/check-in", &check_in(1, 1, conflict)).await.expect(200);
    assert_eq!(put("if-match", "*").await.expect(200).json()["generation"], 2);
    assert_eq!(admin.get(&path).await.expect(200).json()["content"], "small");
}

#[tokio::test]
async fn bytes_come_back_as_they_were() {
    let control = Control::start(&[]).await;
    let admin = control.admin();
    let (id, _) = control.tenant("bytes@test.example").await;
    let path = format!("/api/tenants/{id}/files/workspace/b%20%23%3F%25.bin");
    let bytes: Vec<u8> = (0..=255).collect();
    let octets = [("content-type", "application/octet-stream")];
    let put = admin.call(Method::PUT, &path, &octets, bytes.clone()).await;
    assert_eq!(put.expect(200).json()["path"], "workspace/b #?%.bin");
    let accept = [("accept", "application/octet-stream")];
    let raw = admin.call(Method::GET, &path, &accept, "").await.expect(200);
    assert_eq!(raw.body, bytes);
    let json = admin.get(&path).await.expect(200).json();
    assert!(json["content"].is_null() && json["content_base64"].is_string());
    let same = [("if-none-match", raw.header("etag"))];
    let _ = admin.call(Method::GET, &path, &same, "").await.expect(304);
}

#[tokio::test]
async fn a_killed_control_adopts_its_database_with_everything_in_it() {
    let mut control = Control::start(&[]).await;
    let (id, sidecar) = control.tenant("adopt@test.example").await;
    upload(&sidecar, "kept").await;
    send(&sidecar, vec![change(1, "workspace/a.md", Some("kept"))]).await;
    let database = control.database_pid().unwrap();
    control.kill();
    control.start_again().await;
    assert_eq!(control.database_pid(), Some(database));
    let path = format!("/api/tenants/{id}/files/workspace/a.md");
    let file = control.admin().get(&path).await.expect(200).json();
    assert_eq!(file["content"], "kept");

    // A second control keeps its hands off.
    let status = control.command().status().unwrap();
    assert_eq!(status.code(), Some(73));

    // Asked to stop, it takes the database along.
    assert!(control.terminate().unwrap().success());
    assert_eq!(control.database_pid(), None);
    control.start_again().await;
    let file = control.admin().get(&path).await.expect(200).json();
    assert_eq!(file["content"], "kept");
}

#[tokio::test]
async fn without_its_database_control_says_so_and_recovers() {
    // The second control uses the first one's database, so that the test can take it away.
    let mut owner = Control::start(&[]).await;
    let socket = owner.socket_dir();
    let url = format!("host={} user=winston dbname=postgres", socket.display());
    let control = Control::start(&[("DATABASE_URL", &url)]).await;
    let (id, _) = owner.tenant("away@test.example").await;
    let here = control.client(None);
    assert!(owner.terminate().unwrap().success());

    let health = until("the lack of a database", async || {
        let answer = here.get("/api/health").await;
        (answer.status == 503).then(|| answer.json())
    })
    .await;
    assert_eq!(health["database"], "disconnected");
    let refused = here.with_token("anything").get("/api/tenants").await;
    assert_eq!(refused.expect(503).code(), "database_unavailable");

    owner.start_again().await;
    until("the database", async || (here.get("/api/health").await.status == 200).then_some(())).await;

    // Notifications come through again as well: a push at the owner wakes a poll here.
    let admin = owner.admin();
    let tokens = format!("/api/tenants/{id}/tokens");
    let token = admin.post(&tokens, &json!({})).await.expect(201).json();
    let token = text(&token["token"]);
    let poll = here.with_token(&token);
    let waiting = tokio::spawn(async move { poll.get("/api/sidecar/desired?wait=55").await });
    let path = format!("/api/tenants/{id}/files/a");
    let body = json!({"content": "x"}).to_string();
    let put = admin.call(Method::PUT, &path, &[], body).await;
    let _ = put.expect(200);
    let woken = waiting.await.unwrap().expect(200).json();
    assert_eq!(woken["generation"], 1);
}

#[tokio::test]
async fn a_database_that_dies_is_started_again() {
    let control = Control::start(&[]).await;
    let admin = control.admin();
    let database = control.database_pid().unwrap();
    winston_tests::control::signal(database, nix::sys::signal::Signal::SIGQUIT);
    until("a new database", async || {
        let new = control.database_pid().is_some_and(|pid| pid != database);
        (new && admin.get("/api/tenants").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn mistakes_on_the_command_line_and_in_the_environment_end_with_64() {
    let program = winston_tests::process::bin("winston-control").unwrap();
    let run = |arguments: &[&str], env: &[(&str, &str)]| {
        let mut command = Command::new(&program);
        command.args(arguments).envs(env.iter().copied());
        command.output().unwrap()
    };
    let help = run(&["--help"], &[]);
    assert!(help.status.success());
    assert!(String::from_utf8_lossy(&help.stdout).contains("WINSTON_CONTROL_LISTEN"));
    assert!(run(&["--version"], &[]).status.success());
    assert!(String::from_utf8_lossy(&run(&["--variables"], &[]).stdout).contains("| `DATABASE_URL` |"));
    assert_eq!(run(&["--nonsense"], &[]).status.code(), Some(64));
    let bad = run(&[], &[("WINSTON_CONTROL_LISTEN", "x"), ("WINSTON_MAX_FILE_BYTES", "0")]);
    assert_eq!(bad.status.code(), Some(64));
    let text = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert!(text.contains("WINSTON_CONTROL_LISTEN") && text.contains("WINSTON_MAX_FILE_BYTES"));
}
