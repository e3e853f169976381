//! Conflicts, and how a person ends them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde::Serialize;
use winston_wire::{Base, Conflict, ContentHash, Resolution};

use super::client::ClientError;
use super::engine::Engine;
use crate::edits::{Author, EditError, Look, Precondition, hash_of};
use crate::fs::TenantPath;
use crate::merge;

/// Largest content that is shown beside a conflict, in bytes.
const MAX_SHOWN_BYTES: usize = 256 * 1024;

/// A conflict with what a person needs to decide. Contents are there when they are UTF-8 text, small, and can be had now.
#[derive(Debug, Serialize)]
pub(crate) struct ConflictView {
    #[serde(flatten)]
    conflict: Conflict,
    /// What is on disk now; `null` when there is no file. It may have moved on since the conflict.
    current_hash: Option<ContentHash>,
    local: Option<String>,
    pushed: Option<String>,
    base: Option<String>,
    /// A clean merge of what is on disk with what was pushed.
    merged: Option<String>,
}

/// What a person decided.
pub(crate) struct Resolve {
    pub(crate) resolution: Resolution,
    /// For [`Resolution::Merged`].
    pub(crate) content: Option<Bytes>,
    /// Version on disk that was looked at; the one that the conflict names when it is not given.
    pub(crate) local_hash: Option<ContentHash>,
    pub(crate) author: Author,
}

/// Why a conflict was not resolved. It is still there then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    /// No conflict at this path.
    #[error("there is no conflict at this path")]
    NotFound,
    /// [`Resolution::Merged`] without a content.
    #[error("the resolution \"merged\" needs a content")]
    NoContent,
    /// The pushed content cannot be had.
    #[error(transparent)]
    Control(#[from] ClientError),
    /// The file.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// The decision could not be remembered.
    #[error("the resolution could not be remembered: {0}")]
    Memory(std::io::Error),
    /// The runtime is going down.
    #[error("shutting down")]
    ShuttingDown,
}

impl Engine {
    /// A conflict with its contents.
    pub(crate) async fn conflict(&self, path: &str) -> Result<ConflictView, ResolveError> {
        let found = self.applied.lock().await.conflicts.iter().find(|known| known.conflict.path == path).cloned();
        let found = found.ok_or(ResolveError::NotFound)?;
        let (edits, tenant_path) = (Arc::clone(&self.edits), TenantPath::parse(path).ok());
        let on_disk = tokio::task::spawn_blocking(move || {
            let path = tenant_path?;
            let Ok(Look::File { hash, .. }) = edits.look(&path) else { return None };
            Some((hash, edits.content(&path, hash).ok().flatten()))
        });
        let on_disk = on_disk.await.map_err(|_| ResolveError::ShuttingDown)?;
        let pushed = match found.conflict.pushed_hash {
            Some(hash) => self.content(hash).await.ok(),
            None => None,
        };
        let base = match found.base {
            Base::Hash(hash) => self.content(hash).await.ok(),
            Base::Any | Base::Absent => None,
        };
        let current_hash = on_disk.as_ref().map(|(hash, _)| *hash);
        let local = on_disk.and_then(|(_, content)| content);
        let named = path.to_owned();
        let view = tokio::task::spawn_blocking(move || {
            let merged = match (&base, &local, &pushed) {
                (Some(base), Some(local), Some(pushed)) => merge::three_way(&named, base, local, pushed),
                _ => None,
            };
            ConflictView {
                conflict: found.conflict,
                current_hash,
                local: shown(local.as_deref()),
                pushed: shown(pushed.as_deref()),
                base: shown(base.as_deref()),
                merged: shown(merged.as_deref()),
            }
        });
        view.await.map_err(|_| ResolveError::ShuttingDown)
    }

