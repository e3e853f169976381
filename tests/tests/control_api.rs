//! The control API for people: who gets in, what they see, errors, provisioning.

use hyper::Method;
use serde_json::{Value, json};
use winston_tests::control::{Control, text, until};
use winston_tests::process::write_program;

#[tokio::test]
async fn keys_and_tokens_open_only_their_own_routes() {
    let control = Control::start(&[]).await;
    let admin = control.admin();
    let (id, sidecar) = control.tenant("auth@test.example").await;
    let tenant = format!("/api/tenants/{id}");

    for client in [
        control.client(None),
        admin.with_token("wrong"),
        admin.with_token(&format!("wk_{}", "0".repeat(64))),
        sidecar.clone(),
    ] {
        let file = format!("{tenant}/files/workspace/SOUL.md");
        for path in ["/api/tenants", &tenant, &file] {
            let answer = client.get(path).await.expect(401);
            assert_eq!(answer.code(), "unauthorized");
            assert!(answer.header("www-authenticate").starts_with("Bearer"));
        }
        let deleted = client.call(Method::DELETE, &tenant, &[], "").await;
        let _ = deleted.expect(401);
    }
    for client in [control.client(None), admin.clone()] {
        let answer = client.get("/api/sidecar/desired").await.expect(401);
        assert_eq!(answer.code(), "unauthorized");
    }
    let _ = sidecar.get("/api/sidecar/desired").await.expect(200);
    let _ = control.client(None).get("/api/health").await.expect(200);

    let key = std::fs::read_to_string(control.data_dir().join("admin-api-key")).unwrap();
    assert!(!control.log().contains(key.trim()));
}

#[tokio::test]
async fn a_revoked_or_rotated_token_ends() {
    let control = Control::start(&[]).await;
    let admin = control.admin();
    let (id, old) = control.tenant("tokens@test.example").await;
    let tokens = format!("/api/tenants/{id}/tokens");
    let rotate = async |body: Value| {
        let answer = admin.post(&format!("{tokens}/rotate"), &body).await;
        let body = answer.expect(201).json();
        (admin.with_token(&text(&body["token"])), body)
    };

    let (second, body) = rotate(json!({"label": "second"})).await;
    let _ = old.get("/api/sidecar/desired").await.expect(200);
    let _ = second.get("/api/sidecar/desired").await.expect(200);
    let listed = admin.get(&tokens).await.expect(200).json();
    assert_eq!(listed["count"], 2);
    assert!(listed["tokens"][1]["expires_at"].is_string());
    assert!(!listed.to_string().contains(&text(&body["token"])));

    // Without overlap the older ones end at once, and so do their long polls.
    let waiting = tokio::spawn(async move { old.get("/api/sidecar/desired?wait=50").await });
    let (third, body) = rotate(json!({"overlap_seconds": 0})).await;
    let _ = waiting.await.unwrap().expect(401);
    let _ = second.get("/api/sidecar/desired").await.expect(401);

    let poll = third.clone();
    let waiting = tokio::spawn(async move { poll.get("/api/sidecar/desired?wait=50").await });
    let path = format!("{tokens}/{}", text(&body["id"]));
    let _ = admin.call(Method::DELETE, &path, &[], "").await.expect(200);
    let _ = waiting.await.unwrap().expect(401);
    let _ = third.get("/api/sidecar/desired").await.expect(401);
    let path = format!("{tokens}/{id}");
    let _ = admin.call(Method::DELETE, &path, &[], "").await.expect(404);
}

