//! Files of the journal's records.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::{Dirs, JournalError};
use crate::failpoint;
use crate::fs::{FsError, Root, stat_at};

/// Segments that are kept for the local history although control has them: the one that is written and the one before.
pub(super) const KEPT_SEGMENTS: usize = 2;

/// Largest first number: control counts in 63 bits.
const MAX_FIRST: u64 = i64::MAX as u64;

pub(super) const OURS: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW);

/// File name of the segment that starts with `first`.
pub(super) fn segment_name(first: u64) -> String {
    format!("{first:020}.jsonl")
}

/// First sequence numbers of all segments, ascending. Whatever else lies in the directory is none.
pub(super) fn list(dirs: &Dirs) -> Result<Vec<u64>, JournalError> {
    let mut firsts = Vec::new();
    each(dirs, |name, _| firsts.extend(first_of(name)))?;
    firsts.sort_unstable();
    Ok(firsts)
}

fn first_of(name: &str) -> Option<u64> {
    let first = name.strip_suffix(".jsonl")?.parse().ok()?;
    ((1..=MAX_FIRST).contains(&first) && name == segment_name(first)).then_some(first)
}

/// Calls `visit` with name and size of every regular file in the directory of the segments.
fn each(dirs: &Dirs, mut visit: impl FnMut(&str, u64)) -> Result<(), JournalError> {
    let dir = rustix::fs::openat(&dirs.changes, ".", OFlags::RDONLY | OFlags::DIRECTORY | OURS, Mode::empty())
        .map_err(FsError::from)?;
    Root::each_entry(dir.as_fd(), |entry| {
        if entry.stat.kind == crate::fs::EntryKind::File
            && let Ok(name) = std::str::from_utf8(&entry.name)
        {
            visit(name, entry.stat.size);
        }
    })?;
    Ok(())
}

/// Removes what an interrupted rewriting of a segment left.
pub(super) fn remove_unfinished(dirs: &Dirs) -> Result<(), JournalError> {
    let mut unfinished = Vec::new();
    each(dirs, |name, _| {
        if name.strip_suffix(".new").and_then(first_of).is_some() {
            unfinished.push(name.to_owned());
        }
    })?;
    for name in unfinished {
        rustix::fs::unlinkat(&dirs.changes, name, AtFlags::empty()).map_err(FsError::from)?;
    }
    Ok(())
}

/// Opens one of our files, with mode 0600 when it is new.
pub(super) fn open(dir: &OwnedFd, name: &str, flags: OFlags) -> Result<File, Errno> {
    rustix::fs::openat(dir, name, flags | OURS, Mode::from_raw_mode(0o600)).map(File::from)
}

/// Opens a segment for reading; `None` when it is gone.
pub(super) fn open_read(dirs: &Dirs, first: u64) -> Result<Option<File>, JournalError> {
    match open(&dirs.changes, &segment_name(first), OFlags::RDONLY) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(FsError::from(errno).into()),
    }
}

/// Opens a segment for mending its end: writes go where they are told to go.
pub(super) fn open_repair(dirs: &Dirs, first: u64) -> Result<File, JournalError> {
    Ok(open(&dirs.changes, &segment_name(first), OFlags::RDWR).map_err(FsError::from)?)
}

/// Opens a segment for appending, creating it durably when it is new.
pub(super) fn open_append(dirs: &Dirs, first: u64) -> Result<File, JournalError> {
    let name = segment_name(first);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND;
    let file = open(&dirs.changes, &name, flags).map_err(FsError::from)?;
    let flushed = failpoint::fails("journal-dir-sync").and_then(|()| Ok(rustix::fs::fsync(&dirs.changes)?));
    if let Err(error) = flushed {
        // A later flush that succeeds need not bring a name to the disk whose first flush failed, so the name is made anew next time.
        if file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            let _ = rustix::fs::unlinkat(&dirs.changes, name, AtFlags::empty());
        }
        return Err(error.into());
    }
    Ok(file)
}

/// First sequence number of the local history window.
pub(super) fn window_start(dirs: &Dirs) -> Result<u64, JournalError> {
    let firsts = list(dirs)?;
    Ok(firsts.get(firsts.len().saturating_sub(KEPT_SEGMENTS)).copied().unwrap_or(1))
}

/// Removes segments that hold nothing after `done`, but keeps the `kept` newest ones. Returns the bytes that this frees.
pub(super) fn trim(dirs: &Dirs, done: u64, kept: usize) -> Result<u64, JournalError> {
    let firsts = list(dirs)?;
    let mut freed = 0;
    for pair in firsts.windows(2).take(firsts.len().saturating_sub(kept)) {
        if pair[1] > done + 1 {
            break;
        }
        let name = segment_name(pair[0]);
        let bytes = stat_at(&dirs.changes, &name)?.map_or(0, |stat| stat.size);
        match rustix::fs::unlinkat(&dirs.changes, name, AtFlags::empty()) {
            Ok(()) => freed += bytes,
            // The writer, on a full volume, and an acknowledgement may both be at it.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(FsError::from(errno).into()),
        }
    }
    Ok(freed)
}
