//! History at the edges: longest paths, and what a restored backup forgot.

use hyper::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use winston_tests::control::{Control, until};
use winston_wire::{ContentHash, MAX_PATH_BYTES};

const EPOCH: &str = "0190a000-0000-7000-8000-000000000001";

fn hash(content: &str) -> String {
    ContentHash::from_bytes(Sha256::digest(content).into()).to_string()
}

/// A path that no compression makes shorter; the same for the same seed.
fn long_path(seed: &str, bytes: usize) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut path = "workspace/".to_owned();
    for block in 0.. {
        for byte in Sha256::digest(format!("{seed} {block}")) {
            if path.len() == bytes {
                return path;
            }
            // Components of at most 200 bytes, so that a disk would take them as well.
            let next = if path.len().is_multiple_of(200) { '/' } else { char::from(LETTERS[usize::from(byte % 64)]) };
            path.push(next);
        }
    }
    path
}

fn change(path: &str) -> Value {
    json!({
        "seq": 1,
        "timestamp": "2026-01-02T03:04:05Z",
        "path": path,
        "source": "agent",
        "action": "delete",
    })
}

fn check_in(applied_generation: u64) -> Value {
    json!({
        "protocol": winston_wire::PROTOCOL_VERSION,
        "version": "0.1.0",
        "epoch": EPOCH,
        "session": "0190b3a0-0000-7000-8000-000000000001",
        "started_at": "2026-01-02T03:04:05Z",
        "head_seq": 0,
        "applied_generation": applied_generation,
        "gateway": {"state": "ready", "since": "2026-01-02T03:04:05Z", "reason": "", "port": 18789, "restarts": 0},
    })
}

