//! Working through pushed files.

use std::sync::Arc;

use winston_wire::{Conflict, Desired, DesiredFile, Source, Timestamp};

use super::applied::Applied;
use super::client::{ClientError, ControlClient};
use crate::edits::{Author, EditError, Edits, Precondition, hash_of};
use crate::fs::{FsError, TenantPath};

/// Why a round of pushes could not be finished. It starts over later; what was applied stays and is not applied again.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    /// Control.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A content whose bytes are not what its hash says.
    #[error("the content of {path} arrived damaged")]
    Damaged { path: String },
    /// The volume.
    #[error("could not apply the push of {path}: {error}")]
    Edit { path: String, error: EditError },
    /// The runtime is going down.
    #[error("shutting down")]
    ShuttingDown,
}

/// Applies every file of `desired` and returns what to remember. A file that cannot be applied does not hold up the others.
pub(super) async fn apply(
    edits: &Arc<Edits>,
    client: &ControlClient,
    desired: Desired,
    before: &Applied,
) -> Result<Applied, ApplyError> {
    let mut conflicts = before.conflicts.clone();
    let mut files = desired.files;
    // The gateway's configuration comes last: on the first boot the gateway starts as soon as there is one.
    let config = edits.layout().config_file();
    let is_config = |file: &DesiredFile| config.as_ref().is_some_and(|path| path.as_str() == file.path);
    files.sort_by_key(|file| (is_config(file), file.generation));
    for file in files {
        conflicts.retain(|conflict| conflict.path != file.path);
        conflicts.extend(apply_file(edits, client, &file).await?);
    }
    Ok(Applied { generation: desired.generation, conflicts })
}

/// Applies one file. `Some` when it stays unapplied: a local edit was in the way, or it cannot be applied at all.
async fn apply_file(
    edits: &Arc<Edits>,
    client: &ControlClient,
    file: &DesiredFile,
) -> Result<Option<Conflict>, ApplyError> {
    // A round that was interrupted starts over; what was in place by then may have been edited since.
    if edits.journal().ledger().has_push(&file.path, file.generation, file.hash) {
        return Ok(None);
    }
    let unapplied = |local_hash, reason: &dyn std::fmt::Display| {
        tracing::warn!(path = file.path, generation = file.generation, %reason, "a push was not applied; both versions are kept");
        let (path, generation, pushed_hash) = (file.path.clone(), file.generation, file.hash);
        Ok(Some(Conflict { path, generation, local_hash, pushed_hash, since: Some(Timestamp::now()) }))
    };
    let path = match TenantPath::parse(&file.path) {
        Ok(path) => path,
        Err(error) => return unapplied(None, &error),
    };
    let content = match file.hash {
        None => None,
        Some(hash) => match client.get_content(hash).await {
            Ok(content) if hash_of(&content) == hash => Some(content),
            Ok(_) => return Err(ApplyError::Damaged { path: file.path.clone() }),
            // Asking again would bring the same answer.
            Err(error @ (ClientError::Refused { .. } | ClientError::TooLarge { .. })) => {
                return unapplied(None, &error);
            }
            Err(error) => return Err(error.into()),
        },
    };
    let author = Author { source: Source::System, actor: file.actor.clone(), generation: Some(file.generation) };
    let precondition = Precondition::Push(file.base);
    let edits = Arc::clone(edits);
    let work = move || match content {
        Some(content) => edits.put(&path, &content, &author, precondition).map(|_| ()),
        None => edits.delete(&path, &author, precondition).map(|_| ()),
    };
    let outcome = tokio::task::spawn_blocking(work).await.map_err(|_| ApplyError::ShuttingDown)?;
    match outcome {
        Ok(()) => Ok(None),
        Err(error @ EditError::Conflict { local }) => unapplied(local, &error),
        // The volume as a whole: nothing could be applied now.
        Err(error @ (EditError::Journal(_) | EditError::Fs(FsError::NoSpace | FsError::ReadOnly | FsError::Io(_)))) => {
            Err(ApplyError::Edit { path: file.path.clone(), error })
        }
        Err(error) => unapplied(None, &error),
    }
}