    /// Ends a conflict; what is on disk then (`None`: no file). Pushes wait meanwhile.
    pub(crate) async fn resolve(&self, path: &str, wanted: Resolve) -> Result<Option<ContentHash>, ResolveError> {
        let mut applied = self.applied.lock().await;
        let position = applied.conflicts.iter().position(|known| known.conflict.path == path);
        let position = position.ok_or(ResolveError::NotFound)?;
        let conflict = applied.conflicts[position].conflict.clone();
        let content = match wanted.resolution {
            Resolution::Ours => None,
            Resolution::Merged => Some(wanted.content.ok_or(ResolveError::NoContent)?),
            Resolution::Theirs => match conflict.pushed_hash {
                Some(hash) => Some(self.content(hash).await?),
                None => None,
            },
        };
        let over = wanted.local_hash.or(conflict.local_hash).map_or(Precondition::Absent, Precondition::Match);
        let (resolution, author, edits) = (wanted.resolution, wanted.author, Arc::clone(&self.edits));
        let named = path.to_owned();
        let work = move || -> Result<Option<ContentHash>, EditError> {
            let Ok(path) = TenantPath::parse(&named) else { return Ok(None) };
            if resolution == Resolution::Ours {
                let current = match edits.look(&path) {
                    Ok(Look::File { hash, .. }) => Some(hash),
                    _ => None,
                };
                // Whoever names the version that they looked at keeps that one and no other.
                let is_meant = wanted.local_hash.is_none() || wanted.local_hash == current;
                return if is_meant { Ok(current) } else { Err(EditError::PreconditionFailed { current }) };
            }
            let hash = content.as_deref().map(hash_of);
            let done = match (&content, over) {
                (Some(content), over) => edits.put(&path, content, &author, over).map(|_| ()),
                (None, Precondition::Absent) if matches!(edits.look(&path)?, Look::Absent | Look::Withheld) => Ok(()),
                (None, over) => edits.delete(&path, &author, over).map(|_| ()),
            };
            match done {
                // It is what was asked for: an earlier attempt got this far.
                Err(EditError::PreconditionFailed { current }) if current.is_some() && current == hash => Ok(hash),
                done => done.map(|()| hash),
            }
        };
        let hash = tokio::task::spawn_blocking(work).await.map_err(|_| ResolveError::ShuttingDown)??;
        let mut after = applied.clone();
        after.conflicts.remove(position);
        after.forget_merges(path);
        after.saved(&self.internal).await.map_err(ResolveError::Memory)?;
        self.status.set_applied(after.generation, after.told());
        *applied = after;
        drop(applied);
        tracing::info!(path, ?resolution, "a conflict was resolved");
        self.report_now.notify_one();
        Ok(hash)
    }

    /// Forgets conflicts that have settled themselves: what was pushed is on disk by now.
    pub(super) async fn settle_conflicts(&self) {
        // While a round of pushes or a resolution is under way there is nothing to tidy up.
        let Ok(mut applied) = self.applied.try_lock() else { return };
        let head = self.edits.journal().head_seq();
        if applied.conflicts.is_empty() || self.settled_at.swap(head, Ordering::Relaxed) == head {
            return;
        }
        let (edits, mut after) = (Arc::clone(&self.edits), applied.clone());
        let work = move || {
            after.conflicts.retain(|known| {
                let Ok(path) = TenantPath::parse(&known.conflict.path) else { return true };
                match (edits.look(&path), known.conflict.pushed_hash) {
                    (Ok(Look::File { hash, .. }), Some(pushed)) => hash != pushed,
                    (Ok(Look::Absent), None) => false,
                    _ => true,
                }
            });
            after
        };
        let Ok(after) = tokio::task::spawn_blocking(work).await else { return };
        if after.conflicts.len() == applied.conflicts.len() {
            return;
        }
        match after.saved(&self.internal).await {
            Ok(()) => {
                self.status.set_applied(after.generation, after.told());
                *applied = after;
            }
            Err(error) => tracing::warn!(%error, "could not forget a conflict that has settled itself"),
        }
    }

    /// A content by its hash, from the journal or from control.
    pub(crate) async fn content(&self, hash: ContentHash) -> Result<Bytes, ClientError> {
        let edits = Arc::clone(&self.edits);
        if let Ok(Some(content)) = tokio::task::spawn_blocking(move || edits.recorded_content(hash)).await {
            return Ok(content.into());
        }
        let content = self.client.get_content(hash).await?;
        if hash_of(&content) != hash {
            return Err(ClientError::BadAnswer("the content arrived damaged".to_owned()));
        }
        Ok(content)
    }
}

fn shown(content: Option<&[u8]>) -> Option<String> {
    let content = content.filter(|content| content.len() <= MAX_SHOWN_BYTES)?;
    std::str::from_utf8(content).ok().map(str::to_owned)
}
