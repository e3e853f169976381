//! The rounds: work, kills, quiet, judgement.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::agent::Agent;
use super::callers::{Caller, Flow, KINDS, Kind};
use super::content::Rng;
use super::faults::{Hits, Plan, Victim, is_of_the_gateway, names};
use super::log::Log;
use super::observe::Observer;
use super::oracle::{Finding, Kind as Broken, Outcome, Who, judge};
use super::pusher::Pusher;
use super::report::Report;
use crate::control::{Control, signal};
use crate::process::{bin, repository};
use crate::sidecar::{Setup, Sidecar};
use crate::tenant::{Tenant, block_on};
use crate::wait::{eventually, within};

/// Rounds that one tenant lives for: long enough for old states to matter, short enough to judge its whole history each time.
const TENANT_ROUNDS: u64 = 10;

/// Callers of the file API at once.
const CALLERS: u64 = 4;

/// How long a round waits for its failpoint.
const FAILPOINT_TIME: Duration = Duration::from_millis(700);

/// From here on every failpoint must have been hit.
const LONG: u64 = 1000;
/// The same for the fewer failpoints of configurations.
pub(super) const LONG_CONFIG: u64 = 250;

/// The build with failpoints.
pub(super) const FAILPOINTS: &str = "winston-sidecar-failpoints";

/// What a run is.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many rounds.
    pub rounds: u64,
    /// What they follow from.
    pub seed: u64,
    /// Figures as JSON.
    pub json: bool,
    /// Changes of the configuration instead of files.
    pub config: bool,
}

impl Default for Options {
    fn default() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::from(now.subsec_nanos()));
        Self { rounds: 50, seed: now, json: false, config: false }
    }
}

/// Runs the machine and prints what came of it; whether every promise was kept.
pub fn run(options: &Options) -> Result<bool> {
    let names = names(&repository().join("sidecar/src"), |name| !is_of_the_gateway(name))?;
    bin(FAILPOINTS).context("the build of the sidecar with failpoints: see tools/lib.sh")?;
    let mut report = Report { seed: options.seed, hits: Hits::new(&names), ..Report::default() };
    let rng = Rng::new(options.seed);
    let mut control = Tenant::control()?;
    let mut kinds = Vec::new();
    let mut round = 0;
    while round < options.rounds && report.findings.is_empty() {
        let mut stage = Stage::new(&control, round)?;
        if kinds.is_empty() {
            kinds = probe(&stage, &mut report)?;
        }
        let end = options.rounds.min(round + TENANT_ROUNDS);
        while round < end && report.findings.is_empty() {
            let plan = Plan::draw(&mut rng.fork(round), round, &names);
            report.findings =
                stage.round(&mut control, &plan, &rng.fork(round << 8), &kinds, &mut report).with_context(|| {
                    format!("round {round}, {plan:?}; kept in {:?}", stage.keep(&control, round, &plan, &[]).ok())
                })?;
            round += 1;
            report.rounds = round;
            if !report.findings.is_empty() {
                let kept = stage.keep(&control, round - 1, &plan, &report.findings)?;
                eprintln!("round {}, {plan:?}: kept in {}", round - 1, kept.display());
            } else if round.is_multiple_of(50) {
                eprintln!("{round} rounds");
            }
        }
        report.count_ops(&stage);
    }
    if options.rounds >= LONG && !report.hits.never().is_empty() {
        let never = report.hits.never().join(", ");
        report.findings.push(Finding { kind: Broken::Differs, what: format!("never died at {never}") });
    }
    let text = if options.json { report.json().to_string() } else { report.text() };
    println!("{text}");
    Ok(report.findings.is_empty())
}

impl Report {
    fn count_ops(&mut self, stage: &Stage) {
        for op in stage.log.ops() {
            let done = matches!(op.outcome, Outcome::Done(_));
            match op.who {
                Who::Api | Who::Push => self.acked += u64::from(done),
                Who::Agent | Who::AgentInPlace => self.agent += u64::from(done),
            }
        }
        self.records += stage.records;
    }
}

