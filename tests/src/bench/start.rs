//! The start of the real gateway: in a container, beside the same program started by hand.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Plan;
use super::figure::{Goal, Row, Unit, millis};
use super::report::Report;
use super::stats::Latencies;
use crate::gateway::configuration;
use crate::household::{Home, Household};
use crate::http;
use crate::process::{Mode, Process};
use crate::wait::{eventually, within};

/// Longest wait for a start.
const START: Duration = Duration::from_secs(120);

/// Percent of the time by hand.
const TIME: Goal = Goal::AtMost(103.0);

/// Where Node looks for compiled code below the directory for temporary files.
const COMPILED: &str = "node-compile-cache";

const GATEWAY_TOKEN: &str = "test-gateway-token-0123456789abcdef";

const BESIDE: &str = "beside it: the same gateway with the same environment, state and compiled code, started by hand, by turns; medians. More means \
     that entrypoint and sidecar take time from it: before the process is started, or beside it from the processor";

pub(super) fn section(report: &mut Report, plan: Plan) -> Result<()> {
    report.begin("The start of the real gateway, from the first process to the first 200 of /readyz")?;
    let Some(program) = std::env::var_os("WINSTON_OPENCLAW_BIN").filter(|program| !program.is_empty()) else {
        return report.note("SKIPPED: WINSTON_OPENCLAW_BIN is not set; ./check bench sets it");
    };
    let household = Household::new(Mode::Subreaper)?
        .env("WINSTON_OPENCLAW_BIN", &program.to_string_lossy())
        .env("OPENCLAW_GATEWAY_TOKEN", GATEWAY_TOKEN);
    let gateway = household.gateway();
    std::fs::write(household.data().join(".openclaw/openclaw.json"), configuration(gateway.port()).to_string())?;

    report.progress("a first start, which fills caches");
    let mut home = household.start()?;
    until_ready(gateway)?;
    let by_hand = ByHand::like(home.gateway.wait_until_ready(None)?, program.into())?;
    end(&mut home)?;

    let (mut hand, mut ours) = (Vec::new(), Vec::new());
    for turn in 1..=plan.gateway_starts {
        report.progress(&format!("start {turn} of {}", plan.gateway_starts));
        hand.push(by_hand.start(gateway)?);
        let started = Instant::now();
        let mut home = household.start()?;
        until_ready(gateway)?;
        ours.push(started.elapsed());
        end(&mut home)?;
    }
    let (hand, ours) = (Latencies::of(hand), Latencies::of(ours));
    let percent = ours.percentile(50).as_secs_f64() / hand.percentile(50).as_secs_f64() * 100.0;
    report.row(
        Row::new("start.gateway", "container started: its gateway is ready")
            .goal("of the time by hand", percent, Unit::Percent, TIME)
            .value("p50", millis(ours.percentile(50)), Unit::Millis)
            .value("by hand", millis(hand.percentile(50)), Unit::Millis)
            .value("max", millis(ours.percentile(100)), Unit::Millis)
            .value("by hand", millis(hand.percentile(100)), Unit::Millis)
            .value("starts", ours.count() as f64, Unit::Count)
            .beside(BESIDE),
    );
    report.end()
}

/// Asks as often as it may be asked without taking much from its start.
fn until_ready(gateway: SocketAddr) -> Result<()> {
    within(START, "the gateway is ready", || {
        let answer = http::request(gateway, "GET", "/readyz", &[], b"")?;
        Ok((answer.status == 200).then_some(()))
    })
}

/// Ends a container in order.
fn end(home: &mut Home) -> Result<()> {
    home.entrypoint.signal(Signal::SIGTERM)?;
    home.entrypoint.wait()?;
    eventually("everything is gone", || Ok(home.gateways()?.is_empty().then_some(())))
}

/// A gateway without us.
struct ByHand {
    program: PathBuf,
    environment: Vec<(String, String)>,
}

impl ByHand {
    /// With the environment of a running one.
    fn like(pid: i32, program: PathBuf) -> Result<Self> {
        let split =
            |variable: &String| variable.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        let environment: Vec<_> = Process::of(pid).environment.iter().filter_map(split).collect();
        ensure!(!environment.is_empty(), "the environment of the gateway (pid {pid}) cannot be read");
        Ok(Self { program, environment })
    }

    /// Starts it, waits until it is ready and ends it; the time until it was.
    fn start(&self, gateway: SocketAddr) -> Result<Duration> {
        // The container's own is gone with it, and its way to the compiled code.
        let variable = |wanted: &str| self.environment.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
        let temporary = Path::new(variable("TMPDIR").context("TMPDIR")?);
        let _ = std::fs::remove_dir_all(temporary);
        std::fs::create_dir_all(temporary)?;
        let compiled = Path::new(variable("HOME").context("HOME")?).join(".cache").join(COMPILED);
        ensure!(compiled.is_dir(), "there is no compiled code in {}", compiled.display());
        std::os::unix::fs::symlink(compiled, temporary.join(COMPILED))?;
        let started = Instant::now();
        let mut child = self.command().spawn().with_context(|| self.program.display().to_string())?;
        let ready = until_ready(gateway).map(|()| started.elapsed());
        let ended = terminate(&mut child);
        let ready = ready?;
        ended.map(|()| ready)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["gateway", "run"]).env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

fn terminate(child: &mut Child) -> Result<()> {
    kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
    within(START, "the gateway ends", || Ok(child.try_wait()?))?;
    Ok(())
}
