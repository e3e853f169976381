//! The journal: every change of a tenant's files, in order, with the contents that control does not have yet.
//!
//! ```text
//! .winston/epoch                            identity of this journal (a UUID), written once
//! .winston/changes/<first seq>.jsonl        segments, one record per line (see [`record`])
//! .winston/objects/<sha256>                 contents too large for a line
//! .winston/acked                            last sequence number that control has committed
//! ```
//!
//! [`Journal`] is the handle that everybody shares. Appending goes through one writer thread, which turns whatever is waiting
//! into one write and one flush.

#[cfg(test)]
mod fuzz;
mod ledger;
mod reader;
mod record;
mod replay;
mod segment;
mod writer;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use uuid::Uuid;
use winston_wire::{Change, ContentHash};

pub(crate) use ledger::Ledger;
pub(crate) use reader::{Batch, Cursor};
pub(crate) use record::{Content, NewRecord, Record};

use crate::fs::{FsError, Root};
use replay::Replayed;

/// Contents up to this size travel inside the record; larger ones are files of their own.
pub(crate) const INLINE_CONTENT_BYTES: usize = 64 * 1024;

/// Why the journal could not be opened or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// The volume has no room for the record.
    #[error("no space left on the volume for the journal")]
    NoSpace,
    /// Anything else from the file system.
    #[error("journal: {0}")]
    Fs(#[source] FsError),
    /// The writer has ended; only during shutdown.
    #[error("journal is closed")]
    Closed,
}

impl From<FsError> for JournalError {
    fn from(error: FsError) -> Self {
        match error {
            FsError::NoSpace => Self::NoSpace,
            other => Self::Fs(other),
        }
    }
}

impl From<std::io::Error> for JournalError {
    fn from(error: std::io::Error) -> Self {
        FsError::from(error).into()
    }
}

/// Shared handle on the journal.
pub(crate) struct Journal {
    epoch: Mutex<Uuid>,
    dirs: Arc<Dirs>,
    writer: writer::Writer,
    head: watch::Receiver<u64>,
    ledger: Arc<Ledger>,
    flushes: Arc<AtomicU64>,
    corrupt: u64,
    /// Held from writing a content in `.winston/objects/` until its record is in the journal, and while contents are removed.
    objects: Mutex<()>,
}

/// Open handles on the journal's directories.
pub(crate) struct Dirs {
    pub(crate) internal: OwnedFd,
    pub(crate) changes: OwnedFd,
    pub(crate) objects: OwnedFd,
}

/// A journal whose identity is known and whose records have not been read yet.
pub(crate) struct Opening {
    dirs: Arc<Dirs>,
    epoch: Uuid,
}

impl Opening {
    /// Identity of the journal.
    pub(crate) fn epoch(&self) -> Uuid {
        self.epoch
    }

    /// Cuts a torn tail and reads back what the journal holds. `visit` sees every readable record, oldest first.
    pub(crate) fn open(self, segment_bytes: u64, visit: &mut dyn FnMut(&Record)) -> Result<Journal, JournalError> {
        let Self { dirs, epoch } = self;
        let acked = segment::read_acked(&dirs, epoch);
        let replayed = replay::replay(&dirs, visit)?;
        // A damaged tail may have been committed by control already; its numbers are not given out twice.
        let head_seq = replayed.head_seq().max(acked);
        let ledger = Arc::new(Ledger::new(acked, &replayed));
        segment::remove_unneeded_objects(&dirs, |hash| ledger.needs(hash))?;
        let (head_sender, head) = watch::channel(head_seq);
        let flushes = Arc::new(AtomicU64::new(0));
        let writer = writer::Writer::start(writer::Setup {
            dirs: Arc::clone(&dirs),
            ledger: Arc::clone(&ledger),
            segments: replayed.segments.clone(),
            next_seq: head_seq + 1,
            segment_bytes,
            head: head_sender,
            flushes: Arc::clone(&flushes),
        })?;
        let (epoch, objects) = (Mutex::new(epoch), Mutex::new(()));
        Ok(Journal { epoch, dirs, writer, head, ledger, flushes, corrupt: replayed.corrupt, objects })
    }
}