/// Which kinds of requests this sidecar has, tried out on a tenant of its own.
fn probe(stage: &Stage, report: &mut Report) -> Result<Vec<Kind>> {
    let sidecar = Setup::new()?.start()?;
    let client = sidecar.client();
    let mut kinds = Vec::new();
    for (kind, name, _, everywhere) in KINDS {
        let log = Log::default();
        let mut caller = Caller { client: &client, log: &log, rng: Rng::new(0), home: format!("workspace/{name}") };
        caller.request(*kind);
        let works = *everywhere || log.ops().last().is_some_and(|op| matches!(op.outcome, Outcome::Done(_)));
        if works {
            kinds.push(*kind);
        } else {
            eprintln!("not used: {name}, which this sidecar does not have");
            report.unused.push((*name).to_owned());
        }
    }
    ensure!(stage.sidecar.is_none(), "probed too late");
    Ok(kinds)
}

/// A tenant and its processes.
struct Stage {
    tenant: Tenant,
    setup: Setup,
    sidecar: Option<Sidecar>,
    log: Arc<Log>,
    observer: Observer,
    records: u64,
}

impl Stage {
    fn new(control: &Control, round: u64) -> Result<Self> {
        let tenant = Tenant::create(control, &format!("crash-{round}@test.example"))?;
        // Small segments, so that rotation and removal are part of it.
        let setup = tenant.sidecar()?.env("WINSTON_JOURNAL_SEGMENT_BYTES", "65536");
        Ok(Self { tenant, setup, sidecar: None, log: Arc::default(), observer: Observer::default(), records: 0 })
    }

    fn round(
        &mut self,
        control: &mut Control,
        plan: &Plan,
        rng: &Rng,
        kinds: &[Kind],
        report: &mut Report,
    ) -> Result<Vec<Finding>> {
        if self.arm(plan)? {
            self.work(control, plan, rng, kinds, report)?;
        } else {
            // It died at its failpoint before it listened.
            plan.failpoint.iter().for_each(|(name, _)| report.hits.add(name));
            for victim in &plan.victims {
                kill_server(*victim, control)?;
            }
        }
        self.revive(control, plan, report)?;
        let sidecar = self.sidecar.as_ref().context("no sidecar")?;
        let restless = self.observer.settle(&self.tenant, sidecar);
        let ops = self.log.ops();
        let seen = self.observer.look(&self.tenant, sidecar, &ops)?;
        self.records = seen.history.len() as u64;
        let mut findings = judge(&ops, &seen);
        findings.extend(restless.map(|what| Finding { kind: Broken::Differs, what: format!("never quiet: {what}") }));
        Ok(findings)
    }

    /// Starts the sidecar that the plan wants; false when it died of that at once.
    fn arm(&mut self, plan: &Plan) -> Result<bool> {
        match (&plan.failpoint, &self.sidecar) {
            (None, Some(_)) => return Ok(true),
            (None, None) => self.start(self.setup.clone())?,
            (Some((name, visit)), _) => {
                self.kill_sidecar()?;
                let setup =
                    self.setup.clone().program(FAILPOINTS).env("WINSTON_FAILPOINTS", &format!("{name}=kill@{visit}"));
                if let Err(error) = self.start(setup) {
                    let by_itself = format!("{error:#}").contains("signal: 9");
                    return if by_itself { Ok(false) } else { Err(error) };
                }
            }
        }
        Ok(true)
    }

    fn start(&mut self, setup: Setup) -> Result<()> {
        keep_log(&setup)?;
        self.sidecar = Some(setup.start()?);
        Ok(())
    }

    fn kill_sidecar(&mut self) -> Result<()> {
        if let Some(sidecar) = self.sidecar.take() {
            sidecar.kill()?;
        }
        Ok(())
    }

    /// Everybody works until the kills are done.
    fn work(
        &mut self,
        control: &mut Control,
        plan: &Plan,
        rng: &Rng,
        kinds: &[Kind],
        report: &mut Report,
    ) -> Result<()> {
        let stop = AtomicBool::new(false);
        let sidecar = self.sidecar.as_mut().context("no sidecar")?;
        let (client, log, data) = (sidecar.client(), &*self.log, self.setup.data());
        std::thread::scope(|scope| {
            for number in 0..CALLERS {
                let (client, stop) = (&client, &stop);
                let home = format!("workspace/caller-{number}");
                scope.spawn(move || {
                    let mut caller = Caller { client, log, rng: rng.fork(number), home };
                    while !stop.load(Ordering::Relaxed) && caller.step(kinds) == Flow::Answered {}
                });
            }
            let (outside, stopped) = (self.setup.outside(), &stop);
            let agent = scope.spawn(move || -> std::io::Result<()> {
                let mut agent = Agent { data, outside, log, rng: rng.fork(CALLERS) };
                while !stopped.load(Ordering::Relaxed) {
                    std::thread::park_timeout(agent.step()?);
                }
                Ok(())
            });
            let (tenant, stopped) = (&self.tenant, &stop);
            scope.spawn(move || {
                let mut pusher = Pusher { tenant, log, rng: rng.fork(CALLERS + 1) };
                while !stopped.load(Ordering::Relaxed) {
                    pusher.step();
                    std::thread::park_timeout(Duration::from_millis(10));
                }
            });
            let killed = kills(sidecar, control, plan, report);
            stop.store(true, Ordering::Relaxed);
            agent.join().map_err(|_| anyhow::anyhow!("the agent panicked"))?.context("the agent")?;
            killed
        })
    }

