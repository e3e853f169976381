//! Ending what a gateway leaves behind.
//!
//! The gateway's spawn broker and every command that the agent runs have sessions of their own, so no process group
//! reaches them. They cannot hide either: whatever loses its parent becomes a child of the nearest subreaper, and a process can
//! start a session but never join another one. A descendant that is in another session than ours therefore came from the gateway.
//!
//! Below entrypoint, entrypoint is that subreaper: an adopted gateway is its child already, and so is what a gateway leaves
//! behind. Alone, the sidecar is ([`Realm::Alone`]), and then it reaps too: [`reap`] waits for exactly those zombies, by id.
//! Children that somebody in this process owns are in our session, are the gateway itself, or are [`Spared`]; waiting for any child would
//! steal their ends.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Read as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use tokio::time::{Instant, sleep};

/// The session of no process.
const NO_SESSION: i32 = -1;

/// Pause between two looks at who is left.
const PAUSE: Duration = Duration::from_millis(5);

/// A line of the process table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) session: i32,
    zombie: bool,
    /// Together with the id this is an identity: ids are reused, but not within a clock tick.
    pub(super) started: u64,
}

/// Where the processes of the gateway are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Realm {
    /// Below this process.
    Alone,
    /// Below entrypoint, this process included.
    Below {
        /// Its process id.
        entrypoint: i32,
        /// Whose they are, when the gateway runs as another user than we: somebody else's command in the container
        /// (`docker exec`) that lost its parent is none of them.
        uid: Option<u32>,
    },
}

impl Realm {
    /// Ours. `uid`: whose the gateway's processes are, when that is another user than we.
    pub(super) fn here(below_entrypoint: bool, uid: Option<u32>) -> Self {
        match rustix::process::getppid() {
            Some(parent) if below_entrypoint => Self::Below { entrypoint: parent.as_raw_nonzero().get(), uid },
            _ => Self::Alone,
        }
    }

    fn roots(self) -> Vec<i32> {
        match self {
            Self::Alone => vec![own_pid()],
            Self::Below { entrypoint, .. } => vec![own_pid(), entrypoint],
        }
    }

    fn strays(self) -> Vec<Entry> {
        let spared = spared();
        let mut strays = strays(&table(), &self.roots(), own_session(), |entry| match self {
            _ if spared.contains(&entry.pid) => false,
            Self::Below { uid: Some(uid), .. } => user(entry.pid).is_none_or(|user| user == uid),
            _ => true,
        });
        strays.sort_unstable_by_key(|entry| entry.pid);
        strays
    }
}

/// Leaders of sessions below us that are not the gateway's.
static SPARED: Mutex<Vec<i32>> = Mutex::new(Vec::new());

fn spared() -> MutexGuard<'static, Vec<i32>> {
    SPARED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child of ours in a session of its own that is not the gateway's: neither it nor what is below it is swept up or reaped for as long as this
/// value lives. The next sidecar knows nothing of it and sweeps it up like everything else.
pub(super) struct Spared {
    pid: i32,
}

impl Spared {
    /// Starts it. Nobody looks at the process table between its start and its being known.
    pub(super) fn start<T>(start: impl FnOnce() -> io::Result<(i32, T)>) -> io::Result<(Self, T)> {
        let mut spared = spared();
        let (pid, started) = start()?;
        spared.push(pid);
        Ok((Self { pid }, started))
    }

    /// Its id, and that of its session.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for Spared {
    fn drop(&mut self) {
        spared().retain(|pid| *pid != self.pid);
    }
}

/// Makes the orphans below us ours.
pub(super) fn adopt_orphans() {
    if let Err(error) = nix::sys::prctl::set_child_subreaper(true) {
        tracing::warn!(%error, "orphans of the gateway go to PID 1 and cannot be ended by us");
    }
}

/// Kills everything that came from a gateway that has ended, and waits until it is reaped. Gives up after `limit`.
pub(super) async fn sweep(realm: Realm, limit: Duration) {
    let give_up = Instant::now() + limit;
    loop {
        let strays = realm.strays();
        let mut alive = 0;
        for stray in &strays {
            if stray.zombie {
                // A zombie below another stray is that one's to reap, or ours or entrypoint's once it is gone.
                reap_one(stray);
            } else {
                alive += 1;
                kill(stray);
            }
        }
        if strays.is_empty() {
            return;
        }
        if Instant::now() >= give_up {
            tracing::warn!(alive, left = strays.len(), "processes of the ended gateway remain");
            return;
        }
        sleep(PAUSE).await;
    }
}

