//! Taking a set back: at once when a step fails, or at the next start. Every function looks at what is where and puts right what its step
//! changed, so it may be called whether the step was done, half done, not begun, or taken back before.

use rustix::fs::{AtFlags, RenameFlags};

use super::super::commit::Pending;
use super::super::swap::Undone;
use super::super::{EditError, Edits};
use super::intent::Set;
use super::steps::{Identity, Step};
use crate::fs::{FsError, TenantPath, rename, rename_back, stat_at};

impl Edits {
    /// Takes a set back. What the agent has written since on top of it stays; what was displaced under such a version is history.
    pub(in super::super) fn undo_set(&self, set: &Set) -> Result<(), EditError> {
        let mut pending = Pending::default();
        let mut undone = Ok(());
        for step in set.steps.iter().rev() {
            // One that cannot be taken back now is no reason to leave the others.
            undone = undone.and(self.undo_step(step, &mut pending));
            if pending.is_large() {
                self.commit(std::mem::take(&mut pending))?;
            }
        }
        for directory in set.directories.iter().rev() {
            self.remove_empty(directory);
        }
        self.flush_directories(set)?;
        self.commit(pending)?;
        undone
    }

    /// A directory that we have made goes; one in which the agent has put something stays.
    fn remove_empty(&self, directory: &TenantPath) {
        if let Ok(parent) = self.root.parent(directory) {
            let _ = rustix::fs::unlinkat(&parent.dir, parent.name, AtFlags::REMOVEDIR);
        }
    }

    fn undo_step(&self, step: &Step, pending: &mut Pending) -> Result<(), EditError> {
        let undone = match step {
            Step::Put { slot, path, ours, .. } => self.undo_put_step(slot, path, ours, pending),
            Step::Delete { slot, path } => match self.staging.stat(slot)? {
                Some(_) => self.put_back_deleted(slot, path, pending),
                None => Ok(()),
            },
            Step::Move { slot, from, to, ino, .. } => self.undo_move_step(slot, from, to, *ino, pending),
            Step::MoveDirectory { from, to, ino } => self.undo_move_directory(from, to, *ino),
            Step::DeleteDirectory { slot, path } => self.undo_delete_directory(slot, path),
        };
        match undone {
            // A directory on the way is gone or became something else: so is everything that could be put back there.
            Err(EditError::Fs(FsError::NotFound | FsError::NotADirectory | FsError::Escape)) => {
                match (step.slot(), step.displaces()) {
                    (Some(slot), Some((_, path))) if self.staging.stat(slot)?.is_some() => {
                        Ok(self.staged_is_the_agents(slot, path, pending)?)
                    }
                    _ => Ok(()),
                }
            }
            undone => undone,
        }
    }

    fn undo_put_step(
        &self,
        slot: &str,
        path: &TenantPath,
        ours: &Identity,
        pending: &mut Pending,
    ) -> Result<(), EditError> {
        let ours = ours.stat();
        if self.staging.holds(slot, &ours) {
            return Ok(());
        }
        let parent = self.root.parent(path)?;
        let displaced = self.staging.stat(slot)?.is_some();
        let undone = if displaced {
            self.undo_exchange(slot, &parent.dir, parent.name, &ours)?
        } else if stat_at(&parent.dir, parent.name)?.is_some_and(|there| there.is_version(&ours)) {
            self.undo_place(slot, &parent.dir, parent.name, &ours)?
        } else {
            // The agent has replaced or removed the new file, and there was none before it.
            return Ok(());
        };
        match undone {
            Undone::Clean => Ok(()),
            Undone::NewerInPlace => Ok(self.staged_is_the_agents(slot, path, pending)?),
        }
    }

    fn undo_move_step(
        &self,
        slot: &str,
        from: &TenantPath,
        to: &TenantPath,
        ino: u64,
        pending: &mut Pending,
    ) -> Result<(), EditError> {
        let (source, target) = (self.root.parent(from)?, self.root.parent(to)?);
        let at_source = stat_at(&source.dir, source.name)?;
        let moved = stat_at(&target.dir, target.name)?.is_some_and(|stat| stat.ino == ino);
        let held = self.staging.stat(slot)?;
        match (moved, held) {
            // Done: the target's old file is staged. It and the moved one change places, then the moved one goes home.
            (true, Some(_)) if at_source.is_none() => {
                self.staging.exchange(slot, &target.dir, target.name)?;
                self.home(slot, from, pending)
            }
            // Both names exchanged and no more.
            (true, None) if at_source.is_some() => {
                Ok(rename(&source.dir, source.name, &target.dir, target.name, RenameFlags::EXCHANGE)?)
            }
            (true, None) => Ok(rename_back(&target.dir, target.name, &source.dir, source.name)?),
            // The agent has made another file where it came from. The moved one stays where it is, for the next look to find.
            (true, Some(_)) => Ok(self.staged_is_the_agents(slot, to, pending)?),
            // On its way home.
            (false, Some(stat)) if stat.ino == ino => self.home(slot, from, pending),
            (false, Some(_)) => match rename_back(self.staging.dir(), slot, &target.dir, target.name) {
                Err(FsError::Exists) => Ok(self.staged_is_the_agents(slot, to, pending)?),
                done => Ok(done?),
            },
            (false, None) => Ok(()),
        }
    }

    fn home(&self, slot: &str, from: &TenantPath, pending: &mut Pending) -> Result<(), EditError> {
        let source = self.root.parent(from)?;
        match rename_back(self.staging.dir(), slot, &source.dir, source.name) {
            Err(FsError::Exists) => Ok(self.staged_is_the_agents(slot, from, pending)?),
            done => Ok(done?),
        }
    }

    fn undo_move_directory(&self, from: &TenantPath, to: &TenantPath, ino: u64) -> Result<(), EditError> {
        let (source, target) = (self.root.parent(from)?, self.root.parent(to)?);
        if stat_at(&target.dir, target.name)?.is_none_or(|stat| stat.ino != ino) {
            return Ok(());
        }
        match rename(&target.dir, target.name, &source.dir, source.name, RenameFlags::NOREPLACE) {
            Err(FsError::Exists) => {
                tracing::warn!(path = %from, to = %to, "a moved directory cannot go back: there is another one");
                Ok(())
            }
            done => Ok(done?),
        }
    }

    fn undo_delete_directory(&self, slot: &str, path: &TenantPath) -> Result<(), EditError> {
        if self.staging.stat(slot)?.is_none() {
            return Ok(());
        }
        let parent = self.root.parent_created(path)?;
        match rename(self.staging.dir(), slot, &parent.dir, parent.name, RenameFlags::NOREPLACE) {
            // The agent has made it anew.
            Err(FsError::Exists) => Ok(self.restore_beside(slot, path)?),
            done => Ok(done?),
        }
    }
}