impl Journal {
    /// Opens the directories and reads the journal's identity; a new volume gets one.
    pub(crate) fn identify(root: &Root) -> Result<Opening, JournalError> {
        let dirs = Arc::new(Dirs {
            internal: root.internal_dir(".winston")?,
            changes: root.internal_dir(".winston/changes")?,
            objects: root.internal_dir(".winston/objects")?,
        });
        let epoch = segment::open_epoch(&dirs)?;
        Ok(Opening { dirs, epoch })
    }

    /// Identity of this journal.
    pub(crate) fn epoch(&self) -> Uuid {
        *self.epoch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the journal a new identity, because control knows numbers of the old one that this volume does not have: it was restored
    /// from an older copy. Everything that is here is sent again, as another journal. Does nothing unless the identity still is
    /// `known`. Blocking.
    pub(crate) fn renew_epoch(&self, known: Uuid) -> Result<(), JournalError> {
        let mut epoch = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        if *epoch != known {
            return Ok(());
        }
        *epoch = segment::new_epoch(&self.dirs)?;
        self.ledger.acknowledge(0);
        Ok(())
    }

    /// Appends records and waits until they are on disk. Blocking: call it from a blocking thread. Returns the changes with their
    /// sequence numbers, in order.
    pub(crate) fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Change>, JournalError> {
        let large = records.iter().any(|record| matches!(record.content, Content::Object(_)));
        let _held = large.then(|| self.objects.lock().unwrap_or_else(PoisonError::into_inner));
        for record in &records {
            if let Content::Object(bytes) = &record.content
                && let Some(hash) = record.hash
            {
                segment::write_object(&self.dirs, hash, bytes)?;
            }
        }
        self.writer.append(records)
    }

    /// Last durable sequence number; changes when records are appended.
    pub(crate) fn head(&self) -> watch::Receiver<u64> {
        self.head.clone()
    }

    /// Last durable sequence number.
    pub(crate) fn head_seq(&self) -> u64 {
        *self.head.borrow()
    }

    /// What is known in memory: recent changes and what control has committed.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Reads records from `cursor` on. Blocking.
    pub(crate) fn read(
        &self,
        cursor: &mut Cursor,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Batch, JournalError> {
        reader::read(&self.dirs, cursor, self.head_seq(), max_records, max_bytes)
    }

    /// A content that was too large for its record. Blocking.
    pub(crate) fn object(&self, hash: ContentHash) -> Result<Option<Vec<u8>>, JournalError> {
        segment::read_object(&self.dirs, hash)
    }

    /// Control has committed everything up to `seq`: remembers it and removes what is needed no more. Blocking.
    ///
    /// `index_saved` is the sequence number up to which the index on disk makes the records dispensable.
    pub(crate) fn acknowledge(&self, seq: u64, index_saved: u64) -> Result<(), JournalError> {
        {
            let _held = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
            for hash in self.ledger.acknowledge(seq) {
                segment::remove_object(&self.dirs, hash)?;
            }
        }
        segment::trim(&self.dirs, seq.min(index_saved))?;
        // Last, and not needed: without it control says after the next start what it has. On a full volume it may fail.
        if let Err(error) = segment::write_acked(&self.dirs, self.epoch(), seq) {
            tracing::debug!(%error, "could not write the acknowledgement");
        }
        Ok(())
    }

    /// Without control: keeps the local history window and nothing older. Blocking.
    pub(crate) fn keep_window(&self, index_saved: u64) -> Result<(), JournalError> {
        let kept_from = segment::window_start(&self.dirs)?;
        self.acknowledge(kept_from.saturating_sub(1).min(index_saved), index_saved)
    }

    /// Flushes of the journal so far.
    pub(crate) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// Records that could not be read back at start.
    pub(crate) fn corrupt(&self) -> u64 {
        self.corrupt
    }
}
