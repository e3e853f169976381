//! `.winston/objects/<sha256>`: contents that are too large for a line, until control has them.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use winston_wire::ContentHash;

use super::segment::{OURS, open};
use super::{Dirs, JournalError};
use crate::failpoint;
use crate::fs::{FsError, Root, stat_at};

/// Stores a large content and flushes it; its name is on disk only after [`flush_names`]. Returns the bytes that were added, `None` when
/// the content was there already.
pub(super) fn write(dirs: &Dirs, hash: ContentHash, bytes: &[u8]) -> Result<Option<u64>, JournalError> {
    let name = hash.to_string();
    // A content that is there already was complete before it got its name. The caller's lock keeps it there.
    if stat_at(&dirs.objects, &name)?.is_some_and(|stat| stat.size == bytes.len() as u64) {
        return Ok(None);
    }
    let temporary = format!("{name}.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let mut file = open(&dirs.objects, &temporary, flags).map_err(FsError::from)?;
    let written = failpoint::fails("object-write").and_then(|()| file.write_all(bytes)).and_then(|()| file.sync_data());
    if let Err(error) = written {
        // What is half there only takes room, on a volume that may have none.
        let _ = rustix::fs::unlinkat(&dirs.objects, &temporary, AtFlags::empty());
        return Err(error.into());
    }
    rustix::fs::renameat(&dirs.objects, &temporary, &dirs.objects, &name).map_err(FsError::from)?;
    Ok(Some(bytes.len() as u64))
}

/// Flushes the names of contents. One flush serves any number of them; a record may name them only afterwards, because no other flush is
/// sure to bring the names to the disk.
pub(super) fn flush_names(dirs: &Dirs) -> Result<(), JournalError> {
    failpoint::fails("object-sync")?;
    Ok(rustix::fs::fsync(&dirs.objects).map_err(FsError::from)?)
}

/// Opens a large content; `None` when it is missing.
pub(super) fn open_read(dirs: &Dirs, hash: ContentHash) -> Result<Option<File>, JournalError> {
    match open(&dirs.objects, &hash.to_string(), OFlags::RDONLY) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(FsError::from(errno).into()),
    }
}

/// Removes large contents that no record needs (a crash came between the content and its record, or before the removal) and whatever
/// else is there. Returns the bytes of the ones that stay.
pub(super) fn remove_unneeded(dirs: &Dirs, needed: impl Fn(ContentHash) -> bool) -> Result<u64, JournalError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OURS;
    let dir = rustix::fs::openat(&dirs.objects, ".", flags, Mode::empty()).map_err(FsError::from)?;
    let (mut unneeded, mut bytes) = (Vec::new(), 0);
    Root::each_entry(dir.as_fd(), |entry| {
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        if name.parse().is_ok_and(&needed) {
            bytes += entry.stat.size;
        } else {
            unneeded.push(name);
        }
    })?;
    for name in unneeded {
        if let Err(errno) = rustix::fs::unlinkat(&dirs.objects, &name, AtFlags::empty()) {
            tracing::warn!(name, %errno, "could not remove what does not belong among the journal's contents");
        }
    }
    Ok(bytes)
}

/// Removes a large content. Returns the bytes that this frees.
pub(super) fn remove(dirs: &Dirs, hash: ContentHash) -> Result<u64, JournalError> {
    let name = hash.to_string();
    let bytes = stat_at(&dirs.objects, &name)?.map_or(0, |stat| stat.size);
    match rustix::fs::unlinkat(&dirs.objects, name, AtFlags::empty()) {
        Ok(()) => Ok(bytes),
        Err(Errno::NOENT) => Ok(0),
        Err(errno) => Err(FsError::from(errno).into()),
    }
}
