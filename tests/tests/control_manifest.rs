//! Control's files are those of the sidecar, and where they are not, both find out.

use std::collections::BTreeMap;

use hyper::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use winston_tests::control::{Client, Control};
use winston_wire::{ContentHash, ManifestDigest};

const EPOCH: &str = "0190a000-0000-7000-8000-000000000001";

type Files = BTreeMap<String, Option<ContentHash>>;

fn hash(content: &str) -> ContentHash {
    ContentHash::from_bytes(Sha256::digest(content).into())
}

/// Number and digest, computed here from scratch.
fn summary(seq: u64, files: &Files) -> Value {
    let mut digest = ManifestDigest::default();
    for (path, hash) in files {
        let mut bytes = path.clone().into_bytes();
        bytes.push(0);
        bytes.extend(hash.iter().flat_map(|hash| *hash.as_bytes()));
        digest.add(Sha256::digest(bytes).into());
    }
    json!({"seq": seq, "files": files.len(), "digest": digest})
}

async fn check_in(sidecar: &Client, head_seq: u64, manifest: Value) -> Value {
    let report = json!({
        "protocol": winston_wire::PROTOCOL_VERSION,
        "version": "0.1.0",
        "epoch": EPOCH,
        "session": "0190b3a0-0000-7000-8000-000000000001",
        "started_at": "2026-01-02T03:04:05Z",
        "head_seq": head_seq,
        "applied_generation": 0,
        "gateway": {"state": "ready", "since": "2026-01-02T03:04:05Z", "reason": "", "port": 18789, "restarts": 0},
        "manifest": manifest,
    });
    sidecar.post("/api/sidecar/check-in", &report).await.expect(200).json()
}

fn change(seq: u64, action: &str, path: &str, content: Option<&str>) -> Value {
    let mut change = json!({
        "seq": seq, "timestamp": "2026-01-02T03:04:05.000001999Z", "path": path, "source": "agent", "action": action,
    });
    if let Some(content) = content {
        change["hash"] = json!(hash(content));
        change["size"] = content.len().into();
    }
    change
}

fn renamed(seq: u64, from: &str, to: &str, content: &str) -> Value {
    let mut change = change(seq, "rename", to, Some(content));
    change["previous_path"] = from.into();
    change
}

async fn send(sidecar: &Client, changes: Vec<Value>) -> Value {
    sidecar.post("/api/sidecar/changes", &json!({"epoch": EPOCH, "changes": changes})).await.expect(200).json()
}

async fn upload(sidecar: &Client, content: &str) {
    let path = format!("/api/sidecar/contents/{}", hash(content));
    let _ = sidecar.call(Method::PUT, &path, &[], content.to_owned()).await.expect(204);
}

async fn compare(sidecar: &Client, seq: u64, after: Option<&str>, through: Option<&str>, files: &Files) -> Value {
    let files: Vec<Value> = files.iter().map(|(path, hash)| json!({"path": path, "hash": hash})).collect();
    let mut range = json!({"epoch": EPOCH, "seq": seq, "files": files});
    for (key, end) in [("after", after), ("through", through)] {
        if let Some(end) = end {
            range[key] = end.into();
        }
    }
    sidecar.post("/api/sidecar/manifest", &range).await.expect(200).json()
}

#[tokio::test]
async fn the_digest_follows_every_kind_of_change_across_batches() {
    let control = Control::start(&[]).await;
    let (_, sidecar) = control.tenant("digest@test.example").await;
    for content in ["one", "two"] {
        upload(&sidecar, content).await;
    }
    let mut omitted = change(4, "create", "big", None);
    omitted["content_omitted"] = true.into();
    let batches = [
        vec![change(1, "create", "a", Some("one")), change(2, "update", "a", Some("two"))],
        vec![change(3, "create", "b", Some("one")), omitted],
        // A chain within one batch, over a file that was there, and a new file at the old place.
        vec![renamed(5, "a", "c", "two"), renamed(6, "c", "b", "two"), change(7, "create", "a", Some("one"))],
        vec![change(8, "delete", "a", None), change(9, "delete", "never-there", None)],
        vec![renamed(10, "b", "workspace/é", "two")],
    ];
    for batch in &batches {
        send(&sidecar, batch.clone()).await;
    }
    let files: Files = [("big".into(), None), ("workspace/é".into(), Some(hash("two")))].into();
    let answer = check_in(&sidecar, 10, summary(10, &files)).await;
    assert!(answer["manifest_differs"].is_null(), "{answer}");
    // What tells this journal from one that went another way. Times are cut off behind the microsecond.
    let acked = &answer["acked_change"];
    assert_eq!((&acked["seq"], &acked["path"]), (&json!(10), &json!("workspace/é")));
    assert_eq!(acked["hash"], json!(hash("two")));
    assert_eq!(acked["timestamp_us"], 1_767_323_045_000_001_i64);

    // Every batch again, in another order: nothing changes.
    for batch in batches.iter().rev() {
        assert_eq!(send(&sidecar, batch.clone()).await["acked_seq"], 10);
    }
    assert!(check_in(&sidecar, 10, summary(10, &files)).await["manifest_differs"].is_null());

    for wrong in [
        [("big".into(), None)].into(),
        [("big".into(), Some(hash("one"))), ("workspace/é".into(), Some(hash("two")))].into(),
        [("big".into(), None), ("workspace/e".into(), Some(hash("two")))].into(),
    ] {
        let wrong: Files = wrong;
        assert_eq!(check_in(&sidecar, 10, summary(10, &wrong)).await["manifest_differs"], true, "{wrong:?}");
        // While something is on its way, nothing is said about it.
        assert!(check_in(&sidecar, 11, summary(11, &wrong)).await["manifest_differs"].is_null());
        assert!(check_in(&sidecar, 10, summary(9, &wrong)).await["manifest_differs"].is_null());
    }
    let _ = check_in(&sidecar, 10, Value::Null).await;
}

