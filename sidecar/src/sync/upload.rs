//! Sending changes to control.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use winston_wire::{Change, ChangeBatch, ContentHash};

use super::body::UploadBody;
use super::client::{ClientError, ControlClient};
use crate::edits::Edits;
use crate::failpoint;
use crate::fs::TenantPath;
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
    Ok(blocking(work).await??)
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
        for hash in answer.contents_wanted {
            let given = give(edits, client, &inline, &batch, hash).await?;
            if let Given::No(why) = given {
                if dropped.contains(&hash) {
                    tracing::info!(%hash, why, "a content that was dropped from the journal is no longer in the tree either");
                } else {
                    tracing::error!(%hash, why, "control does not get a content; its change is recorded without it");
                }
                omit(&mut batch, hash);
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

/// What came of a content that control asked for.
enum Given {
    Yes,
    /// No later attempt would end differently.
    No(&'static str),
}

/// Gives control a content: from the record, from `.winston/objects/`, or from the file itself if it still is that version.
async fn give(
    edits: &Arc<Edits>,
    client: &ControlClient,
    inline: &HashMap<ContentHash, Bytes>,
    batch: &ChangeBatch,
    hash: ContentHash,
) -> Result<Given, UploadError> {
    if let Some(content) = inline.get(&hash) {
        return refused(client.put_content(hash, content.clone().into()).await);
    }
    let object = {
        let edits = Arc::clone(edits);
        blocking(move || edits.journal().object(hash)).await??
    };
    if let Some(file) = object
        && let Some(given) = give_file(client, file, hash).await?
    {
        return Ok(given);
    }
    let paths: Vec<_> = batch.changes.iter().filter(|change| change.hash == Some(hash)).collect();
    for change in paths {
        let Ok(path) = TenantPath::parse(&change.path) else { continue };
        let (edits, size) = (Arc::clone(edits), change.size);
        let found =
            blocking(move || edits.root().open_file(&path).ok().filter(|it| Some(it.stat.size) == size)).await?;
        if let Some(opened) = found
            && let Some(given) = give_file(client, opened.file, hash).await?
        {
            return Ok(given);
        }
    }
    Ok(Given::No("it is lost"))
}

/// Sends a file; `None` when it is not the content that it should be.
async fn give_file(client: &ControlClient, file: File, hash: ContentHash) -> Result<Option<Given>, UploadError> {
    let (file, size) =
        blocking(move || file.metadata().map(|metadata| (file, metadata.len()))).await?.map_err(JournalError::from)?;
    let (body, verdict) = UploadBody::of_file(file, size, hash);
    let sent = client.put_content(hash, body).await;
    if verdict.is_damaged() {
        return Ok(None);
    }
    refused(sent).map(Some)
}

/// Too large for control, or not what it says: no later attempt would be answered differently. By control itself: a proxy's limit is for an
/// operator to raise.
fn refused(sent: Result<(), ClientError>) -> Result<Given, UploadError> {
    match sent {
        Ok(()) => Ok(Given::Yes),
        Err(ClientError::Refused { code, .. }) if code == "too_large" => Ok(Given::No("it is too large for control")),
        Err(ClientError::Refused { code, .. }) if code == "hash_mismatch" => Ok(Given::No("it is damaged")),
        Err(error) => Err(error.into()),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, UploadError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| UploadError::ShuttingDown)
}

/// Control has committed up to `seq`.
pub(super) async fn acknowledge(edits: &Arc<Edits>, seq: u64) -> Result<(), UploadError> {
    let edits = Arc::clone(edits);
    Ok(blocking(move || edits.journal().acknowledge(seq, edits.index().saved_seq())).await??)
}
