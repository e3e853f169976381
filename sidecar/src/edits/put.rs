//! Replacing or creating a file.

use std::fs::File;
use std::os::fd::OwnedFd;

use winston_wire::ContentHash;

use super::commit::{NewVersion, Pending, now_ns};
use super::examine::Current;
use super::intent::Intent;
use super::swap::{Attempt, Slipped, Undone};
use super::{ATTEMPTS, Author, EditError, Edits, Precondition, Written, hash_of};
use crate::failpoint;
use crate::fs::{FsError, Stat, TenantPath};
use crate::index::Version;

/// One write, the same through all attempts.
struct Put<'a> {
    path: &'a TenantPath,
    content: &'a [u8],
    hash: ContentHash,
    author: &'a Author,
    precondition: Precondition,
}

/// The staged file, open: after the swap its stat is the new version's.
struct Staged {
    id: String,
    file: File,
    /// As it was before the swap; the agent can write to it afterwards.
    stat: Stat,
}

impl Edits {
    /// Writes a file. When this returns `Ok`, content, directory entry and journal record are on disk. Blocking.
    pub(crate) fn put(
        &self,
        path: &TenantPath,
        content: &[u8],
        author: &Author,
        precondition: Precondition,
    ) -> Result<Written, EditError> {
        self.permit(path)?;
        self.settled()?;
        if content.len() as u64 > self.max_file_bytes {
            return Err(EditError::TooLarge { limit: self.max_file_bytes });
        }
        let put = Put { path, content, hash: hash_of(content), author, precondition };
        let _lock = self.locks.lock(std::iter::once(path.as_str()));
        for _ in 0..ATTEMPTS {
            let mut pending = Pending::default();
            let current = match self.examine(path, &mut pending) {
                Ok(current) => current,
                Err(error) => {
                    self.commit(pending)?;
                    return Err(error.into());
                }
            };
            if let Err(error) = precondition.check(&current) {
                self.commit(pending)?;
                return Err(error);
            }
            if current.hash() == Some(put.hash) {
                self.commit(pending)?;
                return self.already_there(&put);
            }
            if let Attempt::Done(written) = self.swap_in(&put, &current, pending)? {
                return Ok(written);
            }
        }
        Err(EditError::Busy)
    }

    /// The wanted content is on disk already, but perhaps only in the kernel's cache.
    fn already_there(&self, put: &Put<'_>) -> Result<Written, EditError> {
        let opened = self.root.open_file(put.path)?;
        opened.file.sync_all().map_err(FsError::from)?;
        self.count_flush();
        rustix::fs::fsync(self.root.parent(put.path)?.dir).map_err(FsError::from)?;
        self.count_flush();
        Ok(Written { hash: put.hash, size: put.content.len() as u64, created: false, seq: None })
    }

    fn swap_in(&self, put: &Put<'_>, current: &Current, mut pending: Pending) -> Result<Attempt<Written>, EditError> {
        let parent = self.root.parent_created(put.path)?;
        let staged = self.stage(put, current)?;
        let id = &staged.id;
        let swapped = match &current.file {
            Some(_) => self.staging.exchange(id, &parent.dir, parent.name),
            None => self.staging.place(id, &parent.dir, parent.name),
        };
        if let Err(error) = swapped {
            self.staging.clear(id);
            self.commit(pending)?;
            return match error {
                FsError::Exists | FsError::NotFound => Ok(Attempt::Again),
                error => Err(error.into()),
            };
        }
        failpoint::here("swapped");
        let flushed = failpoint::fails("dir-sync").and_then(|()| Ok(rustix::fs::fsync(&parent.dir)?));
        self.count_flush();
        failpoint::here("dir-synced");
        let mut previous = current.previous();
        if current.file.is_some() {
            // As late as possible: whatever the agent still writes to the displaced file until now is in this look.
            match self.displaced(id, put.path, current, put.precondition, &mut pending) {
                Ok(Some(slipped_in)) => previous = slipped_in,
                Ok(None) => {}
                Err(Slipped) => {
                    self.undo_put(put.path, &parent.dir, parent.name, &staged, current, &mut pending)?;
                    self.commit(pending)?;
                    self.staging.clear(id);
                    return Ok(Attempt::Again);
                }
            }
        }
        let recorded = flushed
            .map_err(|error| EditError::Fs(error.into()))
            .and_then(|()| self.record_put(put, &staged.file, current, previous, pending));
        match recorded {
            Ok(written) => {
                self.staging.clear(id);
                Ok(Attempt::Done(written))
            }
            Err(error) => {
                // Not recorded means not done: the old version returns. What cannot be recorded now stays staged, for the next start.
                let mut found = Pending::default();
                self.undo_put(put.path, &parent.dir, parent.name, &staged, current, &mut found)?;
                if found.is_empty() || self.commit(found).is_ok() {
                    self.staging.clear(id);
                }
                Err(error)
            }
        }
    }

    fn stage(&self, put: &Put<'_>, current: &Current) -> Result<Staged, FsError> {
        let ownership = match &current.file {
            Some(file) => self.ownership_over(put.path, &file.stat, None),
            None => self.ownership_of_new(put.path, None),
        };
        let id = self.staging.next_id();
        let staged = || -> Result<(File, Stat), FsError> {
            let file = self.staging.create(&id, put.content, &ownership)?;
            self.count_flush();
            self.staging.write_intent(
                &id,
                &Intent {
                    path: put.path.as_str().to_owned(),
                    source: put.author.source,
                    actor: put.author.actor.clone(),
                    generation: put.author.generation,
                    hash: Some(put.hash),
                    after_seq: self.journal.head_seq(),
                    only_over: put.precondition.only_over(current.hash()),
                },
            )?;
            let stat = Stat::of(&file)?;
            Ok((file, stat))
        };
        match staged() {
            Ok((file, stat)) => Ok(Staged { id, file, stat }),
            Err(error) => {
                self.staging.clear(&id);
                Err(error)
            }
        }
    }

    /// Takes a swap back. If the agent has written since, its version stays in place and what was displaced goes to `pending`.
    fn undo_put(
        &self,
        path: &TenantPath,
        parent: &OwnedFd,
        name: &str,
        staged: &Staged,
        current: &Current,
        pending: &mut Pending,
    ) -> Result<(), EditError> {
        let undone = match current.file {
            Some(_) => self.undo_exchange(&staged.id, parent, name, &staged.stat)?,
            None => self.undo_place(&staged.id, parent, name, &staged.stat)?,
        };
        match undone {
            Undone::Clean => {}
            Undone::NewerInPlace => self.staged_is_the_agents(&staged.id, path, pending)?,
        }
        Ok(())
    }

    fn record_put(
        &self,
        put: &Put<'_>,
        staged: &File,
        current: &Current,
        previous: Option<ContentHash>,
        mut pending: Pending,
    ) -> Result<Written, EditError> {
        let size = put.content.len() as u64;
        let (hash, created, content) = (Some(put.hash), current.is_new(), Some(put.content.to_vec()));
        let version = NewVersion { hash, previous, size, created, content };
        pending.version(put.path, put.author, version);
        let recorded = Version { hash: Some(put.hash), source: put.author.source };
        // Our handle and the file in the tree are one inode, so this is the stat that the watcher will find.
        pending.seen(put.path, recorded, Stat::of(staged)?, now_ns());
        let changes = self.commit(pending)?;
        let created = current.file.is_none();
        Ok(Written { hash: put.hash, size, created, seq: changes.last().map(|change| change.seq) })
    }
}
