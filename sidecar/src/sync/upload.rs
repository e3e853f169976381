//! Sending changes to control.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::task::JoinHandle;
use winston_wire::{Change, ChangeBatch, ContentHash, MAX_BATCH_CHANGES};

use super::client::{ClientError, ControlClient};
use super::give::{Inline, give};
use crate::edits::Edits;
use crate::failpoint;
use crate::journal::{Batch, Cursor, JournalError};

/// Records and bytes of one batch. With a small backlog it is what is there. Two of them are in memory at once, and the contents of one fit
/// into one request.
const BATCH_RECORDS: usize = MAX_BATCH_CHANGES;
const BATCH_BYTES: usize = 640 * 1024;

/// Rounds of "these contents are missing" before the batch is left for later.
const CONTENT_ROUNDS: usize = 4;

/// Why a batch could not be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    /// Control.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Our own journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal has records that cannot be reached by reading on.
    #[error("the journal cannot be read on from record {0}")]
    Unreadable(u64),
    /// Control answered about more than we have, or about a journal that is no more. The next check-in settles it.
    #[error("control has {acked} records of a journal that has {head} here")]
    Foreign { acked: u64, head: u64 },
    /// Control goes on asking for contents that it was given.
    #[error("control keeps asking for contents that it was sent")]
    Stuck,
    /// The runtime is going down.
    #[error("shutting down")]
    ShuttingDown,
}

/// A batch that is read while the one before it is on its way.
#[derive(Default)]
pub(super) struct Ahead(Option<Reading>);

struct Reading {
    from: u64,
    batch: JoinHandle<Result<(Batch, Cursor), JournalError>>,
}

impl Reading {
    fn start(edits: &Arc<Edits>, mut cursor: Cursor) -> Self {
        let (from, edits) = (cursor.next_seq(), Arc::clone(edits));
        let work = move || edits.journal().read(&mut cursor, BATCH_RECORDS, BATCH_BYTES).map(|batch| (batch, cursor));
        Self { from, batch: tokio::task::spawn_blocking(work) }
    }
}

impl Ahead {
    /// Reads on in the journal, unless that is done.
    async fn read(&mut self, edits: &Arc<Edits>, cursor: Cursor) -> Result<(Batch, Cursor), UploadError> {
        // What was read for another place is of no use: control is elsewhere.
        let ready = self.0.take().filter(|reading| reading.from == cursor.next_seq());
        let reading = ready.unwrap_or_else(|| Reading::start(edits, cursor));
        Ok(reading.batch.await.map_err(|_| UploadError::ShuttingDown)??)
    }

    /// Begins with the batch after this one when there is a whole one. Fewer records are better waited for: more may come meanwhile.
    fn prepare(&mut self, edits: &Arc<Edits>, next: &Cursor) {
        if edits.journal().head_seq() >= next.next_seq() + BATCH_RECORDS as u64 {
            self.0 = Some(Reading::start(edits, next.clone()));
        }
    }
}

/// Sends the next batch from `cursor`. Returns what control has committed and where to go on; `None` when there was nothing to send.
pub(super) async fn send_next(
    edits: &Arc<Edits>,
    client: &ControlClient,
    cursor: Cursor,
    ahead: &mut Ahead,
) -> Result<Option<(u64, Cursor)>, UploadError> {
    let wanted = cursor.next_seq();
    let head = edits.journal().head_seq();
    let (Batch { records, lost }, next) = ahead.read(edits, cursor).await?;
    if records.is_empty() && lost.is_empty() {
        return if wanted <= head { Err(UploadError::Unreadable(wanted)) } else { Ok(None) };
    }
    ahead.prepare(edits, &next);
    let mut inline = Inline::new();
    let mut changes = Vec::with_capacity(records.len());
    for record in records {
        if let (Some(hash), Some(content)) = (record.change.hash, record.inline) {
            inline.insert(hash, content.into());
        }
        changes.push(record.change);
    }
    let dropped = revive(edits, &mut changes);
    let last = next.next_seq() - 1;
    let mut batch = ChangeBatch { epoch: edits.journal().epoch(), changes, lost };
    for _ in 0..CONTENT_ROUNDS {
        failpoint::here("batch-ready");
        let answer = client.changes(&batch).await?;
        failpoint::here("batch-committed");
        let journal = edits.journal();
        if answer.acked_seq > journal.head_seq() || journal.epoch() != batch.epoch {
            return Err(UploadError::Foreign { acked: answer.acked_seq, head: journal.head_seq() });
        }
        // Either everything is committed, or control is elsewhere in the journal (restored from a backup, or another copy of us was faster):
        // reading on from where it is.
        if answer.contents_wanted.is_empty() {
            let cursor = if answer.acked_seq == last { next } else { Cursor::after(answer.acked_seq) };
            return Ok(Some((answer.acked_seq, cursor)));
        }
        for (hash, why) in give(edits, client, &inline, &batch, &answer.contents_wanted).await? {
            if dropped.contains(&hash) {
                tracing::info!(%hash, why, "a content that was dropped from the journal is no longer in the tree either");
            } else {
                tracing::error!(%hash, why, "control does not get a content; its change is recorded without it");
            }
            omit(&mut batch, hash);
        }
        failpoint::here("contents-given");
    }
    Err(UploadError::Stuck)
}

fn omit(batch: &mut ChangeBatch, hash: ContentHash) {
    batch
        .changes
        .iter_mut()
        .filter(|change| change.hash == Some(hash))
        .for_each(|change| change.content_omitted = true);
}

/// Takes back that a content was dropped, where the file still is what it was then. Returns the hashes of those.
fn revive(edits: &Edits, changes: &mut [Change]) -> HashSet<ContentHash> {
    let dropped = changes.iter_mut().filter(|change| change.content_omitted);
    let revived = dropped.filter_map(|change| {
        let recorded = edits.index().version(&change.path)?.hash?;
        change.content_omitted = change.hash != Some(recorded);
        change.hash.filter(|_| !change.content_omitted)
    });
    revived.collect()
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, UploadError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| UploadError::ShuttingDown)
}

/// Control has committed up to `seq`.
pub(super) async fn acknowledge(edits: &Arc<Edits>, seq: u64) -> Result<(), UploadError> {
    let edits = Arc::clone(edits);
    Ok(blocking(move || edits.journal().acknowledge(seq, edits.index().saved_seq())).await??)
}
