//! Lock files that a killed gateway left on the volume.
//!
//! In a new container the process id in such a file is alive again more often than not, as somebody else, and a lock that names
//! only an id then holds for ever. A file goes only when its owner is surely gone: nobody else uses the volume (we hold a
//! lock of the kernel's on it), the file names an owner, and no process with that id is the one that wrote it. Everything else
//! stays, and the gateway judges for itself.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use serde_json::Value;

use crate::dir::Dir;
use crate::log;
use crate::settings::{OURS, Settings};

/// A lock file is a few hundred bytes.
const LARGEST: u64 = 16 * 1024;
/// Entries of one directory that are looked at.
const MOST: usize = 1000;
/// How far the clock of a file and that of a process may be apart.
const SLACK: Duration = Duration::from_secs(2);

/// Takes the kernel's lock on our directory for as long as the result lives, and removes what nobody owns any more.
pub(crate) fn release(settings: &Settings) -> Option<OwnedFd> {
    let ours = Dir::open(&settings.data_dir.join(OURS)).ok()?;
    if rustix::fs::flock(ours.fd(), FlockOperation::NonBlockingLockExclusive).is_err() {
        log::warn(
            "another winston-entrypoint uses this data directory, or its file system has no locks: OpenClaw's lock files are left alone",
            &[],
        );
        return None;
    }
    if let Ok(state) = Dir::open(&settings.data_dir).and_then(|data| data.walk(&settings.state_dir)) {
        for dir in lock_directories(&state) {
            remove_stale(&dir);
        }
    }
    ours.into_fd().into()
}

/// Where OpenClaw has lock files: `tmp/openclaw-<uid>/` now, beside the sessions in earlier versions.
fn lock_directories(state: &Dir) -> Vec<Dir> {
    let child = |dir: &Dir, name: &str| dir.child(OsStr::new(name)).ok();
    let mut found = Vec::new();
    if let Some(tmp) = child(state, "tmp") {
        let owned = tmp.names(MOST).into_iter().filter(|name| name.as_bytes().starts_with(b"openclaw-"));
        found.extend(owned.filter_map(|name| tmp.child(&name).ok()));
    }
    if let Some(agents) = child(state, "agents") {
        let agents = agents.names(MOST).into_iter().filter_map(|name| agents.child(&name).ok());
        found.extend(agents.filter_map(|agent| child(&agent, "sessions")));
    }
    found
}

fn remove_stale(dir: &Dir) {
    let locks = dir.names(MOST).into_iter().filter(|name: &OsString| name.as_bytes().ends_with(b".lock"));
    for name in locks {
        let Some((content, written)) = dir.read_regular(&name, LARGEST) else { continue };
        let Some(owner) = Owner::parse(&content) else { continue };
        if owner.is_gone(written, look(owner.pid)) && dir.remove(&name).is_ok() {
            let fields = [("file", name.to_string_lossy().into_owned().into()), ("pid", owner.pid.into())];
            log::info("removed a lock file whose owner is gone", &fields);
        }
    }
}

/// Who a lock file says that it belongs to.
#[derive(Debug, PartialEq, Eq)]
struct Owner {
    pid: u32,
    /// Field 22 of `/proc/<pid>/stat`, where it was noted.
    started: Option<u64>,
}

impl Owner {
    fn parse(content: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(content).ok()?;
        let pid = u32::try_from(value.get("pid")?.as_u64()?).ok().filter(|pid| *pid > 0)?;
        let started = value.get("startTime").or_else(|| value.get("starttime")).and_then(Value::as_u64);
        Some(Self { pid, started })
    }

    fn is_gone(&self, written: SystemTime, now: Look) -> bool {
        match (now, self.started) {
            (Look::Nobody, _) => true,
            (Look::Unknown, _) => false,
            (Look::Process { ticks, .. }, Some(started)) => ticks != started,
            (Look::Process { since, .. }, None) => since > written + SLACK,
        }
    }
}

/// Who has a process id now.
#[derive(Debug, Clone, Copy)]
enum Look {
    Nobody,
    Process { ticks: u64, since: SystemTime },
    Unknown,
}

fn look(pid: u32) -> Look {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // Only where we can see ourselves does a missing entry mean anything.
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound && std::path::Path::new("/proc/self/stat").exists() =>
        {
            Look::Nobody
        }
        Err(_) => Look::Unknown,
        Ok(stat) => started(&stat).map_or(Look::Unknown, |(ticks, since)| Look::Process { ticks, since }),
    }
}

/// When a process started, from its line in `/proc`: in ticks since the boot of the machine, and as a time.
fn started(stat: &str) -> Option<(u64, SystemTime)> {
    let (_, after) = stat.rsplit_once(')')?;
    let ticks: u64 = after.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let table = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = table.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let since = Duration::from_secs(boot) + Duration::from_millis(ticks.saturating_mul(1000) / TICKS);
    Some((ticks, SystemTime::UNIX_EPOCH + since))
}

/// Ticks per second in `/proc`: a constant of the kernel's interface on every architecture that we build for.
const TICKS: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(text: &str) -> Option<Owner> {
        Owner::parse(text.as_bytes())
    }

    #[test]
    fn owners_in_both_spellings() {
        assert_eq!(owner(r#"{"pid":7,"startTime":9}"#), Some(Owner { pid: 7, started: Some(9) }));
        assert_eq!(owner(r#"{"pid":7,"starttime":9}"#), Some(Owner { pid: 7, started: Some(9) }));
        assert_eq!(owner(r#"{"pid":7}"#), Some(Owner { pid: 7, started: None }));
        for unknown in ["", "{}", "7", r#"{"pid":0}"#, r#"{"pid":"7"}"#, r#"{"pid":-1}"#] {
            assert_eq!(owner(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn only_who_is_surely_gone_is_gone() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let process = |ticks, since| Look::Process { ticks, since: at(since) };
        let (named, unnamed) = (Owner { pid: 7, started: Some(9) }, Owner { pid: 7, started: None });
        assert!(named.is_gone(at(100), Look::Nobody) && unnamed.is_gone(at(100), Look::Nobody));
        assert!(!named.is_gone(at(100), Look::Unknown) && !unnamed.is_gone(at(100), Look::Unknown));
        assert!(!named.is_gone(at(100), process(9, 50)), "itself");
        assert!(named.is_gone(at(100), process(10, 50)), "another with its id");
        assert!(!unnamed.is_gone(at(100), process(9, 50)), "it may be");
        assert!(!unnamed.is_gone(at(100), process(9, 101)), "clocks differ");
        assert!(unnamed.is_gone(at(100), process(9, 103)), "younger than the lock");
    }

    #[test]
    fn our_own_start_is_before_now() {
        let Look::Process { since, .. } = look(std::process::id()) else { panic!("we exist") };
        assert!(since <= SystemTime::now() + SLACK);
        assert!(matches!(look(u32::MAX), Look::Nobody));
    }
}
