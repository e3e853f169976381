//! Finding the gateway that an earlier sidecar started.
//!
//! A process is the recorded one if id and start time are the same (one boot, or the record would not be there), if it belongs to the
//! gateway's user, leads its own session, and is a child of our entrypoint: the kernel gave it that parent when the sidecar
//! died that had started it.

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getppid, pidfd_open};

use super::GatewayConfig;
use super::descendants::{self, Entry};
use super::process::Process;
use super::record::Known;

/// What became of a recorded process.
pub(super) enum Found {
    /// It lives, or entrypoint has not waited for it yet.
    Process(Process),
    /// It has ended and was waited for.
    Gone,
    /// Something is there that cannot be taken over, and why.
    Stranger(&'static str),
}

/// Looks for the recorded process.
pub(super) fn find(known: &Known, config: &GatewayConfig) -> Found {
    let Some(pid) = Pid::from_raw(known.pid).filter(|_| known.pid > 0) else {
        return Found::Stranger("the record names no process");
    };
    // Opened before it is looked at: the descriptor stays with one process, whatever happens to the id.
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Found::Gone,
        Err(_) => return Found::Stranger("it cannot be held on to"),
    };
    let Some(entry) = descendants::read_entry(known.pid) else {
        return Found::Gone;
    };
    let entrypoint = getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    match judge(known, config, &entry, descendants::user(known.pid), entrypoint) {
        Ok(true) => Process::adopted(pid, pidfd).map_or(Found::Stranger("it cannot be watched"), Found::Process),
        Ok(false) => Found::Gone,
        Err(why) => Found::Stranger(why),
    }
}

/// Whether the process with the recorded id is the recorded one; false: it is a later one, so the recorded one is gone.
fn judge(
    known: &Known,
    config: &GatewayConfig,
    entry: &Entry,
    user: Option<u32>,
    entrypoint: i32,
) -> Result<bool, &'static str> {
    if entry.started != known.started {
        return Ok(false);
    }
    let expected = config.identity.map_or_else(|| rustix::process::geteuid().as_raw(), |identity| identity.uid);
    if known.uid != expected || user != Some(expected) {
        return Err("it runs as another user than the gateway is to");
    }
    if known.port != config.port {
        return Err("it was started for another port");
    }
    if entry.parent != entrypoint || entry.session != entry.pid {
        return Err("it is not below our entrypoint");
    }
    Ok(true)
}
