//! Files of the journal: segments, objects, epoch and acknowledgement.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use winston_wire::ContentHash;

use super::{Dirs, JournalError};
use crate::fs::{Root, replace_file};

/// Segments that are kept for the local history although control has them.
const KEPT_SEGMENTS: usize = 2;

const OURS: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW);

/// File name of the segment that starts with `first`.
fn segment_name(first: u64) -> String {
    format!("{first:020}.jsonl")
}

/// First sequence numbers of all segments, ascending.
pub(super) fn list(dirs: &Dirs) -> Result<Vec<u64>, JournalError> {
    let mut firsts = Vec::new();
    let dir = rustix::fs::openat(&dirs.changes, ".", OFlags::RDONLY | OFlags::DIRECTORY | OURS, Mode::empty())
        .map_err(crate::fs::FsError::from)?;
    Root::each_entry(dir.as_fd(), |entry| {
        let name = std::str::from_utf8(&entry.name).unwrap_or_default();
        firsts.extend(name.strip_suffix(".jsonl").and_then(|digits| digits.parse::<u64>().ok()));
    })?;
    firsts.sort_unstable();
    Ok(firsts)
}

fn open(dir: &OwnedFd, name: &str, flags: OFlags) -> Result<File, Errno> {
    rustix::fs::openat(dir, name, flags | OURS, Mode::from_raw_mode(0o600)).map(File::from)
}

/// Opens a segment for reading.
pub(super) fn open_read(dirs: &Dirs, first: u64) -> Result<File, JournalError> {
    Ok(open(&dirs.changes, &segment_name(first), OFlags::RDONLY).map_err(crate::fs::FsError::from)?)
}

/// Opens a segment for appending, creating it durably when it is new.
pub(super) fn open_append(dirs: &Dirs, first: u64) -> Result<File, JournalError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND;
    let file = open(&dirs.changes, &segment_name(first), flags).map_err(crate::fs::FsError::from)?;
    rustix::fs::fsync(&dirs.changes).map_err(crate::fs::FsError::from)?;
    Ok(file)
}

/// First sequence number of the local history window.
pub(super) fn window_start(dirs: &Dirs) -> Result<u64, JournalError> {
    let firsts = list(dirs)?;
    Ok(firsts.get(firsts.len().saturating_sub(KEPT_SEGMENTS)).copied().unwrap_or(1))
}

/// Removes segments that hold nothing after `done`, but keeps the newest ones.
pub(super) fn trim(dirs: &Dirs, done: u64) -> Result<(), JournalError> {
    let firsts = list(dirs)?;
    for pair in firsts.windows(2).take(firsts.len().saturating_sub(KEPT_SEGMENTS)) {
        if pair[1] > done + 1 {
            break;
        }
        rustix::fs::unlinkat(&dirs.changes, segment_name(pair[0]), AtFlags::empty())
            .map_err(crate::fs::FsError::from)?;
    }
    Ok(())
}

/// Reads the journal's identity, or gives a new journal one.
pub(super) fn open_epoch(dirs: &Dirs) -> Result<Uuid, JournalError> {
    match open(&dirs.internal, "epoch", OFlags::RDONLY) {
        Ok(file) => {
            let mut text = String::new();
            file.take(64).read_to_string(&mut text)?;
            if let Ok(epoch) = text.trim().parse() {
                return Ok(epoch);
            }
            tracing::error!("the journal's epoch file is damaged; a new epoch starts");
        }
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(crate::fs::FsError::from(errno).into()),
    }
    new_epoch(dirs)
}

/// Gives the journal a new identity.
pub(super) fn new_epoch(dirs: &Dirs) -> Result<Uuid, JournalError> {
    let epoch = Uuid::now_v7();
    replace_file(&dirs.internal, "epoch", format!("{epoch}\n").as_bytes())?;
    Ok(epoch)
}

#[derive(Serialize, Deserialize)]
struct Acked {
    epoch: Uuid,
    seq: u64,
}

/// What control had committed when we last heard of it. Losing this file only means sending again.
pub(super) fn read_acked(dirs: &Dirs, epoch: Uuid) -> u64 {
    let read = || -> Option<Acked> {
        let mut text = Vec::new();
        open(&dirs.internal, "acked", OFlags::RDONLY).ok()?.take(4096).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    };
    read().filter(|acked| acked.epoch == epoch).map_or(0, |acked| acked.seq)
}

/// Remembers what control has committed.
pub(super) fn write_acked(dirs: &Dirs, epoch: Uuid, seq: u64) -> Result<(), JournalError> {
    let text = serde_json::to_vec(&Acked { epoch, seq }).map_err(std::io::Error::from)?;
    // Renamed but not flushed: an older value after a crash is harmless, a torn one counts as none.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let mut file = open(&dirs.internal, "acked.new", flags).map_err(crate::fs::FsError::from)?;
    file.write_all(&text)?;
    rustix::fs::renameat(&dirs.internal, "acked.new", &dirs.internal, "acked").map_err(crate::fs::FsError::from)?;
    Ok(())
}

/// Stores a large content, on disk before the call returns.
pub(super) fn write_object(dirs: &Dirs, hash: ContentHash, bytes: &[u8]) -> Result<(), JournalError> {
    let name = hash.to_string();
    // A content that is there already was complete before it got its name. The caller's lock keeps it there.
    if open(&dirs.objects, &name, OFlags::RDONLY).is_ok() {
        return Ok(());
    }
    Ok(replace_file(&dirs.objects, &name, bytes)?)
}

/// Reads a large content back; `None` when it is missing.
pub(super) fn read_object(dirs: &Dirs, hash: ContentHash) -> Result<Option<Vec<u8>>, JournalError> {
    match open(&dirs.objects, &hash.to_string(), OFlags::RDONLY) {
        Ok(mut file) => {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            // What is not what its name says is as good as missing; control would refuse it.
            Ok(Some(bytes).filter(|bytes| crate::edits::hash_of(bytes) == hash))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(crate::fs::FsError::from(errno).into()),
    }
}

/// Removes large contents that no record needs: a crash came between the content and its record, or before the removal.
pub(super) fn remove_unneeded_objects(dirs: &Dirs, needed: impl Fn(ContentHash) -> bool) -> Result<(), JournalError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OURS;
    let dir = rustix::fs::openat(&dirs.objects, ".", flags, Mode::empty()).map_err(crate::fs::FsError::from)?;
    let mut unneeded = Vec::new();
    Root::each_entry(dir.as_fd(), |entry| {
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        if !name.parse().is_ok_and(&needed) {
            unneeded.push(name);
        }
    })?;
    for name in unneeded {
        rustix::fs::unlinkat(&dirs.objects, name, AtFlags::empty()).map_err(crate::fs::FsError::from)?;
    }
    Ok(())
}

/// Removes a large content.
pub(super) fn remove_object(dirs: &Dirs, hash: ContentHash) -> Result<(), JournalError> {
    match rustix::fs::unlinkat(&dirs.objects, hash.to_string(), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(crate::fs::FsError::from(errno).into()),
    }
}
