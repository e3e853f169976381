//! Removing a file.

use winston_wire::ContentHash;

use super::commit::Pending;
use super::examine::Current;
use super::intent::Intent;
use super::staging::Displaced;
use super::swap::{Attempt, Slipped};
use super::{ATTEMPTS, Author, EditError, Edits, Precondition};
use crate::failpoint;
use crate::fs::{EntryKind, FsError, TenantPath, rename_back};

impl Edits {
    /// Removes a file; `Ok(None)` when there was none. When this returns `Ok`, the removal and its record are on disk. Symbolic links and
    /// special files are removed as names, without a record, and only when no version was named. Blocking.
    pub(crate) fn delete(
        &self,
        path: &TenantPath,
        author: &Author,
        precondition: Precondition,
    ) -> Result<Option<u64>, EditError> {
        self.permit(path)?;
        self.settled()?;
        let _lock = self.locks.lock(std::iter::once(path.as_str()));
        for _ in 0..ATTEMPTS {
            let mut pending = Pending::default();
            let current = match self.examine(path, &mut pending) {
                Ok(current) => current,
                Err(FsError::NotAFile(EntryKind::Symlink | EntryKind::Special)) => {
                    self.commit(pending)?;
                    if precondition.is_strict() {
                        return Err(EditError::PreconditionFailed { current: None });
                    }
                    match self.take_name(path, author)? {
                        Attempt::Done(()) => return Ok(None),
                        Attempt::Again => continue,
                    }
                }
                Err(error) => {
                    self.commit(pending)?;
                    return Err(error.into());
                }
            };
            if let Err(error) = precondition.check(&current) {
                self.commit(pending)?;
                return Err(error);
            }
            if current.file.is_none() {
                self.commit(pending)?;
                return match precondition {
                    Precondition::Force => Ok(None),
                    _ => Err(FsError::NotFound.into()),
                };
            }
            if let Attempt::Done(seq) = self.swap_out(path, author, precondition, &current, pending)? {
                return Ok(seq);
            }
        }
        Err(EditError::Busy)
    }

    /// Removes a name that is not a file. What turns out to be one after all goes back.
    fn take_name(&self, path: &TenantPath, author: &Author) -> Result<Attempt<()>, EditError> {
        let parent = self.root.parent(path)?;
        let id = self.staging.next_id();
        // Over no file at all: what turns out to be one goes back, also after a crash.
        self.staging.write_intent(&id, &self.delete_intent(path, author, Some(None)))?;
        match self.staging.take(&id, &parent.dir, parent.name) {
            Ok(()) => {}
            Err(error) => {
                self.staging.clear(&id);
                return if matches!(error, FsError::NotFound) { Ok(Attempt::Again) } else { Err(error.into()) };
            }
        }
        let is_name = matches!(self.staging.displaced(&id)?, Displaced::Other(kind) if kind != EntryKind::Directory);
        if !is_name {
            let mut pending = Pending::default();
            self.put_back_deleted(&id, path, &mut pending)?;
            self.commit(pending)?;
            self.staging.clear(&id);
            return Ok(Attempt::Again);
        }
        rustix::fs::fsync(&parent.dir).map_err(FsError::from)?;
        self.count_flush();
        self.staging.clear(&id);
        Ok(Attempt::Done(()))
    }

    fn swap_out(
        &self,
        path: &TenantPath,
        author: &Author,
        precondition: Precondition,
        current: &Current,
        mut pending: Pending,
    ) -> Result<Attempt<Option<u64>>, EditError> {
        let parent = self.root.parent(path)?;
        let id = self.staging.next_id();
        let only_over = precondition.only_over(current.hash());
        self.staging.write_intent(&id, &self.delete_intent(path, author, only_over))?;
        if let Err(error) = self.staging.take(&id, &parent.dir, parent.name) {
            self.staging.clear(&id);
            self.commit(pending)?;
            return if matches!(error, FsError::NotFound) { Ok(Attempt::Again) } else { Err(error.into()) };
        }
        failpoint::here("taken");
        let flushed = failpoint::fails("dir-sync").and_then(|()| Ok(rustix::fs::fsync(&parent.dir)?));
        self.count_flush();
        let mut previous: Option<ContentHash> = current.hash();
        match self.displaced(&id, path, current, precondition, &mut pending) {
            Ok(Some(slipped_in)) => previous = slipped_in,
            Ok(None) => {}
            Err(Slipped) => {
                self.put_back_deleted(&id, path, &mut pending)?;
                self.commit(pending)?;
                self.staging.clear(&id);
                return Ok(Attempt::Again);
            }
        }
        pending.deleted(path, author, previous);
        let recorded = flushed.map_err(|error| EditError::Fs(error.into())).and_then(|()| Ok(self.commit(pending)?));
        match recorded {
            Ok(changes) => {
                self.staging.clear(&id);
                Ok(Attempt::Done(changes.last().map(|change| change.seq)))
            }
            Err(error) => {
                // What cannot be recorded now stays staged, for the next start.
                let mut found = Pending::default();
                self.put_back_deleted(&id, path, &mut found)?;
                if found.is_empty() || self.commit(found).is_ok() {
                    self.staging.clear(&id);
                }
                Err(error)
            }
        }
    }

    fn delete_intent(&self, path: &TenantPath, author: &Author, only_over: Option<Option<ContentHash>>) -> Intent {
        Intent {
            path: path.as_str().to_owned(),
            source: author.source,
            actor: author.actor.clone(),
            generation: author.generation,
            hash: None,
            after_seq: self.journal.head_seq(),
            only_over,
        }
    }

    /// Puts a file back that was taken out. Where the agent has made another one meanwhile, or removed the directory, the old one
    /// becomes history instead.
    pub(super) fn put_back_deleted(&self, id: &str, path: &TenantPath, pending: &mut Pending) -> Result<(), EditError> {
        let returned =
            self.root.parent(path).and_then(|parent| rename_back(self.staging.dir(), id, &parent.dir, parent.name));
        match returned {
            Err(FsError::Exists | FsError::NotFound) => Ok(self.staged_is_the_agents(id, path, pending)?),
            done => Ok(done?),
        }
    }
}
