//! Working through pushed files.

use std::sync::Arc;

use winston_wire::{Conflict, Desired, DesiredFile, Source};

use super::applied::Applied;
use super::client::{ClientError, ControlClient};
use crate::edits::{Author, EditError, Edits, Precondition, hash_of};
use crate::fs::TenantPath;

/// Why a round of pushes could not be finished. It starts over later; what was applied stays.
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

/// Applies every file of `desired` and returns what to remember.
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
        if let Some(conflict) = apply_file(edits, client, &file).await? {
            tracing::warn!(
                path = file.path,
                generation = file.generation,
                "a push met a local edit; both versions are kept"
            );
            conflicts.push(conflict);
        }
    }
    Ok(Applied { generation: desired.generation, conflicts })
}

async fn apply_file(
    edits: &Arc<Edits>,
    client: &ControlClient,
    file: &DesiredFile,
) -> Result<Option<Conflict>, ApplyError> {
    let refused = |local_hash| Conflict { path: file.path.clone(), generation: file.generation, local_hash };
    let Ok(path) = TenantPath::parse(&file.path) else {
        return Ok(Some(refused(None)));
    };
    let author = Author { source: Source::System, actor: file.actor.clone(), generation: Some(file.generation) };
    let precondition = Precondition::Push(file.base);
    let content = match file.hash {
        Some(hash) => {
            let content = client.get_content(hash).await?;
            if hash_of(&content) != hash {
                return Err(ApplyError::Damaged { path: file.path.clone() });
            }
            Some(content)
        }
        None => None,
    };
    let edits = Arc::clone(edits);
    let work = move || match content {
        Some(content) => edits.put(&path, &content, &author, precondition).map(|_| ()),
        None => edits.delete(&path, &author, precondition).map(|_| ()),
    };
    let outcome = tokio::task::spawn_blocking(work).await.map_err(|_| ApplyError::ShuttingDown)?;
    match outcome {
        Ok(()) => Ok(None),
        Err(EditError::Conflict { local }) => Ok(Some(refused(local))),
        // Trying again would give the same answer, and must not hold up other pushes.
        Err(error @ (EditError::Internal | EditError::Secret | EditError::TooLarge { .. })) => {
            tracing::error!(path = file.path, %error, "a push was refused");
            Ok(Some(refused(None)))
        }
        Err(EditError::Fs(error)) if error.is_about_the_path() => {
            tracing::error!(path = file.path, %error, "a push was refused");
            Ok(Some(refused(None)))
        }
        Err(error) => Err(ApplyError::Edit { path: file.path.clone(), error }),
    }
}