#[tokio::test]
async fn the_longest_paths_are_paths_like_others() {
    let control = Control::start(&[]).await;
    let admin = control.admin();
    let (id, sidecar) = control.tenant("long@test.example").await;
    let files = format!("/api/tenants/{id}/files");

    let changed = long_path("changed", 3000);
    let content = format!("/api/sidecar/contents/{}", hash("x"));
    let _ = sidecar.call(Method::PUT, &content, &[], "x").await.expect(204);
    let mut written = change(&changed);
    written["action"] = "create".into();
    written["hash"] = hash("x").into();
    let batch = json!({"epoch": EPOCH, "changes": [written]});
    let answer = sidecar.post("/api/sidecar/changes", &batch).await;
    assert_eq!(answer.expect(200).json()["acked_seq"], 1);
    let file = admin.get(&format!("{files}/{changed}")).await.expect(200).json();
    assert_eq!((&file["path"], &file["content"]), (&json!(changed), &json!("x")));

    // The second push replaces the first one: one desired file per path, however long it is.
    let pushed = long_path("pushed", MAX_PATH_BYTES);
    let path = format!("{files}/{pushed}");
    for content in ["one", "two"] {
        let body = json!({"content": content}).to_string();
        let _ = admin.call(Method::PUT, &path, &[], body).await.expect(200);
    }
    let desired = sidecar.get("/api/sidecar/desired").await.expect(200).json();
    assert_eq!(desired["files"].as_array().map(Vec::len), Some(1));
    assert_eq!(desired["files"][0]["path"], pushed);
    assert_eq!(desired["files"][0]["hash"], hash("two"));

    for (what, key) in [("versions", "versions"), ("changes", "changes")] {
        let found = admin.get(&format!("/api/tenants/{id}/{what}?path={changed}")).await;
        assert_eq!(found.expect(200).json()[key][0]["path"], changed);
    }
    // The list is in the order of the paths, whatever their hashes are.
    for name in ["workspace/b.md", "a.md", "workspace/c.md"] {
        let path = format!("{files}/{name}");
        let _ = admin.call(Method::PUT, &path, &[], json!({"content": name}).to_string()).await.expect(200);
    }
    let paths = async |query: &str| {
        let list = admin.get(&format!("{files}?{query}")).await.expect(200).json();
        let files = list["files"].as_array().cloned().unwrap_or_default();
        files.iter().map(|file| file["path"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let mut expected = vec!["a.md", "workspace/b.md", "workspace/c.md", &changed, &pushed];
    expected.sort_unstable();
    assert_eq!(paths("").await, expected);
    let (first, rest) = expected.split_at(2);
    assert_eq!(paths("limit=2").await, first);
    assert_eq!(paths(&format!("after={}", first[1])).await, rest);
    assert_eq!(paths("prefix=workspace/b").await, ["workspace/b.md"]);
}

#[tokio::test]
async fn a_restored_backup_hands_out_no_generation_twice() {
    let control = Control::start(&[]).await;
    let admin = control.admin();
    let (id, sidecar) = control.tenant("backup@test.example").await;
    // To a sidecar that has applied 41 a control from before that looks like this new one.
    let answer = sidecar.post("/api/sidecar/check-in", &check_in(41)).await;
    assert_eq!(answer.expect(200).json()["desired_generation"], 41);
    let path = format!("/api/tenants/{id}/files/a");
    let put = admin.call(Method::PUT, &path, &[], json!({"content": "x"}).to_string()).await;
    assert_eq!(put.expect(200).json()["generation"], 42);
    let desired = sidecar.get("/api/sidecar/desired?generation=41").await.expect(200).json();
    assert_eq!(desired["files"][0]["path"], "a");
    // A sidecar that is behind does not turn anything back.
    let answer = sidecar.post("/api/sidecar/check-in", &check_in(7)).await;
    assert_eq!(answer.expect(200).json()["desired_generation"], 42);
}

#[tokio::test]
async fn numbers_and_times_that_cannot_be_stored_are_the_callers_mistake() {
    let control = Control::start(&[]).await;
    let (_, sidecar) = control.tenant("range@test.example").await;
    let conflict = |path: &str, generation: u64| json!({"path": path, "generation": generation, "local_hash": null});
    for (key, value) in [
        ("head_seq", json!(u64::MAX)),
        ("applied_generation", json!(u64::MAX)),
        ("applied_generation", json!(i64::MAX)),
        ("started_at", json!("-009998-01-01T00:00:00Z")),
        ("version", json!("1".repeat(1000))),
        ("conflicts", json!([conflict(&"a".repeat(MAX_PATH_BYTES + 1), 1)])),
        ("conflicts", json!([conflict("a", u64::MAX)])),
        ("conflicts", vec![conflict("a", 1); 1001].into()),
    ] {
        let mut report = check_in(1);
        report[key] = value;
        let refused = sidecar.post("/api/sidecar/check-in", &report).await;
        assert_eq!(refused.expect(400).code(), "bad_check_in", "{key}");
    }
    for year in ["-009998", "-004800", "1969"] {
        let mut early = change("a");
        early["timestamp"] = format!("{year}-01-01T00:00:00Z").into();
        let batch = json!({"epoch": EPOCH, "changes": [early]});
        let refused = sidecar.post("/api/sidecar/changes", &batch).await;
        assert_eq!(refused.expect(400).code(), "bad_change", "{year}");
    }
    let _ = sidecar.post("/api/sidecar/check-in", &check_in(1)).await.expect(200);
}

/// A change that leaves `content` at `path`; with `from`, a rename.
fn written(seq: u64, path: &str, content: &str, from: Option<&str>) -> Value {
    let mut written = change(path);
    written["seq"] = seq.into();
    written["action"] = if from.is_some() { "rename" } else { "update" }.into();
    written["hash"] = hash(content).into();
    if let Some(from) = from {
        written["previous_path"] = from.into();
    }
    written
}

#[tokio::test]
async fn a_files_history_does_not_end_at_a_rename() {
    let control = Control::start(&[]).await;
    let admin = control.admin();
    let (id, sidecar) = control.tenant("rename@test.example").await;
    for content in ["1", "2", "3", "4", "old"] {
        let path = format!("/api/sidecar/contents/{}", hash(content));
        let _ = sidecar.call(Method::PUT, &path, &[], content).await.expect(204);
    }
    let batches = [
        vec![written(1, "new", "old", None), written(2, "a", "1", None), written(3, "b", "2", Some("a"))],
        // Another file takes the first place: its versions are not those of the file that left it.
        vec![written(4, "a", "4", None), written(5, "b", "3", None), written(6, "new", "3", Some("b"))],
    ];
    for batch in batches.iter().chain(&batches) {
        let batch = json!({"epoch": EPOCH, "changes": batch});
        let _ = sidecar.post("/api/sidecar/changes", &batch).await.expect(200);
    }
    let list = async |query: &str| admin.get(&format!("/api/tenants/{id}/{query}")).await.expect(200).json();
    let seqs = |list: &Value, key: &str| {
        list[key].as_array().unwrap().iter().map(|entry| entry["seq"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let versions = list("versions?path=new").await;
    assert_eq!(seqs(&versions, "versions"), [6, 5, 3, 2, 1]);
    assert_eq!(
        (&versions["versions"][0]["path"], &versions["versions"][0]["previous_path"]),
        (&json!("new"), &json!("b"))
    );
    assert_eq!(
        (&versions["versions"][3]["path"], &versions["versions"][3]["previous_path"]),
        (&json!("a"), &Value::Null)
    );
    assert_eq!(seqs(&list("versions?path=a").await, "versions"), [4, 2]);
    // Page by page it is the same list.
    let first = list("versions?path=new&limit=2").await;
    let rest = list(&format!("versions?path=new&before={}", first["versions"][1]["id"])).await;
    assert_eq!([seqs(&first, "versions"), seqs(&rest, "versions")].concat(), [6, 5, 3, 2, 1]);
    // A rename is a change of both of its paths.
    let changes = list("changes?path=b").await;
    assert_eq!(seqs(&changes, "changes"), [6, 5, 3]);
    assert_eq!(changes["changes"][0]["previous_path"], "b");
    assert_eq!(seqs(&list("changes?path=a").await, "changes"), [4, 3, 2]);

    let files = list("files").await;
    let paths: Vec<_> = files["files"].as_array().unwrap().iter().map(|file| file["path"].clone()).collect();
    assert_eq!(paths, ["a", "new"]);
    // A push to where the file was before is a push to where nothing is.
    let path = format!("/api/tenants/{id}/files/b");
    let put = admin.call(Method::PUT, &path, &[], json!({"content": "x"}).to_string()).await;
    assert_eq!(put.expect(200).json()["generation"], 1);
    assert_eq!(sidecar.get("/api/sidecar/desired").await.expect(200).json()["files"][0]["base"], "absent");

    // Renames to and fro for ever: bounded, and quick to list.
    let seesaw = |seq: u64| if seq.is_multiple_of(2) { ("p", "q") } else { ("q", "p") };
    for first in (7..1007).step_by(500) {
        let batch: Vec<Value> = (first..first + 500)
            .map(|seq| (seq, seesaw(seq)))
            .map(|(seq, (from, to))| written(seq, to, "1", Some(from)))
            .collect();
        let _ = sidecar.post("/api/sidecar/changes", &json!({"epoch": EPOCH, "changes": batch})).await.expect(200);
    }
    assert_eq!(list("versions?path=p&limit=1000").await["count"], 999);
}

#[tokio::test]
async fn desired_files_come_in_pages_of_whole_generations() {
    let control = Control::start(&[]).await;
    let admin = control.admin();
    let (id, sidecar) = control.tenant("pages@test.example").await;
    let total = 510u64;
    for number in 1..=total {
        let path = format!("/api/tenants/{id}/files/f{number}");
        let _ = admin.call(Method::PUT, &path, &[], json!({"content": "x"}).to_string()).await.expect(200);
    }
    let mut generation = 0;
    let mut seen = Vec::new();
    let mut answers = 0;
    while generation < total {
        let path = format!("/api/sidecar/desired?generation={generation}");
        let desired = sidecar.get(&path).await.expect(200).json();
        for file in desired["files"].as_array().unwrap() {
            seen.push(file["generation"].as_u64().unwrap());
        }
        generation = desired["generation"].as_u64().unwrap();
        assert_eq!(seen.last(), Some(&generation));
        answers += 1;
    }
    assert_eq!(seen, (1..=total).collect::<Vec<_>>());
    assert_eq!(answers, 2);
}

/// Years of history: thousands of versions, each with a content of its own. The work for each of them must not grow with their number, and the
/// statement has the time that it needs.
#[tokio::test]
async fn a_long_history_goes_with_its_tenant() {
    const VERSIONS: i64 = 3000;
    let control = Control::start(&[]).await;
    let (id, _) = control.tenant("long@test.example").await;
    let url = format!("host={} user=winston dbname=postgres", control.socket_dir().display());
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let rows = format!(
        "INSERT INTO file_contents (tenant_id, hash, size, content)
             SELECT '{id}', sha256(n::text::bytea), length(n::text), n::text::bytea FROM generate_series(1, {VERSIONS}) n;
         INSERT INTO file_snapshots (tenant_id, file_path, hash, size, source, modified_at)
             SELECT '{id}', 'file' || n % 10, sha256(n::text::bytea), length(n::text), 'agent', now()
             FROM generate_series(1, {VERSIONS}) n;
         INSERT INTO desired_files (tenant_id, file_path, generation, hash, base)
             SELECT '{id}', 'file' || n, n, sha256(n::text::bytea), 'absent' FROM generate_series(1, {VERSIONS}) n;
         CREATE TABLE noted (statement_timeout text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO noted VALUES (current_setting('statement_timeout')); RETURN OLD; END $$;
         CREATE TRIGGER note BEFORE DELETE ON tenants FOR EACH ROW EXECUTE FUNCTION note();"
    );
    client.batch_execute(&rows).await.unwrap();
    // Rows that were read and rows that were deleted, of both tables that refer to contents.
    let done = async || {
        let row = client
            .query_one(
                "SELECT sum(n_tup_del)::bigint, sum(seq_tup_read + (
                     SELECT sum(idx_tup_read) FROM pg_stat_user_indexes i WHERE i.relid = t.relid
                 ))::bigint FROM pg_stat_user_tables t WHERE relname IN ('file_snapshots', 'desired_files')",
                &[],
            )
            .await
            .unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    let (_, before) = done().await;
    let _ = control.admin().call(Method::DELETE, &format!("/api/tenants/{id}"), &[], "").await.expect(200);
    // Each process of the database tells its counts some time later.
    let read = until("the counts", async || {
        let (deleted, read) = done().await;
        (deleted == 2 * VERSIONS).then_some(read - before)
    })
    .await;
    assert!(read < 20 * VERSIONS, "{read} rows were read to delete {VERSIONS} versions");
    let noted: String = client.query_one("SELECT statement_timeout FROM noted", &[]).await.unwrap().get(0);
    assert_eq!(noted, "4min");
}
