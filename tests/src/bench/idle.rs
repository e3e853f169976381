//! A sidecar with a usual workspace that has nothing to do: its memory, and what wakes it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::control::Control;
use super::report::{Goal, Report, Row, Unit};
use super::tree::Tree;
use super::watched::Watched;
use super::{Plan, footprint, proc};
use crate::chaos::Chaos;
use crate::sidecar::Setup;
use crate::wait::within;

const TREE: Tree = Tree { files: 10_000, bytes: 1024 };

/// The tree of the one with control: smaller, because all of it has to be sent first.
const SYNCED: Tree = Tree { files: 2_000, bytes: 1024 };

/// Megabytes, context switches, and percent of one processor.
const MEMORY: Goal = Goal::Below(8.0);
const NOTHING: Goal = Goal::Exactly(0.0);
const PROCESSOR: Goal = Goal::Below(0.1);

/// Pause between two looks at the processes, and the quiet time that ends one waking.
const LOOK: Duration = Duration::from_millis(100);
const QUIET_LOOKS: usize = 5;

/// Time in which a sidecar has to be quiet before it is watched: until the connections and timers of its start are gone.
const BEFORE: Duration = Duration::from_secs(11);

/// Longest wait for everything to be in control.
const SENDING: Duration = Duration::from_secs(180);

const BESIDE_NOTHING: &str = "beside it: nothing, there is nothing to do. Each context switch is a timer or a thread that wakes the processor for nothing";
const BESIDE_HEARTBEATS: &str = "beside it: the requests that a proxy before control has seen in the same time (heartbeats and long polls). More wakings than \
     requests are timers or threads that wake the processor for nothing: tokio's timer wheel wakes once more up to 4 s before each longer deadline";
const RESIDENT: &str = "resident memory does not depend on the machine's speed: more means that the index or what a listing holds has grown";

/// Measures one sidecar alone and one with control, both at the same time.
pub(super) fn section(report: &mut Report, plan: Plan) -> Result<()> {
    report.begin(&format!("At rest for {} s, and the memory of {} files", plan.rest.as_secs(), TREE.files))?;
    report.progress(&format!("making {} files", TREE.files));
    let alone = Setup::new()?;
    TREE.make(&alone)?;
    let (first, _) = Watched::start(&alone, TREE.files)?;
    let label = |when| format!("{} files, {when}", TREE.files);
    let row = footprint::memory_row(first.pid(), "small.first", &label("after the first hash"), Some(MEMORY))?;
    let mut memory = vec![row.beside(RESIDENT)];
    first.stop()?;
    let (watched, _) = Watched::start(&alone, TREE.files)?;
    let row = footprint::memory_row(watched.pid(), "small.restart", &label("after a restart"), Some(MEMORY))?;
    memory.push(row.beside(RESIDENT));

    report.progress(&format!("sending {} files to control", SYNCED.files));
    let control = Control::start()?;
    let synced = in_control(&control)?;
    // What it asks is counted from now on.
    let proxy = Chaos::before(control.address())?;
    let synced = synced.env("WINSTON_CONTROL_URL", &format!("http://{}", proxy.address()));
    let (synced, _) = Watched::start(&synced, SYNCED.files)?;

    report.progress(&format!("{} s in which nothing happens", (BEFORE + plan.rest).as_secs()));
    std::thread::sleep(BEFORE);
    let seen = proxy.seen().len();
    let [alone, synced] = rest([watched.pid(), synced.pid()], plan.rest)?;
    let requests = proxy.seen().len() - seen;
    report.row(alone_row(&alone));
    report.row(synced_row(&synced, requests));
    report.end()?;
    memory.into_iter().for_each(|row| report.row(row));
    report.end()
}

/// A tenant whose files are all in control.
fn in_control(control: &Control) -> Result<Setup> {
    let tenant = control.tenant()?;
    let setup = Setup::new()?;
    SYNCED.make(&setup)?;
    let setup = setup.token(&tenant.token).env("WINSTON_CONTROL_URL", &format!("http://{}", control.address()));
    let (sending, _) = Watched::start(&setup, SYNCED.files)?;
    within(SENDING, "everything is in control", || {
        let journal = sending.status()?["journal"].take();
        Ok((journal["acked_seq"] == journal["head_seq"]).then_some(()))
    })?;
    sending.stop()?;
    Ok(setup)
}

