//! The end of the journal: the segment that is written, and what to do when writing it fails.
//!
//! A failed write may have left lines, or parts of one, that nobody was told are in the journal; their numbers are given out again. A failed
//! flush is worse: the kernel may count the pages as clean although the disk does not have them, so flushing again proves nothing about
//! them, and the block that the failed batch shares with good records may be damaged on the disk. So after any failure nothing is written
//! until the segment has been *mended*: cut to its good length, its last block written anew from memory, and both flushed successfully.
//! After a failed flush the segment is then closed and the next record starts another one. While mending fails, every append fails,
//! and the next one tries again: the journal recovers by itself.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::replay::Active;
use super::usage::Usage;
use super::{Dirs, JournalError, segment};
use crate::{failpoint, sys};

/// File systems write in blocks of at most this size, aligned to it.
const BLOCK: u64 = 4096;

/// The segment that is written.
pub(super) struct Tail {
    dirs: Arc<Dirs>,
    usage: Arc<Usage>,
    file: File,
    active: Active,
    segment_bytes: u64,
    /// Good bytes behind the last block boundary, as they were written.
    block: Vec<u8>,
    /// Bytes of the lines of the next append that are written already.
    ahead: usize,
    /// Writing them failed: the append will.
    failed_ahead: Option<io::Error>,
    /// A write or flush failed, and the segment has not been mended since.
    broken: bool,
    /// The next record starts another segment.
    closed: bool,
}

impl Tail {
    /// Goes on with a segment whose length replay has made sure of, or starts it.
    pub(super) fn open(
        dirs: Arc<Dirs>,
        usage: Arc<Usage>,
        active: Active,
        segment_bytes: u64,
    ) -> Result<Self, JournalError> {
        let file = segment::open_append(&dirs, active.first)?;
        let mut block = vec![0; (active.length % BLOCK) as usize];
        let readable = segment::open_repair(&dirs, active.first)?;
        readable.read_exact_at(&mut block, active.length - active.length % BLOCK)?;
        let (ahead, failed_ahead) = (0, None);
        Ok(Self { dirs, usage, file, active, segment_bytes, block, ahead, failed_ahead, broken: false, closed: false })
    }

    /// Writes lines that the next append is going to flush, and has the kernel begin with bringing them to the disk. Each call gets all of them,
    /// those of the calls before first. Whatever goes wrong is told by that append.
    pub(super) fn write_ahead(&mut self, lines: &[u8]) {
        // What has to be mended or closed first is left to the append.
        if self.failed_ahead.is_some() || (self.ahead == 0 && (self.broken || self.is_full())) {
            return;
        }
        match self.file.write_all(&lines[self.ahead..]) {
            // Only a hint: the flush that follows waits for what is left to do.
            Ok(()) => {
                sys::start_writeback(&self.file, self.active.length + self.ahead as u64, lines.len() - self.ahead)
            }
            Err(error) => self.failed_ahead = Some(error),
        }
        self.ahead = lines.len();
    }

    fn is_full(&self) -> bool {
        self.closed || self.active.length + self.active.objects >= self.segment_bytes
    }

    /// Appends whole lines, the first of them with number `next_seq`, and flushes them. `objects` are the bytes of large contents that
    /// belong to them. On failure the lines are not in the journal.
    pub(super) fn append(&mut self, next_seq: u64, lines: &[u8], objects: u64) -> Result<(), JournalError> {
        let (ahead, failed_ahead) = (std::mem::take(&mut self.ahead), self.failed_ahead.take());
        if self.broken {
            self.mend()?;
            tracing::info!("the journal can be written again");
        }
        if ahead == 0 && self.is_full() {
            self.start_segment(next_seq)?;
        }
        failpoint::here("journal-append");
        let written = failpoint::fails("journal-write").and_then(|()| match failed_ahead {
            Some(error) => Err(error),
            None => self.file.write_all(&lines[ahead..]),
        });
        let flushed = written.and_then(|()| {
            failpoint::here("journal-written");
            self.usage.count_flush();
            let flushed = failpoint::fails("journal-sync").and_then(|()| self.file.sync_data());
            self.closed |= flushed.is_err();
            flushed
        });
        if let Err(error) = flushed {
            self.broken = true;
            // At once, so that a crash from here on does not find lines whose writers are told that they failed.
            if let Err(mending) = self.mend() {
                tracing::error!(%error, %mending, "the journal cannot be written or mended; every write tries again");
            }
            return Err(error.into());
        }
        failpoint::here("journal-synced");
        self.usage.add(lines.len() as u64);
        self.active.length += lines.len() as u64;
        self.active.objects += objects;
        self.block.extend_from_slice(&lines[lines.len().saturating_sub(BLOCK as usize)..]);
        self.block.drain(..self.block.len() - (self.active.length % BLOCK) as usize);
        Ok(())
    }

