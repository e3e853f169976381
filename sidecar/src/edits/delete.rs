//! Removing a file.

use winston_wire::ContentHash;

use super::commit::Pending;
use super::examine::Current;
use super::intent::Intent;
use super::put::{Attempt, Slipped};
use super::{ATTEMPTS, Author, EditError, Edits, Precondition};
use crate::fs::{EntryKind, FsError, TenantPath, rename_back, unlink};

impl Edits {
    /// Removes a file; `Ok(None)` when there was none. When this returns `Ok`, the removal and its record are on disk. Symbolic links and special files
    /// are removed as names, without a record. Blocking.
    pub(crate) fn delete(
        &self,
        path: &TenantPath,
        author: &Author,
        precondition: Precondition,
    ) -> Result<Option<u64>, EditError> {
        self.permit(path)?;
        let _lock = self.locks.lock(std::iter::once(path.as_str()));
        for _ in 0..ATTEMPTS {
            let mut pending = Pending::default();
            let current = match self.examine(path, &mut pending) {
                Ok(current) => current,
                Err(FsError::NotAFile(EntryKind::Symlink | EntryKind::Special)) => {
                    self.commit(pending)?;
                    self.unlink_name(path)?;
                    return Ok(None);
                }
                Err(error) => {
                    self.commit(pending)?;
                    return Err(error.into());
                }
            };
            if let Err(error) = precondition.check(&current, None) {
                self.commit(pending)?;
                return Err(error);
            }
            if current.file.is_none() {
                self.commit(pending)?;
                return match precondition {
                    Precondition::Push(_) => Ok(None),
                    _ => Err(FsError::NotFound.into()),
                };
            }
            if let Attempt::Done(seq) = self.swap_out(path, author, precondition, &current, pending)? {
                return Ok(seq);
            }
        }
        Err(EditError::Busy)
    }

    fn unlink_name(&self, path: &TenantPath) -> Result<(), EditError> {
        let parent = self.root.parent(path)?;
        unlink(&parent.dir, parent.name)?;
        rustix::fs::fsync(&parent.dir).map_err(FsError::from)?;
        self.count_flush();
        Ok(())
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
        self.staging.write_intent(
            &id,
            &Intent {
                path: path.as_str().to_owned(),
                source: author.source,
                actor: author.actor.clone(),
                generation: author.generation,
                hash: None,
            },
        )?;
        match self.staging.take(&id, &parent.dir, parent.name) {
            Ok(()) => {}
            Err(error) => {
                self.staging.clear(&id);
                self.commit(pending)?;
                return if matches!(error, FsError::NotFound) { Ok(Attempt::Again) } else { Err(error.into()) };
            }
        }
        let mut previous: Option<ContentHash> = current.hash();
        match self.displaced(&id, path, current, precondition, &mut pending) {
            Ok(Some(slipped_in)) => previous = slipped_in,
            Ok(None) => {}
            Err(Slipped) => {
                rename_back(self.staging.dir(), &id, &parent.dir, parent.name)?;
                self.staging.clear(&id);
                self.commit(pending)?;
                return Ok(Attempt::Again);
            }
        }
        pending.deleted(path, author, previous);
        let recorded = rustix::fs::fsync(&parent.dir).map_err(|errno| EditError::Fs(errno.into())).and_then(|()| {
            self.count_flush();
            Ok(self.commit(pending)?)
        });
        match recorded {
            Ok(changes) => {
                self.staging.clear(&id);
                Ok(Attempt::Done(changes.last().map(|change| change.seq)))
            }
            Err(error) => {
                rename_back(self.staging.dir(), &id, &parent.dir, parent.name)?;
                self.staging.clear(&id);
                Err(error)
            }
        }
    }
}