#[tokio::test]
async fn old_clients_find_the_shapes_that_they_know() {
    let control = Control::start(&[]).await;
    let admin = control.admin();
    let health = control.client(None).get("/api/health").await;
    let health = health.expect(200).json();
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["service"], "winston-api");
    assert_eq!(health["database"], "connected");

    let body = json!({"name": "Shop", "email": "shop@test.example", "tier": "starter"});
    let created = admin.post("/api/tenants", &body).await.expect(201).json();
    let tenant = &created["tenant"];
    assert!(created["message"].is_string());
    for (key, value) in [
        ("status", json!("provisioning")),
        ("industry", json!("cannabis")),
        ("sub_industry", json!("dispensary")),
        ("selected_model", json!("kimi-k2.5")),
        ("credits_remaining", json!("500000.00")),
        ("credits_monthly_allotment", json!("500000.00")),
        ("website_url", Value::Null),
    ] {
        assert_eq!(tenant[key], value, "{key}");
    }
    let taken = admin.post("/api/tenants", &body).await.expect(409).json();
    assert_eq!(taken["error"], "Tenant with this email already exists");
    let missing = admin.post("/api/tenants", &json!({"name": "x"})).await;
    let missing = missing.expect(400).json();
    assert_eq!(missing["error"], "Missing required fields: name, email");

    let list = admin.get("/api/tenants").await.expect(200).json();
    assert_eq!(list["count"], 1);
    assert_eq!(list["tenants"][0]["id"], tenant["id"]);
    assert!(list["tenants"][0].get("settings").is_none());

    let path = format!("/api/tenants/{}", text(&tenant["id"]));
    let one = admin.get(&path).await.expect(200).json();
    for key in ["instance_id", "railway_service_id", "instance_status", "health_status"] {
        assert_eq!(one["tenant"].get(key), Some(&Value::Null), "{key}");
    }
    let none = admin.get(&format!("{path}/instance")).await.expect(404);
    assert_eq!(none.json()["error"], "Tenant instance not found");
    let health = admin.get(&format!("{path}/health")).await;
    let health = health.expect(200).json();
    assert_eq!(health["health"][0]["credits_remaining"], "500000.00");

    let patch = async |body: Value| {
        let body = body.to_string();
        admin.call(Method::PATCH, &path, &[], body).await
    };
    let nothing = patch(json!({"status": "active"})).await.expect(400).json();
    assert_eq!(nothing["error"], "No valid fields to update");
    let patched = patch(json!({"name": "Shop 2"})).await.expect(200).json();
    assert_eq!(patched["tenant"]["name"], "Shop 2");
    assert_eq!(patched["tenant"]["tier"], "starter");

    let gone = admin.call(Method::DELETE, &path, &[], "").await.expect(200);
    assert_eq!(gone.json()["message"], "Tenant deleted successfully");
    let absent = admin.get(&path).await.expect(404).json();
    assert_eq!(absent["error"], "Tenant not found");
    let _ = admin.call(Method::DELETE, &path, &[], "").await.expect(404);
}

#[tokio::test]
async fn every_error_has_the_one_shape() {
    let control = Control::start(&[]).await;
    let admin = control.admin();
    let (id, sidecar) = control.tenant("errors@test.example").await;
    let nobody = "/api/tenants/01890000-0000-7000-8000-000000000000";
    let tenant = &format!("/api/tenants/{id}");
    let file = &format!("{tenant}/files");
    let big = &"x".repeat(300 << 10);
    let people = [
        ("GET", "/nowhere", "", 404, "not_found"),
        ("GET", "/api/nowhere", "", 404, "not_found"),
        ("PUT", "/api/tenants", "", 405, "method_not_allowed"),
        ("PUT", tenant, "", 405, "method_not_allowed"),
        ("POST", "/api/tenants", "{", 400, "bad_json"),
        ("POST", "/api/tenants", "[1]", 400, "bad_json"),
        ("POST", "/api/tenants", big, 413, "too_large"),
        ("GET", "/api/tenants/7", "", 400, "bad_id"),
        ("GET", "/api/tenants?limit=0", "", 400, "bad_query"),
        ("GET", nobody, "", 404, "not_found"),
        ("POST", &format!("{nobody}/provision"), "", 404, "not_found"),
        ("POST", &format!("{nobody}/tokens"), "", 404, "not_found"),
        ("GET", &format!("{nobody}/files"), "", 404, "not_found"),
        ("POST", &format!("{tenant}/start"), "", 404, "not_found"),
        ("GET", &format!("{file}/a/%2e%2e/b"), "", 400, "bad_path"),
        ("GET", &format!("{file}//etc/passwd"), "", 400, "bad_path"),
        ("GET", &format!("{file}/a%00b"), "", 400, "bad_path"),
        ("GET", &format!("{file}/%ff"), "", 400, "bad_path"),
        ("PUT", &format!("{file}/.winston/x"), "{}", 400, "bad_path"),
        ("PUT", &format!("{file}/a"), "{}", 400, "bad_json"),
        ("GET", &format!("{file}/a"), "", 404, "not_found"),
        ("DELETE", &format!("{file}/a"), "", 404, "not_found"),
    ];
    let sidecars = [
        ("GET", "/api/sidecar/contents/x", "", 400, "bad_hash"),
        ("GET", "/api/sidecar/desired?wait=x", "", 400, "bad_query"),
        ("POST", "/api/sidecar/changes", "{}", 400, "bad_json"),
        ("POST", "/api/sidecar/check-in", "{}", 400, "protocol_mismatch"),
    ];
    for (client, cases) in [(&admin, &people[..]), (&sidecar, &sidecars[..])] {
        for (method, path, body, status, code) in cases {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let answer = client.call(method, path, &[], (*body).to_owned()).await;
            let found = (answer.status.as_u16(), answer.code());
            assert_eq!(found, (*status, (*code).to_owned()), "{path}");
            let json = answer.json();
            assert!(json["error"].is_string(), "{path}");
            assert_eq!(json["request_id"], answer.header("x-request-id"), "{path}");
            if *status == 405 {
                assert!(answer.header("allow").contains("GET"), "{path}");
            }
        }
    }
    let octets = [("content-type", "application/octet-stream")];
    let huge = vec![b'x'; (10 << 20) + 1];
    let path = format!("{file}/a");
    let put = admin.call(Method::PUT, &path, &octets, huge).await;
    assert_eq!(put.expect(413).code(), "too_large");
}

