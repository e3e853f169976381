//! Ends what the sidecar left behind, so that the end of PID 1 is the end of the tenant.
//!
//! A sidecar that died leaves its gateway, and the agent's commands live in sessions of their own, where no process
//! group reaches them. Only direct children are asked, over and over: when one ends, its children become ours,
//! because we are PID 1 or their subreaper. That asks the gateway before what it works with, needs no list of descendants
//! that is out of date when it is used, and the pid of a child cannot be recycled before we reap it. To kill, PID 1 reaches
//! all at once.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::process::WaitOptions;

use crate::log;
use crate::signals::Signals;

/// Time between asking and killing when the sidecar has stopped its gateway in order: what is left then is either a
/// short command or would not listen anyway.
const ASK: Duration = Duration::from_secs(3);
/// Time in which killed processes must be gone.
const KILL: Duration = Duration::from_secs(5);
/// A process that is forked while children are listed shows up at the next look.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How much time there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// The gateway has been stopped; what is left gets three seconds.
    Short,
    /// The gateway is still to be stopped: it has until then, and never less than the three seconds.
    InOrder(Instant),
    /// None.
    Hurry,
}

/// Asks everything to end, then kills it; only kills it when in a hurry. Says whether asking was enough.
/// `look` is called now and then meanwhile.
pub(crate) fn end(signals: &Signals, manner: Manner, mut look: impl FnMut()) -> nix::Result<bool> {
    let short = Instant::now() + ASK;
    let until = match manner {
        Manner::Short => Some(short),
        Manner::InOrder(until) => Some(until.max(short)),
        Manner::Hurry => None,
    };
    if let Some(until) = until
        && round(signals, Signal::SIGTERM, until, &mut look)?
    {
        return Ok(true);
    }
    if !round(signals, Signal::SIGKILL, Instant::now() + KILL, &mut look)? {
        log::error("processes are left that cannot be killed", &[]);
    }
    Ok(false)
}

/// Signals everything until nothing is left (true), time is up, or a stop signal asks to hurry.
fn round(signals: &Signals, signal: Signal, deadline: Instant, look: &mut impl FnMut()) -> nix::Result<bool> {
    let mut asked = HashSet::new();
    let asks = signal != Signal::SIGKILL;
    if reap(&mut asked) {
        return Ok(true);
    }
    log::info("ending what the sidecar left behind", &[("signal", signal.as_str().into())]);
    loop {
        if reap(&mut asked) {
            return Ok(true);
        }
        if std::process::id() == 1 && !asks {
            send_all(signal);
        } else {
            send_children(signal, &mut asked, asks);
        }
        look();
        let now = Instant::now();
        if now >= deadline {
            return Ok(false);
        }
        let next = signals.next(Some(deadline.min(now + LOOK_AGAIN)))?;
        if asks && matches!(next, Some(Signal::SIGTERM | Signal::SIGINT)) {
            return Ok(false);
        }
    }
}

/// Reaps what has ended; true when no child is left, and with that no descendant.
fn reap(asked: &mut HashSet<i32>) -> bool {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, _))) => {
                asked.remove(&pid.as_raw_nonzero().get());
            }
            Ok(None) => return false,
            Err(Errno::INTR) => {}
            Err(_) => return true,
        }
    }
}

/// Signals every process of the container. Only PID 1 may do this: anywhere else it would be the whole machine.
fn send_all(signal: Signal) {
    if std::process::id() == 1 {
        // An error means that there is nobody left to signal.
        let _ = kill(Pid::from_raw(-1), signal);
    }
}

/// Signals every direct child; each one only once with a signal that asks.
fn send_children(signal: Signal, asked: &mut HashSet<i32>, once: bool) {
    for pid in children() {
        if asked.insert(pid) || !once {
            // It may be a zombie by now, which does not mind.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

/// Our direct children, zombies included.
pub(crate) fn children() -> Vec<i32> {
    i32::try_from(std::process::id()).map_or_else(|_| Vec::new(), children_of)
}

/// The direct children of a process, zombies included.
pub(crate) fn children_of(parent_pid: i32) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.ok().and_then(|text| parent(&text)) == Some(parent_pid)
        })
        .collect()
}

/// The parent in a line of `/proc/<pid>/stat`. The command before it may contain spaces and parentheses.
fn parent(stat: &str) -> Option<i32> {
    let (_, after) = stat.rsplit_once(')')?;
    after.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_command() {
        assert_eq!(parent("7 (sh) S 1 7 7 0"), Some(1));
        assert_eq!(parent("7 (a) R 9 (b) S 3 7 7 0"), Some(3));
        assert_eq!(parent("7 (sh"), None);
        assert_eq!(parent(""), None);
    }

    #[test]
    fn a_child_is_listed() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(children().contains(&pid));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!children().contains(&pid));
    }
}
