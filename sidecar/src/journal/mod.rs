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
mod capping;
mod compact;
#[cfg(test)]
mod fuzz;
mod identity;
mod ledger;
mod lines;
#[cfg(test)]
mod model;
mod objects;
mod reader;
mod record;
#[cfg(test)]
mod recovery;
mod replay;
mod segment;
mod tail;
mod usage;
mod writer;

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use tokio::sync::watch;
use uuid::Uuid;
use winston_wire::{Change, ContentHash};

pub(crate) use ledger::Ledger;
pub(crate) use reader::{Batch, Cursor};
pub(crate) use record::{Content, NewRecord, Record};

use crate::fs::{FsError, Root};
use replay::Replayed;
use usage::Usage;

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

/// How large the journal and its parts may become.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of records and their contents after which another segment is started.
    pub(crate) segment_bytes: u64,
    /// Bytes of all segments and contents after which the oldest contents are dropped. Some segments are always kept, so it should be at least
    /// four times `segment_bytes`.
    pub(crate) max_bytes: u64,
}

/// Shared handle on the journal.
pub(crate) struct Journal {
    epoch: Mutex<Uuid>,
    dirs: Arc<Dirs>,
    writer: writer::Writer,
    head: watch::Receiver<u64>,
    ledger: Arc<Ledger>,
    usage: Arc<Usage>,
    limits: Limits,
    corrupt: u64,
    /// Held from writing a content in `.winston/objects/` until its record is in the journal, and while contents or segments are removed
    /// or rewritten.
    tidy: Mutex<()>,
    /// Contents in `.winston/objects/` that a record is about to need, with the number of their holders.
    kept: Mutex<HashMap<ContentHash, usize>>,
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
    is_new: bool,
}

impl Opening {
    /// There was no journal, or nothing said which one it is.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Identity of the journal.
    pub(crate) fn epoch(&self) -> Uuid {
        self.epoch
    }

    /// Cuts a torn tail and reads back what the journal holds. `visit` sees every readable record, oldest first.
    pub(crate) fn open(self, limits: Limits, visit: &mut dyn FnMut(&Change)) -> Result<Journal, JournalError> {
        let Self { dirs, epoch, is_new: _ } = self;
        let acked = identity::read_acked(&dirs, epoch);
        let replayed = replay::replay(&dirs, acked, visit)?;
        // A damaged tail may have been committed by control already; its numbers are not given out twice.
        let head_seq = replayed.head_seq().max(acked);
        let ledger = Arc::new(Ledger::new(acked, &replayed));
        let objects = objects::remove_unneeded(&dirs, |hash| ledger.needs(hash))?;
        let usage = Arc::new(Usage::new(limits.max_bytes, objects, &replayed));
        let (head_sender, head) = watch::channel(head_seq);
        let writer = writer::Writer::start(writer::Setup {
            dirs: Arc::clone(&dirs),
            ledger: Arc::clone(&ledger),
            usage: Arc::clone(&usage),
            active: replayed.active,
            next_seq: head_seq + 1,
            segment_bytes: limits.segment_bytes,
            head: head_sender,
        })?;
        let (epoch, tidy, kept) = (Mutex::new(epoch), Mutex::new(()), Mutex::default());
        Ok(Journal { epoch, dirs, writer, head, ledger, usage, limits, corrupt: replayed.corrupt, tidy, kept })
    }
}

/// Records that were handed over to the journal.
pub(crate) struct Appending<'a> {
    journal: &'a Journal,
    progress: Progress,
}

enum Progress {
    Waits(writer::Appending),
    Done(Vec<Change>),
}

