//! What it costs to commit changes, compared with plain inserts of the same rows and contents in batches.
//!
//! Prints figures and asserts that everything arrived; it judges no time. Short by default; `WINSTON_LONG=1` takes
//! 10,000 changes.

use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio_postgres::NoTls;
use winston_tests::control::Control;
use winston_wire::{ContentHash, MAX_BATCH_CHANGES};

const EPOCH: &str = "0190a000-0000-7000-8000-000000000001";
const UPLOADS_AT_ONCE: usize = 4;

fn content(seq: usize) -> Vec<u8> {
    format!("{seq:06} {}", "words of a file ".repeat(60)).into_bytes()
}

fn hash(content: &[u8]) -> [u8; 32] {
    Sha256::digest(content).into()
}

/// The same rows as control writes, without anything that control does for them.
async fn plain(client: &mut tokio_postgres::Client, total: usize) -> Result<Duration, tokio_postgres::Error> {
    client
        .batch_execute(
            "CREATE TABLE plain_contents (LIKE file_contents INCLUDING ALL);
             CREATE TABLE plain_snapshots (LIKE file_snapshots INCLUDING ALL);
             CREATE TABLE plain_changes (LIKE file_changes INCLUDING ALL)",
        )
        .await?;
    let started = Instant::now();
    for first in (0..total).step_by(MAX_BATCH_CHANGES) {
        let seqs: Vec<i64> = (first..(first + MAX_BATCH_CHANGES).min(total)).map(|seq| seq as i64 + 1).collect();
        let contents: Vec<Vec<u8>> = seqs.iter().map(|seq| content(*seq as usize)).collect();
        let hashes: Vec<Vec<u8>> = contents.iter().map(|content| hash(content).to_vec()).collect();
        let paths: Vec<String> = seqs.iter().map(|seq| format!("workspace/{seq:05}.md")).collect();
        let tx = client.transaction().await?;
        let tenant = "'0190a000-0000-7000-8000-0000000000aa'::uuid";
        tx.execute(
            &format!(
                "INSERT INTO plain_contents (tenant_id, hash, size, content)
                 SELECT {tenant}, h, length(c), c FROM unnest($1::bytea[], $2::bytea[]) AS n (h, c)"
            ),
            &[&hashes, &contents],
        )
        .await?;
        tx.execute(
            &format!(
                "INSERT INTO plain_snapshots (tenant_id, epoch, seq, file_path, hash, size, source, modified_at)
                 SELECT {tenant}, '{EPOCH}', s, p, h, 900, 'agent', now()
                 FROM unnest($1::bigint[], $2::text[], $3::bytea[]) AS n (s, p, h)"
            ),
            &[&seqs, &paths, &hashes],
        )
        .await?;
        tx.execute(
            &format!(
                "INSERT INTO plain_changes
                     (tenant_id, epoch, seq, file_path, change_type, source, changed_at, hash, size, snapshot_id)
                 SELECT {tenant}, '{EPOCH}', s, p, 'create', 'agent', now(), h, 900, s
                 FROM unnest($1::bigint[], $2::text[], $3::bytea[]) AS n (s, p, h)"
            ),
            &[&seqs, &paths, &hashes],
        )
        .await?;
        tx.commit().await?;
    }
    Ok(started.elapsed())
}

#[tokio::test]
async fn commits_next_to_plain_inserts() {
    let total = if std::env::var_os("WINSTON_LONG").is_some() { 10_000 } else { 1_000 };
    let control = Control::start(&[]).await;
    let (id, sidecar) = control.tenant("cost@test.example").await;
    let url = format!("host={} user=winston dbname=postgres", control.socket_dir().display());
    let (mut client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);

    let started = Instant::now();
    let uploads: Vec<_> = (0..UPLOADS_AT_ONCE)
        .map(|first| {
            let sidecar = sidecar.clone();
            tokio::spawn(async move {
                for seq in (1..=total).skip(first).step_by(UPLOADS_AT_ONCE) {
                    let content = content(seq);
                    let path = format!("/api/sidecar/contents/{}", ContentHash::from_bytes(hash(&content)));
                    let _ = sidecar.call(Method::PUT, &path, &[], content).await.expect(204);
                }
            })
        })
        .collect();
    for upload in uploads {
        upload.await.unwrap();
    }
    let uploaded = started.elapsed();

    let started = Instant::now();
    for first in (1..=total).step_by(MAX_BATCH_CHANGES) {
        let changes: Vec<Value> = (first..(first + MAX_BATCH_CHANGES).min(total + 1))
            .map(|seq| {
                json!({
                    "seq": seq, "timestamp": "2026-01-02T03:04:05Z", "path": format!("workspace/{seq:05}.md"),
                    "source": "agent", "action": "create", "size": 900,
                    "hash": ContentHash::from_bytes(hash(&content(seq))),
                })
            })
            .collect();
        let batch = json!({"epoch": EPOCH, "changes": changes});
        let _ = sidecar.post("/api/sidecar/changes", &batch).await.expect(200);
    }
    let committed = started.elapsed();
    let plain = plain(&mut client, total).await.unwrap();
    println!(
        "{total} changes: contents uploaded one by one {uploaded:?}, committed {committed:?}; plain inserts of the same {plain:?}"
    );
    let row = client.query_one("SELECT count(*), count(DISTINCT hash) FROM file_changes", &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (total as i64, total as i64));
    let list = control.admin().get(&format!("/api/tenants/{id}/files?limit=10000")).await.expect(200).json();
    assert_eq!(list["count"], total);
}