/// Kills what is left of a session, and for as long as its leader lives everything below that, except for the leader: it has not been waited for,
/// so the session's number is nobody else's. Waits for their ends, at most for `limit`.
pub(super) async fn end_session(leader: i32, limit: Duration) {
    let give_up = Instant::now() + limit;
    loop {
        let members = members(&table(), leader);
        if members.is_empty() {
            return;
        }
        members.iter().for_each(kill);
        if limit.is_zero() {
            return;
        }
        if Instant::now() >= give_up {
            tracing::warn!(leader, left = members.len(), "processes of an ended command remain");
            return;
        }
        sleep(PAUSE).await;
    }
}

fn members(table: &[Entry], leader: i32) -> Vec<Entry> {
    let below: HashSet<i32> = strays(table, &[leader], NO_SESSION, |_| true).iter().map(|entry| entry.pid).collect();
    let is_member = |entry: &&Entry| {
        entry.pid != leader && (entry.session == leader || below.contains(&entry.pid)) && !entry.zombie
    };
    table.iter().filter(is_member).copied().collect()
}

/// The ids of everything that came from the gateway, itself included.
pub(super) fn tree(realm: Realm) -> Vec<i32> {
    realm.strays().iter().map(|entry| entry.pid).collect()
}

/// The same, of those that live, and ourselves.
pub(super) fn family(realm: Realm) -> Vec<i32> {
    let living = realm.strays().into_iter().filter(|entry| !entry.zombie);
    living.map(|entry| entry.pid).chain([own_pid()]).collect()
}

/// Reaps orphans of a running gateway that have ended.
pub(super) fn reap(gateway: Option<Pid>) {
    let gateway = gateway.map_or(0, |pid| pid.as_raw_nonzero().get());
    let (own_pid, own_session) = (own_pid(), own_session());
    let spared = spared();
    for entry in table() {
        let orphan = entry.parent == own_pid && entry.session != own_session && !spared.contains(&entry.pid);
        if orphan && entry.zombie && entry.pid != gateway {
            reap_one(&entry);
        }
    }
}

/// How many orphans of a gateway wait to be reaped.
#[cfg(test)]
pub(super) fn zombies() -> usize {
    Realm::Alone.strays().iter().filter(|stray| stray.zombie).count()
}

/// The descendants of `roots` that came from a gateway: below a child of one that is in a foreign session, and that `fits`.
fn strays(table: &[Entry], roots: &[i32], own_session: i32, fits: impl Fn(&Entry) -> bool) -> Vec<Entry> {
    let mut children: HashMap<i32, Vec<&Entry>> = HashMap::new();
    for entry in table {
        children.entry(entry.parent).or_default().push(entry);
    }
    let mut strays = Vec::new();
    let mut seen = HashSet::new();
    let below = roots.iter().filter_map(|root| children.get(root)).flatten().copied();
    let mut open: Vec<&Entry> = below.filter(|child| child.session != own_session && fits(child)).collect();
    // The table is read while it changes, so it may claim circles.
    while let Some(entry) = open.pop() {
        if !roots.contains(&entry.pid) && seen.insert(entry.pid) {
            strays.push(*entry);
            open.extend(children.get(&entry.pid).into_iter().flatten().copied());
        }
    }
    strays
}

fn kill(entry: &Entry) {
    let Some(pid) = Pid::from_raw(entry.pid) else {
        return;
    };
    let sent = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        // The descriptor holds on to one process; the second look says that it is the one we mean.
        Ok(process) if is_still(entry) => rustix::process::pidfd_send_signal(process, Signal::KILL),
        Ok(_) => return,
        Err(Errno::NOSYS) if is_still(entry) => rustix::process::kill_process(pid, Signal::KILL),
        Err(error) => Err(error),
    };
    match sent {
        Ok(()) => tracing::info!(pid = entry.pid, "killed a process that was left behind"),
        Err(Errno::SRCH) => {}
        Err(error) => tracing::warn!(%error, pid = entry.pid, "left-over process not killed"),
    }
}

fn is_still(entry: &Entry) -> bool {
    read_entry(entry.pid).is_some_and(|now| now.started == entry.started)
}

