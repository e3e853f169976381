//! The two ways between a tenant's disk and control: an agent's edit going up, an operator's push coming down.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use sha2::{Digest as _, Sha256};
use winston_wire::ContentHash;

use super::control::Control;
use super::report::{Goal, Report, Row, Unit};
use super::stats::Latencies;
use super::{Plan, footprint, writes};
use crate::process::PATIENCE;
use crate::sidecar::{Setup, Sidecar};

/// In milliseconds.
const SLOWEST: Goal = Goal::Below(500.0);

/// Pause between two looks at control: the resolution of that figure.
const ROW_PAUSE: Duration = Duration::from_millis(1);

/// Pause between two looks at the disk: the resolution of that one.
const DISK_PAUSE: Duration = Duration::from_micros(200);

const EDITED: &str = "workspace/bench-edit.md";
const PUSHED: &str = "workspace/bench-push.md";

/// Measures both ways; the memory of both ends afterwards.
pub(super) fn section(report: &mut Report, plan: Plan) -> Result<Vec<Row>> {
    report.begin("With control: one tenant, everything on this machine")?;
    let control = Control::start()?;
    let tenant = control.tenant()?;
    let setup = Setup::new()?
        .env("WINSTON_CONTROL_URL", &format!("http://{}", control.address()))
        .env("WINSTON_SIDECAR_TOKEN", &tenant.token);
    let sidecar = setup.start()?;
    // The first round of each finds connections, plans and pages cold.
    edit(&control, &sidecar, &tenant.id, 0)?;
    push(&control, &sidecar, &tenant.id, 0)?;
    let rounds = 1..=plan.sync_rounds as u64;

    let edits = rounds.clone().map(|round| edit(&control, &sidecar, &tenant.id, round)).collect::<Result<_>>()?;
    report.row(row("sync.edit", "agent's edit → row in control", &Latencies::of(edits)));
    let pushes = rounds.map(|round| push(&control, &sidecar, &tenant.id, round)).collect::<Result<_>>()?;
    report.row(row("sync.push", "push to control → bytes on disk", &Latencies::of(pushes)));
    report.end()?;
    let memory = vec![
        footprint::loaded(&sidecar, "synced", "sidecar after edits and pushes")?,
        footprint::other(control.pid(), "control", "control, without its database")?,
    ];
    sidecar.stop()?;
    Ok(memory)
}

fn row(id: &str, label: &str, latencies: &Latencies) -> Row {
    Row::new(id, label).latencies_p99(latencies, SLOWEST).value("rounds", latencies.count() as f64, Unit::Count)
}

/// Text that no round had before.
fn content(round: u64) -> Vec<u8> {
    let mut content = format!("Round {round}.\n").into_bytes();
    content.extend(writes::content());
    content
}

/// From before the write until control's newest change is this one.
fn edit(control: &Control, sidecar: &Sidecar, tenant: &str, round: u64) -> Result<Duration> {
    let content = content(round);
    let hash = ContentHash::from_bytes(Sha256::digest(&content).into()).to_string();
    let target = format!("/api/tenants/{tenant}/changes?limit=1");
    let started = Instant::now();
    sidecar.agent_writes(EDITED, &content)?;
    poll("the edit in control", started, ROW_PAUSE, || {
        let changes = control.call("GET", &target, &[], b"")?.expect(200)?.json()?;
        Ok(changes["changes"][0]["hash"] == hash.as_str())
    })
}

/// From before the request until the file has these bytes.
fn push(control: &Control, sidecar: &Sidecar, tenant: &str, round: u64) -> Result<Duration> {
    let content = content(round);
    let target = format!("/api/tenants/{tenant}/files/{PUSHED}");
    let path = sidecar.data().join(PUSHED);
    let started = Instant::now();
    // The file may be there before control has answered.
    std::thread::scope(|scope| {
        let arrival = scope.spawn(|| poll("the push on disk", started, DISK_PAUSE, || has(&path, &content)));
        let headers = [("Content-Type", "application/octet-stream")];
        control.call("PUT", &target, &headers, &content)?.expect(200)?;
        arrival.join().map_err(|_| anyhow!("the thread that waits for the file panicked"))?
    })
}

fn has(path: &Path, content: &[u8]) -> Result<bool> {
    match fs::read(path) {
        Ok(found) => Ok(found == content),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Looks until it is so; the time since `started`.
fn poll(what: &str, started: Instant, pause: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<Duration> {
    loop {
        if look().with_context(|| what.to_owned())? {
            return Ok(started.elapsed());
        }
        anyhow::ensure!(started.elapsed() < PATIENCE, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::sleep(pause);
    }
}
