//! Removing a directory.

use std::collections::{HashMap, HashSet};

use winston_wire::ContentHash;

use super::super::commit::{NewVersion, Pending, agent, now_ns};
use super::super::examine::Seen;
use super::super::transaction::{Set, Step, remove_intent, write_intent};
use super::super::{Author, EditError, Edits, Precondition};
use crate::failpoint;
use crate::fs::{FsError, Stat, TenantPath};
use crate::index::Version;

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Removed {
    /// Entries below the directory.
    pub(crate) entries: usize,
    /// Last of the records; `None` when nothing in it had a history.
    pub(crate) seq: Option<u64>,
}

/// A file with a history that was taken out of the tree with its directory.
struct Gone {
    path: TenantPath,
    /// Last recorded content.
    hash: Option<ContentHash>,
    stat: Stat,
}

impl Edits {
    /// Refuses paths whose removal is never allowed, whatever is there.
    pub(crate) fn permit_removal(&self, path: &TenantPath) -> Result<(), EditError> {
        self.permit_whole(path)
    }

    /// Whether a delete of this path is one of a directory. Blocking.
    pub(crate) fn is_directory(&self, path: &TenantPath) -> Result<bool, EditError> {
        Ok(self.directory_at(path)?.is_some())
    }

    /// Removes a directory with everything in it, or nothing. Links in it are removed as names.
    ///
    /// One rename takes the whole directory out of the tree; then its tracked files are recorded as deleted, a version that the agent slipped
    /// in before that; and only what is recorded is unlinked, out of everybody's reach. Blocking.
    pub(crate) fn remove_directory(
        &self,
        path: &TenantPath,
        author: &Author,
        precondition: Precondition,
        recursive: bool,
    ) -> Result<Removed, EditError> {
        self.permit_whole(path)?;
        if precondition != Precondition::None && precondition != Precondition::Present {
            return Err(EditError::PreconditionFailed { current: None });
        }
        self.settled()?;
        let _locks = self.locks.lock_tree();
        let survey = self.survey(path, path, |path| self.has_history(path))?;
        if survey.entries > 0 && !recursive {
            return Err(EditError::NotEmpty);
        }
        self.absorb_below(path, &survey)?;
        let id = self.staging.next_id();
        let slot = format!("{id}.0");
        let set = Set {
            source: author.source,
            actor: author.actor.clone(),
            generation: author.generation,
            after_seq: self.journal.head_seq(),
            directories: Vec::new(),
            steps: vec![Step::DeleteDirectory { slot: slot.clone(), path: path.clone() }],
        };
        write_intent(self.staging.dir(), &id, &set)?;
        failpoint::here("tx-intent");
        let removed = self.take_step(&set.steps[0]).map_err(EditError::from).and_then(|()| {
            failpoint::here("tx-swapped");
            failpoint::fails("tx-dir-sync").map_err(FsError::from)?;
            self.flush_directories(&set)?;
            failpoint::here("tx-dirs-synced");
            self.record_removed(&slot, path, author)
        });
        match removed {
            Ok((files, seq)) => {
                failpoint::here("tx-journalled");
                self.finish_removal(&id, &slot, path, author, &files);
                Ok(Removed { entries: survey.entries, seq })
            }
            Err(error) => {
                // What cannot go back now stays, with its intent, for the next start.
                self.undo_set(&set)?;
                remove_intent(self.staging.dir(), &id);
                Err(error)
            }
        }
    }

    /// Records everything that the index knows below `path` and that was taken to `slot` as deleted.
    fn record_removed(
        &self,
        slot: &str,
        path: &TenantPath,
        author: &Author,
    ) -> Result<(Vec<Gone>, Option<u64>), EditError> {
        let mut pending = Pending::default();
        let files = self.look_at_removed(slot, path, &[], &mut pending)?;
        // What the agent removed just before is the agent's.
        let present: HashSet<_> = files.iter().map(|gone| &gone.path).collect();
        for gone in self.indexed_below(path).into_iter().filter(|path| !present.contains(path)) {
            if self.withheld.holds(&gone) {
                continue;
            }
            let previous = self.index.version(gone.as_str()).and_then(|version| version.hash);
            pending.deleted(&gone, &agent(), previous);
        }
        for gone in &files {
            pending.deleted(&gone.path, author, gone.hash);
        }
        let changes = self.commit(pending)?;
        Ok((files, changes.last().map(|change| change.seq)))
    }

