//! Carrying a transaction out.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Read;

use winston_wire::{Change, ContentHash};

use super::super::commit::Pending;
use super::super::examine::{Current, OnDisk};
use super::super::swap::Attempt;
use super::super::{ATTEMPTS, EditError, Edits, Precondition, hash_of};
use super::intent::{self, Set};
use super::steps::Step;
use super::{Op, Outcome, SetError, Transaction, at, slot};
use crate::failpoint;
use crate::fs::{EntryKind, FsError, TenantPath};
use crate::journal::Content;

/// What is at the paths of one operation: at its path or source, and at the target of a move.
pub(super) struct Found {
    pub(super) current: Current,
    pub(super) target: Option<Current>,
}

/// A step of the operation at `index`, with what it was made for.
pub(super) struct Planned<'a> {
    pub(super) index: usize,
    pub(super) step: Step,
    /// What it displaces is expected to be this.
    pub(super) over: &'a Current,
    pub(super) precondition: Precondition,
}

impl Transaction<'_> {
    /// Does everything, or nothing. When this returns `Ok`, all contents, directory entries and records are on disk. Outcomes are in the
    /// order of the operations. Blocking.
    pub(crate) fn commit(mut self) -> Result<Vec<Outcome>, SetError> {
        let edits = self.edits;
        edits.settled()?;
        let _locks = edits.locks.lock(self.ops.iter().flat_map(Op::paths).map(TenantPath::as_str));
        for _ in 0..ATTEMPTS {
            if let Attempt::Done(outcomes) = self.attempt()? {
                return Ok(outcomes);
            }
        }
        Err(EditError::Busy.into())
    }

    fn attempt(&mut self) -> Result<Attempt<Vec<Outcome>>, SetError> {
        let found = self.look()?;
        for (index, (op, found)) in self.ops.iter().zip(&found).enumerate() {
            check(op, found).map_err(at(index))?;
        }
        let planned = self.plan(&found)?;
        let missing = self.missing_directories().map_err(EditError::from)?;
        self.flush_unchanged(&planned)?;
        if planned.is_empty() && missing.is_empty() {
            return Ok(Attempt::Done(self.outcomes(&found, &[], &[])));
        }
        let edits = self.edits;
        let set = Set {
            source: self.author.source,
            actor: self.author.actor.clone(),
            generation: self.author.generation,
            after_seq: edits.journal.head_seq(),
            directories: missing,
            steps: planned.iter().map(|planned| planned.step.clone()).collect(),
        };
        intent::write(edits.staging.dir(), &self.id, &set).map_err(EditError::from)?;
        edits.count_flush();
        failpoint::here("tx-intent");
        let swapped = self.swap(&set, &planned).and_then(|swapped| match swapped {
            Attempt::Done(()) => self.flush(&set).map(Attempt::Done),
            Attempt::Again => Ok(Attempt::Again),
        });
        let recorded = swapped.and_then(|swapped| match swapped {
            Attempt::Done(()) => self.record(&planned, &found),
            Attempt::Again => Ok(Attempt::Again),
        });
        match recorded {
            Ok(Attempt::Done(changes)) => {
                failpoint::here("tx-journalled");
                intent::remove(edits.staging.dir(), &self.id);
                if changes.is_empty() {
                    // Without a record nothing else says after a power failure that this is finished.
                    rustix::fs::fsync(edits.staging.dir()).map_err(FsError::from)?;
                }
                Ok(Attempt::Done(self.outcomes(&found, &planned, &changes)))
            }
            Ok(Attempt::Again) => {
                self.back(&set)?;
                self.restage()?;
                Ok(Attempt::Again)
            }
            Err(error) => {
                self.back(&set)?;
                Err(error)
            }
        }
    }

    /// Looks at every path; what the journal does not know is recorded at once, so that memory stays bounded.
    fn look(&self) -> Result<Vec<Found>, SetError> {
        let mut pending = Pending::default();
        let mut found = Vec::with_capacity(self.ops.len());
        let mut failed = None;
        for (index, op) in self.ops.iter().enumerate() {
            let mut examined = op.paths().map(|path| self.edits.examine(path, &mut pending));
            let current = examined.next().transpose();
            let target = examined.next().transpose();
            match (current, target) {
                (Ok(Some(current)), Ok(target)) => found.push(Found { current, target }),
                (Err(error), _) | (_, Err(error)) => {
                    failed = Some(SetError { index: Some(index), error: error.into() });
                    break;
                }
                (Ok(None), Ok(_)) => {}
            }
            if pending.is_large() {
                self.edits.commit(std::mem::take(&mut pending))?;
            }
        }
        self.edits.commit(pending)?;
        failed.map_or(Ok(found), Err)
    }

    fn plan<'f>(&self, found: &'f [Found]) -> Result<Vec<Planned<'f>>, SetError> {
        let mut planned = Vec::with_capacity(found.len());
        for (index, (op, found)) in self.ops.iter().zip(found).enumerate() {
            let slot = self.slot(index);
            let (step, over, precondition) = match op {
                Op::Put { path, hash, size, ours, precondition, mode, .. } => {
                    if let Some(file) = &found.current.file {
                        if file.hash == Some(*hash) && mode.is_none_or(|mode| mode == file.stat.mode) {
                            continue;
                        }
                        self.adopt(&slot, path, file, *mode).map_err(at(index))?;
                    }
                    let ours = *ours;
                    let replaces = found.current.file.is_some();
                    let step = Step::Put { slot, path: path.clone(), hash: *hash, size: *size, ours, replaces };
                    (step, &found.current, *precondition)
                }
                Op::Delete { path, precondition } => {
                    if found.current.file.is_none() {
                        continue;
                    }
                    (Step::Delete { slot, path: path.clone() }, &found.current, *precondition)
                }
                Op::Move { from, to, target, .. } => {
                    let (Some(file), Some(over)) = (&found.current.file, &found.target) else { continue };
                    let step = Step::Move {
                        slot,
                        from: from.clone(),
                        to: to.clone(),
                        ino: file.stat.ino,
                        hash: file.hash,
                        size: file.stat.size,
                        replaces: over.file.is_some(),
                    };
                    (step, over, *target)
                }
            };
            planned.push(Planned { index, step, over, precondition });
        }
        Ok(planned)
    }

    fn adopt(&self, slot: &str, path: &TenantPath, file: &OnDisk, mode: Option<u32>) -> Result<(), EditError> {
        self.edits.staging.adopt(slot, &self.edits.ownership_over(path, &file.stat, mode))?;
        self.edits.count_flush();
        Ok(())
    }

    /// Directories that have to be made, outermost first.
    fn missing_directories(&self) -> Result<Vec<TenantPath>, FsError> {
        let mut wanted = BTreeSet::new();
        let parents = self.ops.iter().filter_map(|op| match op {
            Op::Put { path, .. } => path.parent(),
            Op::Move { to, .. } => to.parent(),
            Op::Delete { .. } => None,
        });
        for directory in parents.chain(self.directories.iter().cloned()) {
            let mut next = Some(directory);
            while let Some(directory) = next.filter(|directory| !directory.is_root()) {
                if wanted.contains(&directory) {
                    break;
                }
                next = directory.parent();
                wanted.insert(directory);
            }
        }
        let mut missing = Vec::new();
        for directory in wanted {
            match self.edits.root.stat(&directory)?.map(|stat| stat.kind) {
                None => missing.push(directory),
                Some(EntryKind::Directory) => {}
                Some(EntryKind::Symlink) => return Err(FsError::Escape),
                Some(_) => return Err(FsError::NotADirectory),
            }
        }
        // A prefix sorts before what it is a prefix of, so parents come first.
        Ok(missing)
    }

    fn swap(&self, set: &Set, planned: &[Planned<'_>]) -> Result<Attempt<()>, SetError> {
        for directory in &set.directories {
            self.edits.make_directories(directory).map_err(EditError::from)?;
        }
        for Planned { index, step, .. } in planned {
            match self.edits.take_step(step) {
                Ok(()) => {}
                // The agent was there since we looked.
                Err(FsError::Exists | FsError::NotFound) => return Ok(Attempt::Again),
                Err(error) => return Err(at(*index)(error.into())),
            }
            failpoint::here("tx-swapped");
        }
        Ok(Attempt::Done(()))
    }

    fn flush(&self, set: &Set) -> Result<(), SetError> {
        failpoint::fails("tx-dir-sync").map_err(FsError::from)?;
        self.edits.flush_directories(set)?;
        failpoint::here("tx-dirs-synced");
        Ok(())
    }

    /// A content that is wanted and in place already is perhaps only in the kernel's cache.
    fn flush_unchanged(&self, planned: &[Planned<'_>]) -> Result<(), SetError> {
        let changed: HashSet<_> = planned.iter().map(|planned| planned.index).collect();
        for (index, op) in self.ops.iter().enumerate().filter(|(index, _)| !changed.contains(index)) {
            if let Op::Put { path, .. } = op {
                let flushed = || -> Result<(), FsError> {
                    self.edits.root.open_file(path)?.file.sync_all()?;
                    Ok(rustix::fs::fsync(self.edits.root.parent(path)?.dir)?)
                };
                flushed().map_err(|error| at(index)(error.into()))?;
            }
        }
        Ok(())
    }

    /// Takes everything back.
    fn back(&mut self, set: &Set) -> Result<(), SetError> {
        match self.edits.undo_set(set) {
            Ok(()) => {
                intent::remove(self.edits.staging.dir(), &self.id);
                Ok(())
            }
            Err(error) => {
                // The intent and what is staged wait for the next start.
                self.unsettled = true;
                tracing::error!(id = self.id, %error, "could not take a transaction back; the next start settles it");
                Err(error.into())
            }
        }
    }

    /// Makes the slots as they were before the first attempt. Where the agent had replaced our file, that is gone, and an older version of the
    /// agent's, which is history by now, is in its slot.
    fn restage(&mut self) -> Result<(), SetError> {
        let edits = self.edits;
        for (index, op) in self.ops.iter_mut().enumerate() {
            let slot = slot(&self.id, index);
            let Op::Put { path, hash, ours, content, mode, .. } = op else {
                edits.staging.discard(&slot);
                continue;
            };
            if edits.staging.holds(&slot, &ours.stat()) {
                continue;
            }
            edits.staging.discard(&slot);
            let stored;
            let bytes = match &*content {
                Content::Inline(bytes) | Content::Object(bytes) => bytes,
                Content::Stored | Content::None => {
                    stored = edits.stored(*hash).map_err(at(index))?;
                    &stored
                }
            };
            *ours = edits.stage_for(&slot, path, bytes, *mode).map_err(|error| at(index)(error.into()))?;
        }
        Ok(())
    }

    /// `changes` ends with the records of `planned`, in their order.
    fn outcomes(&self, found: &[Found], planned: &[Planned<'_>], changes: &[Change]) -> Vec<Outcome> {
        let mut outcomes: Vec<_> = self.ops.iter().zip(found).map(|(op, found)| outcome(op, found)).collect();
        let own = changes.iter().filter(|change| change.source == self.author.source);
        let seqs: HashMap<_, _> = own.map(|change| (change.path.as_str(), change.seq)).collect();
        for Planned { index, step, .. } in planned {
            // A move out of history is a record of where the file was.
            let mut paths = [outcomes[*index].path.as_str()].into_iter().chain(step.paths().map(TenantPath::as_str));
            let seq = paths.find_map(|path| seqs.get(path).copied());
            drop(paths);
            outcomes[*index].seq = seq;
        }
        outcomes
    }
}

fn outcome(op: &Op, found: &Found) -> Outcome {
    match op {
        Op::Put { path, hash, size, .. } => Outcome {
            path: path.clone(),
            hash: Some(*hash),
            size: Some(*size),
            created: found.current.file.is_none(),
            seq: None,
        },
        Op::Delete { path, .. } => Outcome { path: path.clone(), hash: None, size: None, created: false, seq: None },
        Op::Move { to, .. } => Outcome {
            path: to.clone(),
            hash: found.current.hash(),
            size: found.current.file.as_ref().map(|file| file.stat.size),
            created: found.target.as_ref().is_none_or(|target| target.file.is_none()),
            seq: None,
        },
    }
}

fn check(op: &Op, found: &Found) -> Result<(), EditError> {
    match op {
        Op::Put { precondition, .. } => precondition.check(&found.current),
        Op::Delete { precondition, .. } => {
            precondition.check(&found.current)?;
            match precondition {
                Precondition::Force => Ok(()),
                _ if found.current.file.is_none() => Err(FsError::NotFound.into()),
                _ => Ok(()),
            }
        }
        Op::Move { source, target, .. } => {
            source.check(&found.current)?;
            if found.current.file.is_none() {
                return Err(FsError::NotFound.into());
            }
            let Some(there) = &found.target else { return Ok(()) };
            if *target == Precondition::Absent && there.file.is_some() {
                return Err(FsError::Exists.into());
            }
            target.check(there)
        }
    }
}

impl Edits {
    /// Flushes every directory in which a set changed a name, each once.
    pub(in super::super) fn flush_directories(&self, set: &Set) -> Result<(), FsError> {
        let parents: BTreeSet<_> = set.steps.iter().flat_map(Step::paths).filter_map(TenantPath::parent).collect();
        for parent in parents {
            match self.root.open_dir(&parent) {
                Ok(dir) => rustix::fs::fsync(dir)?,
                // The agent removed it, and what was in it: nothing is left to flush.
                Err(FsError::NotFound | FsError::NotADirectory | FsError::Escape) => {}
                Err(error) => return Err(error),
            }
            self.count_flush();
        }
        Ok(())
    }

    /// A content of this set that waits in `.winston/objects`.
    fn stored(&self, hash: ContentHash) -> Result<Vec<u8>, EditError> {
        let Some(file) = self.journal.object(hash)? else { return Err(FsError::NotFound.into()) };
        let mut bytes = Vec::new();
        file.take(self.max_file_bytes).read_to_end(&mut bytes).map_err(FsError::from)?;
        if hash_of(&bytes) == hash { Ok(bytes) } else { Err(FsError::NotFound.into()) }
    }
}

#[cfg(test)]
#[path = "restage_tests.rs"]
mod tests;
