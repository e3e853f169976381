//! What needs `unsafe`: the moment between `fork` and `exec`.
#![allow(unsafe_code, reason = "there is no safe way to run code in a forked child")]

use nix::libc;
use nix::sys::signal::SigSet;
use tokio::process::Command;

/// Makes `command` start its program in a session of its own, with no signal blocked, with no file of ours except
/// its three streams and, if asked, without a way to ever gain privileges.
///
/// There is no parent-death signal on purpose: the program's life is not tied to ours.
pub(crate) fn detach(command: &mut Command, no_new_privs: bool) {
    let prepare = move || {
        nix::unistd::setsid()?;
        SigSet::empty().thread_set_mask()?;
        close_on_exec_from_three();
        if no_new_privs {
            nix::sys::prctl::set_no_new_privs()?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe functions may run; the closure makes plain system calls and
    // neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(prepare);
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

/// Like [`detach`], but the program stays in our session.
pub(crate) fn restrain(command: &mut Command, no_new_privs: bool) {
    let prepare = move || {
        SigSet::empty().thread_set_mask()?;
        close_on_exec_from_three();
        if no_new_privs {
            nix::sys::prctl::set_no_new_privs()?;
        }
        Ok(())
    };
    // SAFETY: as for `detach`.
    unsafe {
        command.pre_exec(prepare);
    }
}
