//! `/setup`, as the clients of the old wrapper use it.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use winston_tests::backend::Backend;
use winston_tests::http::{Answer, request};
use winston_tests::process::TEST_TOKEN;

use super::{Door, PASSWORD};

/// An empty user and [`PASSWORD`].
const BASIC: (&str, &str) = ("Authorization", "Basic OnRlc3Qtc2V0dXAtcGFzc3dvcmQ=");
const WRONG: (&str, &str) = ("Authorization", "Basic Ondyb25n");

fn door() -> Result<(Door, Backend)> {
    let backend = Backend::ok()?;
    Ok((Door::open(&Door::setup(backend.port())?.env("SETUP_PASSWORD", PASSWORD))?, backend))
}

fn run(door: &Door, body: &str) -> Result<Answer> {
    request(
        door.address,
        "POST",
        "/setup/api/console/run",
        &[BASIC, ("Content-Type", "application/json")],
        body.as_bytes(),
    )
}

#[test]
fn without_a_password_there_is_no_setup() -> Result<()> {
    let backend = Backend::ok()?;
    let door = Door::before(&backend)?;
    for target in ["/setup", "/setup/api/status", "/setup/export"] {
        door.get(target, &[])?.expect(404)?;
        door.get(target, &[BASIC])?.expect(404)?;
    }
    door.get("/setup/healthz", &[])?.expect(200)?;
    let bearer = format!("Bearer {TEST_TOKEN}");
    door.get("/setup/api/status", &[("Authorization", &bearer)])?.expect(200)?;
    ensure!(backend.heads().is_empty());
    Ok(())
}

#[test]
fn the_password_opens_it_and_wrong_ones_make_wait() -> Result<()> {
    let (door, backend) = door()?;
    let refused = door.get("/setup/api/status", &[])?.expect(401)?;
    ensure!(
        refused.header("www-authenticate").is_some_and(|value| value.starts_with("Basic realm=\"OpenClaw Setup\""))
    );
    ensure!(refused.text() == "Auth required");
    let status = door.get("/setup/api/status", &[BASIC])?.expect(200)?.json()?;
    for key in ["configured", "gatewayTarget", "openclawVersion", "channelsAddHelp", "authGroups"] {
        ensure!(status.get(key).is_some(), "{key} in {status}");
    }
    ensure!(status["configured"] == false);
    let mut texts = Vec::new();
    for _ in 0..6 {
        texts.push(door.get("/setup", &[WRONG])?.text());
    }
    ensure!(texts[0] == "Invalid password" && texts[5] == "Too many wrong passwords", "{texts:?}");
    let waiting = door.get("/setup", &[BASIC])?.expect(429)?;
    ensure!(waiting.header("retry-after").is_some(), "the right one waits too");
    // Somebody else does not.
    door.get("/setup", &[BASIC, ("X-Forwarded-For", "198.51.100.9")])?.expect(200)?;
    ensure!(door.figure("winston_front_refused_total{reason=\"password\"}")? >= 7.0);
    ensure!(backend.heads().is_empty() && !door.sidecar.log_text().contains(PASSWORD));
    Ok(())
}

#[test]
fn the_console_does_what_it_says() -> Result<()> {
    let (door, _backend) = door()?;
    ensure!(
        run(&door, r#"{"cmd":"openclaw.update"}"#)?.expect(400)?.json()?
            == json!({"ok": false, "error": "Command not allowed"})
    );
    for body in ["", "[]", "{}", "{\"cmd\":1}", &"x".repeat(100_000)] {
        ensure!(run(&door, body)?.status == 400, "{body:.20}");
    }
    let log = run(&door, r#"{"cmd":"openclaw.logs.tail","arg":"50"}"#)?.expect(200)?.json()?;
    ensure!(log["ok"] == true && log["output"].is_string(), "{log}");
    let status = run(&door, r#"{"cmd":"openclaw.status"}"#)?.expect(200)?.json()?;
    ensure!(status["output"].as_str().is_some_and(|text| text.contains("disabled")), "{status}");
    // No gateway runs here, and that is what is said.
    for cmd in ["gateway.restart", "openclaw.doctor", "openclaw.plugins.list"] {
        let answer = run(&door, &json!({ "cmd": cmd }).to_string())?.expect(500)?.json()?;
        let output = answer["output"].as_str().unwrap_or_default();
        ensure!(answer["ok"] == false && output.contains("does not run a gateway"), "{cmd}: {answer}");
    }
    let approve = request(door.address, "POST", "/setup/api/devices/approve", &[BASIC], br#"{"requestId":"a b"}"#)?;
    ensure!(approve.expect(400)?.json()?["error"] == "Invalid device request ID");
    Ok(())
}

#[test]
fn pages_of_others_cannot_use_an_operators_browser() -> Result<()> {
    let (door, _backend) = door()?;
    let post = |headers: &[(&str, &str)]| {
        let all: Vec<_> = [BASIC].into_iter().chain(headers.iter().copied()).collect();
        request(door.address, "POST", "/setup/api/console/run", &all, br#"{"cmd":"openclaw.status"}"#)
    };
    post(&[])?.expect(200)?;
    post(&[("Origin", &format!("http://{}", door.address))])?.expect(200)?;
    post(&[("Origin", "https://evil.example.com")])?.expect(403)?;
    post(&[("Sec-Fetch-Site", "cross-site")])?.expect(403)?;
    Ok(())
}

#[test]
fn what_was_exported_can_be_imported() -> Result<()> {
    let (door, _backend) = door()?;
    door.sidecar.put("workspace/SOUL.md", "one")?.expect(200)?;
    door.sidecar.put("workspace/skills/a/SKILL.md", "skill")?.expect(200)?;
    let backup = door.get("/setup/export", &[BASIC])?.expect(200)?;
    ensure!(backup.header("content-type") == Some("application/gzip"));
    let disposition = backup.header("content-disposition").context("a name")?;
    ensure!(disposition.starts_with("attachment; filename=\"openclaw-backup-") && disposition.ends_with(".tar.gz\""));
    door.sidecar.put("workspace/SOUL.md", "two")?.expect(200)?;
    ensure!(request(door.address, "POST", "/setup/import", &[BASIC], b"")?.expect(400)?.text() == "Empty body");
    let refused = request(door.address, "POST", "/setup/import", &[BASIC], b"no archive")?;
    ensure!(refused.status == 400, "{}", refused.text());
    let answer =
        request(door.address, "POST", "/setup/import", &[BASIC, ("Content-Type", "application/gzip")], &backup.body)?;
    ensure!(answer.expect(200)?.text().starts_with("OK - imported backup"));
    ensure!(door.sidecar.get("/files/workspace/SOUL.md")?.json()?["content"] == "one");
    let changes = door.sidecar.changes()?;
    let last = changes.last().context("a change")?;
    ensure!(last["source"] == "admin" && last["actor"] == "setup", "{last}");
    Ok(())
}
