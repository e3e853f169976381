//! A command that is run beside the gateway: as its user, and for a moment.
//!
//! It has a session of its own, in which it can be ended with everything that it started. What leaves that session while the command lives is
//! found below it; what leaves it and loses its parent is taken for the gateway's and goes with that one (see `descendants`).

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use super::Identity;
use super::descendants::{self, Spared};

/// Longest wait for the end of what was killed.
const SWEEP: Duration = Duration::from_secs(2);

/// A running command. Dropped, it is killed.
pub(crate) struct Helper {
    child: Child,
    spared: Spared,
    /// Readable once it has ended, and before it was waited for. `None` where there are no such descriptors.
    end: Option<AsyncFd<OwnedFd>>,
}

impl Helper {
    /// Starts it, with no power of ours, in this directory.
    pub(crate) fn start(command: &mut Command, identity: Option<Identity>, directory: &Path) -> io::Result<Self> {
        command.kill_on_drop(true);
        crate::sys::tie(command, identity, directory)?;
        let (spared, child) = Spared::start(|| {
            let child = command.spawn()?;
            let pid = child.id().map(u32::cast_signed).ok_or_else(|| io::Error::other("it has no process id"))?;
            Ok((pid, child))
        })?;
        let pidfd = Pid::from_raw(spared.pid()).and_then(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK).ok());
        let end = pidfd.map(crate::sys::readable).transpose()?;
        Ok(Self { child, spared, end })
    }

    /// Its output; once.
    pub(crate) fn streams(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        (self.child.stdout.take(), self.child.stderr.take())
    }

    /// Waits for its end, and ends what is left in its session.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        if let Some(end) = &self.end {
            // An error comes with the end of the runtime; the wait below tells the same.
            let _ = end.readable().await;
            descendants::end_session(self.spared.pid(), SWEEP).await;
        }
        self.child.wait().await
    }

    /// Ends it with everything below it.
    pub(crate) async fn end(mut self) {
        // While it lives: whoever has left its session is known by that.
        descendants::end_session(self.spared.pid(), Duration::ZERO).await;
        let _ = self.child.start_kill();
        let _ = self.ended().await;
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Once it was waited for, its number may be another's.
        if let Some(group) = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}
