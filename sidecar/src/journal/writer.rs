//! The thread that appends to the journal.
//!
//! Group commit: whatever waits when the thread looks becomes one write and one flush, so concurrent writers share the
//! price of durability. Sequence numbers are given out here and nowhere else.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tokio::sync::watch;
use winston_wire::Change;

use super::replay::Active;
use super::tail::Tail;
use super::usage::Usage;
use super::{Content, Dirs, JournalError, Ledger, NewRecord, record};

/// Requests that may wait for the thread; more block their (blocking) callers.
const QUEUE: usize = 256;

/// Bytes after which a batch is written although more requests wait.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Bytes that are worth writing before the flush.
const AHEAD_BYTES: usize = 128 * 1024;

/// A buffer that grew beyond this is given back.
const KEPT_BYTES: usize = 64 * 1024;

struct Request {
    records: Vec<NewRecord>,
    reply: SyncSender<Result<Vec<Change>, JournalError>>,
}

pub(super) struct Setup {
    pub(super) dirs: Arc<Dirs>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) usage: Arc<Usage>,
    /// The segment to write on; `None` on a new volume.
    pub(super) active: Option<Active>,
    pub(super) next_seq: u64,
    pub(super) segment_bytes: u64,
    pub(super) head: watch::Sender<u64>,
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

    /// Hands records over. They are appended in the order of these calls. Blocking while too many wait.
    pub(super) fn begin(&self, records: Vec<NewRecord>) -> Result<Appending, JournalError> {
        let (reply, answer) = sync_channel(1);
        self.requests.send(Request { records, reply }).map_err(|_| JournalError::Closed)?;
        Ok(Appending(answer))
    }

    /// Appends and waits for the flush.
    pub(super) fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Change>, JournalError> {
        self.begin(records)?.wait()
    }
}

/// Records that were handed over.
pub(super) struct Appending(Receiver<Result<Vec<Change>, JournalError>>);

impl Appending {
    /// Waits for the flush.
    pub(super) fn wait(self) -> Result<Vec<Change>, JournalError> {
        self.0.recv().map_err(|_| JournalError::Closed)?
    }
}

struct Thread {
    ledger: Arc<Ledger>,
    usage: Arc<Usage>,
    tail: Tail,
    next_seq: u64,
    head: watch::Sender<u64>,
}

impl Thread {
    fn open(setup: Setup) -> Result<Self, JournalError> {
        let Setup { dirs, ledger, usage, active, next_seq, segment_bytes, head } = setup;
        let active = active.unwrap_or(Active { first: next_seq, length: 0, objects: 0 });
        let tail = Tail::open(dirs, Arc::clone(&usage), active, segment_bytes)?;
        Ok(Self { ledger, usage, tail, next_seq, head })
    }

    fn run(&mut self, receiver: &Receiver<Request>) {
        let mut lines = Vec::new();
        while let Ok(mut next) = receiver.recv() {
            let (mut requests, mut changes) = (Vec::new(), Vec::new());
            let mut seq = self.next_seq;
            lines.clear();
            loop {
                changes.push(encode(&mut next.records, &mut seq, &mut lines));
                requests.push(next);
                if lines.len() >= BATCH_BYTES {
                    break;
                }
                match receiver.try_recv() {
                    Ok(request) => next = request,
                    Err(_) => break,
                }
                // More is to come: the disk can have this meanwhile.
                if lines.len() >= AHEAD_BYTES {
                    self.tail.write_ahead(&lines);
                }
            }
            let objects = requests.iter().flat_map(|request| &request.records).map(NewRecord::object_bytes).sum();
            let outcome = self.write(&lines, objects);
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
            if lines.capacity() > KEPT_BYTES {
                lines = Vec::new();
            }
        }
    }

    /// Writes the lines and flushes them.
    fn write(&mut self, lines: &[u8], objects: u64) -> Result<(), JournalError> {
        match self.tail.append(self.next_seq, lines, objects) {
            // Records come before the local history window: what nobody needs any more makes room for them.
            Err(JournalError::NoSpace) if self.tail.remove_dispensable(self.usage.dispensable())? => {
                self.tail.append(self.next_seq, lines, objects)
            }
            outcome => outcome,
        }
    }
}

/// The same failure once more: each waiting caller gets it.
fn again(error: &JournalError) -> JournalError {
    match error {
        JournalError::NoSpace => JournalError::NoSpace,
        other => JournalError::Fs(crate::fs::FsError::Io(std::io::Error::other(other.to_string()))),
    }
}

/// Adds the lines of some records. Their contents are in the lines then, and nowhere else.
fn encode(records: &mut [NewRecord], seq: &mut u64, lines: &mut Vec<u8>) -> Vec<Change> {
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
        if let Content::Inline(_) = record.content {
            record.content = Content::None;
        }
        changes.push(change);
    }
    changes
}
