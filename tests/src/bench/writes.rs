//! Durable `PUT` of a small file.

use std::path::Path;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::disk::Loop;
use super::load::{Load, Outcome, Requests};
use super::report::{Goal, Report, Row, Unit};
use super::{CONNECTIONS, FILE_BYTES, Plan, disk, machine};
use crate::process::TEST_TOKEN;
use crate::sidecar::{Setup, Sidecar};

/// The flush of the file and that of its directory.
const DATA_FLUSHES: Goal = Goal::Exactly(2.0);

/// Percent of what a bare loop does with the same files, and what eight writers do over one.
const OF_BARE: Goal = Goal::AtLeast(80.0);
const GROUP: Goal = Goal::AtLeast(2.0);

const BESIDE_BARE: &str = "beside it: write, fsync, rename and fsync of the directory in a bare loop, as many at once, by turns on the same disk; \
                           best turns of both. Less means that journal, intent and HTTP cost more than the rest of it";
const BESIDE_ONE: &str = "beside it: one writer, by turns on the same disk; best turns of both. Less means that waiting writers do not share \
                          flushes, or that flushes cost next to nothing here and the processor is the limit: see what the bare loop gains";

/// Where Linux keeps files in memory.
const MEMORY: &str = "/dev/shm";

/// Digits of the number that makes every path or content another one.
const DIGITS: usize = 16;

/// Which paths are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// Every connection overwrites a file of its own.
    Own,
    /// All connections overwrite one file.
    Shared,
    /// Every write makes a new file.
    New,
}

struct Case {
    id: &'static str,
    label: &'static str,
    writers: usize,
    target: Target,
}

const CASES: [Case; 5] = [
    Case { id: "own.1", label: "PUT 4 KiB, 1 writer, one file", writers: 1, target: Target::Own },
    Case { id: "new.1", label: "PUT 4 KiB, 1 writer, new files", writers: 1, target: Target::New },
    Case { id: "own.8", label: "PUT 4 KiB, 8 writers, a file each", writers: CONNECTIONS, target: Target::Own },
    Case { id: "shared.8", label: "PUT 4 KiB, 8 writers, the same file", writers: CONNECTIONS, target: Target::Shared },
    Case { id: "new.8", label: "PUT 4 KiB, 8 writers, new files", writers: CONNECTIONS, target: Target::New },
];

const MEMORY_CASES: [Case; 2] = [
    Case { id: "memory.1", label: "PUT 4 KiB in memory, 1 writer", writers: 1, target: Target::Own },
    Case { id: "memory.8", label: "PUT 4 KiB in memory, 8 writers", writers: CONNECTIONS, target: Target::Own },
];

/// Text of the usual size.
pub(super) fn content() -> Vec<u8> {
    b"A line of \"notes\", as an agent writes them.\n".iter().copied().cycle().take(FILE_BYTES).collect()
}

/// Prepared requests in which only digits change.
struct Puts {
    requests: Vec<Vec<u8>>,
    /// Where the number is in the path, for new files.
    in_path: Option<usize>,
    written: u64,
}

impl Puts {
    /// `id` keeps the files of different cases apart.
    fn new(case: &Case) -> Self {
        let begin = format!("PUT /files/workspace/bench/{}-", case.id);
        let request = |connection| {
            let name = if case.target == Target::Own { connection } else { 0 };
            let mut request = format!(
                "{begin}{name:0DIGITS$}.md HTTP/1.1\r\nHost: sidecar\r\nAuthorization: Bearer {TEST_TOKEN}\r\n\
                 Content-Type: application/octet-stream\r\nContent-Length: {FILE_BYTES}\r\n\r\n"
            )
            .into_bytes();
            request.extend_from_slice(&content());
            request
        };
        let in_path = (case.target == Target::New).then_some(begin.len());
        Self { requests: (0..case.writers).map(request).collect(), in_path, written: 0 }
    }
}

impl Requests for Puts {
    fn next(&mut self, connection: usize) -> Result<&[u8]> {
        let request = self.requests.get_mut(connection).context("no such connection")?;
        self.written += 1;
        let number = format!("{:0DIGITS$}", self.written);
        // The content begins with the number too: the same content again would not be a write.
        for start in [Some(request.len() - FILE_BYTES), self.in_path].into_iter().flatten() {
            request[start..start + DIGITS].copy_from_slice(number.as_bytes());
        }
        Ok(request)
    }
}

/// Writes to the disk, each beside the bare loop.
pub(super) fn section(report: &mut Report, sidecar: &Sidecar, plan: Plan) -> Result<()> {
    report.begin("Writes: durable before they are answered")?;
    let beside = sidecar.data().parent().context("the data directory has no parent")?;
    measure(report, sidecar, &CASES, Some(beside), plan)
}

/// The same in memory, where flushes cost nothing: what is left is our own work.
pub(super) fn memory_section(report: &mut Report, plan: Plan) -> Result<()> {
    report.begin("Writes in memory: the same work without a disk")?;
    let memory = Path::new(MEMORY);
    if !memory.is_dir() || !machine::in_memory(memory)? {
        return report.note(&format!("SKIPPED: {MEMORY} is not in memory here"));
    }
    let dir = TempDir::new_in(memory)?;
    let sidecar = Setup::new()?.data_dir(dir.path()).start()?;
    measure(report, &sidecar, &MEMORY_CASES, None, plan)
}

/// A case and what has been measured of it.
struct Measured<'a> {
    case: &'a Case,
    puts: Puts,
    flushes: Flushes,
    outcome: Option<Outcome>,
    bare: Option<Loop>,
}

