//! The real gateway behind the front door: its control UI, a WebSocket session, and a browser behind a TLS terminator.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use winston_tests::gateway::{Gateway, openclaw};
use winston_tests::http::{Answer, free_address, request};
use winston_tests::process::{repository, skip};
use winston_tests::sidecar::{Setup, Sidecar};

const PASSWORD: &str = "test-setup-password";
const BASIC: (&str, &str) = ("Authorization", "Basic OnRlc3Qtc2V0dXAtcGFzc3dvcmQ=");
const GATEWAY_TOKEN: &str = "test-gateway-token-0123456789abcdef";
const HOST: &str = "tenant.example.com";

struct Hosted {
    sidecar: Sidecar,
    gateway: Gateway,
    front: SocketAddr,
}

impl Hosted {
    fn start(program: &Path, origins: &[&str]) -> Result<Self> {
        let port = free_address()?.port();
        let setup = Setup::new()?
            .env("WINSTON_GATEWAY", "on")
            .env("WINSTON_OPENCLAW_BIN", program.to_str().context("a path")?)
            .env("OPENCLAW_GATEWAY_PORT", &port.to_string())
            .env("OPENCLAW_GATEWAY_TOKEN", GATEWAY_TOKEN)
            .env("WINSTON_FRONT_LISTEN", "127.0.0.1:0")
            .env("SETUP_PASSWORD", PASSWORD);
        let state = setup.data().join(".openclaw");
        std::fs::create_dir(&state)?;
        let config = json!({
            "gateway": {
                "mode": "local", "port": port, "bind": "loopback", "trustedProxies": ["127.0.0.1", "::1"],
                "publicOrigin": format!("https://{HOST}"), "controlUi": {"allowedOrigins": origins},
                "auth": {"mode": "token", "token": "${OPENCLAW_GATEWAY_TOKEN}"},
            },
            "agents": {"defaults": {"skipBootstrap": true}},
            "update": {"checkOnStart": false}, "discovery": {"mdns": {"mode": "off"}},
        });
        std::fs::write(state.join("openclaw.json"), config.to_string())?;
        let sidecar = setup.start()?;
        let front = sidecar.status()?["front"]["address"].as_str().context("a front door")?.parse()?;
        let hosted = Self { gateway: Gateway::of(sidecar.client()), sidecar, front };
        // While it starts, everybody is told so.
        let early = hosted.get("/", &[("Accept", "text/html")])?;
        ensure!(early.status == 503 && early.text().contains("starting"), "{}: {}", early.status, early.text());
        hosted.gateway.wait_until_ready(None)?;
        Ok(hosted)
    }

    fn get(&self, target: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        request(self.front, "GET", target, headers, b"")
    }

    /// What a device that nobody knows meets, once for each attempt.
    fn device(&self, node: &Path, cookie: &str, token: &str) -> Result<Vec<Value>> {
        let url = format!("ws://{}/", self.front);
        let said = script(node, &["device", &url, token, cookie])?;
        said["outcomes"].as_array().cloned().with_context(|| said.to_string())
    }
}

fn script(node: &Path, arguments: &[&str]) -> Result<Value> {
    let file = repository().join("tests/scripts/front.mjs");
    let output = Command::new(node).arg(file).args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let said: Value =
        serde_json::from_str(&text).with_context(|| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))?;
    ensure!(output.status.success(), "{said}");
    Ok(said)
}

/// The Node that OpenClaw runs on.
fn node() -> Option<PathBuf> {
    let beside = std::env::var_os("WINSTON_NODE_BIN").map(|dir| Path::new(&dir).join("node"));
    beside.filter(|node| node.is_file()).or_else(|| installed("node"))
}

fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}

