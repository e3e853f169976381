//! What a sidecar costs while it does nothing, and how soon it answers.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::report::{Goal, Report, Row, Unit, millis};
use super::stats::Latencies;
use super::{FILE_BYTES, Plan, proc};
use crate::http;
use crate::process::{PATIENCE, bin};
use crate::sidecar::{Setup, Sidecar};

/// A workspace of some size: directories, and files in each.
const DIRECTORIES: usize = 50;
const FILES_EACH: usize = 20;

/// Pause between two attempts to get a first answer: the resolution of that figure.
const PAUSE: Duration = Duration::from_micros(200);

const SIZE: Goal = Goal::Below(8.0);
const START_MILLIS: Goal = Goal::Below(20.0);
const IDLE: Goal = Goal::Below(8.0);
const LOADED: Goal = Goal::Below(20.0);

/// Binary, start, and the idle process, on an empty volume and on one with a workspace.
pub(super) fn section(report: &mut Report, plan: Plan) -> Result<()> {
    report.begin("Footprint: the sidecar alone, idle")?;
    report.row(Row::new("binary", "binary, winston-sidecar").goal(
        "size",
        size("winston-sidecar")?,
        Unit::Megabytes,
        SIZE,
    ));
    for name in ["winston-control", "winston-entrypoint"] {
        let row = Row::new(format!("binary.{name}"), format!("binary, {name}"));
        report.row(row.value("size", size(name)?, Unit::Megabytes));
    }
    report.end()?;

    let volumes = [
        ("empty", "empty volume".to_owned(), Setup::new()?),
        ("filled", format!("{} files", DIRECTORIES * FILES_EACH), filled()?),
    ];
    let mut idle = Vec::new();
    for (id, name, setup) in &volumes {
        report.row(start_row(setup, plan.starts, id, name)?);
        let sidecar = setup.start()?;
        idle.push(memory_row(sidecar.pid(), &format!("idle.{id}"), &format!("idle, {name}"), Some(IDLE))?);
        idle.push(rest_row(&sidecar, plan.idle, id, name)?);
    }
    report.end()?;
    idle.into_iter().for_each(|row| report.row(row));
    report.end()
}

/// Memory of a sidecar that has worked, once it has come to rest, and the most that it ever had.
pub(super) fn loaded(sidecar: &Sidecar, id: &str, label: &str) -> Result<Row> {
    let pid = sidecar.pid();
    let row = memory_row(pid, id, label, Some(LOADED))?;
    Ok(row.goal("peak", megabytes(proc::peak_rss(pid)?), Unit::Megabytes, LOADED))
}

/// The same of another process, which has no goal.
pub(super) fn other(pid: u32, id: &str, label: &str) -> Result<Row> {
    Ok(memory_row(pid, id, label, None)?.value("peak", megabytes(proc::peak_rss(pid)?), Unit::Megabytes))
}

/// Memory of everything that has worked.
pub(super) fn loaded_section(report: &mut Report, rows: Vec<Row>) -> Result<()> {
    report.begin("Memory after all of this")?;
    rows.into_iter().for_each(|row| report.row(row));
    report.end()
}

/// Memory of a process once it has come to rest.
pub(super) fn memory_row(pid: u32, id: &str, label: &str, goal: Option<Goal>) -> Result<Row> {
    let memory = proc::settled_memory(pid)?;
    let row = Row::new(format!("memory.{id}"), format!("memory, {label}"));
    let row = match goal {
        Some(goal) => row.goal("rss", megabytes(memory.rss), Unit::Megabytes, goal),
        None => row.value("rss", megabytes(memory.rss), Unit::Megabytes),
    };
    Ok(row
        .value("pss", megabytes(memory.pss), Unit::Megabytes)
        .value("private", megabytes(memory.private), Unit::Megabytes)
        .value("dirty", megabytes(memory.dirty), Unit::Megabytes)
        .value("threads", proc::threads(pid)? as f64, Unit::Count))
}

/// What the process does when there is nothing to do.
fn rest_row(sidecar: &Sidecar, window: Duration, id: &str, name: &str) -> Result<Row> {
    let pid = sidecar.pid();
    let (switches, time, started) = (proc::switches(pid)?, proc::processor_time(pid)?, Instant::now());
    std::thread::sleep(window);
    let (switches, time) = (proc::switches(pid)?.saturating_sub(switches), proc::processor_time(pid)? - time);
    Ok(Row::new(format!("rest.{id}"), format!("{} s of rest, {name}", window.as_secs()))
        .value("context switches", switches as f64, Unit::Count)
        .value("processor", time.as_secs_f64() / started.elapsed().as_secs_f64() * 100.0, Unit::Percent))
}

fn start_row(setup: &Setup, times: usize, id: &str, name: &str) -> Result<Row> {
    // Once unmeasured: what a first start creates is there afterwards, and the binary is in memory.
    first_answer(setup)?;
    let durations = (0..times).map(|_| first_answer(setup)).collect::<Result<_>>()?;
    let latencies = Latencies::of(durations);
    Ok(Row::new(format!("start.{id}"), format!("exec → 200 on /health, {name}"))
        .goal("p50", millis(latencies.percentile(50)), Unit::Millis, START_MILLIS)
        .value("max", millis(latencies.percentile(100)), Unit::Millis)
        .value("starts", times as f64, Unit::Count))
}

/// Killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Time from before the fork until the first 200.
fn first_answer(setup: &Setup) -> Result<Duration> {
    let address = http::free_address()?;
    let mut command = setup.clone().env("WINSTON_SIDECAR_LISTEN", &address.to_string()).command()?;
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let started = Instant::now();
    let _process = Process(command.spawn()?);
    loop {
        match http::request(address, "GET", "/health", &[], b"") {
            Ok(answer) if answer.status == 200 => return Ok(started.elapsed()),
            Ok(answer) => bail!("/health answered {}: {}", answer.status, answer.text()),
            Err(error) if started.elapsed() > PATIENCE => return Err(error),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// A volume with a workspace that the agent has filled.
fn filled() -> Result<Setup> {
    let setup = Setup::new()?;
    for directory in 0..DIRECTORIES {
        let path = setup.data().join(format!("workspace/notes/{directory:03}"));
        fs::create_dir_all(&path)?;
        for file in 0..FILES_EACH {
            let content = format!("{directory}/{file}\n").repeat(FILE_BYTES / 8);
            fs::write(path.join(format!("{file:03}.md")), content)?;
        }
    }
    // The first start records them all; what is measured is a start that finds nothing new.
    setup.start()?.stop()?;
    Ok(setup)
}

fn size(program: &str) -> Result<f64> {
    Ok(megabytes(fs::metadata(bin(program)?)?.len()))
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
