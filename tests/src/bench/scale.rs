//! Large workspaces: the first hash of everything, and the restart that finds nothing new.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::report::{Goal, Report, Row, Unit, millis};
use super::tree::Tree;
use super::watched::{Compared, Watched};
use super::{Plan, footprint};
use crate::sidecar::Setup;

/// The size that the goal for memory is about.
const LARGE: usize = 200_000;
const LARGE_MEMORY: Goal = Goal::Below(40.0);

/// Multiple of `find`'s time, and percent of `sha256sum`'s throughput.
const RESTART: Goal = Goal::AtMost(1.3);
const NOTHING: Goal = Goal::Exactly(0.0);
const HASH: Goal = Goal::AtLeast(70.0);

/// Bytes of one write of the calibration.
const PIECE: usize = 1 << 20;

const BESIDE_FIND: &str = "beside it: find -printf '%i %s %T@' over the same files, by turns, the best of each, names and inodes in memory. More means \
                           that start, index, watches and comparing cost more than 0.3 of looking at every file once; what was hashed or recorded \
                           although nothing had changed is a fault, not a slow machine";
const BESIDE_SHA256SUM: &str = "beside it: sha256sum over the same files, by turns, the best of each, contents in memory. The sidecar also writes \
                                every content to its journal, durably: see what a bare file of as many bytes takes on this disk";
const MEMORY: &str = "resident memory does not depend on the machine's speed: more means that the index or what a listing holds has grown";

/// Measures them.
pub(super) fn section(report: &mut Report, plan: Plan) -> Result<()> {
    let tree = plan.tree;
    report.begin(&format!("Large workspace: {} files of {} KiB", tree.files, tree.bytes / 1024))?;
    report.progress(&format!("making {} files of {} KiB", tree.files, tree.bytes / 1024));
    let setup = Setup::new()?;
    tree.make(&setup)?;
    let first = first_hash(report, &setup, plan).context("first hash")?;
    let memory = restart(report, &setup, plan).context("restart")?;
    report.end()?;
    report.row(first);
    report.row(memory);
    report.end()?;
    report.progress("removing them");
    Ok(())
}

/// `sha256sum` and a sidecar that has never seen the files, by turns. Leaves the index of the last one. The row about memory.
fn first_hash(report: &mut Report, setup: &Setup, plan: Plan) -> Result<Row> {
    let tree = plan.tree;
    let (mut ours, mut sums, mut memory) = (Best::default(), Best::default(), None);
    for round in 1..=plan.hashes {
        report.progress(&format!("first hash, round {round} of {}: sha256sum, then the sidecar", plan.hashes));
        sums.see(sha256sum(setup)?);
        forget(setup)?;
        let (watched, compared) = Watched::start(setup, tree.files)?;
        if compared.hashed < tree.files as u64 {
            bail!("{} of {} new files were hashed", compared.hashed, tree.files);
        }
        ours.see(compared.time);
        if round == plan.hashes {
            let label = format!("{} files, after the first hash", tree.files);
            memory = Some(footprint::memory_row(watched.pid(), "large.first", &label, goal(tree))?.beside(MEMORY));
            watched.stop()?;
        }
    }
    report.progress("a bare file of as many bytes");
    let bare = bare_file(setup.outside(), tree)?;
    let (ours, sums) = (ours.get()?, sums.get()?);
    let rate = |time: Duration| tree.total_bytes() / 1e6 / time.as_secs_f64();
    let row = Row::new("large.hash", format!("first hash of {} files", tree.files)).beside(BESIDE_SHA256SUM);
    report.row(
        row.goal("of sha256sum's rate", sums.as_secs_f64() / ours.as_secs_f64() * 100.0, Unit::Percent, HASH)
            .value("rate", rate(ours), Unit::MegabytesPerSecond)
            .value("sha256sum's", rate(sums), Unit::MegabytesPerSecond)
            .value("a bare file's", rate(bare), Unit::MegabytesPerSecond),
    );
    memory.context("no round")
}

