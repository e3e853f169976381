//! What needs `unsafe`: the moment between `fork` and `exec`, descriptors that the compiler cannot follow, and calls for
//! which there is no safe wrapper.
#![allow(
    unsafe_code,
    reason = "there is no safe way to run code in a forked child, to own or register an inherited descriptor, nor to call these functions"
)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use rustix::io::FdFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Command;

use crate::gateway::Identity;

/// Lets the event loop say when a descriptor can be read.
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, names one description for as long as it lives, and is owned by the result.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}

/// Takes a descriptor that we inherited; it is closed on exec from now on. To be called before anything else opens one, and
/// once for each number: whoever had opened it would lose it.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: only looked at; the kernel says so if there is none.
    let found = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(found, FdFlags::CLOEXEC)?;
    // SAFETY: it is open, and by the caller's promise nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes `command` start its program in a session of its own, with no signal blocked, with no file of ours except
/// its three streams, in this directory and, with an identity, as that user without any power and without a way to gain some.
///
/// There is no parent-death signal on purpose: the program's life is not tied to ours.
pub(crate) fn detach(command: &mut Command, identity: Option<Identity>, directory: &Path) -> io::Result<()> {
    let directory = CString::new(directory.as_os_str().as_bytes())?;
    let prepare = move || {
        nix::unistd::setsid()?;
        harmless(identity, &directory)
    };
    // SAFETY: between fork and exec only async-signal-safe functions may run; the closure makes plain system calls and
    // neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(prepare);
    }
    Ok(())
}

/// Like [`detach`], but the program is killed when the thread ends that starts it.
pub(crate) fn tie(command: &mut Command, identity: Option<Identity>, directory: &Path) -> io::Result<()> {
    let us = nix::unistd::getpid();
    detach(command, identity, directory)?;
    let prepare = move || {
        // After the change of the user, which would take it back.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        if nix::unistd::getppid() == us { Ok(()) } else { Err(io::Error::from(Errno::ESRCH)) }
    };
    // SAFETY: as for `detach`; it runs after what that has registered.
    unsafe {
        command.pre_exec(prepare);
    }
    Ok(())
}

/// For the child, before it becomes the program.
fn harmless(identity: Option<Identity>, directory: &CStr) -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    close_on_exec_from_three();
    if let Some(identity) = identity {
        drop_privileges(identity)?;
    }
    // As that user: root could enter directories that the user may not.
    nix::unistd::chdir(directory)?;
    Ok(())
}

/// Becomes this user, for ever: no groups, no capability in any set, and no program that could bring one back.
///
/// The order matters. Only root may empty the bounding set and the groups; a change of the user empties the sets that count, but
/// neither the inheritable nor the bounding one, and a platform may have filled both.
fn drop_privileges(identity: Identity) -> io::Result<()> {
    /// Of capget(2): two words for each set.
    const VERSION_3: u32 = 0x2008_0522;
    // Refused where we lack `CAP_SETPCAP`; `no_new_privs` makes the set useless anyway.
    for capability in 0..64 {
        // SAFETY: takes numbers, changes this process only.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            break;
        }
    }
    let Identity { uid, gid } = identity;
    // SAFETY: an empty list is not read; the others take numbers.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()).into())?;
        check(libc::setresgid(gid, gid, gid).into())?;
        check(libc::setresuid(uid, uid, uid).into())?;
    }
    let header = [VERSION_3, 0];
    let none = [[0u32; 3]; 2];
    // SAFETY: the kernel reads the header and two records of three words, all of which live until it returns. Ambient capabilities
    // go with the inheritable ones.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) })?;
    nix::sys::prctl::set_no_new_privs()?;
    Ok(())
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Keeps everybody but root out of our memory, our environment and our descriptors, the agent too where it runs as the same user as we do:
/// no `/proc/<pid>/mem`, no debugger, no `pidfd_getfd`. There is no core dump either, which would have the token in it.
pub(crate) fn seal() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        eprintln!("winston-sidecar: its memory is not sealed: {error}");
    }
}

/// Rust opens everything close-on-exec; this catches what we inherited ourselves.
fn close_on_exec_from_three() {
    // SAFETY: changes flags of descriptors of this process only. A kernel or sandbox without the call (Linux before
    // 5.11) returns an error, which leaves Rust's own care in place.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            libc::c_long::from(3),
            libc::c_long::from(libc::c_uint::MAX),
            libc::c_long::from(libc::CLOSE_RANGE_CLOEXEC),
        );
    }
}

/// Has the kernel begin to write a part of a file to the disk. A hint: nothing is durable by it, and where it does nothing, nothing is lost.
pub(crate) fn start_writeback(file: &File, offset: u64, length: usize) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else { return };
    // SAFETY: takes numbers and a descriptor that is open for as long as `file` is borrowed; an error is as good as doing nothing.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE);
    }
}

/// Runs something so that the threads which it starts wait for a turn of the scheduler instead of interrupting whoever runs (`SCHED_BATCH`,
/// sched(7)). For threads that get many small pieces of work, of which they can as well do a few at a time.
pub(crate) fn in_turns<T>(work: impl FnOnce() -> T) -> T {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: concerns the calling thread alone and reads a number from memory that is ours. Refused, it changes nothing.
    let usual = unsafe {
        libc::sched_getscheduler(0) == libc::SCHED_OTHER
            && libc::sched_setscheduler(0, libc::SCHED_BATCH, &parameters) == 0
    };
    let done = work();
    if usual {
        // SAFETY: as above.
        unsafe {
            libc::sched_setscheduler(0, libc::SCHED_OTHER, &parameters);
        }
    }
    done
}

/// Sets the allocator up for a small process: few threads allocate at once, and what was only needed for a moment is given back.
///
/// glibc would give threads up to eight areas for each core, each with its own free memory, and learn from large allocations to keep them.
#[cfg(target_env = "gnu")]
pub(crate) fn prepare_allocator() {
    const LARGE: libc::c_int = 128 * 1024;
    // SAFETY: sets numbers of the allocator, before there is a second thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
    }
}

/// Gives free memory back to the kernel, also where it lies between memory that is in use.
#[cfg(target_env = "gnu")]
pub(crate) fn release_memory() {
    // SAFETY: takes the allocator's own locks and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators do so by themselves, or have no such call.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn prepare_allocator() {}

/// See [`prepare_allocator`].
#[cfg(not(target_env = "gnu"))]
pub(crate) fn release_memory() {}
