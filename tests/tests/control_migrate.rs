//! A database from before an update is brought up to date with everything in it.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio_postgres::NoTls;
use winston_tests::control::{Control, text};
use winston_wire::{ContentHash, ManifestDigest};

const EPOCH: &str = "0190a000-0000-7000-8000-000000000001";
const TENANT: &str = "0190a000-0000-7000-8000-0000000000aa";
const BEFORE: [&str; 2] = [
    include_str!("../../control/src/db/migrations/V1__tenants_and_keys.sql"),
    include_str!("../../control/src/db/migrations/V2__files.sql"),
];
/// Paths of the old journal: created, written over, deleted, deleted and made again, and never with a content here.
const ROWS: &str = "
    INSERT INTO tenants (id, name, email, selected_model, credits_remaining, credits_monthly_allotment)
        VALUES ('TENANT', 'Old', 'old@test.example', 'model', 0, 0);
    INSERT INTO journals (tenant_id, epoch, acked_seq, head_seq) VALUES ('TENANT', 'EPOCH', 8, 8);
    INSERT INTO file_contents (tenant_id, hash, size, content)
        SELECT 'TENANT', sha256(content), length(content), content
        FROM unnest(ARRAY['one'::bytea, 'two'::bytea]) AS content;
    INSERT INTO file_snapshots (tenant_id, epoch, seq, file_path, hash, size, source, generation, modified_at)
        SELECT 'TENANT', 'EPOCH', seq, path, sha256(content), 3, source, generation, '2026-01-02T03:04:05Z'
        FROM (VALUES (1, 'a', 'one'::bytea, 'agent', NULL::bigint), (2, 'a', 'two', 'system', 7), (3, 'b', 'one', 'agent', NULL),
                     (5, 'c', 'one', 'agent', NULL), (7, 'c', 'two', 'admin', NULL)) AS v (seq, path, content, source, generation);
    INSERT INTO file_changes
            (tenant_id, epoch, seq, file_path, change_type, source, changed_at, hash, size, generation, content_omitted,
             snapshot_id)
        SELECT 'TENANT', 'EPOCH', v.seq, v.path, v.type, v.source, '2026-01-02T03:04:05Z', sha256(v.content),
               length(v.content), v.generation, v.omitted, s.id
        FROM (VALUES (1, 'a', 'create', 'agent', 'one'::bytea, NULL::bigint, false),
                     (2, 'a', 'update', 'system', 'two', 7, false),
                     (3, 'b', 'create', 'agent', 'one', NULL, false), (4, 'b', 'delete', 'agent', NULL, NULL, false),
                     (5, 'c', 'create', 'agent', 'one', NULL, false), (6, 'c', 'delete', 'agent', NULL, NULL, false),
                     (7, 'c', 'create', 'admin', 'two', NULL, false), (8, 'd', 'create', 'agent', NULL, NULL, true))
             AS v (seq, path, type, source, content, generation, omitted)
        LEFT JOIN file_snapshots s ON s.seq = v.seq;
    UPDATE tenants SET generation = 7;
    INSERT INTO desired_files (tenant_id, file_path, generation, hash, base)
        VALUES ('TENANT', 'a', 7, sha256('two'), 'any');
";

