//! Working through pushed files.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use winston_wire::{Base, Conflict, ContentHash, Desired, DesiredFile, Source, Timestamp};

use super::applied::{Applied, MAX_MERGED, Merged, Unapplied};
use super::client::{ClientError, ControlClient};
use super::reconcile::{Decision, Local, Merge, merge_base, reconcile};
use crate::candidate::{Configs, ROLLBACK};
use crate::edits::{Author, EditError, Edits, Look, Precondition, hash_of};
use crate::failpoint;
use crate::fs::{FsError, TenantPath};
use crate::merge;

/// Attempts at a file that changes between the look at it and the edit.
const ATTEMPTS: usize = 8;

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
    /// The file is gone with all others, and nobody knows yet whether it was to go.
    #[error(
        "the push of {path} waits: the file is gone with all others, and that is not accepted (POST /watch/accept)"
    )]
    Withheld { path: String },
    /// What was merged could not be remembered.
    #[error("could not remember what was merged: {0}")]
    Memory(std::io::Error),
    /// The runtime is going down.
    #[error("shutting down")]
    ShuttingDown,
}

/// One round.
pub(super) struct Round<'a> {
    pub(super) edits: &'a Arc<Edits>,
    pub(super) client: &'a ControlClient,
    /// Where [`Applied`] is kept.
    pub(super) internal: &'a Arc<OwnedFd>,
    /// Tries configurations out; `None` without a gateway.
    pub(super) configs: Option<&'a Configs>,
}

/// How one file ended.
pub(super) enum Outcome {
    /// Everything that the push wants is on disk.
    Done,
    /// The local version stays.
    Unapplied { local: Option<ContentHash>, reason: String },
}

