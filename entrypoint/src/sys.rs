//! The one place with `unsafe`: code that runs in the child between fork and exec, and signal dispositions.

#![allow(
    unsafe_code,
    reason = "the standard library has no safe way to set a child's signal mask and parent-death signal, or a disposition"
)]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::unistd::{ForkResult, Pid, getppid};

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

/// Starts `child` as a process of its own that ends when it returns. It keeps its three streams and the descriptor that it is given, and
/// is the leader of a process group, so that a terminal's Ctrl-C does not reach it; our session stays its own.
///
/// To be called while there is only one thread.
pub(crate) fn fork(mut keep: OwnedFd, child: impl FnOnce(OwnedFd)) -> nix::Result<Pid> {
    // SAFETY: there is no other thread, so the child finds no lock held and may do whatever we may.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let _ = nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0));
            // In the lowest place, and all others closed: the entrypoint's pipes must end with it.
            const LOWEST: RawFd = 3;
            if keep.as_raw_fd() != LOWEST
                && let Ok(moved) = rustix::io::fcntl_dupfd_cloexec(&keep, LOWEST)
            {
                keep = moved;
            }
            let kept = keep.as_raw_fd();
            for fd in (LOWEST..256).filter(|fd| *fd != kept) {
                // SAFETY: what the descriptor belonged to is never used again: this process ends below, and nothing is dropped.
                unsafe { libc::close(fd) };
            }
            child(keep);
            // SAFETY: ends the process without running what the parent has registered.
            unsafe { libc::_exit(0) }
        }
    }
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
