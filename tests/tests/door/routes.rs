//! Who answers what, and what reaches whom.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use winston_tests::backend::Backend;
use winston_tests::http::request;
use winston_tests::process::TEST_TOKEN;
use winston_tests::wait::eventually;

use super::{Door, PASSWORD};

#[test]
fn every_path_reaches_its_owner_and_nobody_else() -> Result<()> {
    let backend = Backend::ok()?;
    let door = Door::open(&Door::setup(backend.port())?.env("SETUP_PASSWORD", PASSWORD))?;
    let bearer = format!("Bearer {TEST_TOKEN}");
    let token = [("Authorization", bearer.as_str())];
    for (target, status) in [
        ("/healthz", 200),
        ("/winston/health", 200),
        ("/winston/files/", 200),
        ("/winston/files", 200),
        ("/winston/changes", 200),
        ("/winston/status", 200),
        ("/winston/gateway", 200),
        ("/winston/metrics", 200),
        ("/winston/archive/?format=tar", 200),
        ("/winston/no/such", 404),
        ("/winston/winston/files/", 404),
        ("/winston", 404),
        ("/winston/", 404),
        ("/setup/healthz", 200),
        ("/setup", 200),
        ("/setup/no/such", 404),
        ("//winston/files/", 404),
        ("/%77inston/files/", 404),
        ("/x/../setup", 404),
    ] {
        let answer = door.get(target, &token)?;
        ensure!(answer.status == status, "{target}: {} {}", answer.status, answer.text());
    }
    ensure!(door.get("/winston/files/", &[])?.status == 401);
    ensure!(door.get("/setup", &[])?.status == 401);
    ensure!(backend.heads().is_empty(), "{:?}", backend.heads());
    for target in ["/", "/health", "/v1/models?a=b%20c", "/a//b/../c", "/hooks/agent", "/winstonx"] {
        door.get(target, &[])?.expect(200)?;
        ensure!(backend.last()?.call == format!("GET {target}"), "{:?}", backend.last()?);
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"] {
        request(door.address, method, "/x", &[], b"")?.expect(200)?;
        ensure!(backend.last()?.call == format!("{method} /x"));
    }
    request(door.address, "HEAD", "/x", &[], b"")?.expect(200)?;
    for method in ["TRACE", "CONNECT"] {
        let answer = request(door.address, method, "/x", &[], b"")?;
        ensure!((400..500).contains(&answer.status), "{method}: {}", answer.status);
    }
    ensure!(door.figure("winston_front_answers_total{route=\"nobody\",status=\"4xx\"}")? >= 3.0);
    Ok(())
}

/// What is for us stays here; what is for the gateway is not touched, and nothing is added to it.
#[test]
fn our_credentials_do_not_reach_the_gateway() -> Result<()> {
    let backend = Backend::ok()?;
    let setup = Door::setup(backend.port())?;
    let door = Door::open(&setup.env("SETUP_PASSWORD", PASSWORD).env("OPENCLAW_GATEWAY_TOKEN", "test-gateway-token"))?;
    let basic = "Basic OnRlc3Qtc2V0dXAtcGFzc3dvcmQ=";
    for (sent, arrives) in [
        (format!("Bearer {TEST_TOKEN}"), None),
        (format!("bearer {TEST_TOKEN}"), None),
        (basic.to_owned(), None),
        ("Bearer of-the-gateway".to_owned(), Some("Bearer of-the-gateway")),
        ("Basic dXNlcjpvdGhlcg==".to_owned(), Some("Basic dXNlcjpvdGhlcg==")),
    ] {
        door.get("/x", &[("Authorization", &sent), ("Cookie", "a=1; winston_session=x.y.z; b=2")])?.expect(200)?;
        let head = backend.last()?;
        ensure!(head.header("authorization") == arrives, "{sent}: {head:?}");
        ensure!(head.header("cookie") == Some("a=1; b=2"), "{head:?}");
    }
    let both = [("Authorization", "Bearer theirs"), ("Authorization", basic)];
    door.get("/x", &both)?.expect(200)?;
    ensure!(backend.last()?.all("authorization").is_empty());
    door.get("/x", &[])?.expect(200)?;
    let head = backend.last()?;
    ensure!(head.all("authorization").is_empty() && head.all("x-openclaw-token").is_empty(), "{head:?}");
    ensure!(!format!("{:?}", backend.heads()).contains("test-gateway-token"), "{:?}", backend.heads());
    Ok(())
}