    /// Brings the segment back to its good records, on disk.
    fn mend(&mut self) -> io::Result<()> {
        // Not the handle for appending: that one writes at the end whatever it is told. A handle of its own also sees no error twice.
        let file = segment::open_repair(&self.dirs, self.active.first).map_err(io::Error::other)?;
        failpoint::fails("journal-mend")?;
        file.set_len(self.active.length)?;
        file.write_all_at(&self.block, self.active.length - self.block.len() as u64)?;
        self.usage.count_flush();
        failpoint::fails("journal-sync")?;
        file.sync_all()?;
        self.broken = false;
        Ok(())
    }

    fn start_segment(&mut self, next_seq: u64) -> Result<(), JournalError> {
        // A closed segment without a record has this name already, and was just cut to nothing.
        self.file = segment::open_append(&self.dirs, next_seq)?;
        self.usage.count_flush();
        self.active = Active { first: next_seq, length: 0, objects: 0 };
        self.block.clear();
        self.closed = false;
        Ok(())
    }

    /// On a full volume: removes every segment but this one that holds nothing after `done`. True when that freed something.
    pub(super) fn remove_dispensable(&self, done: u64) -> Result<bool, JournalError> {
        let freed = segment::trim(&self.dirs, done, 1)?;
        self.usage.remove(freed);
        if freed > 0 {
            tracing::warn!(bytes = freed, "the volume is full; the journal's local history window was removed early");
        }
        Ok(freed > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::recovery::Bed;
    use super::*;

    fn tail(bed: &Bed, active: Active) -> Tail {
        let journal = bed.open();
        Tail::open(Arc::clone(&journal.dirs), Arc::clone(&journal.usage), active, 1 << 20).unwrap()
    }

    /// As after a failed flush: what the last block shares with the failed batch is not on the disk any more, and the batch is in part.
    #[test]
    fn mending_brings_back_the_last_block_and_cuts_the_rest() {
        let bed = Bed::new(1 << 20, u64::MAX);
        let active = Active { first: 1, length: 0, objects: 0 };
        let mut tail = tail(&bed, active);
        let mut good = Vec::new();
        for length in [1, 100, 4095, 4096, 4097, 3, 10_000, 8192, 1] {
            let lines = vec![b'a' + (length % 23) as u8; length];
            tail.append(1, &lines, 0).unwrap();
            good.extend_from_slice(&lines);
            let segment = bed.segments().remove(0);
            assert_eq!(std::fs::read(&segment).unwrap(), good);
            // The same after a start, which has only the disk to know the block from.
            for reopened in [false, true] {
                if reopened {
                    tail = tail_again(&bed, &tail);
                }
                let mut damaged = good.clone();
                let boundary = damaged.len() - damaged.len() % BLOCK as usize;
                damaged[boundary..].fill(0);
                damaged.extend_from_slice(b"half a batch");
                std::fs::write(&segment, damaged).unwrap();
                tail.broken = true;
                tail.mend().unwrap();
                assert_eq!(std::fs::read(&segment).unwrap(), good, "{length}");
            }
        }
    }

    /// In whatever pieces lines are written, they are appended once; and what was written ahead of a failed append is gone again.
    #[test]
    fn what_is_written_ahead_belongs_to_the_append() {
        let bed = Bed::new(1 << 20, u64::MAX);
        let mut tail = tail(&bed, Active { first: 1, length: 0, objects: 0 });
        let lines = vec![b'x'; 10_000];
        let mut good = Vec::new();
        for pieces in [&[][..], &[1], &[5000, 5000, 9000], &[10_000]] {
            pieces.iter().for_each(|length| tail.write_ahead(&lines[..*length]));
            tail.append(1, &lines, 0).unwrap();
            good.extend_from_slice(&lines);
            assert_eq!(std::fs::read(&bed.segments()[0]).unwrap(), good);
        }
        tail.write_ahead(&lines[..5000]);
        tail.failed_ahead = Some(io::ErrorKind::StorageFull.into());
        tail.write_ahead(&lines);
        assert!(tail.append(1, &lines, 0).is_err());
        assert_eq!(std::fs::read(&bed.segments()[0]).unwrap(), good);
        // A full segment is left to the append, which starts another one.
        tail.closed = true;
        tail.write_ahead(&lines);
        tail.append(7, &lines, 0).unwrap();
        assert_eq!(std::fs::read(&bed.segments()[0]).unwrap(), good);
        assert_eq!(std::fs::read(&bed.segments()[1]).unwrap(), lines);
    }

    fn tail_again(bed: &Bed, tail: &Tail) -> Tail {
        Tail::open(Arc::clone(&tail.dirs), Arc::clone(&tail.usage), tail.active, bed.limits.segment_bytes).unwrap()
    }
}