/// What a process did while there was nothing to do.
struct Rest {
    switches: u64,
    /// Times at which it was woken; what follows within half a second is one.
    wakings: usize,
    /// Of one processor.
    percent: f64,
}

/// Looks at processes for some time. Looking does not wake them.
fn rest<const N: usize>(pids: [u32; N], time: Duration) -> Result<[Rest; N]> {
    let mut looks: Vec<Vec<proc::Activity>> = vec![Vec::new(); N];
    let started = Instant::now();
    loop {
        for (pid, looks) in pids.iter().zip(&mut looks) {
            looks.push(proc::activity(*pid)?);
        }
        if started.elapsed() >= time {
            break;
        }
        std::thread::sleep(LOOK);
    }
    let elapsed = started.elapsed();
    let rests: Vec<_> = looks.iter().map(|looks| Rest::of(looks, elapsed)).collect();
    rests.try_into().ok().context("a process was not looked at")
}

impl Rest {
    fn of(looks: &[proc::Activity], elapsed: Duration) -> Self {
        let active: Vec<_> = looks.windows(2).map(|pair| pair[0] != pair[1]).collect();
        let pairs = looks.windows(2);
        // A thread that ends takes its count along.
        let switches = pairs.map(|pair| pair[1].switches.saturating_sub(pair[0].switches)).sum();
        let ran: Duration = looks.windows(2).map(|pair| pair[1].ran.saturating_sub(pair[0].ran)).sum();
        Self { switches, wakings: bursts(&active), percent: ran.as_secs_f64() / elapsed.as_secs_f64() * 100.0 }
    }
}

/// Runs of looks in which something had happened, with less than [`QUIET_LOOKS`] quiet ones between.
fn bursts(active: &[bool]) -> usize {
    let (mut bursts, mut quiet) = (0, QUIET_LOOKS);
    for active in active {
        if !active {
            quiet += 1;
            continue;
        }
        if quiet >= QUIET_LOOKS {
            bursts += 1;
        }
        quiet = 0;
    }
    bursts
}

fn alone_row(rest: &Rest) -> Row {
    let row = Row::new("rest.small", format!("{} files, without control", TREE.files)).beside(BESIDE_NOTHING);
    row.goal("context switches", rest.switches as f64, Unit::Count, NOTHING)
        .value("wakings", rest.wakings as f64, Unit::Count)
        .goal("processor", rest.percent, Unit::Percent, PROCESSOR)
}

fn synced_row(rest: &Rest, requests: usize) -> Row {
    let row = Row::new("rest.small.synced", format!("{} files, with control", SYNCED.files)).beside(BESIDE_HEARTBEATS);
    row.goal("wakings beyond requests", rest.wakings.saturating_sub(requests) as f64, Unit::Count, NOTHING)
        .value("wakings", rest.wakings as f64, Unit::Count)
        .goal("processor", rest.percent, Unit::Percent, PROCESSOR)
        .value("requests", requests as f64, Unit::Count)
        .value("context switches", rest.switches as f64, Unit::Count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waking_lasts_until_it_is_quiet() {
        let looks = |text: &str| text.bytes().map(|byte| byte == b'x').collect::<Vec<_>>();
        assert_eq!(bursts(&looks("")), 0);
        assert_eq!(bursts(&looks("..........")), 0);
        assert_eq!(bursts(&looks("x.........")), 1);
        assert_eq!(bursts(&looks("..xx.x....x")), 1);
        assert_eq!(bursts(&looks("..xx.....x")), 2);
    }

    #[test]
    fn threads_that_end_take_nothing_back() {
        let look = |switches, millis| proc::Activity { threads: 1, switches, ran: Duration::from_millis(millis) };
        let rest = Rest::of(&[look(10, 5), look(12, 6), look(7, 1), look(8, 2)], Duration::from_secs(1));
        assert_eq!((rest.switches, rest.wakings), (3, 1));
        assert!((rest.percent - 0.2).abs() < 1e-9);
    }
}
