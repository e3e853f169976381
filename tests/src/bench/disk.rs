//! What the disk does without us.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::report::{Report, Row, Unit};
use super::stats::Latencies;
use super::{CONNECTIONS, FILE_BYTES, Plan};

/// Size of a journal record without content.
const RECORD_BYTES: usize = 200;

/// A bare loop that ran for some time.
pub(super) struct Loop {
    pub(super) latencies: Latencies,
    pub(super) elapsed: Duration,
    /// Operations per second of the best turn.
    best: f64,
}

impl Loop {
    fn of(durations: Vec<Duration>, elapsed: Duration) -> Self {
        let best = durations.len() as f64 / elapsed.as_secs_f64();
        Self { latencies: Latencies::of(durations), elapsed, best }
    }

    /// Both, as if they had been one.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            latencies: self.latencies.and(other.latencies),
            elapsed: self.elapsed + other.elapsed,
            best: self.best.max(other.best),
        }
    }

    /// Operations per second.
    pub(super) fn rate(&self) -> f64 {
        self.latencies.count() as f64 / self.elapsed.as_secs_f64()
    }

    /// Operations per second of the best of its turns.
    pub(super) fn best_rate(&self) -> f64 {
        self.best
    }

    fn row(&self, id: &str, label: &str) -> Row {
        Row::new(id, label).value("rate", self.rate(), Unit::PerSecond).latencies(&self.latencies)
    }
}

/// Measures the disk that the sidecar's data will be on.
pub(super) fn section(report: &mut Report, dir: &Path, plan: Plan) -> Result<()> {
    report.begin("Calibration: bare loops on the same disk")?;
    let record = append(dir, plan.calibration)?;
    report.row(record.row("disk.append", "append 200 B, fdatasync"));
    for writers in [1, CONNECTIONS] {
        let label = format!("replace 4 KiB (fsync, rename, fsync of the directory), {writers} at once");
        report.row(replace(dir, writers, plan.calibration)?.row(&format!("disk.replace.{writers}"), &label));
    }
    report.end()
}

/// Appends small records to one file, with a flush for each.
fn append(dir: &Path, time: Duration) -> Result<Loop> {
    let path = dir.join("calibration.log");
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    let record = [b'r'; RECORD_BYTES];
    let started = Instant::now();
    let durations = timed(started + time, |_| {
        file.write_all(&record)?;
        Ok(file.sync_data()?)
    })?;
    let elapsed = started.elapsed();
    fs::remove_file(path)?;
    Ok(Loop::of(durations, elapsed))
}

/// Replaces files durably, with two flushes each: the least that any durable write of a file costs. Each of the
/// writers has a file of its own, all in one directory.
pub(super) fn replace(dir: &Path, writers: usize, time: Duration) -> Result<Loop> {
    let dir = dir.join("calibration");
    fs::create_dir_all(&dir)?;
    let started = Instant::now();
    let results: Vec<Result<Vec<Duration>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|writer| {
                scope.spawn({
                    let dir = &dir;
                    move || replace_one(dir, writer, started + time)
                })
            })
            .collect();
        let ended = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a writer panicked")));
        ended.map(|joined| joined.and_then(|result| result)).collect()
    });
    let elapsed = started.elapsed();
    let durations: Vec<Vec<Duration>> = results.into_iter().collect::<Result<_>>()?;
    fs::remove_dir_all(&dir)?;
    Ok(Loop::of(durations.concat(), elapsed))
}

fn replace_one(dir: &Path, writer: usize, deadline: Instant) -> Result<Vec<Duration>> {
    let (staged, place) = (dir.join(format!("{writer}.new")), dir.join(writer.to_string()));
    let handle = File::open(dir)?;
    let mut content = [b'c'; FILE_BYTES];
    timed(deadline, |round| {
        content[..8].copy_from_slice(&round.to_le_bytes());
        let mut file = File::create(&staged)?;
        file.write_all(&content)?;
        file.sync_all()?;
        fs::rename(&staged, &place)?;
        Ok(handle.sync_all()?)
    })
}

/// Does something until the deadline, at least once.
fn timed(deadline: Instant, mut work: impl FnMut(u64) -> Result<()>) -> Result<Vec<Duration>> {
    let mut durations = Vec::new();
    loop {
        let started = Instant::now();
        work(durations.len() as u64)?;
        let ended = Instant::now();
        durations.push(ended - started);
        if ended >= deadline {
            return Ok(durations);
        }
    }
}