impl Round<'_> {
    /// Applies every file of `desired` and notes in `applied` what to remember. A file that cannot be applied does not hold up the others.
    pub(super) async fn apply(&self, desired: Desired, applied: &mut Applied) -> Result<(), ApplyError> {
        let generation = desired.generation;
        let mut files = desired.files;
        // An answer that was held up on the way; a control that went back in time says so with its generation.
        files.retain(|file| file.generation > applied.generation || generation < applied.generation);
        // The gateway's configuration comes last: on the first boot the gateway starts as soon as there is one.
        let trials = self.take_trials(&mut files);
        files.sort_by_key(|file| (self.is_config(file), file.generation));
        for file in files {
            self.one(file, applied).await?;
        }
        for trial in trials {
            self.try_out(trial, applied).await?;
        }
        applied.generation = generation;
        Ok(())
    }

    pub(super) fn is_config(&self, file: &DesiredFile) -> bool {
        self.edits.layout().config_file().is_some_and(|path| path.as_str() == file.path)
    }

    /// Applies one file by itself.
    pub(super) async fn one(&self, file: DesiredFile, applied: &mut Applied) -> Result<(), ApplyError> {
        let outcome = if file.merge {
            let reason = "keys are owned in openclaw.json only, and where its gateway runs".to_owned();
            Outcome::Unapplied { local: self.recorded(&file.path), reason }
        } else {
            self.file(&file, applied).await?
        };
        note(file, outcome, applied);
        Ok(())
    }

    async fn file(&self, file: &DesiredFile, applied: &mut Applied) -> Result<Outcome, ApplyError> {
        // A round that was interrupted starts over; what was in place by then may have been edited since.
        if self.edits.journal().ledger().has_push(&file.path, file.generation, file.hash) {
            return Ok(Outcome::Done);
        }
        let unapplied = |reason: &dyn std::fmt::Display| {
            Ok(Outcome::Unapplied { local: self.recorded(&file.path), reason: reason.to_string() })
        };
        let path = match TenantPath::parse(&file.path) {
            Ok(path) => path,
            Err(error) => return unapplied(&error),
        };
        let content = match self.wanted(&path, file.hash).await? {
            Ok(content) => content,
            Err(error) => return unapplied(&error),
        };
        let push = Push { path, file, content };
        for _ in 0..ATTEMPTS {
            match self.attempt(&push, applied).await {
                // The file changed since the look: the decision is another one now.
                Err(Failure::Edit(EditError::PreconditionFailed { .. } | EditError::Busy)) => {}
                Err(Failure::Edit(error)) if is_the_volume(&error) => {
                    return Err(ApplyError::Edit { path: file.path.clone(), error });
                }
                Err(Failure::Edit(error)) => return unapplied(&error),
                Err(Failure::Round(error)) => return Err(error),
                Ok(outcome) => return Ok(outcome),
            }
        }
        Err(ApplyError::Edit { path: file.path.clone(), error: EditError::Busy })
    }

    /// The content that was recorded last at a path, for whoever settles a conflict that came without a look at it.
    pub(super) fn recorded(&self, path: &str) -> Option<ContentHash> {
        self.edits.index().version(path).and_then(|version| version.hash)
    }

    /// A wanted content; on the inside, why it cannot be had whenever it is asked for.
    pub(super) async fn wanted(
        &self,
        path: &TenantPath,
        hash: Option<ContentHash>,
    ) -> Result<Result<Option<Bytes>, ClientError>, ApplyError> {
        let Some(hash) = hash else { return Ok(Ok(None)) };
        match self.fetch(path, hash).await {
            Ok(content) => Ok(Ok(Some(content))),
            Err(ApplyError::Client(error @ (ClientError::Refused { .. } | ClientError::TooLarge { .. }))) => {
                Ok(Err(error))
            }
            Err(error) => Err(error),
        }
    }

    /// Looks, decides and does it, over exactly the version that was looked at.
    async fn attempt(&self, push: &Push<'_>, applied: &mut Applied) -> Result<Outcome, Failure> {
        let plan = self.decide(push, applied).await?;
        let Plan::Write { content, over, merged } = plan else {
            return Ok(match plan {
                Plan::Unapplied { local, reason } => Outcome::Unapplied { local, reason },
                Plan::Done | Plan::Write { .. } => Outcome::Done,
            });
        };
        // Before the file: a merged version must never look like one of control's. Beside an earlier one, which is on disk until then.
        if let Some(merged) = merged {
            self.remember(&push.file.path, merged, over, applied).await?;
        }
        failpoint::here("merge-remembered");
        self.write(push, content, over).await?;
        written(&push.file.path, merged.is_some(), applied);
        if merged.is_some() {
            let DesiredFile { path, generation, .. } = push.file;
            tracing::info!(path, generation, "a push was merged with a local edit");
        }
        Ok(Outcome::Done)
    }

    /// Notes that a merged version is about to be written.
    pub(super) async fn remember(
        &self,
        path: &str,
        merged: Merged,
        over: Precondition,
        applied: &mut Applied,
    ) -> Result<(), ApplyError> {
        if let Precondition::Match(there) = over
            && let Some(known) = applied.merge_of(path, there)
        {
            applied.merged.insert(path.to_owned(), known);
        }
        applied.merging.insert(path.to_owned(), merged);
        applied.saved(self.internal).await.map_err(ApplyError::Memory)
    }

    /// Looks and decides.
    pub(super) async fn decide(&self, push: &Push<'_>, applied: &Applied) -> Result<Plan, Failure> {
        let (path, file) = (push.path.clone(), push.file);
        let look = self.blocking(move |edits| edits.look(&path)).await??;
        let local = match look {
            Look::Withheld if file.base != Base::Any => {
                return Err(ApplyError::Withheld { path: file.path.clone() }.into());
            }
            Look::Absent | Look::Withheld => Local::Absent,
            Look::Opaque => Local::Opaque,
            Look::File { hash, source } => {
                let merged = applied.merge_of(&file.path, hash).is_some();
                let mixed = self.configs.is_some_and(|configs| configs.is_mixed(&file.path, hash));
                Local::File { hash, untouched: source == Some(Source::System) && !merged && !mixed }
            }
        };
        let base = match (file.base, local) {
            // Pushed over a change that was taken back since: over what the change had replaced, then.
            (Base::Hash(base), Local::File { hash, .. }) if self.took_back(&file.path, base, hash) => Base::Hash(hash),
            (base, _) => base,
        };
        let mut merged = None;
        let mut decision = reconcile(base, local, file.hash, Merge::Untried);
        if let (Decision::TryMerge(_) | Decision::KeepLocal, Base::Hash(base)) = (decision, base) {
            let base = merge_base(base, self.earlier(&file.path, applied));
            decision = reconcile(Base::Hash(base), local, file.hash, Merge::Untried);
        }
        if let (Decision::TryMerge(base), Local::File { hash, .. }) = (decision, local) {
            merged = if applied.merged.len() < MAX_MERGED { self.merge(push, base, hash).await? } else { None };
            let outcome = merged.as_deref().map_or(Merge::Impossible, |content| Merge::Clean(hash_of(content)));
            decision = reconcile(Base::Hash(base), local, file.hash, outcome);
        }
        let over = match (file.base, local) {
            (Base::Any, _) => Precondition::Force,
            (_, Local::File { hash, .. }) => Precondition::Match(hash),
            (_, Local::Absent | Local::Opaque) => Precondition::Absent,
        };
        Ok(match (decision, merged) {
            (Decision::KeepLocal, _) => Plan::Done,
            // Also when it is in place: then it has to be made durable.
            (Decision::InPlace | Decision::TakeDesired, _) => {
                Plan::Write { content: push.content.clone(), over, merged: None }
            }
            (Decision::TakeMerged(hash), Some(content)) => {
                let merged = match (file.hash, file.base) {
                    (Some(pushed), Base::Hash(base)) => Some(Merged { hash, pushed, base }),
                    _ => None,
                };
                Plan::Write { content: Some(content.into()), over, merged }
            }
            (Decision::Conflict | Decision::TryMerge(_) | Decision::TakeMerged(_), _) => {
                let local = match local {
                    Local::File { hash, .. } => Some(hash),
                    Local::Absent | Local::Opaque => None,
                };
                let reason = "the file was edited locally".to_owned();
                Plan::Unapplied { local, reason }
            }
        })
    }

    /// Whether what is there is what `candidate` had replaced, put back by us, and nobody's edit.
    fn took_back(&self, path: &str, candidate: ContentHash, local: ContentHash) -> bool {
        self.edits.journal().ledger().last_change(path).is_some_and(|change| {
            change.source == Source::System
                && change.actor.as_deref() == Some(ROLLBACK)
                && (change.previous_hash, change.hash) == (Some(candidate), Some(local))
        })
    }

    /// The push of this path that reached the disk last, as [`merge_base`] wants it.
    fn earlier(&self, path: &str, applied: &Applied) -> Option<(ContentHash, ContentHash)> {
        let recorded = self.edits.journal().ledger().last_push(path)?;
        match recorded.hash.and_then(|hash| applied.merge_of(path, hash)) {
            // The record of a merge tells what came out, not what was pushed.
            Some(merged) => Some((merged.base, merged.pushed)),
            None => recorded.previous_hash.zip(recorded.hash),
        }
    }

    /// Content of a clean merge, or `None`.
    async fn merge(&self, push: &Push<'_>, base: ContentHash, local: ContentHash) -> Result<Option<Vec<u8>>, Failure> {
        let Some(desired) = push.content.clone() else { return Ok(None) };
        let recorded = self.blocking(move |edits| edits.recorded_content(base)).await?;
        let base = match recorded {
            Some(content) => Ok(content.into()),
            None => self.fetch(&push.path, base).await,
        };
        let base = match base {
            Ok(content) => content,
            // Control does not have it: then there is nothing to merge over.
            Err(ApplyError::Client(ClientError::Refused { .. } | ClientError::TooLarge { .. })) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let path = push.path.clone();
        let merged = self.blocking(move |edits| {
            let Some(ours) = edits.content(&path, local)? else {
                return Err(EditError::PreconditionFailed { current: None });
            };
            Ok(merge::three_way(path.as_str(), &base, &ours, &desired))
        });
        let merged = merged.await??;
        Ok(merged.filter(|content| content.len() as u64 <= self.edits.max_file_bytes()))
    }

    async fn write(&self, push: &Push<'_>, content: Option<Bytes>, over: Precondition) -> Result<(), Failure> {
        let author =
            Author { source: Source::System, actor: push.file.actor.clone(), generation: Some(push.file.generation) };
        let path = push.path.clone();
        let work = move |edits: &Edits| match content {
            Some(content) => edits.put(&path, &content, &author, over).map(|_| ()),
            // Nothing is there, and nothing should be.
            None if over == Precondition::Absent => Ok(()),
            None => edits.delete(&path, &author, over).map(|_| ()),
        };
        Ok(self.blocking(work).await??)
    }

    async fn fetch(&self, path: &TenantPath, hash: ContentHash) -> Result<Bytes, ApplyError> {
        let content = self.client.get_content(hash).await?;
        if hash_of(&content) != hash {
            return Err(ApplyError::Damaged { path: path.as_str().to_owned() });
        }
        Ok(content)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Edits) -> T + Send + 'static,
    ) -> Result<T, ApplyError> {
        let edits = Arc::clone(self.edits);
        tokio::task::spawn_blocking(move || work(&edits)).await.map_err(|_| ApplyError::ShuttingDown)
    }
}

