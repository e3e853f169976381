//! How the real gateway starts in a container: with an empty volume, with what an earlier container left on it, and without the
//! compiled code among that. A container loses everything but its volume.
//!
//! Node writes compiled code when it ends by itself. A gateway that was killed leaves what was there before.
//!
//! Prints times; what it asserts is that the code was found, not how fast. `WINSTON_LONG` takes three rounds.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use winston_tests::gateway::openclaw;
use winston_tests::household::Household;
use winston_tests::process::{Mode, find_processes, is_root, namespaces};

const GATEWAY_TOKEN: &str = "test-gateway-token-0123456789abcdef";
/// User of the gateway, where that can be another one.
const AGENT: &str = "64001";

#[test]
fn the_compiled_code_stays_on_the_volume() -> Result<()> {
    let Some((program, _turn)) = openclaw("the_compiled_code_stays_on_the_volume") else { return Ok(()) };
    let mode = if namespaces().is_ok() { Mode::Pid1 } else { Mode::Subreaper };
    let rounds = if std::env::var_os("WINSTON_LONG").is_some() { 3 } else { 1 };
    for round in 1..=rounds {
        let household = Household::new(mode)?
            .env("WINSTON_GATEWAY_UID", if is_root() { AGENT } else { "" })
            .env("WINSTON_OPENCLAW_BIN", &program.to_string_lossy())
            .env("OPENCLAW_GATEWAY_TOKEN", GATEWAY_TOKEN);
        let config = json!({
            "gateway": {
                "mode": "local", "port": household.gateway().port(), "bind": "loopback",
                "auth": {"mode": "token", "token": "${OPENCLAW_GATEWAY_TOKEN}"},
            },
            "update": {"checkOnStart": false},
            "discovery": {"mdns": {"mode": "off"}},
        });
        std::fs::write(household.data().join(".openclaw/openclaw.json"), config.to_string())?;
        let cache = household.home().join(".cache/node-compile-cache");
        start(&household, round, "empty volume", Signal::SIGTERM)?;
        let modules = count(&cache)?;
        ensure!(modules > 1000, "{modules} modules in {}", cache.display());
        start(&household, round, "as it was left", Signal::SIGKILL)?;
        start(&household, round, "as a kill left it", Signal::SIGTERM)?;
        let more = count(&cache)? - modules;
        ensure!(more < modules / 10, "{more} modules more: those that were there were not found");
        std::fs::remove_dir_all(&cache)?;
        start(&household, round, "without compiled code", Signal::SIGTERM)?;
        ensure!(count(&cache)? > 1000, "it is made again");
    }
    Ok(())
}

/// Starts a container, waits for its gateway, and ends it. The time is the supervisor's, from the start of the process to ready.
fn start(household: &Household, round: u32, how: &str, end: Signal) -> Result<()> {
    let mut home = household.start()?;
    home.gateway.wait_until_ready(None)?;
    let status = home.gateway.status()?;
    let ready = status["ready_after_ms"].as_u64().context("ready_after_ms")?;
    let state = format!("OPENCLAW_STATE_DIR={}", household.data().join(".openclaw").display());
    let gateways =
        find_processes(|process| process.environment.contains(&state) && process.command.starts_with("openclaw"))?;
    let gateway = gateways.first().context("the gateway's process")?;
    let temporary =
        gateway.environment.iter().find_map(|one| one.strip_prefix("TMPDIR=")).context("TMPDIR")?.to_owned();
    ensure!(temporary.contains("/winston-"), "{temporary}");
    ensure!(!gateway.environment.iter().any(|one| one.starts_with("NODE_COMPILE_CACHE")), "{:?}", gateway.environment);
    println!("round {round}, {how}: ready after {ready} ms, {} ms of processor time", processor_time(gateway.pid)?);
    home.entrypoint.signal(end)?;
    home.entrypoint.wait()?;
    winston_tests::wait::eventually("everything is gone", || Ok(home.gateways()?.is_empty().then_some(())))?;
    // The next container has a new one.
    if Path::new(&temporary).exists() {
        std::fs::remove_dir_all(&temporary)?;
    }
    Ok(())
}

fn processor_time(pid: i32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_ascii_whitespace().collect();
    let ticks = fields.get(11).context("utime")?.parse::<u64>()? + fields.get(12).context("stime")?.parse::<u64>()?;
    Ok(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// Files below a directory.
fn count(directory: &Path) -> Result<usize> {
    let mut files = 0;
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(files)
}
