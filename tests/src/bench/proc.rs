//! What the kernel says about a process.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::unistd::Pid;

use crate::wait::within;

/// Time in which memory has to stay the same to count as settled.
const SETTLED: Duration = Duration::from_millis(300);

/// Longest wait for memory to settle.
const SETTLING: Duration = Duration::from_secs(20);

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) rss: u64,
    /// Shared pages count in proportion.
    pub(super) pss: u64,
    /// What would be free again if it ended.
    pub(super) private: u64,
    /// What it has written to.
    pub(super) dirty: u64,
}

/// Memory right now.
pub(super) fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = match fs::read_to_string(&path) {
        // Beside a gateway the sidecar's memory is sealed, and only root sees what of it is shared.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let status = format!("/proc/{pid}/status");
            let (rss, own) = (status_field(&status, "VmRSS")? * 1024, status_field(&status, "RssAnon")? * 1024);
            return Ok(Memory { rss, pss: rss, private: own, dirty: own });
        }
        text => text.with_context(|| path.clone())?,
    };
    let bytes =
        |name: &str| Ok::<_, anyhow::Error>(field(&text, name).with_context(|| format!("{name} in {path}"))? * 1024);
    let dirty = bytes("Private_Dirty")?;
    Ok(Memory { rss: bytes("Rss")?, pss: bytes("Pss")?, private: bytes("Private_Clean")? + dirty, dirty })
}

/// Memory once two readings in a row are the same.
pub(super) fn settled_memory(pid: u32) -> Result<Memory> {
    let mut last = memory(pid)?;
    within(SETTLING, "memory that stays the same", || {
        std::thread::park_timeout(SETTLED);
        let now = memory(pid)?;
        Ok((std::mem::replace(&mut last, now) == now).then_some(now))
    })
}

/// Most memory that was ever resident, in bytes.
pub(super) fn peak_rss(pid: u32) -> Result<u64> {
    Ok(status_field(&format!("/proc/{pid}/status"), "VmHWM")? * 1024)
}

/// Threads right now.
pub(super) fn threads(pid: u32) -> Result<u64> {
    status_field(&format!("/proc/{pid}/status"), "Threads")
}

/// Context switches of all threads that are there, so far.
pub(super) fn switches(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in tasks(pid)? {
        // A thread may end at any time.
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{task}/status")) else { continue };
        sum += ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"]
            .iter()
            .filter_map(|name| field(&text, name))
            .sum::<u64>();
    }
    Ok(sum)
}

/// What all threads of a process that are there have done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Activity {
    pub(super) threads: usize,
    /// Context switches.
    pub(super) switches: u64,
    /// Time on a processor, exact.
    pub(super) ran: Duration,
}

/// Activity until now.
pub(super) fn activity(pid: u32) -> Result<Activity> {
    let tasks = tasks(pid)?;
    let ran = tasks.iter().filter_map(|task| {
        // A thread may end at any time.
        let text = fs::read_to_string(format!("/proc/{pid}/task/{task}/schedstat")).ok()?;
        text.split_ascii_whitespace().next()?.parse::<u64>().ok()
    });
    let ran = Duration::from_nanos(ran.sum());
    Ok(Activity { threads: tasks.len(), switches: switches(pid)?, ran })
}

/// Processor time of a process so far, in the kernel and outside.
pub(super) fn processor_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may contain blanks; what follows its last parenthesis begins with the third field.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse().unwrap_or(0)).sum::<u64>();
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// What the first thread of a process has had from the scheduler so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scheduled {
    /// On a processor.
    pub(super) ran: Duration,
    /// Ready, but without a processor.
    pub(super) waited: Duration,
}

/// The first thread's time until now.
pub(super) fn scheduled(pid: u32) -> Result<Scheduled> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let mut fields = text.split_ascii_whitespace().map(|field| field.parse().map(Duration::from_nanos));
    let mut next = || fields.next().context("schedstat is too short")?.context("schedstat");
    Ok(Scheduled { ran: next()?, waited: next()? })
}

/// Processor time of the calling thread so far.
pub(super) fn own_processor_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?))
}

/// Two processors, apart from each other: one for what is measured, one for who measures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cores {
    allowed: CpuSet,
    measured: usize,
    measuring: usize,
}

impl Cores {
    /// `None` when there are less than two.
    pub(super) fn find() -> Result<Option<Self>> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let mut processors = (0..CpuSet::count()).filter(|processor| allowed.is_set(*processor).unwrap_or(false));
        Ok(match (processors.next(), processors.next()) {
            (Some(measuring), Some(measured)) => Some(Self { allowed, measured, measuring }),
            _ => None,
        })
    }

    /// All threads of the process on one processor, the caller on the other.
    pub(super) fn separate(&self, pid: u32) -> Result<()> {
        pin_process(pid, &only(self.measured)?)?;
        Ok(sched_setaffinity(Pid::from_raw(0), &only(self.measuring)?)?)
    }

    /// As it was before.
    pub(super) fn release(&self, pid: u32) -> Result<()> {
        pin_process(pid, &self.allowed)?;
        Ok(sched_setaffinity(Pid::from_raw(0), &self.allowed)?)
    }
}

fn only(processor: usize) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    Ok(set)
}

fn pin_process(pid: u32, set: &CpuSet) -> Result<()> {
    for task in tasks(pid)? {
        match sched_setaffinity(Pid::from_raw(task), set) {
            // A thread may end at any time.
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn tasks(pid: u32) -> Result<Vec<i32>> {
    let mut tasks = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        tasks.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(tasks)
}

fn status_field(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    field(&text, name).with_context(|| format!("{name} in {path}"))
}

/// The number of a line `Name:   number …`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_looked_at() -> Result<()> {
        let pid = std::process::id();
        let memory = memory(pid)?;
        assert!(memory.rss >= memory.private && memory.private >= memory.dirty && memory.dirty > 0);
        assert!(peak_rss(pid)? > 0 && threads(pid)? > 0 && switches(pid)? > 0);
        let scheduled = scheduled(pid)?;
        assert!(processor_time(pid)?.max(scheduled.ran + scheduled.waited) < Duration::from_secs(3600));
        Ok(())
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        assert_eq!(field("Pss_Dirty:  7 kB\nPss:  12 kB\n", "Pss"), Some(12));
        assert_eq!(field("Rss: x", "Rss"), None);
    }
}