#[tokio::test]
async fn the_current_files_are_found_in_the_old_journal() {
    // One control lends its cluster, and the rows that say which migrations a database has.
    let owner = Control::start(&[]).await;
    let url = |name: &str| format!("host={} user=winston dbname={name}", owner.socket_dir().display());
    let connect = async |name: &str| {
        let (client, connection) = tokio_postgres::connect(&url(name), NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    };
    let main = connect("postgres").await;
    main.batch_execute("CREATE DATABASE old").await.unwrap();
    let old = connect("old").await;
    for migration in BEFORE {
        old.batch_execute(migration).await.unwrap();
    }
    let history = "refinery_schema_history";
    old.batch_execute(&format!(
        "CREATE TABLE {history} (version INT4 PRIMARY KEY, name VARCHAR(255), applied_on VARCHAR(255), checksum VARCHAR(255))"
    ))
    .await
    .unwrap();
    let rows = main
        .query(&format!("SELECT version, name, applied_on, checksum FROM {history} WHERE version <= 2"), &[])
        .await
        .unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        let texts: [String; 3] = std::array::from_fn(|column| row.get(column + 1));
        let insert = format!("INSERT INTO {history} VALUES ($1, $2, $3, $4)");
        old.execute(&insert, &[&row.get::<_, i32>(0), &texts[0], &texts[1], &texts[2]]).await.unwrap();
    }
    old.batch_execute(&ROWS.replace("TENANT", TENANT).replace("EPOCH", EPOCH)).await.unwrap();

    let control = Control::start(&[("DATABASE_URL", &url("old"))]).await;
    let admin = control.admin();
    let files = admin.get(&format!("/api/tenants/{TENANT}/files")).await.expect(200).json();
    let files: Vec<Value> = files["files"].as_array().unwrap().clone();
    let hash = |content: &str| ContentHash::from_bytes(Sha256::digest(content).into());
    let shown: Vec<Value> = files.iter().map(|file| json!([file["path"], file["hash"], file["pending"]])).collect();
    let expected = [json!(["a", hash("two"), false]), json!(["c", hash("two"), false]), json!(["d", null, false])];
    assert_eq!(shown, expected);
    assert_eq!((&files[1]["source"], &files[2]["content_omitted"]), (&json!("admin"), &json!(true)));
    let a = admin.get(&format!("/api/tenants/{TENANT}/files/a")).await.expect(200).json();
    assert_eq!(a["content"], "two");
    let _ = admin.get(&format!("/api/tenants/{TENANT}/files/b")).await.expect(404);

    // The digest is computed when it is needed first: by a check-in, or by the next batch.
    let token = admin.post(&format!("/api/tenants/{TENANT}/tokens"), &json!({})).await.expect(201).json();
    let sidecar = control.client(Some(&text(&token["token"])));
    let check_in = async |seq: u64, files: &[(&str, Option<&str>)]| {
        let mut digest = ManifestDigest::default();
        for (path, content) in files {
            let mut bytes = [path.as_bytes(), &[0]].concat();
            bytes.extend(content.iter().flat_map(|content| *hash(content).as_bytes()));
            digest.add(Sha256::digest(bytes).into());
        }
        let report = json!({
            "protocol": winston_wire::PROTOCOL_VERSION,
            "version": "0.1.0",
            "epoch": EPOCH,
            "session": "0190b3a0-0000-7000-8000-000000000001",
            "started_at": "2026-01-02T03:04:05Z",
            "head_seq": seq,
            "applied_generation": 7,
            "gateway": {"state": "ready", "since": "2026-01-02T03:04:05Z", "reason": "", "port": 18789, "restarts": 0},
            "manifest": {"seq": seq, "files": files.len(), "digest": digest},
        });
        sidecar.post("/api/sidecar/check-in", &report).await.expect(200).json()
    };
    let forget = "UPDATE journals SET digest = NULL, files = NULL";
    assert_eq!(check_in(8, &[("a", Some("two")), ("c", Some("one")), ("d", None)]).await["manifest_differs"], true);
    old.batch_execute(forget).await.unwrap();
    let answer = check_in(8, &[("a", Some("two")), ("c", Some("two")), ("d", None)]).await;
    assert!(answer["manifest_differs"].is_null(), "{answer}");
    old.batch_execute(forget).await.unwrap();
    let rename = json!({
        "seq": 9, "timestamp": "2026-01-02T03:04:05Z", "path": "e", "previous_path": "a", "source": "agent",
        "action": "rename", "hash": hash("two"), "size": 3,
    });
    let batch = json!({"epoch": EPOCH, "changes": [rename]});
    assert_eq!(sidecar.post("/api/sidecar/changes", &batch).await.expect(200).json()["acked_seq"], 9);
    let answer = check_in(9, &[("c", Some("two")), ("d", None), ("e", Some("two"))]).await;
    assert!(answer["manifest_differs"].is_null(), "{answer}");
}
