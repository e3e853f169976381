//! The one place with `unsafe`: code that runs in the child between fork and exec, and signal dispositions.

#![allow(
    unsafe_code,
    reason = "the standard library has no safe way to set a child's signal mask and parent-death signal, or a disposition"
)]

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::unistd::{Pid, getppid};

/// Starts a program in a process group of its own, with no signal blocked, that gets SIGTERM when we die, and that inherits
/// the descriptors in `inherit` beside its three streams.
///
/// The own group keeps Ctrl-C of a terminal from reaching it twice: it gets signals from us only. Ours are blocked,
/// and a mask is inherited, so the child must open its own. SIGTERM at our death matters outside of containers, where
/// killing us would leave the tenant running without anybody knowing; the kernel itself sees to it for PID 1.
pub(crate) fn spawn(command: &mut Command, inherit: Vec<RawFd>) -> io::Result<Pid> {
    let parent = Pid::this();
    command.process_group(0);
    // SAFETY: the closure makes system calls that are async-signal-safe; it allocates nothing and takes no lock, and there is
    // no other thread that could hold one at the fork. The descriptors are open: our caller owns them for as long as it runs.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGTERM)?;
            if getppid() != parent {
                return Err(nix::errno::Errno::ESRCH.into()); // we died before the line above
            }
            for fd in &inherit {
                fcntl(BorrowedFd::borrow_raw(*fd), FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            Ok(())
        });
    }
    let child = command.spawn()?;
    i32::try_from(child.id()).map(Pid::from_raw).map_err(io::Error::other)
}

/// Gives signals their default disposition, for us and for whatever we start. `nohup` and shells that start something in the
/// background leave some ignored, and an ignored signal never arrives, not even while it is blocked.
pub(crate) fn reset_dispositions(signals: impl IntoIterator<Item = Signal>) -> nix::Result<()> {
    for one in signals {
        // SAFETY: no handler is installed, and none of ours is replaced: there is none.
        unsafe { signal(one, SigHandler::SigDfl) }?;
    }
    Ok(())
}