    /// The tracked files in what was taken, but those that are as they were in an earlier look. Versions that nobody has recorded go to `pending`
    /// as the agent's.
    fn look_at_removed(
        &self,
        slot: &str,
        path: &TenantPath,
        earlier: &[Gone],
        pending: &mut Pending,
    ) -> Result<Vec<Gone>, EditError> {
        let taken = staged_path(slot)?;
        let survey = self.survey(&taken, path, |path| self.has_history(path))?;
        let earlier: HashMap<_, _> = earlier.iter().map(|gone| (&gone.path, &gone.stat)).collect();
        let mut files = Vec::with_capacity(survey.files.len());
        for (file, stat) in survey.files {
            if earlier.get(&file).is_some_and(|before| stat.is_version(before)) {
                continue;
            }
            if let Some(version) = self.index.matching(file.as_str(), &stat) {
                files.push(Gone { path: file, hash: version.hash, stat });
                continue;
            }
            let known = self.index.version(file.as_str());
            let opened = match file.rebased(path, &taken).map(|file| self.root.open_file(&file)) {
                Some(Ok(opened)) => opened,
                Some(Err(FsError::Io(error))) => return Err(FsError::Io(error).into()),
                // Somebody with a handle on the directory has removed it, or it is not ours to read.
                _ => continue,
            };
            let seen = Seen::read(opened, self.max_file_bytes)?;
            let same = match seen.hash {
                Some(_) => known.is_some_and(|version| version.hash == seen.hash),
                None => self.index.same_large(file.as_str(), &stat),
            };
            if !same {
                let (previous, created) = (known.and_then(|version| version.hash), known.is_none());
                let version =
                    NewVersion { hash: seen.hash, previous, size: seen.stat.size, created, content: seen.content };
                pending.version(&file, &agent(), version);
                let version = Version { hash: seen.hash, source: agent().source };
                pending.seen(&file, version, seen.stat, now_ns());
            }
            // Memory is bounded: what was recorded before is not read, so only a flood of late writes gets here.
            if pending.is_large() {
                return Err(EditError::Busy);
            }
            files.push(Gone { path: file, hash: seen.hash, stat: seen.stat });
        }
        Ok(files)
    }

    /// Forgets what was removed. Through a handle on the directory, the agent may have written into it even now: that is recorded, as far as it
    /// can be seen.
    fn finish_removal(&self, id: &str, slot: &str, path: &TenantPath, author: &Author, recorded: &[Gone]) {
        let mut pending = Pending::default();
        let late = self.look_at_removed(slot, path, recorded, &mut pending).and_then(|files| {
            for gone in files {
                pending.deleted(&gone.path, author, gone.hash);
            }
            Ok(self.commit(pending)?)
        });
        if let Err(error) = late {
            tracing::warn!(path = %path, %error, "could not look once more at a removed directory");
        }
        remove_intent(self.staging.dir(), id);
        // The records may have been none, and then nothing else says after a power failure that this is finished.
        if let Err(error) = rustix::fs::fsync(self.staging.dir()) {
            tracing::warn!(%error, "could not flush the staging directory");
        }
        self.staging.discard(slot);
    }
}

impl Edits {
    /// What a file below a removed directory is in the directory's slot.
    pub(in super::super) fn removed_to(
        &self,
        slot: &str,
        directory: &TenantPath,
        file: &TenantPath,
    ) -> Result<Option<Stat>, EditError> {
        let taken = file.rebased(directory, &staged_path(slot)?);
        Ok(taken.map(|taken| self.root.stat(&taken)).transpose()?.flatten())
    }
}

/// Where a slot is in the tree; only for us.
fn staged_path(slot: &str) -> Result<TenantPath, EditError> {
    TenantPath::parse(&format!(".winston/staging/{slot}")).map_err(|_| FsError::NameTooLong.into())
}
