//! Sending changes to control.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use winston_wire::{ChangeBatch, ContentHash};

use super::client::{ClientError, ControlClient};
use crate::edits::Edits;
use crate::failpoint;
use crate::journal::{Batch, Cursor, JournalError};

/// Records and bytes of one batch.
const BATCH_RECORDS: usize = 200;
const BATCH_BYTES: usize = 1024 * 1024;

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

/// Reads on in the journal.
async fn read(edits: &Arc<Edits>, mut cursor: Cursor) -> Result<(Batch, Cursor), UploadError> {
    let edits = Arc::clone(edits);
    let work = move || edits.journal().read(&mut cursor, BATCH_RECORDS, BATCH_BYTES).map(|batch| (batch, cursor));
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| UploadError::ShuttingDown)??)
}

/// Sends the next batch from `cursor`. Returns what control has committed and where to go on; `None` when there was nothing to send.
pub(super) async fn send_next(
    edits: &Arc<Edits>,
    client: &ControlClient,
    cursor: Cursor,
) -> Result<Option<(u64, Cursor)>, UploadError> {
    let wanted = cursor.next_seq();
    let head = edits.journal().head_seq();
    let (Batch { records, lost }, next) = read(edits, cursor).await?;
    if records.is_empty() && lost.is_empty() {
        return if wanted <= head { Err(UploadError::Unreadable(wanted)) } else { Ok(None) };
    }
    let mut inline: HashMap<ContentHash, Bytes> = HashMap::new();
    let mut changes = Vec::with_capacity(records.len());
    for record in records {
        if let (Some(hash), Some(content)) = (record.change.hash, record.inline) {
            inline.insert(hash, content.into());
        }
        changes.push(record.change);
    }
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
        for hash in answer.contents_wanted {
            match content(edits, &inline, hash).await? {
                Some(content) => match client.put_content(hash, content).await {
                    // Too large for control, or not what it says: no later attempt would be answered differently.
                    // By control itself: a proxy's limit is for an operator to raise.
                    Err(ClientError::Refused { code, .. })
                        if matches!(code.as_str(), "too_large" | "hash_mismatch") =>
                    {
                        tracing::error!(%hash, code, "control does not take a content; its change is recorded without it");
                        omit(&mut batch, hash);
                    }
                    sent => sent?,
                },
                None => {
                    tracing::error!(%hash, "a content is lost; its change is recorded without it");
                    omit(&mut batch, hash);
                }
            }
        }
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

async fn content(
    edits: &Arc<Edits>,
    inline: &HashMap<ContentHash, Bytes>,
    hash: ContentHash,
) -> Result<Option<Bytes>, UploadError> {
    if let Some(content) = inline.get(&hash) {
        return Ok(Some(content.clone()));
    }
    let edits = Arc::clone(edits);
    let work = move || edits.journal().object(hash);
    let object = tokio::task::spawn_blocking(work).await.map_err(|_| UploadError::ShuttingDown)??;
    Ok(object.map(Bytes::from))
}

/// Control has committed up to `seq`.
pub(super) async fn acknowledge(edits: &Arc<Edits>, seq: u64) -> Result<(), UploadError> {
    let edits = Arc::clone(edits);
    let work = move || edits.journal().acknowledge(seq, edits.index().saved_seq());
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| UploadError::ShuttingDown)??)
}
