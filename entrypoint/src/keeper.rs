//! Sees to it that a gateway does not outlive everybody who knows of it.
//!
//! In a container the end of PID 1 is the end of all. Elsewhere SIGKILL of the entrypoint reaches the sidecar (its parent-death signal), which
//! ends its gateway; but between two sidecars there is none, and a gateway cannot have such a signal: it has to outlive its parent, the sidecar.
//! So the entrypoint has a child that waits for the end of a pipe, and nothing else. It knows the sidecar and our other children. When the
//! entrypoint is gone it gives the sidecar time to end the gateway, and then ends what is left.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use crate::{leftovers, sys};

/// Beyond the grace of a stop: for the sidecar's own last steps, and for what was killed.
const MORE: Duration = Duration::from_secs(5);

/// Most processes in one message, which so is written at once.
const MOST: usize = 500;

/// The entrypoint's side.
pub(crate) struct Keeper {
    pid: Pid,
    tell: OwnedFd,
}

impl Keeper {
    /// Starts it. To be called while nothing else is open that must end with us.
    pub(crate) fn start(grace: Duration) -> nix::Result<Self> {
        let refused = |error: Errno| nix::errno::Errno::from_raw(error.raw_os_error());
        let (hear, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(refused)?;
        let pid = sys::fork(hear, |hear| keep(&hear, grace))?;
        Ok(Self { pid, tell })
    }

    /// Who there is: the sidecar, and our other children, which an earlier one has started.
    pub(crate) fn tell(&self, sidecar: Option<Pid>) {
        let known = sidecar.map_or(0, Pid::as_raw);
        let others = leftovers::children().into_iter().filter(|pid| ![self.pid.as_raw(), known].contains(pid));
        let mut message = vec![known];
        message.extend(others.take(MOST));
        message.insert(0, i32::try_from(message.len()).unwrap_or(0));
        let bytes: Vec<u8> = message.into_iter().flat_map(i32::to_ne_bytes).collect();
        // Without it we are as safe as in a container where it is not needed.
        let _ = rustix::io::write(&self.tell, &bytes);
    }

    /// Ends it: from here on everything is ended by us.
    pub(crate) fn end(self) {
        let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
        // An error means that it was reaped already.
        let _ = nix::sys::wait::waitpid(self.pid, None);
    }
}

/// The child's side. Returns when there is nobody left to see to.
fn keep(hear: &OwnedFd, grace: Duration) {
    let (mut sidecar, mut others) = (None, Vec::new());
    // Held by descriptors from the moment that they are told: an id can become another's.
    while let Some(pids) = message(hear) {
        let mut held = pids.iter().map(|pid| hold(*pid));
        sidecar = held.next().flatten();
        others = held.flatten().collect();
    }
    if let Some((pid, fd)) = sidecar {
        others.extend(leftovers::children_of(pid).into_iter().filter_map(hold).map(|(_, fd)| fd).map(|fd| (0, fd)));
        wait(&[(pid, fd)], grace + MORE);
    }
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::KILL] {
        for (_, fd) in &others {
            let _ = pidfd_send_signal(fd, signal);
        }
        if wait(&others, if signal == rustix::process::Signal::TERM { grace } else { MORE }) {
            break;
        }
    }
}

type Held = (i32, OwnedFd);

fn hold(pid: i32) -> Option<Held> {
    Some((pid, pidfd_open(rustix::process::Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?))
}

/// Waits for the end of all; whether it came in time.
fn wait(held: &[Held], limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    held.iter().all(|(_, fd)| {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left)) {
                Err(Errno::INTR) => {}
                found => return found.is_ok_and(|ready| ready > 0),
            }
        }
    })
}

/// The next message; `None` when nobody can send one any more.
fn message(hear: &OwnedFd) -> Option<Vec<i32>> {
    let count = numbers(hear, 1)?.first().copied().and_then(|count| usize::try_from(count).ok())?;
    numbers(hear, count.min(MOST + 1))
}

fn numbers(hear: &OwnedFd, count: usize) -> Option<Vec<i32>> {
    let mut bytes = vec![0; count * size_of::<i32>()];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::read(hear.as_fd(), &mut bytes[filled..]) {
            Ok(0) => return None,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(
        bytes
            .chunks_exact(size_of::<i32>())
            .map(|chunk| i32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]))
            .collect(),
    )
}
