//! Signals as a queue: blocked from the start and read one by one, so that nothing runs in a handler and none is
//! lost between two looks.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What PID 1 reacts to. All others keep their default, which for PID 1 means that they do nothing.
const HANDLED: [Signal; 7] = [
    Signal::SIGCHLD,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// The queue.
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Blocks the handled signals for this process, also those that it was started to ignore, and opens the queue.
    pub(crate) fn block() -> nix::Result<Self> {
        let set: SigSet = HANDLED.into_iter().collect();
        set.thread_block()?;
        // After blocking, so that none of them ends us in between.
        crate::sys::reset_dispositions(HANDLED)?;
        SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map(Self)
    }

    /// The next signal; `None` when the deadline comes first. Without a deadline it waits for ever.
    pub(crate) fn next(&self, deadline: Option<Instant>) -> nix::Result<Option<Signal>> {
        loop {
            if let Some(info) = self.0.read_signal()? {
                match Signal::try_from(info.ssi_signo.cast_signed()) {
                    Ok(signal) => return Ok(Some(signal)),
                    Err(_) => continue,
                }
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout(left)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whole milliseconds, rounded up so that a deadline is never polled in a busy loop.
fn timeout(left: Option<Duration>) -> PollTimeout {
    let Some(left) = left else {
        return PollTimeout::NONE;
    };
    let millis = left.as_nanos().div_ceil(1_000_000);
    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
}
