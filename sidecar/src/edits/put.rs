//! Replacing or creating a file.

use std::fs::File;

use winston_wire::ContentHash;

use super::commit::{NewVersion, Pending, agent, now_ns};
use super::examine::{Current, Seen};
use super::intent::Intent;
use super::staging::{Displaced, Ownership};
use super::{ATTEMPTS, Author, EditError, Edits, Precondition, Written, hash_of};
use crate::fs::{FsError, Stat, TenantPath};
use crate::index::Version;

/// Mode of a new file, and of a new `openclaw.json`, which may hold secrets.
const NEW_FILE_MODE: u32 = 0o644;
const NEW_CONFIG_MODE: u32 = 0o600;

/// One write, the same through all attempts.
pub(super) struct Put<'a> {
    pub(super) path: &'a TenantPath,
    pub(super) content: &'a [u8],
    pub(super) hash: ContentHash,
    pub(super) author: &'a Author,
    pub(super) precondition: Precondition,
}

/// How a swap attempt ended.
pub(super) enum Attempt<T> {
    Done(T),
    /// The agent changed the path meanwhile; nothing of ours is there. Look again.
    Again,
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
            if let Err(error) = precondition.check(&current, Some(put.hash)) {
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
        let id = self.staging.next_id();
        let staged = self.stage(&id, put, current);
        let staged = staged.inspect_err(|_| self.staging.clear(&id))?;

        let swapped = match &current.file {
            Some(_) => self.staging.exchange(&id, &parent.dir, parent.name),
            None => self.staging.place(&id, &parent.dir, parent.name),
        };
        match swapped {
            Ok(()) => {}
            Err(FsError::Exists | FsError::NotFound) => {
                self.staging.clear(&id);
                self.commit(pending)?;
                return Ok(Attempt::Again);
            }
            Err(error) => {
                self.staging.clear(&id);
                return Err(error.into());
            }
        }

        let undo = || match &current.file {
            Some(_) => self.staging.exchange(&id, &parent.dir, parent.name),
            None => self.staging.take(&id, &parent.dir, parent.name),
        };
        let mut previous = current.hash();
        if current.file.is_some() {
            match self.displaced(&id, put.path, current, put.precondition, &mut pending) {
                Ok(Some(slipped_in)) => previous = slipped_in,
                Ok(None) => {}
                Err(Slipped) => {
                    undo()?;
                    self.staging.clear(&id);
                    self.commit(pending)?;
                    return Ok(Attempt::Again);
                }
            }
        }

        let recorded = rustix::fs::fsync(&parent.dir).map_err(|errno| EditError::Fs(errno.into())).and_then(|()| {
            self.count_flush();
            self.record_put(put, &staged, current, previous, pending)
        });
        match recorded {
            Ok(written) => {
                self.staging.clear(&id);
                Ok(Attempt::Done(written))
            }
            Err(error) => {
                // Not recorded means not done: the old version returns.
                undo()?;
                self.staging.clear(&id);
                Err(error)
            }
        }
    }

    fn stage(&self, id: &str, put: &Put<'_>, current: &Current) -> Result<File, FsError> {
        let ownership = match &current.file {
            Some(file) => Ownership { mode: file.stat.mode, owner: Some((file.stat.uid, file.stat.gid)) },
            None => {
                let config = self.layout.config_file().as_ref() == Some(put.path);
                let mode = if config { NEW_CONFIG_MODE } else { NEW_FILE_MODE };
                Ownership { mode, owner: self.root.owner() }
            }
        };
        let staged = self.staging.create(id, put.content, &ownership)?;
        self.count_flush();
        self.staging.write_intent(
            id,
            &Intent {
                path: put.path.as_str().to_owned(),
                source: put.author.source,
                actor: put.author.actor.clone(),
                generation: put.author.generation,
                hash: Some(put.hash),
            },
        )?;
        Ok(staged)
    }

    /// Looks at what the swap took out. If the agent slipped a version in after we had looked, that version is recorded; its hash is returned. Under a
    /// precondition, or when it is not a file, the swap has to be undone instead.
    pub(super) fn displaced(
        &self,
        id: &str,
        path: &TenantPath,
        current: &Current,
        precondition: Precondition,
        pending: &mut Pending,
    ) -> Result<Option<Option<ContentHash>>, Slipped> {
        let Ok(Displaced::File(opened)) = self.staging.displaced(id) else { return Err(Slipped) };
        let Ok(seen) = Seen::read(opened, self.max_file_bytes) else { return Err(Slipped) };
        let expected = match (&current.file, seen.hash) {
            (Some(file), Some(hash)) => file.hash == Some(hash),
            // Over the size limit there is no hash; inode, size and modification time survive the rename.
            (Some(file), None) => {
                (file.stat.ino, file.stat.size, file.stat.mtime_ns)
                    == (seen.stat.ino, seen.stat.size, seen.stat.mtime_ns)
            }
            (None, _) => false,
        };
        if expected {
            return Ok(None);
        }
        if precondition.is_strict() {
            return Err(Slipped);
        }
        pending.version(
            path,
            &agent(),
            NewVersion {
                hash: seen.hash,
                previous: current.hash(),
                size: seen.stat.size,
                created: false,
                content: seen.content,
            },
        );
        Ok(Some(seen.hash))
    }

    fn record_put(
        &self,
        put: &Put<'_>,
        staged: &File,
        current: &Current,
        previous: Option<ContentHash>,
        mut pending: Pending,
    ) -> Result<Written, EditError> {
        let created = current.file.is_none();
        let size = put.content.len() as u64;
        let version = NewVersion { hash: Some(put.hash), previous, size, created, content: Some(put.content.to_vec()) };
        pending.version(put.path, put.author, version);
        let recorded = Version { hash: Some(put.hash), source: put.author.source };
        // Our handle and the file in the tree are one inode, so this is the stat that the watcher will find.
        pending.seen(put.path, recorded, Stat::of(staged)?, now_ns());
        let changes = self.commit(pending)?;
        Ok(Written { hash: put.hash, size, created, seq: changes.last().map(|change| change.seq) })
    }
}

/// The agent slipped a version in that must not be replaced.
pub(super) struct Slipped;
