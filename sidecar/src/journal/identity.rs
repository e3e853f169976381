//! Small files beside the segments: the journal's identity and what control has acknowledged.

use std::io::{Read, Write};

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::segment::open;
use super::{Dirs, JournalError};
use crate::fs::replace_file;

/// Reads the journal's identity, or gives a new journal one; true for a new one.
pub(super) fn open_epoch(dirs: &Dirs) -> Result<(Uuid, bool), JournalError> {
    match open(&dirs.internal, "epoch", OFlags::RDONLY) {
        Ok(file) => {
            let mut text = String::new();
            file.take(64).read_to_string(&mut text)?;
            if let Ok(epoch) = text.trim().parse() {
                return Ok((epoch, false));
            }
            tracing::error!("the journal's epoch file is damaged; a new epoch starts");
        }
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(crate::fs::FsError::from(errno).into()),
    }
    Ok((new_epoch(dirs)?, true))
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