/// Every case and its bare loop by turns, so that all meet the same disk. `bare` is where the bare loops run.
fn measure(report: &mut Report, sidecar: &Sidecar, cases: &[Case], bare: Option<&Path>, plan: Plan) -> Result<()> {
    let begin = |case| Measured { case, puts: Puts::new(case), flushes: Flushes::default(), outcome: None, bare: None };
    let mut all: Vec<_> = cases.iter().map(begin).collect();
    for _ in 0..plan.turns {
        for measured in &mut all {
            measured.turn(sidecar, bare, plan)?;
        }
    }
    for measured in &all {
        let Some(outcome) = &measured.outcome else { continue };
        let row = Row::new(format!("put.{}", measured.case.id), measured.case.label);
        report.row(row.value("rate", outcome.rate(), Unit::PerSecond).latencies(&outcome.latencies));
    }
    report.end()?;
    all.iter().filter_map(Measured::cost).for_each(|row| report.row(row));
    report.end()?;
    all.iter().filter_map(Measured::beside_bare).for_each(|row| report.row(row));
    if let Some(row) = group(&all) {
        report.row(row);
    }
    report.end()
}

impl Measured<'_> {
    fn turn(&mut self, sidecar: &Sidecar, bare: Option<&Path>, plan: Plan) -> Result<()> {
        let load = Load {
            address: sidecar.address(),
            pid: sidecar.pid(),
            connections: self.case.writers,
            time: plan.load / plan.turns,
            body_bytes: None,
        };
        let before = Flushes::of(sidecar)?;
        let outcome = load.run(&mut self.puts)?;
        self.flushes = self.flushes.and(&Flushes::of(sidecar)?.since(&before));
        self.outcome = Some(match self.outcome.take() {
            Some(sum) => sum.and(outcome),
            None => outcome,
        });
        if let Some(dir) = bare {
            let bare = disk::replace(dir, self.case.writers, plan.calibration / plan.turns)?;
            self.bare = Some(match self.bare.take() {
                Some(sum) => sum.and(bare),
                None => bare,
            });
        }
        Ok(())
    }

    fn cost(&self) -> Option<Row> {
        let outcome = self.outcome.as_ref()?;
        let row = Row::new(format!("put.cost.{}", self.case.id), self.case.label)
            .goal("data flushes each", self.flushes.data / outcome.count(), Unit::Count, DATA_FLUSHES)
            .value("journal flushes each", self.flushes.journal / outcome.count(), Unit::Count)
            .value("processor time each", outcome.server_micros(), Unit::Micros);
        Some(row)
    }

    fn beside_bare(&self) -> Option<Row> {
        let (outcome, bare) = (self.outcome.as_ref()?, self.bare.as_ref()?);
        let percent = outcome.best_rate() / bare.best_rate() * 100.0;
        let row = Row::new(format!("put.bare.{}", self.case.id), self.case.label).beside(BESIDE_BARE);
        // The bare loop has a file for each of its writers too; the other cases do something else than it does.
        let row = match self.case.target {
            Target::Own => row.goal("of the bare loop", percent, Unit::Percent, OF_BARE),
            Target::Shared | Target::New => row.value("of the bare loop", percent, Unit::Percent),
        };
        Some(row.value("best turn", outcome.best_rate(), Unit::PerSecond).value(
            "bare loop's",
            bare.best_rate(),
            Unit::PerSecond,
        ))
    }
}

/// What eight writers with a file each do over one.
fn group(all: &[Measured<'_>]) -> Option<Row> {
    let own = |writers| all.iter().find(|one| one.case.target == Target::Own && one.case.writers == writers);
    let (one, many) = (own(1)?, own(CONNECTIONS)?);
    let gain = many.outcome.as_ref()?.best_rate() / one.outcome.as_ref()?.best_rate();
    let bare = many.bare.as_ref()?.best_rate() / one.bare.as_ref()?.best_rate();
    let row = Row::new("put.group", "PUT 4 KiB, 8 writers over 1, a file each").beside(BESIDE_ONE);
    Some(row.goal("gain", gain, Unit::Times, GROUP).value("bare loop's gain", bare, Unit::Times))
}

/// Flushes so far, as the sidecar counts them.
#[derive(Default)]
struct Flushes {
    data: f64,
    journal: f64,
}

impl Flushes {
    fn of(sidecar: &Sidecar) -> Result<Self> {
        let status = sidecar.status()?;
        let count = |name: &str| status["journal"][name].as_f64().with_context(|| format!("journal.{name} in /status"));
        Ok(Self { data: count("data_flushes")?, journal: count("flushes")? })
    }

    fn and(&self, other: &Self) -> Self {
        Self { data: self.data + other.data, journal: self.journal + other.journal }
    }

    fn since(&self, before: &Self) -> Self {
        Self { data: self.data - before.data, journal: self.journal - before.journal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_another_write() -> Result<()> {
        let mut puts = Puts::new(&Case { id: "test", label: "", writers: 2, target: Target::New });
        let first = String::from_utf8(puts.next(0)?.to_vec())?;
        let second = String::from_utf8(puts.next(1)?.to_vec())?;
        assert!(first.starts_with("PUT /files/workspace/bench/test-0000000000000001.md HTTP/1.1\r\n"));
        assert!(second.starts_with("PUT /files/workspace/bench/test-0000000000000002.md HTTP/1.1\r\n"));
        let body = second.split_once("\r\n\r\n").context("no body")?.1;
        assert!(body.starts_with("0000000000000002") && body.len() == FILE_BYTES);
        Ok(())
    }
}
