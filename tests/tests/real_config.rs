//! Trials of configurations with the real, unmodified gateway.
//!
//! A start takes ten seconds and more, so it is one long story. It prints how long a gateway with a bad configuration was away.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use winston_tests::gateway::configuration;
use winston_tests::gateway::openclaw;
use winston_tests::http::free_address;
use winston_tests::sidecar::Setup;
use winston_tests::trial::{CONFIG, Host};

const GATEWAY_TOKEN: &str = "test-gateway-token-0123456789abcdef";

fn verdict(host: &Host, content: &str, status: u16) -> Result<Value> {
    let started = Instant::now();
    let verdict = host.put(content)?.expect(status)?.json()?;
    println!("{} after {} ms: {}", verdict["verdict"], started.elapsed().as_millis(), verdict["reason"]);
    Ok(verdict)
}

#[test]
fn a_bad_configuration_does_not_take_the_real_gateway_down() -> Result<()> {
    let Some((program, _turn)) = openclaw("a_bad_configuration_does_not_take_the_real_gateway_down") else {
        return Ok(());
    };
    let port = free_address()?.port();
    let setup = Setup::new()?
        .env("WINSTON_GATEWAY", "on")
        .env("WINSTON_OPENCLAW_BIN", program.to_str().context("the path of openclaw")?)
        .env("OPENCLAW_GATEWAY_PORT", &port.to_string())
        .env("OPENCLAW_GATEWAY_TOKEN", GATEWAY_TOKEN)
        .env("WINSTON_PROBATION_SECONDS", "3");
    for directory in [".openclaw", ".home"] {
        std::fs::create_dir(setup.data().join(directory))?;
    }
    let mut config = configuration(port);
    std::fs::write(setup.data().join(CONFIG), config.to_string())?;
    let host = Host::of(setup.start()?);
    let pid = host.gateway.wait_until_ready(None)?;
    host.wait_until_good()?;

    // Taken over by the running process.
    config["agents"]["defaults"]["model"] = json!({"primary": "anthropic/claude-sonnet-4-5"});
    verdict(&host, &config.to_string(), 200)?;
    ensure!(host.gateway.wait_until_ready(None)? == pid, "it was restarted for nothing");
    ensure!(host.gateway.log_text(50)?.contains("config hot reload applied"), "{}", host.gateway.log_text(50)?);

    // Needs another process.
    config["gateway"]["controlUi"] = json!({"basePath": "/ui"});
    verdict(&host, &config.to_string(), 200)?;
    let mut pid = {
        let next = host.gateway.wait_until_ready(None)?;
        ensure!(next != pid, "it was not restarted");
        next
    };
    let good = config.to_string();

    // Refused before anything changes.
    let mut unknown = config.clone();
    unknown["noSuchKey"] = json!(true);
    let mut modeless = config.clone();
    modeless["gateway"].as_object_mut().context("gateway")?.remove("mode");
    for (name, bad) in
        [("unknown key", unknown.to_string()), ("garbage", "{ garbage".into()), ("no mode", modeless.to_string())]
    {
        let verdict = verdict(&host, &bad, 422)?;
        ensure!(verdict["verdict"] == "invalid", "{name}: {verdict}");
        ensure!(host.on_disk()? == good && host.gateway.wait_until_ready(None)? == pid, "{name}");
    }

    // By the agent's hand, and then a restart.
    for (name, bad) in
        [("unknown key", unknown.to_string()), ("garbage", "{ garbage".into()), ("no mode", modeless.to_string())]
    {
        host.sidecar.agent_writes(CONFIG, &bad)?;
        let started = Instant::now();
        // A configuration without a mode makes the running gateway start anew by itself.
        host.gateway.order("restart")?;
        host.wait_for("the good configuration is back", |report| {
            report["repair"]["seq"].is_u64() && report["hash"] == winston_tests::tenant::hash(&good)
        })?;
        let back = started.elapsed();
        pid = host.gateway.wait_until_ready(Some(pid))?;
        println!(
            "{name}, by hand: the good one is back after {} ms, serving after {} ms",
            back.as_millis(),
            started.elapsed().as_millis()
        );
        ensure!(host.on_disk()? == good, "{name}: {}", host.on_disk()?);
        host.wait_until_good()?;
    }
    Ok(())
}
