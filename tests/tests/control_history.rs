//! History at the edges: longest paths, and what a restored backup forgot.

use hyper::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use winston_tests::control::Control;
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
        "protocol": 2,
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