impl Appending<'_> {
    /// Waits until the records are on disk. Blocking. Returns the changes with their sequence numbers, in order.
    pub(crate) fn wait(self) -> Result<Vec<Change>, JournalError> {
        let changes = match self.progress {
            Progress::Waits(appending) => appending.wait()?,
            Progress::Done(changes) => changes,
        };
        self.journal.keep_within_cap();
        Ok(changes)
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
        let (epoch, is_new) = identity::open_epoch(&dirs)?;
        Ok(Opening { dirs, epoch, is_new })
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
        *epoch = identity::new_epoch(&self.dirs)?;
        self.ledger.acknowledge(0);
        self.usage.unclean();
        Ok(())
    }

    /// Appends records and waits until they are on disk. Blocking: call it from a blocking thread. Returns the changes with their
    /// sequence numbers, in order.
    #[cfg(test)]
    pub(crate) fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Change>, JournalError> {
        self.begin_append(records)?.wait()
    }

    /// Hands records over without waiting until they are on disk; calls after each other append in this order. Blocking while much waits already:
    /// call it from a blocking thread. Records with large contents are on disk when this returns.
    pub(crate) fn begin_append(&self, records: Vec<NewRecord>) -> Result<Appending<'_>, JournalError> {
        let large = records.iter().any(|record| matches!(record.content, Content::Object(_)));
        let progress = if large {
            Progress::Done(self.append_large(records)?)
        } else {
            Progress::Waits(self.writer.begin(records)?)
        };
        Ok(Appending { journal: self, progress })
    }

    /// Like [`Self::begin_append`], for records of which some have large contents.
    fn append_large(&self, records: Vec<NewRecord>) -> Result<Vec<Change>, JournalError> {
        let _held = self.hold();
        let mut stored = Vec::new();
        let outcome = self.store(&records, &mut stored).and_then(|()| self.writer.append(records));
        if outcome.is_err() {
            // Nothing says that these are needed, and nobody would remove them before the next start.
            for hash in stored {
                if let Err(error) = self.remove_object(hash) {
                    tracing::warn!(%hash, %error, "could not remove a content that was not recorded");
                }
            }
        }
        outcome
    }

    /// Puts large contents into `.winston/objects/`, on disk before the call returns. `stored` gets those that were not there before.
    fn store(&self, records: &[NewRecord], stored: &mut Vec<ContentHash>) -> Result<(), JournalError> {
        for record in records {
            if let (Content::Object(bytes), Some(hash)) = (&record.content, record.hash)
                && let Some(added) = objects::write(&self.dirs, hash, bytes)?
            {
                stored.push(hash);
                self.usage.add(added);
                self.usage.count_flush();
            }
        }
        if !stored.is_empty() {
            objects::flush_names(&self.dirs)?;
            self.usage.count_flush();
        }
        Ok(())
    }

    /// Removes a large content, unless a record is about to need it.
    fn remove_object(&self, hash: ContentHash) -> Result<(), JournalError> {
        if self.kept().contains_key(&hash) {
            return Ok(());
        }
        self.usage.remove(objects::remove(&self.dirs, hash)?);
        Ok(())
    }

    fn hold(&self) -> MutexGuard<'_, ()> {
        // It guards files, not memory.
        self.tidy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Over the cap: drops the oldest contents that control does not have. Records stay. Whoever appends pays for it; the others go on.
    fn keep_within_cap(&self) {
        if !self.usage.is_due() {
            return;
        }
        let _held = match self.tidy.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            // Somebody is at it, or the next append is.
            Err(TryLockError::WouldBlock) => return,
        };
        if let Err(error) = self.drop_contents() {
            self.usage.pause(self.limits.segment_bytes);
            tracing::error!(%error, "the journal is over its cap and contents could not be dropped");
        }
    }

    fn drop_contents(&self) -> Result<(), JournalError> {
        let acked = self.ledger.acked();
        let firsts = segment::list(&self.dirs)?;
        let clean = firsts.partition_point(|first| *first < self.usage.clean_to());
        for pair in firsts[clean..].windows(2) {
            let (first, next) = (pair[0], pair[1]);
            if !self.usage.is_over() {
                return Ok(());
            }
            // Control has it all: it goes when its turn comes.
            if next <= acked + 1 {
                continue;
            }
            let dropped = compact::without_contents(&self.dirs, first, |hash| self.ledger.is_free_before(hash, next))?;
            if !dropped.records.is_empty() {
                self.usage.remove(dropped.before);
                self.usage.add(dropped.after);
            }
            self.ledger.omitted(&dropped.records);
            self.ledger.forget(&dropped.objects);
            for hash in &dropped.objects {
                self.remove_object(*hash)?;
            }
            self.usage.cleaned(next);
            let count = dropped.records.iter().filter(|seq| **seq > acked).count() as u64;
            if count > 0 && self.usage.dropped(count, next - 1) {
                tracing::warn!(
                    max_bytes = self.limits.max_bytes,
                    oldest = first,
                    "the journal is over WINSTON_JOURNAL_MAX_BYTES: the oldest contents that control lacks are dropped, their records stay; \
                     bring control back or raise the cap"
                );
            }
        }
        Ok(())
    }

    /// Stores a content durably ahead of its record, which then says [`Content::Stored`]. It stays until [`Journal::release_objects`]
    /// even when nothing else needs it. Blocking.
    pub(crate) fn keep_object(&self, hash: ContentHash, bytes: &[u8]) -> Result<(), JournalError> {
        let _held = self.hold();
        if let Some(added) = objects::write(&self.dirs, hash, bytes)? {
            self.usage.add(added);
            self.usage.count_flush();
        }
        // Also for one that was there: nothing says that its name is on disk already.
        objects::flush_names(&self.dirs)?;
        self.usage.count_flush();
        *self.kept().entry(hash).or_default() += 1;
        Ok(())
    }

    /// Ends [`Journal::keep_object`], once per call of it: from now on a content stays only if a record needs it. Blocking.
    pub(crate) fn release_objects(&self, hashes: &[ContentHash]) {
        let _held = self.hold();
        for hash in hashes {
            let released = {
                let mut kept = self.kept();
                let left = kept.get(hash).map_or(0, |holders| holders - 1);
                if left > 0 {
                    kept.insert(*hash, left)
                } else {
                    kept.remove(hash)
                };
                left == 0
            };
            if released
                && !self.ledger.needs(*hash)
                && let Err(error) = self.remove_object(*hash)
            {
                // The next start removes it.
                tracing::warn!(%hash, %error, "could not remove a content that nothing needs");
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<ContentHash, usize>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// First sequence number that is still on disk, or will be: older ones were trimmed. Blocking.
    pub(crate) fn first_seq(&self) -> Result<u64, JournalError> {
        let head = self.head_seq();
        Ok(segment::list(&self.dirs)?.first().copied().unwrap_or(head + 1))
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

    /// Opens a content that was too large for its record; `None` when it is gone. Whether it is what its name says is for the reader to
    /// check. Blocking.
    pub(crate) fn object(&self, hash: ContentHash) -> Result<Option<File>, JournalError> {
        objects::open_read(&self.dirs, hash)
    }

    /// The change with this number, if it can still be read. Blocking, unless it is among the recent ones.
    pub(crate) fn change_at(&self, seq: u64) -> Option<Change> {
        if seq == 0 || seq > self.head_seq() {
            return None;
        }
        self.ledger.change_at(seq).or_else(|| {
            let batch = self.read(&mut Cursor::after(seq - 1), 1, 1).ok()?;
            batch.records.into_iter().next().map(|record| record.change).filter(|change| change.seq == seq)
        })
    }

    /// Control has committed everything up to `seq`: remembers it and removes what is needed no more. Blocking.
    ///
    /// `index_saved` is the sequence number up to which the index on disk makes the records dispensable.
    pub(crate) fn acknowledge(&self, seq: u64, index_saved: u64) -> Result<(), JournalError> {
        let dispensable = seq.min(index_saved);
        let is_past_dropped = self.usage.acknowledged(seq, dispensable);
        {
            let _held = self.hold();
            for hash in self.ledger.acknowledge(seq) {
                self.remove_object(hash)?;
            }
            self.usage.remove(segment::trim(&self.dirs, dispensable, segment::KEPT_SEGMENTS)?);
        }
        if is_past_dropped {
            tracing::info!(seq, "control has every record whose content had been dropped");
        }
        // Last, and not needed: without it control says after the next start what it has. On a full volume it may fail.
        if let Err(error) = identity::write_acked(&self.dirs, self.epoch(), seq) {
            tracing::debug!(%error, "could not write the acknowledgement");
        }
        Ok(())
    }

    /// Without control: keeps the local history window and nothing older. Blocking.
    pub(crate) fn keep_window(&self, index_saved: u64) -> Result<(), JournalError> {
        let kept_from = segment::window_start(&self.dirs)?;
        // A control that was here once may have more.
        let seq = kept_from.saturating_sub(1).min(index_saved).max(self.ledger.acked());
        self.acknowledge(seq, index_saved)
    }

    /// Flushes of the journal so far: segments, contents and their directories.
    pub(crate) fn flushes(&self) -> u64 {
        self.usage.flushes()
    }

    /// Bytes of segments and contents together.
    pub(crate) fn bytes(&self) -> u64 {
        self.usage.bytes()
    }

    /// Contents that were dropped because the journal was over its cap, since the start and before it as far as control lacks the records.
    pub(crate) fn contents_dropped(&self) -> u64 {
        self.usage.contents_dropped()
    }

    /// Records that could not be read back at start.
    pub(crate) fn corrupt(&self) -> u64 {
        self.corrupt
    }
}