#[test]
fn the_gateway_is_reached_through_the_front_door() -> Result<()> {
    const TEST: &str = "the_gateway_is_reached_through_the_front_door";
    let Some((program, _turn)) = openclaw(TEST) else { return Ok(()) };
    let hosted = Hosted::start(&program, &["https://tenant.example.com"])?;
    let ui = hosted.get("/", &[("Accept", "text/html")])?.expect(200)?;
    ensure!(ui.text().contains("<html") && ui.text().contains("OpenClaw"), "{:.300}", ui.text());
    hosted.get("/readyz", &[])?.expect(200)?;
    // Nobody is let in by us: the token is asked for.
    request(hosted.front, "POST", "/tools/invoke", &[], b"{\"tool\":\"x\"}")?.expect(401)?;
    let sidecars = format!("Bearer {}", winston_tests::process::TEST_TOKEN);
    request(hosted.front, "POST", "/tools/invoke", &[("Authorization", &sidecars)], b"{\"tool\":\"x\"}")?
        .expect(401)?;
    ensure!(hosted.sidecar.status()?["front"]["missing"] == json!([]), "{}", hosted.sidecar.status()?["front"]);
    let status = hosted.get("/setup/api/status", &[BASIC])?.expect(200)?.json()?;
    ensure!(
        status["configured"] == true && status["openclawVersion"].as_str().is_some_and(|v| v.starts_with("20")),
        "{status}"
    );

    let Some(node) = node() else {
        skip(TEST, "there is no node, so no WebSocket session");
        return Ok(());
    };
    // Neither without a session nor with a forged one is a device approved.
    for cookie in ["", "winston_session=9999999999.AAAA.AAAA"] {
        let outcomes = hosted.device(&node, cookie, GATEWAY_TOKEN)?;
        ensure!(
            outcomes.iter().all(|outcome| outcome["error"] == "NOT_PAIRED" && outcome["code"] == 1008),
            "{outcomes:?}"
        );
    }
    let page = hosted.get("/setup", &[BASIC])?.expect(200)?;
    let cookie = page.header("set-cookie").and_then(|cookie| cookie.split(';').next()).context("a session")?.to_owned();
    // A session is no token.
    let outcomes = hosted.device(&node, &cookie, "a-wrong-token")?;
    ensure!(
        outcomes.iter().all(|outcome| outcome["hello"] == false && outcome["error"] != "NOT_PAIRED"),
        "{outcomes:?}"
    );
    ensure!(figure(&hosted, "winston_front_approved_devices_total")? == "0");
    // With both, its device is approved, and it is asked to come again.
    let outcomes = hosted.device(&node, &cookie, GATEWAY_TOKEN)?;
    ensure!(outcomes.len() == 2 && outcomes[0]["code"] == 1012 && outcomes[0]["error"].is_null(), "{outcomes:?}");
    ensure!(outcomes[1]["hello"] == true && outcomes[1]["health"] == true, "{outcomes:?}");
    ensure!(figure(&hosted, "winston_front_approved_devices_total")? == "1");
    // The two that were refused before wait still, and can be approved by hand.
    let pending = hosted.get("/setup/api/devices/pending", &[BASIC])?.expect(200)?.json()?;
    let ids = pending["requestIds"].as_array().context("requestIds")?.clone();
    ensure!(ids.len() == 2, "{pending}");
    let body = json!({ "requestId": ids[0] }).to_string();
    request(hosted.front, "POST", "/setup/api/devices/approve", &[BASIC], body.as_bytes())?.expect(200)?;

    let run = |cmd: &str| {
        request(hosted.front, "POST", "/setup/api/console/run", &[BASIC], json!({ "cmd": cmd }).to_string().as_bytes())
    };
    let log = run("openclaw.logs.tail")?.expect(200)?.json()?;
    ensure!(log["output"].as_str().is_some_and(|log| log.contains("gateway") && !log.contains(GATEWAY_TOKEN)), "{log}");
    the_program_answers(&hosted)?;
    run("gateway.stop")?.expect(200)?;
    let down = hosted.get("/", &[])?.expect(503)?.json()?;
    ensure!(down["state"] == "stopped", "{down}");
    Ok(())
}

