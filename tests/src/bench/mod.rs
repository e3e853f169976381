//! The benchmark: what is measured, in which order, and how it is told.
//!
//! Nothing here asserts a time. What depends on the machine is set against something that is measured beside it in the same run, by
//! turns: a bare loop on the same disk, `find` and `sha256sum` over the same files, the program that was there before. Writes are
//! counted in flushes too, which are the same on every machine. Each row says what a missed goal of it means.

mod burst;
mod control;
mod disk;
mod figure;
mod footprint;
mod front;
mod idle;
mod load;
mod machine;
mod peer;
mod proc;
mod reads;
mod report;
mod scale;
mod start;
mod stats;
mod supervise;
mod sync;
mod tree;
mod watched;
mod writes;

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::sidecar::Setup;
use report::{Report, Row};
use tree::Tree;

/// Bytes of the file that is read and written.
const FILE_BYTES: usize = 4096;

/// Connections of the loads that have more than one.
const CONNECTIONS: usize = 8;

/// What the command line says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Short runs.
    pub quick: bool,
    /// One JSON document instead of lines.
    pub json: bool,
    /// Supervision and nothing else.
    pub supervise: bool,
}

/// How long and how often everything is done.
#[derive(Clone, Copy)]
struct Plan {
    /// One load.
    load: Duration,
    /// One bare loop.
    calibration: Duration,
    /// Turns that a load and its bare loop take, because a disk may change its mind within seconds.
    turns: u32,
    /// The look at an idle process.
    idle: Duration,
    starts: usize,
    sync_rounds: usize,
    /// The large workspace, and how often it is hashed for the first time and listed again.
    tree: Tree,
    hashes: usize,
    restarts: usize,
    /// The look at what wakes a process.
    rest: Duration,
    /// Files that change at once.
    burst_files: usize,
    /// Deaths of a gateway, and of a sidecar.
    deaths: usize,
    sidecar_deaths: usize,
    /// Bytes of output of a gateway.
    flood: u64,
    /// Starts of the real gateway.
    gateway_starts: usize,
}

impl Plan {
    fn of(options: Options) -> Self {
        let seconds = Duration::from_secs;
        if options.quick {
            Self {
                load: seconds(1),
                calibration: seconds(1),
                turns: 5,
                idle: seconds(2),
                starts: 5,
                sync_rounds: 20,
                tree: Tree { files: 20_000, bytes: 10 * 1024 },
                hashes: 2,
                restarts: 5,
                rest: seconds(10),
                burst_files: 2_000,
                deaths: 5,
                sidecar_deaths: 15,
                flood: 500_000_000,
                gateway_starts: 3,
            }
        } else {
            Self {
                load: seconds(5),
                calibration: seconds(3),
                turns: 10,
                idle: seconds(5),
                starts: 20,
                sync_rounds: 100,
                tree: Tree { files: 200_000, bytes: 10 * 1024 },
                hashes: 2,
                restarts: 5,
                rest: seconds(60),
                burst_files: 10_000,
                deaths: 20,
                sidecar_deaths: 60,
                flood: 2_000_000_000,
                gateway_starts: 9,
            }
        }
    }
}

/// Measures everything and prints it. Fails when something could not be measured, after printing the rest.
pub fn run(options: Options) -> Result<()> {
    let plan = Plan::of(options);
    let mut report = Report::new(options);
    let outcome = measure(&mut report, plan);
    report.finish()?;
    outcome
}

fn measure(report: &mut Report, plan: Plan) -> Result<()> {
    let setup = Setup::new()?;
    machine::describe(report, &setup)?;
    if report.options().supervise {
        supervise::section(report, plan).context("supervision")?;
        return start::section(report, plan).context("the start of the gateway");
    }
    disk::section(report, setup.outside(), plan).context("calibration")?;

    // A part that cannot be measured here must not hide the others.
    let mut failures = Vec::new();
    let mut memory = Vec::new();
    let outcome = footprint::section(report, plan).context("footprint");
    failures.extend(outcome.err());
    let outcome = reads_and_writes(report, &setup, &mut memory, plan);
    failures.extend(outcome.err());
    let outcome = writes::memory_section(report, plan).context("writes in memory");
    failures.extend(outcome.err());
    let outcome = peer::section(report, plan).context("the old sidecar's jobs");
    failures.extend(outcome.err());
    let outcome = front::section(report, plan).context("front door");
    failures.extend(outcome.err());
    let outcome = supervise::section(report, plan).context("supervision");
    failures.extend(outcome.err());
    let outcome = start::section(report, plan).context("the start of the gateway");
    failures.extend(outcome.err());
    let outcome = scale::section(report, plan).context("large workspace");
    failures.extend(outcome.err());
    let outcome = idle::section(report, plan).context("at rest");
    failures.extend(outcome.err());
    match sync::section(report, plan).context("with control") {
        Ok(rows) => memory.extend(rows),
        Err(error) => failures.push(error),
    }
    report.begin("A burst: many files changed at once, against plain SQL that writes the same rows and contents")?;
    let outcome = burst::run(plan).context("burst").map(|rows| rows.into_iter().for_each(|row| report.row(row)));
    report.end()?;
    failures.extend(outcome.err());
    footprint::loaded_section(report, memory)?;
    for failure in &failures {
        report.warn(&format!("not measured: {failure:#}"))?;
    }
    failures.into_iter().next().map_or(Ok(()), Err)
}

fn reads_and_writes(report: &mut Report, setup: &Setup, memory: &mut Vec<Row>, plan: Plan) -> Result<()> {
    let sidecar = setup.start()?;
    reads::section(report, &sidecar, plan).context("reads")?;
    memory.push(footprint::loaded(&sidecar, "reads", "sidecar after the reads")?);
    writes::section(report, &sidecar, plan).context("writes")?;
    let files = sidecar.status()?["watch"]["files"].as_u64().unwrap_or(0);
    memory.push(footprint::loaded(&sidecar, "writes", &format!("sidecar after the writes, {files} files"))?);
    sidecar.stop()?;
    Ok(())
}
