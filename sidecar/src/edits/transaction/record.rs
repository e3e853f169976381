//! What a transaction tells the journal.

use winston_wire::{Change, ContentHash};

use super::super::commit::{NewVersion, Pending, now_ns};
use super::super::examine::Current;
use super::super::swap::{Attempt, Slipped};
use super::super::{Author, EditError, Edits};
use super::run::{Found, Planned};
use super::steps::{Identity, Step};
use super::{Op, SetError, Transaction};
use crate::fs::{Stat, TenantPath};
use crate::index::Version;
use crate::journal::Content;

impl Transaction<'_> {
    /// Looks at what was displaced and makes all records durable, in one append.
    pub(super) fn record(
        &mut self,
        planned: &[Planned<'_>],
        found: &[Found],
    ) -> Result<Attempt<Vec<Change>>, SetError> {
        let edits = self.edits;
        let mut pending = Pending::default();
        let mut slipped = Vec::with_capacity(planned.len());
        for Planned { index, step, over, precondition } in planned {
            let previous = match step.displaces() {
                None => over.previous(),
                Some((slot, path)) => match edits.displaced(slot, path, over, *precondition, &mut pending) {
                    Ok(other) => other.unwrap_or_else(|| over.hash()),
                    Err(Slipped) => return Ok(Attempt::Again),
                },
            };
            // A moved file that the agent wrote to meanwhile is another version than the one that would be recorded.
            if let Step::Move { to, ino, .. } = step
                && !self.moved_unchanged(to, *ino, &found[*index].current)?
            {
                return Ok(Attempt::Again);
            }
            // Versions that slipped in wait in memory; too many of them are recorded by the next look instead.
            if pending.is_large() {
                return Ok(Attempt::Again);
            }
            slipped.push(previous);
        }
        for (planned, previous) in planned.iter().zip(slipped) {
            self.record_step(planned, previous, &found[planned.index], &mut pending)?;
        }
        Ok(Attempt::Done(edits.commit(pending)?))
    }

    fn moved_unchanged(&self, to: &TenantPath, ino: u64, source: &Current) -> Result<bool, SetError> {
        let there = self.edits.root.stat(to).map_err(EditError::from)?;
        Ok(match (there, &source.file) {
            (Some(stat), Some(file)) => stat.ino == ino && stat.is_version(&file.stat),
            _ => false,
        })
    }

    fn record_step(
        &self,
        planned: &Planned<'_>,
        previous: Option<ContentHash>,
        found: &Found,
        pending: &mut Pending,
    ) -> Result<(), SetError> {
        let (edits, author) = (self.edits, self.author);
        match (&planned.step, &self.ops[planned.index]) {
            (Step::Put { path, hash, size, ours, .. }, Op::Put { content, .. }) => {
                let created = found.current.is_new();
                let version = NewVersion { hash: Some(*hash), previous, size: *size, created, content: None };
                if found.current.hash() != Some(*hash) {
                    pending.version_kept(path, author, version, content.clone());
                }
                let there = edits.root.stat(path).map_err(EditError::from)?;
                if let Some(stat) = there.filter(|stat| stat.is_version(&ours.stat())) {
                    pending.seen(path, Version { hash: Some(*hash), source: author.source }, stat, now_ns());
                } else {
                    edits.unseen(path, Some(*hash), author, pending);
                }
            }
            (Step::Delete { path, .. }, _) => pending.deleted(path, author, previous),
            (Step::Move { from, to, hash, size, .. }, _) => {
                edits.record_move(from, to, author, *hash, previous, *size, pending)?;
            }
            _ => {}
        }
        Ok(())
    }
}

impl Edits {
    /// A version is recorded and something else may be in place already: the next look compares.
    pub(in super::super) fn unseen(
        &self,
        path: &TenantPath,
        hash: Option<ContentHash>,
        author: &Author,
        pending: &mut Pending,
    ) {
        let nothing = Stat { ino: 0, ..Identity::NONE.stat() };
        pending.seen(path, Version { hash, source: author.source }, nothing, now_ns());
    }

    /// Records that a file went from one path to another: a rename where both have a history, otherwise what it is for the one that has.
    #[allow(clippy::too_many_arguments)] // Each is a member of the record.
    pub(in super::super) fn record_move(
        &self,
        from: &TenantPath,
        to: &TenantPath,
        author: &Author,
        hash: Option<ContentHash>,
        previous: Option<ContentHash>,
        size: u64,
        pending: &mut Pending,
    ) -> Result<(), EditError> {
        match (self.has_history(from), self.has_history(to)) {
            (true, true) => pending.moved(from, to, author, hash, previous, size),
            (true, false) => {
                pending.deleted(from, author, hash);
                return Ok(());
            }
            (false, true) => {
                let content = match self.root.open_file(to)?.read(self.max_file_bytes)? {
                    Some(bytes) if Some(super::super::hash_of(&bytes)) == hash => Content::keep(bytes),
                    _ => Content::None,
                };
                let version = NewVersion { hash, previous, size, created: previous.is_none(), content: None };
                pending.version_kept(to, author, version, content);
            }
            (false, false) => return Ok(()),
        }
        match self.root.stat(to)? {
            // What has a hash is read once more: the agent may have written there since, and the same size would not show it.
            Some(stat) if hash.is_none() && stat.size == size => {
                pending.seen(to, Version { hash, source: author.source }, stat, now_ns());
            }
            _ => self.unseen(to, hash, author, pending),
        }
        Ok(())
    }
}
