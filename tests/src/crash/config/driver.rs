//! The rounds, several tenants at once: most of a round is waiting.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};

use super::operator::Database;
use super::plan::Plan;
use super::report::Report;
use super::stage::Stage;
use crate::control::Control;
use crate::crash::Options;
use crate::crash::content::Rng;
use crate::crash::driver::{FAILPOINTS, LONG_CONFIG};
use crate::crash::faults::{Hits, is_of_the_gateway, names};
use crate::crash::oracle::{Finding, Kind};
use crate::process::{bin, repository};
use crate::tenant::Tenant;

/// Rounds that one tenant lives for.
const TENANT_ROUNDS: u64 = 5;

/// Tenants at once.
const LANES: u64 = 6;

/// Runs the machine and prints what came of it; whether every promise was kept.
pub fn run(options: &Options) -> Result<bool> {
    let names = names(&repository().join("sidecar/src"), is_of_the_gateway)?;
    bin(FAILPOINTS).context("the build of the sidecar with failpoints: see tools/lib.sh")?;
    let control = Tenant::control()?;
    let machine = Machine {
        options,
        names: &names,
        database: Database::of(&control),
        report: Mutex::new(Report { seed: options.seed, hits: Hits::new(&names), ..Report::default() }),
        next: AtomicU64::new(0),
        over: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(|| machine.lane(&control))).collect();
        let ends = lanes.into_iter().map(|lane| lane.join().unwrap_or_else(|_| anyhow::bail!("a lane panicked")));
        ends.collect::<Vec<_>>().into_iter().collect::<Result<()>>()
    })?;
    let mut report = machine.report.into_inner().unwrap_or_else(PoisonError::into_inner);
    if options.rounds >= LONG_CONFIG && report.findings.is_empty() && !report.hits.never().is_empty() {
        let what = format!("never died at {}", report.hits.never().join(", "));
        report.findings.push(Finding { kind: Kind::Differs, what });
    }
    let text = if options.json { report.json().to_string() } else { report.text() };
    println!("{text}");
    Ok(report.findings.is_empty())
}

struct Machine<'a> {
    options: &'a Options,
    names: &'a [String],
    database: Database,
    report: Mutex<Report>,
    /// The next tenant.
    next: AtomicU64,
    /// Somebody found something, or could not go on.
    over: AtomicBool,
}

impl Machine<'_> {
    fn lane(&self, control: &Control) -> Result<()> {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let first = number * TENANT_ROUNDS;
            if first >= self.options.rounds || self.over.load(Ordering::Relaxed) {
                return Ok(());
            }
            let end = self.options.rounds.min(first + TENANT_ROUNDS);
            let life = self.life(control, first, end);
            if life.is_err() {
                self.over.store(true, Ordering::Relaxed);
            }
            life?;
        }
    }

    /// All rounds of one tenant.
    fn life(&self, control: &Control, first: u64, end: u64) -> Result<()> {
        let rng = Rng::new(self.options.seed);
        let tenant = Tenant::create(control, &format!("crash-config-{first}@test.example"))?;
        let mut stage = Stage::new(tenant, self.database.clone())?;
        for round in first..end {
            if self.over.load(Ordering::Relaxed) {
                break;
            }
            let plan = Plan::draw(&mut rng.fork(round), round, self.names);
            let (counts, findings) = stage.round(round, &plan).with_context(|| {
                format!("round {round}, {plan:?}; kept in {:?}", stage.keep(round, &plan, &[]).ok())
            })?;
            let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
            report.rounds += 1;
            for victim in &counts.kills {
                *report.kills.entry(format!("{victim:?}").to_lowercase()).or_default() += 1;
            }
            if let (true, Some((name, _))) = (counts.hit, &plan.failpoint) {
                report.hits.add(name);
            }
            if !findings.is_empty() {
                self.over.store(true, Ordering::Relaxed);
                let kept = stage.keep(round, &plan, &findings)?;
                eprintln!("round {round}, {plan:?}: kept in {}", kept.display());
                report.findings.extend(findings);
            } else if report.rounds.is_multiple_of(50) {
                eprintln!("{} rounds", report.rounds);
            }
        }
        let (verdicts, records) = (stage.verdicts()?, stage.records()?);
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, count) in verdicts {
            *report.verdicts.entry(name).or_default() += count;
        }
        report.records += records;
        Ok(())
    }
}
