//! A push that met a local edit is shown with both sides, and settled with another push.

use hyper::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use winston_tests::control::{Answer, Client, Control};
use winston_wire::ContentHash;

const EPOCH: &str = "0190a000-0000-7000-8000-000000000001";
const PATH: &str = "workspace/SOUL.md";

fn hash(content: &str) -> String {
    ContentHash::from_bytes(Sha256::digest(content).into()).to_string()
}

async fn upload(sidecar: &Client, content: &str) {
    let path = format!("/api/sidecar/contents/{}", hash(content));
    let _ = sidecar.call(Method::PUT, &path, &[], content.to_owned()).await.expect(204);
}

async fn send(sidecar: &Client, seq: u64, source: &str, content: Option<&str>, generation: Option<u64>) {
    let mut change = json!({
        "seq": seq, "timestamp": "2026-01-02T03:04:05Z", "path": PATH, "source": source,
        "action": if content.is_some() { "update" } else { "delete" }, "generation": generation,
    });
    if let Some(content) = content {
        upload(sidecar, content).await;
        change["hash"] = hash(content).into();
    }
    let batch = json!({"epoch": EPOCH, "changes": [change]});
    assert_eq!(sidecar.post("/api/sidecar/changes", &batch).await.expect(200).json()["acked_seq"], seq);
}

/// A check-in with a conflict at [`PATH`], or with none.
async fn report(sidecar: &Client, head_seq: u64, applied: u64, conflict: Option<(u64, Option<&str>, Option<&str>)>) {
    let conflicts = conflict.map(|(generation, local, pushed)| self::conflict(PATH, generation, local, pushed));
    let body = check_in(head_seq, applied, conflicts.into_iter().collect());
    let _ = sidecar.post("/api/sidecar/check-in", &body).await.expect(200);
}

fn conflict(path: &str, generation: u64, local: Option<&str>, pushed: Option<&str>) -> Value {
    json!({
        "path": path, "generation": generation, "local_hash": local.map(hash), "pushed_hash": pushed.map(hash),
        "since": "2026-01-02T03:04:06Z",
    })
}

fn check_in(head_seq: u64, applied: u64, conflicts: Vec<Value>) -> Value {
    json!({
        "protocol": winston_wire::PROTOCOL_VERSION,
        "version": "0.1.0",
        "epoch": EPOCH,
        "session": "0190b3a0-0000-7000-8000-000000000001",
        "started_at": "2026-01-02T03:04:05Z",
        "head_seq": head_seq,
        "applied_generation": applied,
        "gateway": {"state": "ready", "since": "2026-01-02T03:04:05Z", "reason": "", "port": 18789, "restarts": 0},
        "conflicts": conflicts,
    })
}

struct Tenant {
    admin: Client,
    sidecar: Client,
    id: String,
}

impl Tenant {
    /// A tenant whose agent wrote `local` (or removed the file) while `pushed` was on its way, as generation 1.
    async fn in_conflict(control: &Control, email: &str, local: Option<&str>, pushed: Option<&str>) -> Self {
        let (id, sidecar) = control.tenant(email).await;
        let tenant = Self { admin: control.admin(), sidecar, id: id.to_string() };
        send(&tenant.sidecar, 1, "agent", Some("base"), None).await;
        let path = format!("/api/tenants/{}/files/{PATH}", tenant.id);
        let (method, body) = match pushed {
            Some(content) => (Method::PUT, json!({"content": content}).to_string()),
            None => (Method::DELETE, String::new()),
        };
        let _ = tenant.admin.call(method, &path, &[], body).await.expect(200);
        send(&tenant.sidecar, 2, "agent", local, None).await;
        report(&tenant.sidecar, 2, 1, Some((1, local, pushed))).await;
        tenant
    }

    async fn listed(&self) -> Value {
        self.admin.get(&format!("/api/tenants/{}/conflicts", self.id)).await.expect(200).json()
    }

    async fn settle(&self, body: Value) -> Answer {
        self.admin.post(&format!("/api/tenants/{}/conflicts/{PATH}", self.id), &body).await
    }

    async fn desired(&self) -> Value {
        let answer = self.sidecar.get("/api/sidecar/desired?generation=1").await.expect(200).json();
        assert_eq!(answer["files"].as_array().map(Vec::len), Some(1));
        answer["files"][0].clone()
    }
}