    /// Whatever is dead lives again, and the sidecar is the one that is shipped.
    fn revive(&mut self, control: &mut Control, plan: &Plan, report: &mut Report) -> Result<()> {
        let sidecar_died = match &mut self.sidecar {
            Some(sidecar) => sidecar.ended()?.is_some() || plan.failpoint.is_some(),
            None => true,
        };
        if sidecar_died && plan.sidecar_first {
            self.kill_sidecar()?;
            self.start(self.setup.clone())?;
        }
        if plan.victims.contains(&Victim::Control) {
            report.control_starts += block_on(control.start_until_it_stays())? - 1;
        }
        if plan.victims.contains(&Victim::Database) {
            within(Duration::from_secs(60), "the database", || {
                Ok((self.tenant.call("GET", "/health", &[], b"")?.status == 200).then_some(()))
            })?;
        }
        if sidecar_died && !plan.sidecar_first {
            self.kill_sidecar()?;
            self.start(self.setup.clone())?;
        }
        Ok(())
    }

    /// Copies what a post-mortem needs out of the temporary directory.
    fn keep(&self, control: &Control, round: u64, plan: &Plan, findings: &[Finding]) -> Result<PathBuf> {
        let kept = std::env::temp_dir().join(format!("winston-crash-{}-{round}", std::process::id()));
        std::fs::create_dir_all(&kept)?;
        let copied =
            std::process::Command::new("cp").arg("-a").arg(self.setup.outside()).arg(kept.join("tenant")).status()?;
        ensure!(copied.success(), "cp: {copied}");
        std::fs::write(kept.join("control.log"), control.log())?;
        let mut ops = std::fs::File::create(kept.join("operations.txt"))?;
        writeln!(ops, "{plan:?}\n{findings:#?}")?;
        for op in self.log.ops() {
            writeln!(ops, "{op:?}")?;
        }
        Ok(kept)
    }
}

/// The log of the sidecar before goes to the others.
fn keep_log(setup: &Setup) -> Result<()> {
    let log: &Path = &setup.outside().join("sidecar.log");
    let Ok(text) = std::fs::read(log) else { return Ok(()) };
    let all = std::fs::OpenOptions::new().create(true).append(true).open(setup.outside().join("sidecar.all.log"));
    Ok(all?.write_all(&text)?)
}

/// Waits for the moment, and kills.
fn kills(sidecar: &mut Sidecar, control: &mut Control, plan: &Plan, report: &mut Report) -> Result<()> {
    let start = Instant::now();
    let time = if plan.failpoint.is_some() && plan.victims.is_empty() { FAILPOINT_TIME } else { plan.before };
    while start.elapsed() < time && sidecar.ended()?.is_none() {
        std::thread::park_timeout(Duration::from_millis(1));
    }
    if let (Some((name, _)), Some(status)) = (&plan.failpoint, sidecar.ended()?) {
        ensure!(status.signal() == Some(Signal::SIGKILL as i32), "the sidecar ended with {status}");
        report.hits.add(name);
    }
    for victim in &plan.victims {
        match victim {
            Victim::Sidecar if sidecar.ended()?.is_none() => {
                signal(i32::try_from(sidecar.pid())?, Signal::SIGKILL);
                eventually("the end of the sidecar", || sidecar.ended())?;
            }
            victim => kill_server(*victim, control)?,
        }
        *report.kills.entry(format!("{victim:?}").to_lowercase()).or_default() += 1;
        std::thread::park_timeout(plan.between);
    }
    Ok(())
}

fn kill_server(victim: Victim, control: &mut Control) -> Result<()> {
    match victim {
        Victim::Sidecar => {}
        Victim::Control => control.kill(),
        Victim::Database => match control.database_pid() {
            Some(pid) => signal(pid, Signal::SIGKILL),
            None => bail!("control has no database"),
        },
    }
    Ok(())
}
