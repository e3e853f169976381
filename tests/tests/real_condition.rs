//! What the real, unmodified gateway says of itself, with a Telegram bot whose API is a server of this test.
//!
//! A start takes ten seconds and more, so these are long stories, and they take turns.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use winston_tests::backend::{Backend, Then};
use winston_tests::gateway::configuration;
use winston_tests::gateway::{Gateway, openclaw};
use winston_tests::http::{Client, free_address};
use winston_tests::sidecar::{Setup, Sidecar};
use winston_tests::wait::eventually;

const CONFIG: &str = ".openclaw/openclaw.json";
const GATEWAY_TOKEN: &str = "test-gateway-token-0123456789abcdef";
// Test data: no bot has it.
const BOT_TOKEN: &str = "123456:TEST-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// As much of Telegram's API as a bot asks for when it starts; one that does not know the bot refuses everything.
fn telegram(knows_the_bot: bool) -> Result<Backend> {
    Backend::start(move |head, peer| {
        peer.body(head)?;
        let path = head.call.split(' ').nth(1).unwrap_or_default();
        let method = path.split('?').next().and_then(|path| path.rsplit('/').next());
        let result = match method {
            Some("getMe") => json!({
                "id": 123456, "is_bot": true, "first_name": "Test", "username": "test_bot",
                "can_join_groups": true, "can_read_all_group_messages": false, "supports_inline_queries": false,
            }),
            Some("getWebhookInfo") => json!({"url": "", "has_custom_certificate": false, "pending_update_count": 0}),
            Some("getUpdates") => json!([]),
            _ => json!(true),
        };
        let (status, body) = if knows_the_bot {
            ("200 OK", json!({"ok": true, "result": result}))
        } else {
            ("401 Unauthorized", json!({"ok": false, "error_code": 401, "description": "Unauthorized"}))
        };
        let (body, length) = (body.to_string(), body.to_string().len());
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close");
        peer.send(format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}"))?;
        Ok(Then::Close)
    })
}

fn channels(api: u16, webhook: u16) -> Value {
    json!({"telegram": {
        "enabled": true,
        "botToken": BOT_TOKEN,
        "dmPolicy": "pairing",
        "apiRoot": format!("http://127.0.0.1:{api}"),
        "webhookUrl": "https://tenant.test.example/telegram-webhook",
        "webhookSecret": "test-webhook-secret",
        "webhookHost": "127.0.0.1",
        "webhookPort": webhook,
        "webhookPath": "/telegram-webhook",
    }})
}

/// A sidecar of the real gateway with this configuration.
fn setup(program: &Path, port: u16, config: &Value) -> Result<Setup> {
    let setup = Setup::new()?
        .env("WINSTON_GATEWAY", "on")
        .env("WINSTON_OPENCLAW_BIN", program.to_str().context("the path of openclaw")?)
        .env("OPENCLAW_GATEWAY_PORT", &port.to_string())
        .env("OPENCLAW_GATEWAY_TOKEN", GATEWAY_TOKEN);
    for directory in [".openclaw", ".home"] {
        std::fs::create_dir(setup.data().join(directory))?;
    }
    std::fs::write(setup.data().join(CONFIG), config.to_string())?;
    Ok(setup)
}

/// It takes no work and runs on, no configuration is tried out meanwhile, and it takes work again.
fn it_can_be_suspended(sidecar: &Sidecar, gateway: &Gateway, port: u16) -> Result<()> {
    let own = Client::new(SocketAddr::from(([127, 0, 0, 1], port)), GATEWAY_TOKEN);
    let started = |wanted: u16| -> Result<()> {
        eventually("what it says to supervisors", || {
            Ok((own.call("GET", "/startupz", &[], b"")?.status == wanted).then_some(()))
        })
    };
    let before = gateway.status()?;
    ensure!(gateway.order("resume")?.expect(409)?.json()?["code"] == "not_suspended");
    let suspended = gateway.order("suspend")?.expect(200)?.json()?;
    ensure!(suspended["suspension"]["expires_at"].is_string() && suspended["pid"] == before["pid"], "{suspended}");
    started(503)?;
    let config = json!({ "content": std::fs::read_to_string(sidecar.data().join(CONFIG))? }).to_string();
    let refused = sidecar.call("PUT", "/config", &[], config.as_bytes())?.expect(409)?.json()?;
    ensure!(refused["code"] == "gateway_suspended", "{refused}");
    gateway.wait_for("it is told", |status| {
        status["state"] == "degraded" && status["reason"].as_str().is_some_and(|reason| reason.contains("suspended"))
    })?;
    let resumed = gateway.order("resume")?.expect(200)?.json()?;
    ensure!(resumed["suspension"].is_null() && resumed["pid"] == before["pid"], "{resumed}");
    started(200)
}

fn is_open(port: u16) -> bool {
    TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_ok()
}