#[tokio::test]
async fn each_side_can_win() {
    let control = Control::start(&[]).await;
    for (number, (resolution, content, expected)) in
        [("ours", None, "local"), ("theirs", None, "pushed"), ("merged", Some("both"), "both")].into_iter().enumerate()
    {
        let email = format!("side{number}@test.example");
        let tenant = Tenant::in_conflict(&control, &email, Some("local"), Some("pushed")).await;
        let listed = tenant.listed().await;
        let conflict = &listed["conflicts"][0];
        assert_eq!(
            (&listed["count"], &conflict["path"], &conflict["generation"]),
            (&json!(1), &json!(PATH), &json!(1))
        );
        assert_eq!(conflict["local_hash"], hash("local"));
        assert_eq!(conflict["pushed_hash"], hash("pushed"));
        assert_eq!(conflict["since"], "2026-01-02T03:04:06Z");
        for (side, content) in [("local_version", "local"), ("pushed_version", "pushed")] {
            let path = format!("/api/tenants/{}/files/{PATH}?version={}", tenant.id, conflict[side]);
            assert_eq!(tenant.admin.get(&path).await.expect(200).json()["content"], content);
        }

        // Whoever decided about another local file decided about nothing.
        let mut body = json!({"resolution": resolution, "content": content, "local_hash": hash("earlier")});
        let refused = tenant.settle(body.clone()).await.expect(412);
        assert_eq!(
            (refused.code(), &refused.json()["current_hash"]),
            ("precondition_failed".into(), &json!(hash("local")))
        );
        body["local_hash"] = Value::Null;
        let _ = tenant.settle(body.clone()).await.expect(412);
        body["local_hash"] = hash("local").into();
        let settled = tenant.settle(body.clone()).await.expect(200).json();
        assert_eq!((&settled["generation"], &settled["hash"]), (&json!(2), &json!(hash(expected))));
        assert_eq!((&settled["size"], &settled["path"]), (&json!(expected.len()), &json!(PATH)));
        let desired = tenant.desired().await;
        assert_eq!((&desired["hash"], &desired["base"]), (&json!(hash(expected)), &json!(hash("local"))));

        // Settled once. The sidecar's old report does not bring it back.
        assert_eq!(tenant.listed().await["count"], 0);
        let _ = tenant.settle(body).await.expect(404);
        report(&tenant.sidecar, 2, 1, Some((1, Some("local"), Some("pushed")))).await;
        assert_eq!(tenant.listed().await["count"], 0);
        report(&tenant.sidecar, 2, 2, None).await;
        let file = format!("/api/tenants/{}/files/{PATH}", tenant.id);
        assert_eq!(tenant.admin.get(&file).await.expect(200).json()["hash"], hash("local"));
        // The agent was faster once more: that is a new conflict, about the new push.
        report(&tenant.sidecar, 2, 2, Some((2, Some("again"), Some(expected)))).await;
        assert_eq!(tenant.listed().await["conflicts"][0]["generation"], 2);
    }
}

#[tokio::test]
async fn deletes_on_either_side_are_sides_like_others() {
    let control = Control::start(&[]).await;
    let tenant = Tenant::in_conflict(&control, "gone@test.example", None, Some("pushed")).await;
    assert_eq!(tenant.listed().await["conflicts"][0]["local_hash"], Value::Null);
    let settled = tenant.settle(json!({"resolution": "theirs", "local_hash": null})).await.expect(200).json();
    assert_eq!(settled["hash"], hash("pushed"));
    assert_eq!(tenant.desired().await["base"], "absent");

    let tenant = Tenant::in_conflict(&control, "gone2@test.example", None, Some("pushed")).await;
    let settled = tenant.settle(json!({"resolution": "ours"})).await.expect(200).json();
    assert_eq!((&settled["hash"], &settled["version"], &settled["size"]), (&Value::Null, &Value::Null, &json!(0)));
    let desired = tenant.desired().await;
    assert_eq!((&desired["hash"], &desired["base"]), (&Value::Null, &json!("absent")));

    let tenant = Tenant::in_conflict(&control, "gone3@test.example", Some("local"), None).await;
    assert_eq!(tenant.listed().await["conflicts"][0]["pushed_hash"], Value::Null);
    let settled = tenant.settle(json!({"resolution": "theirs"})).await.expect(200).json();
    assert_eq!(settled["hash"], Value::Null);
    assert_eq!(tenant.desired().await["base"], hash("local"));
}

/// A sidecar that did not look says `null` too. Who keeps the local file keeps what the journal says is there; it is never deleted.
#[tokio::test]
async fn keeping_the_local_file_deletes_none() {
    let control = Control::start(&[]).await;
    let tenant = Tenant::in_conflict(&control, "unseen@test.example", Some("local"), Some("pushed")).await;
    report(&tenant.sidecar, 2, 1, Some((1, None, Some("pushed")))).await;
    let settled = tenant.settle(json!({"resolution": "ours", "local_hash": null})).await.expect(200).json();
    assert_eq!((&settled["hash"], &settled["size"]), (&json!(hash("local")), &json!(5)));
    let desired = tenant.desired().await;
    assert_eq!((&desired["hash"], &desired["base"]), (&json!(hash("local")), &json!(hash("local"))));

    // Over the size limit: there is a file, and no content that could be pushed.
    let tenant = Tenant::in_conflict(&control, "large@test.example", Some("local"), Some("pushed")).await;
    let large = json!({
        "seq": 3, "timestamp": "2026-01-02T03:04:05Z", "path": PATH, "source": "agent", "action": "update",
        "content_omitted": true, "size": 1u64 << 40,
    });
    let batch = json!({"epoch": EPOCH, "changes": [large]});
    assert_eq!(tenant.sidecar.post("/api/sidecar/changes", &batch).await.expect(200).json()["acked_seq"], 3);
    report(&tenant.sidecar, 3, 1, Some((1, None, Some("pushed")))).await;
    let refused = tenant.settle(json!({"resolution": "ours"})).await.expect(409);
    assert_eq!(refused.code(), "not_yet_received");
    assert_eq!(tenant.listed().await["count"], 1);
    let _ = tenant.settle(json!({"resolution": "theirs"})).await.expect(200);
}