/// A stand-in for the entrypoint: lives until SIGTERM, and leaves its environment.
const LIVING: &str = "#!/bin/sh\nenv > \"$WINSTON_DATA_DIR/env\"\ntrap 'exit 0' TERM\nwhile :; do sleep 0.1; done\n";
/// A stand-in that cannot start.
const FAILING: &str = "#!/bin/sh\necho internal-detail >&2\nexit 3\n";

#[tokio::test]
async fn two_provisions_at_once_make_one_instance() {
    let scratch = tempfile::tempdir().unwrap();
    let program = scratch.path().join("entrypoint.sh");
    write_program(&program, LIVING).unwrap();
    let control =
        Control::start(&[("WINSTON_LOCAL_ENTRYPOINT", program.to_str().unwrap()), ("ANTHROPIC_API_KEY", "test-key")])
            .await;
    let admin = control.admin();
    let (id, by_hand) = control.tenant("twice@test.example").await;
    let path = format!("/api/tenants/{id}");
    let body = json!({"agentName": "Ada", "telegramBotToken": "1:test-bot-token"});
    let provision = format!("{path}/provision");
    let (one, two) = tokio::join!(admin.post(&provision, &body), admin.post(&provision, &body));
    let (one, two) = (one.expect(200).json(), two.expect(200).json());
    let (new, repeat) = if one["sidecarToken"].is_string() { (one, two) } else { (two, one) };
    let (sidecar_token, gateway_token) = (text(&new["sidecarToken"]), text(&new["gatewayToken"]));
    assert_eq!((sidecar_token.len(), gateway_token.len()), (64, 64));
    // Nothing has checked in, but the second call found a running tenant, and kept its secrets.
    assert_eq!(repeat["sidecarToken"], Value::Null, "{repeat}");
    assert_eq!(repeat["url"], new["url"]);
    assert_eq!(control.tenant_pids().len(), 1);
    for key in ["railwayServiceId", "railwayUrl", "projectId", "serviceId", "deploymentId", "setupUrl", "setupPassword"]
    {
        assert_eq!(new.get(key), Some(&Value::Null), "{key}");
    }
    let instance = admin.get(&format!("{path}/instance")).await;
    let instance = instance.expect(200).json();
    assert_eq!(instance.get("sidecar_token"), Some(&Value::Null));
    let _ = by_hand.get("/api/sidecar/desired").await.expect(401);

    // The generated files are versions and desired files of one generation.
    let sidecar = admin.with_token(&sidecar_token);
    let desired = sidecar.get("/api/sidecar/desired").await.expect(200).json();
    assert_eq!(desired["generation"], 1);
    let files = desired["files"].as_array().unwrap();
    assert_eq!(files.len(), 5);
    assert!(files.iter().all(|file| file["base"] == "absent"));
    let config = format!("{path}/files/.openclaw/openclaw.json");
    let config = admin.get(&config).await.expect(200).json();
    assert_eq!(config["source"], "system");
    assert_eq!(config["pending"], true);
    for secret in [&gateway_token, &sidecar_token, "test-bot-token"] {
        assert!(!text(&config["content"]).contains(secret));
        assert!(!control.log().contains(secret));
    }

    // What the tenant got.
    let data = control.data_dir().join("tenants").join(&id);
    let env = until("the tenant's environment", async || {
        let text = std::fs::read_to_string(data.join("data/env")).ok()?;
        text.contains("WINSTON_TENANT_ID").then_some(text)
    })
    .await;
    for line in [
        format!("WINSTON_TENANT_ID={id}"),
        format!("WINSTON_SIDECAR_TOKEN={sidecar_token}"),
        format!("OPENCLAW_GATEWAY_TOKEN={gateway_token}"),
        "TELEGRAM_BOT_TOKEN=1:test-bot-token".to_owned(),
        "ANTHROPIC_API_KEY=test-key".to_owned(),
    ] {
        assert!(env.lines().any(|found| found == line), "{line}");
    }
    assert!(!env.contains("WINSTON_CONTROL_LISTEN"));

    // New secrets end the old ones.
    let rotated = admin.post(&provision, &json!({"rotateSecrets": true})).await;
    let rotated = rotated.expect(200).json();
    let _ = sidecar.get("/api/sidecar/desired").await.expect(401);
    let sidecar = admin.with_token(&text(&rotated["sidecarToken"]));
    let _ = sidecar.get("/api/sidecar/desired").await.expect(200);

    let purge = format!("{path}?purge=true");
    let _ = admin.call(Method::DELETE, &purge, &[], "").await.expect(200);
    assert!(!data.exists());
    assert!(control.tenant_pids().is_empty());
}

