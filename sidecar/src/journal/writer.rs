//! The thread that appends to the journal.
//!
//! Group commit: whatever waits when the thread looks becomes one write and one flush, so concurrent writers share the
//! price of durability. Sequence numbers are given out here and nowhere else.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tokio::sync::watch;
use winston_wire::Change;

use super::{Dirs, JournalError, Ledger, NewRecord, record, segment};
use crate::failpoint;

/// Requests that may wait for the thread; more block their (blocking) callers.
const QUEUE: usize = 256;

/// Bytes after which a batch is written although more requests wait.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

struct Request {
    records: Vec<NewRecord>,
    reply: SyncSender<Result<Vec<Change>, JournalError>>,
}

pub(super) struct Setup {
    pub(super) dirs: Arc<Dirs>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) segments: Vec<(u64, u64)>,
    pub(super) next_seq: u64,
    pub(super) segment_bytes: u64,
    pub(super) head: watch::Sender<u64>,
    pub(super) flushes: Arc<AtomicU64>,
}

/// Handle on the thread. The thread ends when the last handle is gone.
pub(super) struct Writer {
    requests: SyncSender<Request>,
}

impl Writer {
    pub(super) fn start(setup: Setup) -> Result<Self, JournalError> {
        let (requests, receiver) = sync_channel(QUEUE);
        let mut thread = Thread::open(setup)?;
        std::thread::Builder::new()
            .name("journal".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || thread.run(&receiver))?;
        Ok(Self { requests })
    }

    /// Appends and waits for the flush.
    pub(super) fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Change>, JournalError> {
        let (reply, answer) = sync_channel(1);
        self.requests.send(Request { records, reply }).map_err(|_| JournalError::Closed)?;
        answer.recv().map_err(|_| JournalError::Closed)?
    }
}

struct Thread {
    dirs: Arc<Dirs>,
    ledger: Arc<Ledger>,
    segment: File,
    /// Length up to which the segment holds whole, flushed records.
    length: u64,
    segment_bytes: u64,
    next_seq: u64,
    head: watch::Sender<u64>,
    flushes: Arc<AtomicU64>,
    /// What a failed write left could not be cut off, so nothing may follow it until replay has looked.
    broken: bool,
}

impl Thread {
    fn open(setup: Setup) -> Result<Self, JournalError> {
        let (first, length) = setup.segments.last().copied().unwrap_or((setup.next_seq, 0));
        Ok(Self {
            segment: segment::open_append(&setup.dirs, first)?,
            length,
            dirs: setup.dirs,
            ledger: setup.ledger,
            segment_bytes: setup.segment_bytes,
            next_seq: setup.next_seq,
            head: setup.head,
            flushes: setup.flushes,
            broken: false,
        })
    }

    fn run(&mut self, receiver: &Receiver<Request>) {
        while let Ok(first) = receiver.recv() {
            let mut requests = vec![first];
            let mut lines = Vec::new();
            let mut seq = self.next_seq;
            let mut changes = vec![encode(&requests[0].records, &mut seq, &mut lines)];
            while lines.len() < BATCH_BYTES
                && let Ok(request) = receiver.try_recv()
            {
                changes.push(encode(&request.records, &mut seq, &mut lines));
                requests.push(request);
            }
            let outcome = self.write(&lines);
            if outcome.is_ok() {
                self.next_seq = seq;
                for (request, changes) in requests.iter().zip(&changes) {
                    self.ledger.appended(&request.records, changes);
                }
                self.head.send_replace(seq - 1);
            }
            let mut failure = outcome.err();
            for (request, changes) in requests.into_iter().zip(changes) {
                let answer = match &mut failure {
                    None => Ok(changes),
                    Some(error) => Err(again(error)),
                };
                // A caller that gave up does not matter: the record is in the journal.
                let _ = request.reply.send(answer);
            }
        }
    }

    /// Writes whole lines and flushes them. On failure the segment is as before.
    fn write(&mut self, lines: &[u8]) -> Result<(), JournalError> {
        if self.broken {
            return Err(std::io::Error::other("the journal's end is damaged; restart the sidecar to repair it").into());
        }
        if self.length >= self.segment_bytes {
            self.segment = segment::open_append(&self.dirs, self.next_seq)?;
            self.length = 0;
        }
        failpoint::here("journal-append");
        let written = failpoint::fails("journal-write").and_then(|()| self.segment.write_all(lines)).and_then(|()| {
            failpoint::here("journal-written");
            self.flushes.fetch_add(1, Ordering::Relaxed);
            failpoint::fails("journal-sync")?;
            self.segment.sync_data()
        });
        if let Err(error) = written {
            // After a failed flush the kernel may have dropped the pages, so nothing of this batch counts; it is cut off, because
            // its numbers are given out again.
            if let Err(error) = self.segment.set_len(self.length) {
                tracing::error!(%error, "could not cut the journal after a failed write");
                self.broken = self.segment.metadata().map_or(true, |metadata| metadata.len() != self.length);
            }
            return Err(error.into());
        }
        failpoint::here("journal-synced");
        self.length += lines.len() as u64;
        Ok(())
    }
}

/// The same failure once more: each waiting caller gets it.
fn again(error: &JournalError) -> JournalError {
    match error {
        JournalError::NoSpace => JournalError::NoSpace,
        other => JournalError::Fs(crate::fs::FsError::Io(std::io::Error::other(other.to_string()))),
    }
}

fn encode(records: &[NewRecord], seq: &mut u64, lines: &mut Vec<u8>) -> Vec<Change> {
    let mut changes = Vec::with_capacity(records.len());
    for record in records {
        let change = Change {
            seq: *seq,
            timestamp: record.timestamp,
            path: record.path.clone(),
            previous_path: record.previous_path.clone(),
            source: record.source,
            action: record.action,
            actor: record.actor.clone(),
            hash: record.hash,
            previous_hash: record.previous_hash,
            size: record.size,
            generation: record.generation,
            content_omitted: record.content_omitted,
        };
        *seq += 1;
        if let Err(error) = record::encode(&change, &record.content, lines) {
            // Every member is a string or a number and the target is memory, so there is nothing that could fail.
            tracing::error!(%error, "a journal record did not serialise");
        }
        changes.push(change);
    }
    changes
}