/// A patch of owned keys is no content for the whole file.
#[tokio::test]
async fn a_conflict_about_owned_keys_has_no_side_that_is_a_file() {
    const CONFIG: &str = ".openclaw/openclaw.json";
    let control = Control::start(&[]).await;
    let (id, sidecar) = control.tenant("owned@test.example").await;
    let admin = control.admin();
    let own = async |patch: &str| {
        let path = format!("/api/tenants/{id}/files/{CONFIG}?merge=true");
        let body = json!({"content": patch}).to_string();
        admin.call(Method::PUT, &path, &[], body).await.expect(200).json()["generation"].clone()
    };
    let settle = async |body: Value| admin.post(&format!("/api/tenants/{id}/conflicts/{CONFIG}"), &body).await;
    let report = check_in(0, 1, vec![conflict(CONFIG, 1, Some("local"), Some("{\"a\": 1}"))]);
    assert_eq!(own("{\"a\": 1}").await, 1);
    let _ = sidecar.post("/api/sidecar/check-in", &report).await.expect(200);
    upload(&sidecar, "local").await;
    let listed = admin.get(&format!("/api/tenants/{id}/conflicts")).await.expect(200).json();
    assert_eq!(listed["conflicts"][0]["merge"], true, "{listed}");
    for resolution in ["ours", "theirs"] {
        assert_eq!(settle(json!({"resolution": resolution})).await.expect(409).code(), "owned_keys");
        // Also while keys that are newer are on their way.
        let _ = own("{\"a\": 2}").await;
    }
    let whole = settle(json!({"resolution": "merged", "content": "{}"})).await.expect(200).json();
    assert_eq!((&whole["hash"], &whole["generation"]), (&json!(hash("{}")), &json!(4)));
}

#[tokio::test]
async fn what_cannot_be_settled_changes_nothing() {
    let control = Control::start(&[]).await;
    let tenant = Tenant::in_conflict(&control, "not@test.example", Some("local"), Some("pushed")).await;
    for bad in [
        json!({"resolution": "mine"}),
        json!({"resolution": "merged"}),
        json!({"resolution": "merged", "content": "a", "content_base64": "YQ=="}),
        json!({"resolution": "ours", "content": "a"}),
        json!({}),
    ] {
        assert_eq!(tenant.settle(bad.clone()).await.expect(400).code(), "bad_json", "{bad}");
    }
    // The local file changed again, and its content is still on its way.
    report(&tenant.sidecar, 3, 1, Some((1, Some("newer"), Some("pushed")))).await;
    let refused = tenant.settle(json!({"resolution": "ours"})).await.expect(409);
    assert_eq!(refused.code(), "not_yet_received");
    let elsewhere = format!("/api/tenants/{}/conflicts/workspace/USER.md", tenant.id);
    let _ = tenant.admin.post(&elsewhere, &json!({"resolution": "ours"})).await.expect(404);
    let nobody = "/api/tenants/0190a000-0000-7000-8000-00000000dead/conflicts";
    let _ = tenant.admin.get(nobody).await.expect(404);
    let _ = tenant.admin.post(&format!("{nobody}/{PATH}"), &json!({"resolution": "ours"})).await.expect(404);
    // Not even a generation was used.
    let desired = tenant.sidecar.get("/api/sidecar/desired").await.expect(200).json();
    assert_eq!(desired["generation"], 1);
    send(&tenant.sidecar, 3, "agent", Some("newer"), None).await;
    let (first, second) =
        tokio::join!(tenant.settle(json!({"resolution": "ours"})), tenant.settle(json!({"resolution": "theirs"})),);
    let mut codes = [first.status.as_u16(), second.status.as_u16()];
    codes.sort_unstable();
    assert_eq!(codes, [200, 404]);
}

#[tokio::test]
async fn a_push_that_the_sidecar_merged_has_arrived() {
    let control = Control::start(&[]).await;
    let tenant = Tenant::in_conflict(&control, "merged@test.example", Some("local"), Some("pushed")).await;
    let put = format!("/api/tenants/{}/files/{PATH}", tenant.id);
    let _ = tenant.admin.call(Method::PUT, &put, &[], json!({"content": "more"}).to_string()).await.expect(200);
    let file = format!("/api/tenants/{}/files/{PATH}", tenant.id);
    assert_eq!(tenant.admin.get(&file).await.expect(200).json()["pending"], true);
    send(&tenant.sidecar, 3, "system", Some("more and local"), Some(2)).await;
    let shown = tenant.admin.get(&file).await.expect(200).json();
    assert_eq!((&shown["pending"], &shown["content"]), (&json!(false), &json!("more and local")));
    // The agent goes on from there; the push is not back again.
    send(&tenant.sidecar, 4, "agent", Some("later"), None).await;
    assert_eq!(tenant.admin.get(&file).await.expect(200).json()["content"], "later");
}