#[tokio::test]
async fn a_tenant_outlives_control_and_stops_only_when_asked() {
    let scratch = tempfile::tempdir().unwrap();
    let program = scratch.path().join("entrypoint.sh");
    write_program(&program, LIVING).unwrap();
    let entrypoint = ("WINSTON_LOCAL_ENTRYPOINT", program.to_str().unwrap());
    let mut control = Control::start(&[entrypoint]).await;
    let (id, _) = control.tenant("outlives@test.example").await;
    let path = format!("/api/tenants/{id}");
    let provision = format!("{path}/provision");
    let none = json!({});
    let _ = control.admin().post(&provision, &none).await.expect(200);
    let pids = control.tenant_pids();
    assert_eq!(pids.len(), 1);

    control.kill();
    control.start_again().await;
    assert!(control.terminate().unwrap().success());
    control.start_again().await;
    let admin = control.admin();
    let again = admin.post(&provision, &none).await.expect(200).json();
    assert_eq!(control.tenant_pids(), pids);
    assert_eq!(again["sidecarToken"], Value::Null);

    let stopped = admin.post(&format!("{path}/stop"), &none).await;
    assert_eq!(stopped.expect(200).json()["status"], "stopped");
    assert!(control.tenant_pids().is_empty());
    let started = admin.post(&format!("{path}/start"), &none).await;
    assert_eq!(started.expect(200).json()["status"], "starting");
    let second = control.tenant_pids();
    assert!(second.len() == 1 && second != pids);
    let _ = admin.post(&format!("{path}/restart"), &none).await.expect(200);
    assert!(control.tenant_pids().len() == 1 && control.tenant_pids() != second);
}

#[tokio::test]
async fn a_tenant_that_ends_at_once_is_an_error_and_can_be_provisioned_again() {
    let scratch = tempfile::tempdir().unwrap();
    let program = scratch.path().join("entrypoint.sh");
    write_program(&program, FAILING).unwrap();
    let entrypoint = ("WINSTON_LOCAL_ENTRYPOINT", program.to_str().unwrap());
    let control = Control::start(&[entrypoint]).await;
    let admin = control.admin();
    let (id, _) = control.tenant("fails@test.example").await;
    let path = format!("/api/tenants/{id}");
    let provision = format!("{path}/provision");
    let failed = admin.post(&provision, &json!({})).await.expect(500);
    assert_eq!(failed.code(), "provider_failed");
    assert!(!failed.json().to_string().contains("internal-detail"));
    assert!(control.log().contains("internal-detail"));
    let tenant = admin.get(&path).await.expect(200).json();
    assert_eq!(tenant["tenant"]["status"], "error");

    write_program(&program, LIVING).unwrap();
    let body = admin.post(&provision, &json!({})).await.expect(200).json();
    assert!(body["sidecarToken"].is_string(), "{body}");
    // The files were stored by the first attempt; the second adds no generation.
    let tenant = admin.get(&path).await.expect(200).json();
    assert_eq!(tenant["tenant"]["generation"], 1);
}
