//! Instances at the edges: late secrets, damage, hand-made ones, and those that end by themselves.

#![allow(clippy::unwrap_used, reason = "what cannot be prepared fails the test that needs it")]

use std::path::Path;

use hyper::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use winston_tests::control::{Client, Control, signal, text, until};
use winston_tests::process::write_program;

/// A stand-in for the entrypoint: leaves its environment, and lives until SIGTERM and a file `go` beside the program.
const LIVING: &str = "#!/bin/sh
env > \"$WINSTON_DATA_DIR/env\"
trap 'while [ -e \"${0%/*}/wait\" ]; do sleep 0.05; done; exit 0' TERM
while :; do sleep 0.1; done
";

/// A control whose tenants are stand-ins; the directory has their program.
async fn start() -> (Control, TempDir) {
    let scratch = tempfile::tempdir().unwrap();
    let program = scratch.path().join("entrypoint.sh");
    write_program(&program, LIVING).unwrap();
    let control = Control::start(&[("WINSTON_LOCAL_ENTRYPOINT", program.to_str().unwrap())]).await;
    (control, scratch)
}

async fn new_tenant(admin: &Client, name: &str) -> String {
    let body = json!({"name": name, "email": format!("{name}@test.example")});
    text(&admin.post("/api/tenants", &body).await.expect(201).json()["tenant"]["id"])
}

async fn instance(admin: &Client, id: &str) -> Value {
    admin.get(&format!("/api/tenants/{id}/instance")).await.expect(200).json()
}

async fn config(admin: &Client, id: &str) -> String {
    let file = format!("/api/tenants/{id}/files/.openclaw/openclaw.json");
    text(&admin.get(&file).await.expect(200).json()["content"])
}

async fn environment(data_dir: &Path, id: &str, part: &str) {
    let file = data_dir.join("tenants").join(id).join("data/env");
    until(part, async || std::fs::read_to_string(&file).ok()?.contains(part).then_some(())).await;
}

fn check_in() -> Value {
    json!({
        "protocol": winston_wire::PROTOCOL_VERSION,
        "version": "0.1.0",
        "epoch": "0190a000-0000-7000-8000-000000000001",
        "session": "0190b3a0-0000-7000-8000-000000000001",
        "started_at": "2026-01-02T03:04:05Z",
        "head_seq": 0,
        "applied_generation": 0,
        "gateway": {"state": "ready", "since": "2026-01-02T03:04:05Z", "reason": "", "port": 18789, "restarts": 0},
    })
}

#[tokio::test]
async fn a_bot_token_may_come_later() {
    let (control, _scratch) = start().await;
    let admin = control.admin();
    // Nothing is there yet, so an empty field and a null are what they look like.
    let id = new_tenant(&admin, "later").await;
    let provision = format!("/api/tenants/{id}/provision");
    let empty = json!({"agentName": "", "tone": " ", "provider": "", "telegramBotToken": "", "rotateSecrets": null,
                       "channels": {"telegram": true}});
    let first = admin.post(&provision, &empty).await.expect(200).json();
    assert!(!config(&admin, &id).await.contains("TELEGRAM_BOT_TOKEN"));

    let body = json!({"telegramBotToken": "1:later-bot-token"});
    let second = admin.post(&provision, &body).await.expect(200).json();
    // The other secrets are the same as before.
    assert_eq!(second["sidecarToken"], Value::Null);
    assert!(config(&admin, &id).await.contains("${TELEGRAM_BOT_TOKEN}"));
    environment(&control.data_dir(), &id, "TELEGRAM_BOT_TOKEN=1:later-bot-token").await;
    environment(&control.data_dir(), &id, &text(&first["sidecarToken"])).await;
    assert_eq!(control.tenant_pids().len(), 1);
}