#[test]
fn the_gateway_learns_who_asks_from_us_only() -> Result<()> {
    let backend = Backend::ok()?;
    let forged = [
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-For", "198.51.100.7"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "tenant.example.com"),
        ("X-Forwarded-User", "root"),
        ("X-Forwarded-Prefix", "/p"),
        ("X-Real-IP", "6.6.6.7"),
        ("Forwarded", "for=6.6.6.8"),
        ("Tailscale-User-Login", "root@example.com"),
        ("X-Company-User", "root"),
        ("X-Kept", "1"),
    ];
    let config = json!({"gateway": {"auth": {"trustedProxy": {"userHeader": "X-Company-User"}}}}).to_string();
    // Nobody is trusted; loopback is.
    for (trusted, client, proto, host) in [
        ("10.0.0.0/8", "192.0.2.1", "http", None),
        ("127.0.0.0/8", "198.51.100.7", "https", Some("tenant.example.com")),
    ] {
        let setup = Door::setup(backend.port())?.env("WINSTON_TRUSTED_PROXIES", trusted);
        std::fs::create_dir(setup.data().join(".openclaw"))?;
        std::fs::write(setup.data().join(".openclaw/openclaw.json"), &config)?;
        let door = Door::open(&setup)?;
        eventually("the configuration is known", || {
            Ok((door.get("/healthz", &[])?.json()?["wrapper"]["configured"] == true).then_some(()))
        })?;
        door.get("/x", &forged)?.expect(200)?;
        let head = backend.last()?;
        let own = door.address.to_string();
        for (name, value) in [
            ("x-forwarded-for", Some(client)),
            ("x-forwarded-proto", Some(proto)),
            ("x-forwarded-host", Some(host.unwrap_or(&own))),
            ("host", Some(own.as_str())),
            ("x-kept", Some("1")),
        ] {
            ensure!(head.header(name) == value, "{trusted}, {name}: {head:?}");
        }
        for name in [
            "forwarded",
            "x-real-ip",
            "x-forwarded-user",
            "x-forwarded-prefix",
            "tailscale-user-login",
            "x-company-user",
        ] {
            ensure!(head.all(name).is_empty(), "{trusted}, {name}: {head:?}");
        }
    }
    Ok(())
}

#[test]
fn webhooks_of_telegram_have_their_own_port() -> Result<()> {
    let (gateway, hooks) = (Backend::ok()?, Backend::ok()?);
    let setup = Door::setup(gateway.port())?;
    let config = json!({"channels": {"telegram": {"webhookPath": "/tg", "webhookPort": hooks.port()}}});
    std::fs::create_dir(setup.data().join(".openclaw"))?;
    std::fs::write(setup.data().join(".openclaw/openclaw.json"), config.to_string())?;
    let door = Door::open(&setup)?;
    eventually("the webhook is known", || {
        request(door.address, "POST", "/tg", &[("X-Telegram-Bot-Api-Secret-Token", "s")], b"{}")?.expect(200)?;
        Ok((!hooks.heads().is_empty()).then_some(()))
    })?;
    let head = hooks.last()?;
    ensure!(head.call == "POST /tg" && head.header("x-telegram-bot-api-secret-token") == Some("s"), "{head:?}");
    // A changed configuration is followed.
    std::fs::write(
        setup.data().join(".openclaw/openclaw.json"),
        json!({"channels": {"telegram": {"webhookPath": "/other", "webhookPort": hooks.port()}}}).to_string(),
    )?;
    eventually("the new path is known", || {
        let before = hooks.heads().len();
        request(door.address, "POST", "/other", &[], b"{}")?.expect(200)?;
        Ok((hooks.heads().len() > before).then_some(()))
    })
}

#[test]
fn the_configuration_is_judged_in_the_status() -> Result<()> {
    let backend = Backend::ok()?;
    let setup = Door::setup(backend.port())?.env("WINSTON_PUBLIC_ORIGIN", "https://t.example.com");
    std::fs::create_dir(setup.data().join(".openclaw"))?;
    let config = setup.data().join(".openclaw/openclaw.json");
    std::fs::write(&config, "{}")?;
    let door = Door::open(&setup)?;
    let missing = || door.sidecar.status()?["front"]["missing"].as_array().cloned().context("missing");
    eventually("four things are missing", || Ok((missing()?.len() == 4).then_some(())))?;
    let complete = json!({"gateway": {
        "bind": "loopback", "publicOrigin": "https://t.example.com", "trustedProxies": ["127.0.0.1"],
        "controlUi": {"allowedOrigins": ["https://t.example.com"]},
    }});
    std::fs::write(&config, complete.to_string())?;
    eventually("nothing is missing", || Ok(missing()?.is_empty().then_some(())))
}
