//! Supervision: how soon a death is known and made good, of the gateway, of a configuration and of the sidecar itself.
//!
//! The gateway is the stand-in, which says first of all that it has started; below it `peers` runs the same program.

mod flood;
mod peers;

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use winston_wire::Timestamp;

use super::Plan;
use super::figure::{Goal, Row, Unit, millis};
use super::report::Report;
use super::stats::Latencies;
use super::tree::Tree;
use crate::gateway::pid;
use crate::household::{Home, Household};
use crate::process::{Mode, PATIENCE};
use crate::trial::{CONFIG, config, restarting};
use crate::wait::eventually;

/// The longest pause before the first start after a death; the shortest is half of it.
const PAUSE_MILLIS: f64 = 2_000.0;

/// So long every program has run when it is killed: who starts it again counts shorter lives as a failure to start.
const LIFE: Duration = Duration::from_millis(1_200);

/// A workspace that a new sidecar has to look through.
const TREE: Tree = Tree { files: 10_000, bytes: 1024 };

pub(super) fn section(report: &mut Report, plan: Plan) -> Result<()> {
    report.begin("Supervision: SIGKILL of a small gateway, of the sidecar, and a configuration that is refused")?;
    let ours = gateway_deaths(report, plan.deaths).context("deaths of the gateway")?;
    if let Some(best) = peers::rows(report, plan.deaths)? {
        // Two of them have a pause of a second that nobody can take from them; the best has none.
        report.row(
            Row::new("supervise.beside", "ours beside the best of them, without a pause")
                .goal("p50", best.as_secs_f64() / ours.as_secs_f64(), Unit::Times, Goal::AtLeast(1.0))
                .beside(
                    "beside it: the same program below s6, supervisord and pm2, killed as often; the fastest of them",
                ),
        );
    }
    bad_configurations(report).context("refused configurations")?;
    sidecar_deaths(report, plan.sidecar_deaths, "supervise.sidecar", "sidecar killed, empty workspace", None)?;
    let label = format!("sidecar killed, {} files", TREE.files);
    sidecar_deaths(report, plan.sidecar_deaths / 3, "supervise.sidecar.files", &label, Some(TREE))?;
    report.end()?;
    flood::section(report, plan)
}

/// Where starts are told.
struct Starts(UnixDatagram);