/// `find` and a start that finds nothing new, by turns. The row about memory.
fn restart(report: &mut Report, setup: &Setup, plan: Plan) -> Result<Row> {
    let tree = plan.tree;
    // What the first start left to be written is on disk, and names are in memory again.
    find(setup)?;
    let (watched, before) = Watched::start(setup, tree.files)?;
    watched.stop()?;
    let (mut ours, mut finds, mut hashed, mut recorded, mut memory) = (Best::default(), Best::default(), 0, 0, None);
    for round in 1..=plan.restarts {
        report.progress(&format!("restart, round {round} of {}: find, then the sidecar", plan.restarts));
        finds.see(find(setup)?);
        let (watched, compared) = Watched::start(setup, tree.files)?;
        let Compared { time, head_seq, .. } = compared;
        ours.see(time);
        hashed += compared.hashed;
        recorded += head_seq.saturating_sub(before.head_seq);
        if round == plan.restarts {
            let label = format!("{} files, after a restart", tree.files);
            memory = Some(footprint::memory_row(watched.pid(), "large.restart", &label, goal(tree))?.beside(MEMORY));
        }
    }
    let (ours, finds) = (ours.get()?, finds.get()?);
    let row = Row::new("large.restart", format!("restart over {} unchanged files", tree.files)).beside(BESIDE_FIND);
    report.row(
        row.goal("of find's time", ours.as_secs_f64() / finds.as_secs_f64(), Unit::Times, RESTART)
            .value("exec → compared", millis(ours), Unit::Millis)
            .value("find's", millis(finds), Unit::Millis)
            .goal("files hashed", hashed as f64, Unit::Count, NOTHING)
            .goal("recorded", recorded as f64, Unit::Count, NOTHING),
    );
    memory.context("no round")
}

fn goal(tree: Tree) -> Option<Goal> {
    (tree.files >= LARGE).then_some(LARGE_MEMORY)
}

/// The shortest of several times.
#[derive(Default)]
struct Best(Option<Duration>);

impl Best {
    fn see(&mut self, time: Duration) {
        self.0 = Some(self.0.map_or(time, |best| best.min(time)));
    }

    fn get(&self) -> Result<Duration> {
        self.0.context("nothing was measured")
    }
}

/// A sidecar that starts now knows nothing.
fn forget(setup: &Setup) -> Result<()> {
    match fs::remove_dir_all(setup.data().join(".winston")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// The peer of a restart: every name, inode, size and time.
fn find(setup: &Setup) -> Result<Duration> {
    let mut command = Command::new("find");
    command.arg(Tree::path(setup)).args(["-printf", "%i %s %T@\n"]);
    timed(command)
}

/// The peer of the first hash.
fn sha256sum(setup: &Setup) -> Result<Duration> {
    let mut command = Command::new("sh");
    command.args(["-c", "find \"$0\" -type f -print0 | xargs -0 sha256sum"]).arg(Tree::path(setup));
    timed(command)
}

/// Runs a program whose output nobody needs.
fn timed(mut command: Command) -> Result<Duration> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let started = Instant::now();
    let status = command.status().with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(started.elapsed())
}

/// One file of as many bytes as the tree has, with one flush: the least that keeping them durably costs on this disk.
fn bare_file(dir: &Path, tree: Tree) -> Result<Duration> {
    let path = dir.join("calibration.bytes");
    let piece = vec![b'c'; PIECE];
    let started = Instant::now();
    let mut file = File::create(&path)?;
    let mut left = tree.files * tree.bytes;
    while left > 0 {
        let next = left.min(PIECE);
        file.write_all(&piece[..next])?;
        left -= next;
    }
    file.sync_data()?;
    let elapsed = started.elapsed();
    fs::remove_file(path)?;
    Ok(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_time_is_kept() -> Result<()> {
        let mut best = Best::default();
        assert!(best.get().is_err());
        for millis in [30, 10, 20] {
            best.see(Duration::from_millis(millis));
        }
        assert_eq!(best.get()?, Duration::from_millis(10));
        Ok(())
    }

    #[test]
    fn the_goal_for_memory_is_that_of_the_large_tree() {
        assert!(goal(Tree { files: LARGE, bytes: 1 }).is_some());
        assert!(goal(Tree { files: LARGE - 1, bytes: 1 }).is_none());
    }
}