#[tokio::test]
async fn a_damaged_instance_is_an_error_of_its_own_only() {
    let (mut control, _scratch) = start().await;
    let admin = control.admin();
    let bad = new_tenant(&admin, "bad").await;
    let _ = admin.post(&format!("/api/tenants/{bad}/provision"), &json!({})).await.expect(200);
    // Without its note nobody finds the process again, so the test has to end it.
    let _ = admin.post(&format!("/api/tenants/{bad}/stop"), &json!({})).await.expect(200);
    let _ = admin.post(&format!("/api/tenants/{bad}/start"), &json!({})).await.expect(200);
    let pids = control.tenant_pids();
    assert!(control.terminate().unwrap().success());
    for pid in pids {
        signal(pid, Signal::SIGKILL);
    }
    let dir = control.data_dir().join("tenants").join(&bad);
    std::fs::write(dir.join("instance.json"), "{\"sidecar_port\": 1").unwrap();

    control.start_again().await;
    let admin = control.admin();
    assert_eq!(instance(&admin, &bad).await["status"], "error");
    let good = new_tenant(&admin, "good").await;
    let _ = admin.post(&format!("/api/tenants/{good}/provision"), &json!({})).await.expect(200);
    assert_eq!(control.tenant_pids().len(), 1);
    let purge = format!("/api/tenants/{bad}?purge=true");
    let _ = admin.call(Method::DELETE, &purge, &[], "").await.expect(200);
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_slow_tenant_keeps_nobody_else_waiting() {
    let (control, scratch) = start().await;
    let admin = control.admin();
    let (slow, other) = (new_tenant(&admin, "slow").await, new_tenant(&admin, "other").await);
    let _ = admin.post(&format!("/api/tenants/{slow}/provision"), &json!({})).await.expect(200);
    environment(&control.data_dir(), &slow, "WINSTON_TENANT_ID").await;
    let wait = scratch.path().join("wait");
    std::fs::write(&wait, "").unwrap();
    let stops: Vec<_> = (0..20)
        .map(|_| {
            let (admin, path) = (admin.clone(), format!("/api/tenants/{slow}/stop"));
            tokio::spawn(async move { admin.post(&path, &json!({})).await.status.as_u16() })
        })
        .collect();
    until("the first stop", async || (instance(&admin, &slow).await["status"] == "stopped").then_some(())).await;
    let provision = format!("/api/tenants/{other}/provision");
    let quick = tokio::time::timeout(std::time::Duration::from_secs(20), admin.post(&provision, &json!({}))).await;
    let _ = quick.expect("a quick answer").expect(200);
    assert!(stops.iter().all(|stop| !stop.is_finished()));
    std::fs::remove_file(&wait).unwrap();
    for stop in stops {
        assert_eq!(stop.await.unwrap(), 200);
    }
}

#[tokio::test]
async fn an_instance_that_ends_by_itself_is_seen() {
    let (mut control, _scratch) = start().await;
    let admin = control.admin();
    let id = new_tenant(&admin, "ends").await;
    let provision = format!("/api/tenants/{id}/provision");
    let ends = async |control: &Control| {
        let admin = control.admin();
        assert_eq!(instance(&admin, &id).await["status"], "starting");
        for pid in control.tenant_pids() {
            signal(pid, Signal::SIGKILL);
        }
        until("the end", async || (instance(&admin, &id).await["status"] == "exited").then_some(())).await;
    };
    let first = admin.post(&provision, &json!({})).await.expect(200).json();
    ends(&control).await;
    // One that checked in, too; its health is not what it said last.
    let _ = admin.post(&format!("/api/tenants/{id}/start"), &json!({})).await.expect(200);
    let sidecar = admin.with_token(&text(&first["sidecarToken"]));
    ends(&control).await;
    let _ = admin.post(&format!("/api/tenants/{id}/start"), &json!({})).await.expect(200);
    let _ = sidecar.post("/api/sidecar/check-in", &check_in()).await.expect(200);
    assert_eq!(instance(&admin, &id).await["health_status"], "healthy");
    for pid in control.tenant_pids() {
        signal(pid, Signal::SIGKILL);
    }
    until("its health", async || (instance(&admin, &id).await["health_status"] == "stopped").then_some(())).await;
    // And one that an earlier control started.
    let _ = admin.post(&format!("/api/tenants/{id}/start"), &json!({})).await.expect(200);
    control.kill();
    control.start_again().await;
    ends(&control).await;
}

#[tokio::test]
async fn what_was_enrolled_by_hand_is_taken_over_only_when_asked() {
    let (control, _scratch) = start().await;
    let admin = control.admin();
    let (id, by_hand) = control.tenant("hand@test.example").await;
    let _ = by_hand.post("/api/sidecar/check-in", &check_in()).await.expect(200);
    let provision = format!("/api/tenants/{id}/provision");
    let refused = admin.post(&provision, &json!({})).await.expect(409);
    assert_eq!(refused.code(), "enrolled_by_hand");
    assert_eq!(instance(&admin, &id).await["provider"], "manual");
    let _ = by_hand.get("/api/sidecar/desired").await.expect(200);

    let taken = admin.post(&provision, &json!({"takeOver": true})).await.expect(200).json();
    assert_eq!(taken["provider"], "local");
    let _ = by_hand.get("/api/sidecar/desired").await.expect(401);
    let sidecar = admin.with_token(&text(&taken["sidecarToken"]));
    let _ = sidecar.post("/api/sidecar/check-in", &check_in()).await.expect(200);

    // A tenant that has answered, and whose secrets are gone: new ones, not a refusal that says to provision.
    let _ = admin.post(&format!("/api/tenants/{id}/stop"), &json!({})).await.expect(200);
    let environment = control.data_dir().join("tenants").join(&id).join("environment");
    std::fs::remove_file(environment).unwrap();
    let start = admin.post(&format!("/api/tenants/{id}/start"), &json!({})).await;
    assert_eq!(start.expect(409).code(), "not_provisioned");
    let again = admin.post(&provision, &json!({})).await.expect(200).json();
    assert!(again["sidecarToken"].is_string() && again["sidecarToken"] != taken["sidecarToken"]);
}
