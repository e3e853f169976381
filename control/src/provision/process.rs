//! Processes that outlive us: found again by pid and start time, signalled through a pidfd.

use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// How often a wait looks.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// A process of one boot. A pid alone may belong to somebody else by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// Process id.
    pub(crate) pid: i32,
    /// Start in clock ticks since boot, field 22 of `/proc/<pid>/stat`.
    pub(crate) started: u64,
}

impl ProcessId {
    /// The process that has this pid now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // A zombie does nothing any more; somebody only has to collect it.
        (state_and_start(&stat)?.0 != 'Z').then_some(())?;
        Some(Self { pid, started: state_and_start(&stat)?.1 })
    }

    /// Whether it still runs.
    pub(crate) fn is_running(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal; says whether there was a process to get it. The pidfd is opened before the identity is
    /// checked, so the signal can not reach a later process with the same pid.
    pub(crate) fn signal(self, signal: Signal) -> std::io::Result<bool> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(false);
        };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        if !self.is_running() {
            return Ok(false);
        }
        match pidfd_send_signal(&fd, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for its end; says whether it came in time.
    pub(crate) async fn ended_within(self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.is_running() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        true
    }
}

/// State letter and start time. The second field is the name in parentheses and may hold anything, so fields are
/// counted from its last parenthesis.
fn state_and_start(stat: &str) -> Option<(char, u64)> {
    let rest = stat.get(stat.rfind(')')? + 1..)?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let stat = "7 (a) Z (b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(state_and_start(stat), Some(('S', 4242)));
        assert_eq!(state_and_start("7 (a"), None);
    }

    #[test]
    fn a_process_is_itself_and_not_a_later_one() {
        let own = ProcessId::of(std::process::id() as i32).unwrap();
        assert!(own.is_running());
        let earlier = ProcessId { started: own.started - 1, ..own };
        assert!(!earlier.is_running());
        assert!(!earlier.signal(Signal::TERM).unwrap());
    }
}