impl Starts {
    /// In the home of the program.
    fn listen(home: &Path) -> Result<Self> {
        std::fs::create_dir_all(home)?;
        let socket = UnixDatagram::bind(home.join("tell"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// Waits for the next one; its id.
    fn next(&self) -> Result<Pid> {
        let mut text = [0; 16];
        let length = self.0.recv(&mut text).context("nothing was started")?;
        Ok(Pid::from_raw(std::str::from_utf8(&text[..length])?.parse()?))
    }

    /// Kills it; the time until the next one has started, and its id.
    fn kill(&self, program: Pid) -> Result<(Duration, Pid)> {
        let start = Instant::now();
        kill(program, Signal::SIGKILL)?;
        let next = self.next()?;
        Ok((start.elapsed(), next))
    }
}

/// The usual time to a new start where there is no pause.
fn gateway_deaths(report: &mut Report, times: usize) -> Result<Duration> {
    let household = Household::new(Mode::Subreaper)?;
    let starts = Starts::listen(&household.home())?;
    let home = household.start()?;
    let mut gateway = starts.next()?;
    let (mut known, mut back, mut at_once) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..times {
        ready(&home)?;
        std::thread::sleep(LIFE);
        let killed = Timestamp::now();
        let (time, next) = starts.kill(gateway)?;
        let said = home.sidecar_said("gateway process ended", |line| line["pid"] == gateway.as_raw())?;
        let noticed: Timestamp = said["timestamp"].as_str().context("timestamp")?.parse()?;
        known.push(Duration::try_from(noticed.duration_since(killed)).unwrap_or_default());
        back.push(time);
        gateway = next;
    }
    for _ in 0..times {
        ready(&home)?;
        let orders = home.connect()?;
        let start = Instant::now();
        orders.last("exit 0")?;
        gateway = starts.next()?;
        at_once.push(start.elapsed());
    }
    ensure!(pid(&ready(&home)?)? == gateway.as_raw(), "another gateway");
    let (known, back, at_once) = (Latencies::of(known), Latencies::of(back), Latencies::of(at_once));
    report.row(
        Row::new("supervise.known", "gateway killed: known")
            .value("p50", millis(known.percentile(50)), Unit::Millis)
            .goal("max", millis(known.percentile(100)), Unit::Millis, Goal::Below(5.0)),
    );
    report.row(
        Row::new("supervise.back", "gateway killed: started again after a pause of 1 to 2 s")
            .value("p50", millis(back.percentile(50)), Unit::Millis)
            .goal("max", millis(back.percentile(100)), Unit::Millis, Goal::Below(PAUSE_MILLIS + 20.0)),
    );
    report.row(
        Row::new("supervise.at_once", "gateway ends in order: started again without a pause")
            .value("p50", millis(at_once.percentile(50)), Unit::Millis)
            .goal("max", millis(at_once.percentile(100)), Unit::Millis, Goal::Below(20.0)),
    );
    Ok(at_once.percentile(50))
}

/// Waits until the gateway is ready, and makes the next death the first one.
fn ready(home: &Home) -> Result<serde_json::Value> {
    let status = home.ready()?;
    home.gateway.order("start")?.expect(200)?;
    Ok(status)
}

/// From `PUT /config` until the gateway is ready with the old one.
fn bad_configurations(report: &mut Report) -> Result<()> {
    let household =
        Household::new(Mode::Subreaper)?.env("OPENCLAW_GATEWAY_TOKEN", "test-gateway-token-0123456789abcdef");
    std::fs::write(household.data().join(CONFIG), config("old", &json!({})))?;
    let home = household.start()?;
    eventually("the configuration is good", || Ok((home.client.get("/config")?["standing"] == "good").then_some(())))?;
    let cases = [
        ("supervise.refused", "configuration refused at the start: the old one serves", json!({"start": "refuse"})),
        ("supervise.crash", "gateway dies 2 s after it was ready: the old one serves", json!({"crashAfterMs": 2_000})),
    ];
    for (id, label, bad) in cases {
        let start = Instant::now();
        let bad = restarting("bad", &bad);
        let answer =
            home.client.call("PUT", "/config", &[("Content-Type", "application/octet-stream")], bad.as_bytes())?;
        ensure!(answer.expect(422)?.json()?["code"] == "config_rolled_back", "it was kept");
        eventually("the gateway serves with the old configuration", || {
            let last = home.gateway.log_text(50)?;
            let last = last.lines().rev().find(|line| line.contains("ready with")).map(str::to_owned);
            let serves = home.gateway.status()?["state"] == "ready";
            Ok((serves && last.is_some_and(|line| line.contains("old"))).then_some(()))
        })?;
        let took = millis(start.elapsed());
        report.row(Row::new(id, label).goal("time", took, Unit::Millis, Goal::Below(30_000.0)));
    }
    Ok(())
}

/// Each death is the first one of its entrypoint, so that none is one of a row. The connection to the gateway stays.
fn sidecar_deaths(report: &mut Report, times: usize, id: &str, label: &str, tree: Option<Tree>) -> Result<()> {
    let household = Household::new(Mode::Subreaper)?;
    if let Some(tree) = tree {
        tree.make_in(&household.data())?;
    }
    let mut again = Vec::new();
    for round in 0..times {
        let mut home = household.start()?;
        home.ready()?;
        let mut orders = home.connect()?;
        let gateway = home.starts()?;
        let before = home.sidecar()?;
        if round == 0 {
            // The first one had everything to hash.
            eventually("the workspace is known", || {
                let status = home.client.get("/status")?;
                let files = status["watch"]["files"].as_u64().unwrap_or(0);
                Ok(tree.is_none_or(|tree| files >= tree.files as u64).then_some(()))
            })?;
        }
        let start = Instant::now();
        kill(before, Signal::SIGKILL)?;
        // Somebody always listens: a call waits for the next sidecar, unless the dying one took it.
        while home.client.get("/gateway").is_err() {}
        again.push(start.elapsed());
        ensure!(home.sidecar()? != before, "the sidecar did not die");
        orders.give("echo the connection is the same")?;
        ensure!(home.starts()? == gateway, "another gateway was started");
        home.ready()?;
        home.entrypoint.signal(Signal::SIGTERM)?;
        home.entrypoint.wait()?;
    }
    let again = Latencies::of(again);
    report.row(
        Row::new(id, label)
            .value("p50", millis(again.percentile(50)), Unit::Millis)
            .value("p99", millis(again.percentile(99)), Unit::Millis)
            .goal("max", millis(again.percentile(100)), Unit::Millis, Goal::Below(100.0))
            .value("times", again.count() as f64, Unit::Count),
    );
    Ok(())
}