/// A file that is worked on.
pub(super) struct Push<'a> {
    pub(super) path: TenantPath,
    pub(super) file: &'a DesiredFile,
    /// `None`: the file should not exist.
    pub(super) content: Option<Bytes>,
}

/// What is to be done about a file.
pub(super) enum Plan {
    /// Nothing: it has everything that the push wants.
    Done,
    /// Write this, over exactly that.
    Write { content: Option<Bytes>, over: Precondition, merged: Option<Merged> },
    /// The local version stays.
    Unapplied { local: Option<ContentHash>, reason: String },
}

/// A planned content is on disk.
pub(super) fn written(path: &str, was_merged: bool, applied: &mut Applied) {
    if !was_merged {
        applied.forget_merges(path);
    } else if let Some(merged) = applied.merging.remove(path) {
        applied.merged.insert(path.to_owned(), merged);
    }
}

/// Notes how a file ended.
pub(super) fn note(file: DesiredFile, outcome: Outcome, applied: &mut Applied) {
    let known = applied.conflicts.iter().position(|known| known.conflict.path == file.path);
    let known = known.map(|position| applied.conflicts.remove(position).conflict);
    if let Outcome::Unapplied { local, reason } = outcome {
        let DesiredFile { path, generation, hash: pushed_hash, base, .. } = file;
        tracing::warn!(path, generation, %reason, "a push was not applied; both versions are kept");
        // A round that starts over does not make it a new conflict.
        let since = known.filter(|known| known.generation == generation && known.pushed_hash == pushed_hash);
        let since = since.and_then(|known| known.since).or_else(|| Some(Timestamp::now()));
        let conflict = Conflict { path, generation, local_hash: local, pushed_hash, since };
        applied.conflicts.push(Unapplied { conflict, base });
    }
}

/// Why an attempt did not end.
pub(super) enum Failure {
    /// The file's.
    Edit(EditError),
    /// The round's.
    Round(ApplyError),
}

impl From<EditError> for Failure {
    fn from(error: EditError) -> Self {
        Self::Edit(error)
    }
}

impl From<ApplyError> for Failure {
    fn from(error: ApplyError) -> Self {
        Self::Round(error)
    }
}

/// The volume as a whole: nothing could be applied now.
pub(super) fn is_the_volume(error: &EditError) -> bool {
    matches!(error, EditError::Journal(_) | EditError::Fs(FsError::NoSpace | FsError::ReadOnly | FsError::Io(_)))
}
