//! More output than anybody can keep, and lines without an end.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::super::Plan;
use super::super::figure::{Goal, Row, Unit};
use super::super::proc;
use super::super::report::Report;
use crate::household::{Home, Household};
use crate::process::Mode;
use crate::wait::eventually;

/// Bytes of a line, its end included.
const LINE: u64 = 100;

/// Resident memory that output may cost, in megabytes.
const MEMORY: Goal = Goal::Below(16.0);

/// Longest time that a write of the gateway's may wait, in milliseconds.
const BLOCKED: Goal = Goal::Below(100.0);

const BESIDE: &str = "beside it: nothing. The gateway writes as fast as it can, so a rate below the goal or a long write means that the sidecar reads too slowly";

pub(super) fn section(report: &mut Report, plan: Plan) -> Result<()> {
    report.begin("Output of the gateway, written as fast as it is taken")?;
    let household = Household::new(Mode::Subreaper)?;
    let home = household.start()?;
    home.ready()?;
    for (id, label, bytes, length) in [
        ("flood.lines", format!("{} MB in lines of {LINE} bytes", plan.flood / 1_000_000), plan.flood, LINE),
        ("flood.endless", format!("one line of {} MB", plan.flood / 2_000_000), plan.flood / 2, 0),
    ] {
        let row = flood(&home, id, &label, bytes, length)?;
        report.row(row);
    }
    report.end()
}

fn flood(home: &Home, id: &str, label: &str, bytes: u64, length: u64) -> Result<Row> {
    let sidecar = u32::try_from(home.sidecar()?.as_raw())?;
    let before = proc::settled_memory(sidecar)?.rss;
    let counted = lines(home)?;
    let told = home.connect()?.ask(&format!("flood {bytes} {length}"))?;
    let told: Vec<u64> = told.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [written, lines_written, nanos, longest] = told[..] else { anyhow::bail!("{told:?}") };
    // Whatever was read is kept or dropped; what was dropped is counted with the next line that is kept.
    let (mut orders, mut said) = (home.connect()?, 0);
    let _ = eventually("every line is counted", || {
        said += 1;
        orders.give("say a line after the flood")?;
        Ok((lines(home)? == counted + lines_written + said).then_some(()))
    });
    let uncounted = (counted + lines_written + said) as f64 - lines(home)? as f64;
    let peak = proc::peak_rss(sidecar)?;
    let seconds = Duration::from_nanos(nanos).as_secs_f64();
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    Ok(Row::new(id, label)
        .goal("rate", megabytes(written) / seconds, Unit::MegabytesPerSecond, Goal::AtLeast(100.0))
        .goal("longest write", longest as f64 / 1e6, Unit::Millis, BLOCKED)
        .goal("memory", megabytes(peak.saturating_sub(before)), Unit::Megabytes, MEMORY)
        .goal("lines uncounted", uncounted, Unit::Count, Goal::Exactly(0.0))
        .beside(BESIDE))
}

/// Lines that were kept or dropped so far.
fn lines(home: &Home) -> Result<u64> {
    let metrics = home.client.call("GET", "/metrics", &[], b"")?.expect(200)?.text();
    let count = |fate: &str| {
        let name = format!("winston_gateway_log_lines_total{{fate=\"{fate}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name)).with_context(|| name.clone())?;
        Ok::<u64, anyhow::Error>(line.parse()?)
    };
    Ok(count("kept")? + count("dropped")?)
}
