//! The benchmark: what is measured, in which order, and how it is told.
//!
//! Nothing here asserts a time. Everything that depends on the disk is set against a bare loop on the same disk
//! moments before, and counted in flushes, which are the same on every machine.

mod control;
mod disk;
mod footprint;
mod front;
mod load;
mod machine;
mod proc;
mod reads;
mod report;
mod stats;
mod sync;
mod writes;

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::sidecar::Setup;
use report::Report;

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
}

impl Plan {
    fn of(options: Options) -> Self {
        let seconds = Duration::from_secs;
        if options.quick {
            Self { load: seconds(1), calibration: seconds(1), turns: 5, idle: seconds(2), starts: 5, sync_rounds: 20 }
        } else {
            Self {
                load: seconds(5),
                calibration: seconds(3),
                turns: 10,
                idle: seconds(5),
                starts: 20,
                sync_rounds: 100,
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
    disk::section(report, setup.outside(), plan).context("calibration")?;
    footprint::section(report, plan).context("footprint")?;

    let mut memory = Vec::new();
    let sidecar = setup.start()?;
    reads::section(report, &sidecar, plan).context("reads")?;
    memory.push(footprint::loaded(&sidecar, "reads", "sidecar after the reads")?);
    writes::section(report, &sidecar, plan).context("writes")?;
    let files = sidecar.status()?["watch"]["files"].as_u64().unwrap_or(0);
    memory.push(footprint::loaded(&sidecar, "writes", &format!("sidecar after the writes, {files} files"))?);
    sidecar.stop()?;
    writes::memory_section(report, plan).context("writes in memory")?;
    front::section(report, plan).context("front door")?;

    let mut synced = sync::section(report, plan).context("with control");
    memory.extend(synced.as_mut().map(std::mem::take).unwrap_or_default());
    footprint::loaded_section(report, memory)?;
    synced.map(drop)
}