/// Three crashes within minutes, and the gateway starts no channel any more although `/readyz` is green. It is seen, told, and the
/// channel is started again.
#[test]
fn channels_that_the_gateway_silenced_are_started_again() -> Result<()> {
    let Some((program, _turn)) = openclaw("channels_that_the_gateway_silenced_are_started_again") else {
        return Ok(());
    };
    let api = telegram(true)?;
    let (port, webhook) = (free_address()?.port(), free_address()?.port());
    let mut config = configuration(port);
    config["channels"] = channels(api.port(), webhook);
    let sidecar = setup(&program, port, &config)?.start()?;
    let gateway = Gateway::of(sidecar.client());

    let mut pid = gateway.wait_until_ready(None)?;
    gateway.wait_for("the webhook listens", |_| is_open(webhook))?;
    let memory = gateway.status()?["memory"].clone();
    let (rss, tree) = (memory["rss"].as_u64().context("rss")?, memory["tree_rss"].as_u64().context("tree_rss")?);
    println!("memory of a gateway with one channel: {} MiB, with what it started {} MiB", rss >> 20, tree >> 20);
    ensure!(rss > 200 << 20 && tree > rss && memory["processes"].as_u64() > Some(1), "{memory}");

    for _ in 0..3 {
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        pid = gateway.wait_until_ready(Some(pid))?;
    }
    let silent = gateway.wait_for("the silence is seen", |status| {
        status["state"] == "degraded" && status["suppressed"] == json!(["telegram"])
    })?;
    ensure!(silent["reason"].as_str().is_some_and(|reason| reason.contains("telegram")), "{silent}");
    ensure!(!is_open(webhook), "the webhook listens although the channel is silent");
    ensure!(sidecar.get("/metrics")?.text().contains("winston_gateway_suppressed_channels 1"));

    let started = gateway.wait_for("the channel is started", |status| status["channel_starts"] == 1)?;
    ensure!(started["pid"].as_i64() == Some(pid.into()) && started["restarts"] == 3, "it was restarted: {started}");
    gateway.wait_for("the webhook listens again", |_| is_open(webhook))?;
    let well = gateway.wait_for("the silence is over", |status| status["suppressed"].is_null())?;
    ensure!(well["pid"].as_i64() == Some(pid.into()), "{well}");
    let log = gateway.log_text(1000)?;
    ensure!(log.contains("silent channels started: telegram/default"), "{log}");
    ensure!(!log.contains(BOT_TOKEN), "the bot's token is in the log");
    it_can_be_suspended(&sidecar, &gateway, port)?;
    let (status, _) = sidecar.stop()?;
    ensure!(status.success());
    Ok(())
}

/// Somebody else has its port: that is said. Once it is free the gateway comes up, with a bot whose token is wrong: that is said too, and
/// nothing is restarted for it. It is larger than it may be, and for that it starts anew by itself.
#[test]
fn a_taken_port_a_wrong_token_and_too_much_memory_are_named() -> Result<()> {
    const TEST: &str = "a_taken_port_a_wrong_token_and_too_much_memory_are_named";
    if std::env::var_os("WINSTON_LONG").is_none_or(|value| value != "1") {
        winston_tests::process::skip(TEST, "takes three minutes; WINSTON_LONG is not set");
        return Ok(());
    }
    let Some((program, _turn)) = openclaw(TEST) else { return Ok(()) };
    let api = telegram(false)?;
    let stranger = TcpListener::bind("127.0.0.1:0")?;
    let port = stranger.local_addr()?.port();
    let mut config = configuration(port);
    config["channels"] = channels(api.port(), free_address()?.port());
    let sidecar = setup(&program, port, &config)?.env("WINSTON_GATEWAY_MEMORY_LIMIT_MB", "256").start()?;
    let gateway = Gateway::of(sidecar.client());

    let ended = gateway.wait_for("it gives up", |status| status["last_exit"].is_object())?;
    let exit = &ended["last_exit"];
    ensure!(exit["likely"] == "port_in_use" && exit["code"] == 1, "{ended}");
    ensure!(exit["evidence"].as_str().is_some_and(|line| line.contains("EADDRINUSE")), "{ended}");
    ensure!(ended["reason"].as_str().is_some_and(|reason| reason.contains("in use")), "{ended}");
    drop(stranger);

    let first = gateway.wait_until_ready(None)?;
    let starts = gateway.status()?["restarts"].as_u64().context("restarts")?;
    let degraded = gateway.wait_for("it says what is wrong", |status| status["state"] == "degraded")?;
    let reason = degraded["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("not ready (telegram)") && degraded["pid"].as_i64() == Some(first.into()), "{degraded}");
    gateway.wait_until_ready(Some(first))?;
    let anew = gateway.status()?;
    let exit = &anew["last_exit"];
    ensure!(anew["restarts"] == starts + 1 && exit["code"] == 0 && exit["cause"] == "clean", "{anew}");
    ensure!(exit["meaning"].as_str().is_some_and(|why| why.contains("WINSTON_GATEWAY_MEMORY_LIMIT_MB")), "{anew}");
    let (status, _) = sidecar.stop()?;
    ensure!(status.success());
    Ok(())
}