#[tokio::test]
async fn a_lost_change_has_no_witness() {
    let control = Control::start(&[]).await;
    let (_, sidecar) = control.tenant("lost@test.example").await;
    let lost = json!({"epoch": EPOCH, "changes": [change(1, "delete", "a", None)], "lost": [2]});
    let _ = sidecar.post("/api/sidecar/changes", &lost).await.expect(200);
    let answer = check_in(&sidecar, 2, Value::Null).await;
    assert_eq!(answer["acked_seq"], 2);
    assert!(answer["acked_change"].is_null());
}

#[tokio::test]
async fn a_range_is_compared_exactly_or_not_at_all() {
    let control = Control::start(&[]).await;
    let (_, sidecar) = control.tenant("range@test.example").await;
    upload(&sidecar, "one").await;
    // Longer than what an index can hold of a path, and different only behind that.
    let long = |end: &str| format!("workspace/{}/{end}", vec!["ü".repeat(100); 7].join("/"));
    let mut paths = vec!["A".to_owned(), "a".into(), "a/b".into(), "a0".into(), "b".into(), "é".into()];
    paths.extend([long("1"), long("2")]);
    paths.sort();
    let writes = paths.iter().zip(1..).map(|(path, seq)| change(seq, "create", path, Some("one"))).collect();
    assert_eq!(send(&sidecar, writes).await["acked_seq"], 8);
    let files: Files = paths.iter().map(|path| (path.clone(), Some(hash("one")))).collect();
    let none = json!({"stale": false, "differing": []});

    assert_eq!(compare(&sidecar, 8, None, None, &files).await, none);
    assert_eq!(compare(&sidecar, 7, None, None, &files).await, json!({"stale": true, "differing": []}));
    assert_eq!(compare(&sidecar, 9, None, None, &files).await["stale"], true);

    // Range by range, with every split.
    for first in 0..paths.len() {
        for last in first..paths.len() {
            let part: Files = paths[first..=last].iter().map(|path| (path.clone(), Some(hash("one")))).collect();
            let after = first.checked_sub(1).map(|before| paths[before].as_str());
            assert_eq!(compare(&sidecar, 8, after, Some(&paths[last]), &part).await, none, "{first} to {last}");
            let mut lacking = part.clone();
            let gone = lacking.pop_first().unwrap().0;
            let answer = compare(&sidecar, 8, after, Some(&paths[last]), &lacking).await;
            let one = json!([{"path": gone, "present": true, "hash": hash("one")}]);
            assert_eq!(answer["differing"], one, "{first} to {last}");
        }
    }
    let mut mine = files.clone();
    mine.remove("A");
    mine.insert("a".into(), Some(hash("two")));
    mine.insert("a1".into(), Some(hash("one")));
    mine.insert("b".into(), None);
    let answer = compare(&sidecar, 8, None, None, &mine).await;
    assert_eq!(
        answer["differing"],
        json!([
            {"path": "A", "present": true, "hash": hash("one")},
            {"path": "a", "present": true, "hash": hash("one")},
            {"path": "a1", "present": false, "hash": null},
            {"path": "b", "present": true, "hash": hash("one")},
        ])
    );

    let bad = json!({"epoch": EPOCH, "seq": 8, "files": [{"path": "b", "hash": null}, {"path": "a", "hash": null}]});
    assert_eq!(sidecar.post("/api/sidecar/manifest", &bad).await.expect(400).code(), "bad_manifest");
    let other = json!({"epoch": "0190a000-0000-7000-8000-000000000002", "seq": 0, "files": []});
    assert_eq!(sidecar.post("/api/sidecar/manifest", &other).await.expect(200).json()["stale"], true);
}

#[tokio::test]
async fn of_more_files_than_an_answer_holds_the_first_ones_are_named() {
    let control = Control::start(&[]).await;
    let (_, sidecar) = control.tenant("many@test.example").await;
    upload(&sidecar, "one").await;
    let total = 5200u64;
    let path = |seq: u64| format!("f{seq:05}");
    for first in (1..=total).step_by(500) {
        let writes = first..(first + 500).min(total + 1);
        let writes = writes.map(|seq| change(seq, "create", &path(seq), Some("one"))).collect();
        send(&sidecar, writes).await;
    }
    // The sidecar has only two: the second lies behind what control looks at, so nothing is said about it.
    let mine: Files = [(path(1), Some(hash("one"))), (path(total), Some(hash("two")))].into();
    let answer = compare(&sidecar, total, None, None, &mine).await;
    let differing = answer["differing"].as_array().unwrap();
    assert_eq!(differing.len(), 5000);
    assert_eq!((&differing[0]["path"], &differing[4999]["path"]), (&json!(path(2)), &json!(path(5001))));
    let answer = compare(&sidecar, total, Some(&path(5001)), None, &[(path(total), Some(hash("two")))].into()).await;
    assert_eq!(answer["differing"].as_array().map(Vec::len), Some(199));
}