/// What of the console OpenClaw's own program answers, as the gateway's user and without secrets; and a plugin that is switched on.
fn the_program_answers(hosted: &Hosted) -> Result<()> {
    let run = |cmd: &str, arg: Option<&str>| {
        let body = json!({ "cmd": cmd, "arg": arg }).to_string();
        request(hosted.front, "POST", "/setup/api/console/run", &[BASIC], body.as_bytes())
    };
    let said = |answer: Answer| Ok::<_, anyhow::Error>(answer.json()?["output"].as_str().context("output")?.to_owned());
    ensure!(said(run("openclaw.config.get", Some("gateway.bind"))?.expect(200)?)?.trim() == "loopback");
    let auth = said(run("openclaw.config.get", Some("gateway.auth"))?.expect(200)?)?;
    ensure!(auth.contains("\"mode\": \"token\"") && !auth.contains(GATEWAY_TOKEN), "{auth}");
    let unknown = said(run("openclaw.config.get", Some("not.there"))?.expect(500)?)?;
    ensure!(unknown.contains("not.there"), "{unknown}");
    for (cmd, arg) in [
        ("openclaw.config.get", None),
        ("openclaw.config.get", Some("--help")),
        ("openclaw.plugins.enable", Some("-x")),
        ("openclaw.plugins.install", Some("x")),
    ] {
        ensure!(run(cmd, arg)?.expect(400)?.json()?["ok"] == false, "{cmd}");
    }
    let on = run("openclaw.plugins.enable", Some("a2a"))?;
    ensure!(on.status == 200, "{}: {}", on.status, on.text());
    ensure!(said(run("openclaw.config.get", Some("plugins.entries.a2a.enabled"))?.expect(200)?)?.trim() == "true");
    let changes = hosted.sidecar.changes()?;
    let by_operator = |change: &Value| {
        change["path"] == ".openclaw/openclaw.json" && change["source"] == "admin" && change["actor"] == "setup"
    };
    ensure!(changes.iter().any(by_operator), "{changes:?}");
    Ok(())
}

fn figure(hosted: &Hosted, name: &str) -> Result<String> {
    let text = hosted.sidecar.get("/metrics")?.expect(200)?.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| name.to_owned())?;
    Ok(line.trim().to_owned())
}

/// Debian's Chromium, behind a proxy that ends TLS.
#[test]
fn a_browser_behind_tls_gets_in() -> Result<()> {
    const TEST: &str = "a_browser_behind_tls_gets_in";
    let Some((program, _turn)) = openclaw(TEST) else { return Ok(()) };
    let (Some(node), Some(chromium), Some(openssl)) = (node(), installed("chromium"), installed("openssl")) else {
        skip(TEST, "node, chromium and openssl are needed");
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let file = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let made = Command::new(openssl)
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", &format!("/CN={HOST}"), "-addext", &format!("subjectAltName=DNS:{HOST}")])
        .args(["-keyout", &file("key.pem"), "-out", &file("cert.pem")])
        .output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // The port of the terminator is not known yet, and is part of the origin.
    let hosted = Hosted::start(&program, &["*"])?;
    let front = hosted.front.to_string();
    let chromium = chromium.to_string_lossy().into_owned();
    let place = directory.path().to_string_lossy().into_owned();
    let said = script(&node, &["browser", &front, PASSWORD, GATEWAY_TOKEN, &chromium, &place, HOST])
        .with_context(|| hosted.gateway.log_text(30).unwrap_or_default())?;
    if let Some(kept) = std::env::var_os("WINSTON_SCREENSHOT") {
        std::fs::copy(file("control-ui.png"), kept)?;
    }
    ensure!(said["before"]["in"] == false && said["before"]["refusals"][0] == "NOT_PAIRED", "{said}");
    ensure!(said["in"] == true && said["title"].as_str().is_some_and(|title| title.contains("OpenClaw")), "{said}");
    ensure!(figure(&hosted, "winston_front_approved_devices_total")? == "1");
    let log = hosted.gateway.log_text(1000)?;
    ensure!(!log.contains("proxy_attribution_required") && !log.contains("origin not allowed"), "{log}");
    Ok(())
}