fn reap_one(entry: &Entry) {
    if let Some(pid) = Pid::from_raw(entry.pid) {
        // Not our child (yet), or reaped meanwhile: the next look tells.
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Zero, as in the process table, when the leader of our session is outside of our PID namespace.
fn own_session() -> i32 {
    read_entry(own_pid()).map_or(0, |own| own.session)
}

fn table() -> Vec<Entry> {
    let Ok(proc) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    proc.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(read_entry).collect()
}

/// The user that a process runs as. Not the owner of its files in `/proc`, which are root's when it may not be looked into.
pub(super) fn user(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Whether a process has not ended yet. An id that is another one's by now is that one's.
pub(super) fn lives(pid: i32) -> bool {
    read_entry(pid).is_some_and(|entry| !entry.zombie)
}

/// The line of one process.
pub(super) fn read_entry(pid: i32) -> Option<Entry> {
    // A line is shorter than this and comes with one read; there are as many as there are processes.
    let mut line = [0; 1024];
    let read = fs::File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut line).ok()?;
    parse_stat(&line[..read])
}

/// Parses `/proc/<pid>/stat` (proc_pid_stat(5)). The name of the program stands in parentheses and may itself
/// contain parentheses, spaces and newlines, so fields are counted from the last one.
fn parse_stat(stat: &[u8]) -> Option<Entry> {
    let name_start = stat.iter().position(|&byte| byte == b'(')?;
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let pid = std::str::from_utf8(&stat[..name_start]).ok()?.trim();
    let rest = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Entry {
        pid: pid.parse().ok()?,
        zombie: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(pid: i32, parent: i32, session: i32) -> Entry {
        Entry { pid, parent, session, zombie: false, started: 1 }
    }

    fn stray_pids(table: &[Entry]) -> Vec<i32> {
        let mut pids: Vec<i32> = strays(table, &[10], 5, |_| true).iter().map(|entry| entry.pid).collect();
        pids.sort_unstable();
        pids
    }

    #[test]
    fn only_what_is_below_us_in_another_session_is_a_stray() {
        let table = [
            entry(1, 0, 1),
            entry(10, 1, 5),
            // Ours: a helper in our session, and what it started.
            entry(11, 10, 5),
            entry(12, 11, 12),
            // The gateway's: orphaned broker, its children in sessions of their own.
            entry(20, 10, 20),
            entry(21, 20, 21),
            entry(22, 21, 21),
            // Somebody else's.
            entry(30, 1, 30),
            entry(31, 30, 20),
        ];
        assert_eq!(stray_pids(&table), [20, 21, 22]);
    }

    #[test]
    fn below_entrypoint_an_adopted_gateway_is_found_and_no_command_of_ours() {
        let table = [
            entry(1, 0, 5),
            entry(10, 1, 5),
            entry(11, 10, 5),
            entry(12, 11, 12),
            // An adopted gateway, what it started, and one of our own beside it.
            entry(20, 1, 20),
            entry(21, 20, 21),
            entry(30, 10, 30),
            // What somebody else started in the container.
            entry(40, 1, 40),
            entry(41, 40, 40),
        ];
        let mut pids: Vec<i32> =
            strays(&table, &[10, 1], 5, |entry| entry.pid != 40).iter().map(|entry| entry.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [20, 21, 30]);
    }

    #[test]
    fn of_a_command_goes_what_is_in_its_session_or_below_it() {
        let table = [
            entry(10, 1, 5),
            // The command, a child, one in a session of its own, and its child.
            entry(20, 10, 20),
            entry(21, 20, 20),
            entry(22, 20, 22),
            entry(23, 22, 22),
            // An orphan of it, one that has ended, and somebody else.
            entry(24, 10, 20),
            Entry { zombie: true, ..entry(25, 20, 20) },
            entry(30, 10, 30),
        ];
        let pids: Vec<i32> = members(&table, 20).iter().map(|entry| entry.pid).collect();
        assert_eq!(pids, [21, 22, 23, 24]);
        assert_eq!(members(&table, 40), []);
    }

    #[test]
    fn the_user_is_read() {
        assert_eq!(user(own_pid()), Some(rustix::process::getuid().as_raw()));
        assert_eq!(user(i32::MAX), None);
    }

    #[test]
    fn a_circle_in_a_torn_table_ends() {
        let table = [entry(20, 10, 20), entry(21, 20, 20), entry(20, 21, 20), entry(10, 21, 5)];
        assert_eq!(stray_pids(&table), [20, 21]);
    }

    #[test]
    fn a_program_name_cannot_forge_the_fields() {
        let stat = b"77 (a) Z 1 1 1) S 10 77 70 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9876 1 2";
        assert_eq!(parse_stat(stat), Some(Entry { pid: 77, parent: 10, session: 70, zombie: false, started: 9876 }));
        for torn in [&b""[..], b"77", b"77 (a", b"77 (a)", b"77 (a) S 1", b") 1 ("] {
            assert_eq!(parse_stat(torn), None);
        }
    }

    #[test]
    fn the_table_has_us() {
        let own = read_entry(own_pid()).expect("we exist");
        assert!(table().iter().any(|entry| entry.pid == own.pid));
        assert!(is_still(&own));
        assert!(!is_still(&Entry { started: own.started + 1, ..own }));
    }
}
