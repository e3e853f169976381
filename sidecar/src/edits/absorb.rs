//! What the agent did to its files, found by comparing them with the index; and what the files amount to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use winston_wire::{ManifestFile, ManifestSummary};

use super::Edits;
use super::commit::{Pending, Recording, agent, now_ns};
use super::examine::Seen;
use crate::fs::{Class, FsError, TenantPath};
use crate::index::Version;
use crate::journal::JournalError;

/// What [`Edits::absorb`] could not finish with.
#[derive(Debug, Default)]
pub(crate) struct Unfinished {
    /// Changed while they were read: worth another look soon.
    pub(crate) unstable: Vec<TenantPath>,
    /// Could not be looked at: worth another look when the reason may have gone.
    pub(crate) failed: Vec<TenantPath>,
}

/// A file that seems to have been renamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Move {
    /// Recorded there, and gone.
    pub(crate) from: TenantPath,
    /// New there.
    pub(crate) to: TenantPath,
}

/// Parts that may be on their way to the journal besides the one that is read, or just about.
const PARTS: usize = 4;

/// Waits for the end of every part, also behind one that failed: not all of them need fail too, and what is in the journal has to be in the index.
/// The first failure; `has_failed` is set at once.
fn all_ended<E>(ends: impl Iterator<Item = Result<(), E>>, has_failed: &AtomicBool) -> Result<(), E> {
    let mut outcome = Ok(());
    for end in ends {
        has_failed.fetch_or(end.is_err(), Ordering::Relaxed);
        outcome = outcome.and(end);
    }
    outcome
}

impl Edits {
    /// Compares paths with the index and records what the agent did. `moves` are renames to be proven; where one is not, the new
    /// file is recorded and the old name is unfinished. Blocking.
    pub(crate) fn absorb(&self, paths: &[TenantPath], moves: &[Move]) -> Result<Unfinished, JournalError> {
        self.settled()?;
        let ends = moves.iter().flat_map(|Move { from, to }| [from, to]);
        let _locks = self.locks.lock(paths.iter().chain(ends).map(TenantPath::as_str));
        let mut pending = Pending::default();
        let mut unfinished = Unfinished::default();
        for Move { from, to } in moves {
            if !self.absorb_move(from, to, &mut pending) {
                self.absorb_path(to, &mut pending, &mut unfinished);
                // The old name may be back, or gone for another reason: whoever watches decides when it counts as gone. Looked at here it
                // could stand in the batch twice.
                unfinished.unstable.push(from.clone());
            }
            if pending.is_large() {
                self.commit(std::mem::take(&mut pending))?;
            }
        }
        self.absorb_paths(paths, &mut pending, &mut unfinished)?;
        self.commit(pending)?;
        Ok(unfinished)
    }

    /// Files are read while those before them are written: what has been read goes to the journal in parts, of which several may be on their way.
    fn absorb_paths(
        &self,
        paths: &[TenantPath],
        pending: &mut Pending,
        unfinished: &mut Unfinished,
    ) -> Result<(), JournalError> {
        let has_failed = AtomicBool::new(false);
        let finish_all =
            |parts: Receiver<Recording<'_>>| all_ended(parts.into_iter().map(Recording::finish), &has_failed);
        std::thread::scope(|scope| {
            let mut parts = None;
            for path in paths {
                self.absorb_path(path, pending, unfinished);
                if has_failed.load(Ordering::Relaxed) {
                    break;
                }
                if pending.is_worth_a_flush() {
                    let (sender, _) = parts.get_or_insert_with(|| {
                        let (sender, receiver) = sync_channel(PARTS);
                        (sender, scope.spawn(|| finish_all(receiver)))
                    });
                    // Nobody but a thread that panicked does not receive, and its panic is told below.
                    let _ = sender.send(self.begin_commit(std::mem::take(pending))?);
                }
            }
            let Some((sender, finishing)) = parts else { return Ok(()) };
            drop(sender);
            // A panic there is a defect; the paths are looked at again.
            finishing.join().unwrap_or(Err(JournalError::Closed))
        })
    }

    fn absorb_path(&self, path: &TenantPath, pending: &mut Pending, unfinished: &mut Unfinished) {
        if self.layout.class(path) != Class::Tracked {
            return;
        }
        match self.examine(path, pending) {
            Ok(current) if current.unstable => unfinished.unstable.push(path.clone()),
            Ok(_) => {}
            // Something else than a file has no history; that a file is gone has been noted.
            Err(error) if error.is_about_the_path() => {}
            Err(error) => {
                tracing::warn!(path = %path, %error, "could not look at a changed file; trying again");
                unfinished.failed.push(path.clone());
            }
        }
    }

    /// Records a rename, if it is one: the old name is gone, the new one had no version, and the file there is the recorded one by inode, size
    /// and modification time, has no other name and has the recorded content. The caller holds both locks.
    fn absorb_move(&self, from: &TenantPath, to: &TenantPath, pending: &mut Pending) -> bool {
        let proven = || -> Result<Option<(Version, Seen)>, FsError> {
            let tracked = |path| self.layout.class(path) == Class::Tracked;
            let Some(record) = self.index.record(from.as_str()).filter(|record| record.version.hash.is_some()) else {
                return Ok(None);
            };
            if !tracked(from) || !tracked(to) || self.index.version(to.as_str()).is_some() {
                return Ok(None);
            }
            if self.root.stat(from)?.is_some() {
                return Ok(None);
            }
            let opened = self.root.open_file(to)?;
            let stat = &opened.stat;
            let same = (stat.ino, stat.size, stat.mtime_ns) == (record.ino, record.size, record.mtime_ns);
            if !same || stat.links != 1 {
                return Ok(None);
            }
            // Times can be set at will, so the content decides.
            let seen = Seen::read(opened, self.max_file_bytes)?;
            Ok((!seen.unstable && seen.hash == record.version.hash).then_some((record.version, seen)))
        };
        let at_ns = now_ns();
        // Whatever went wrong goes wrong again, and is told, when the two are looked at one by one.
        let Ok(Some((version, seen))) = proven() else { return false };
        pending.renamed(from, to, &agent(), version.hash, None, seen.stat.size, seen.stat, at_ns);
        true
    }

    /// The tree has been compared with the index, so that the index says what is on disk.
    pub(crate) fn compared(&self) {
        self.is_compared.store(true, Ordering::Release);
    }

    /// All files with a history in one number, with the record up to which it is exact; `None` until the tree has been compared once. Cheap.
    pub(crate) fn manifest(&self) -> Option<ManifestSummary> {
        self.is_compared.load(Ordering::Acquire).then(|| self.index.manifest()).flatten()
    }

    /// Up to `limit` files behind `after` (or from the first), by the bytes of their paths; and the path with which the range ends, `None` when it
    /// reaches to the last file. It is the files of a manifest as long as [`Edits::manifest`] says the same before and after. Short, but takes a lock:
    /// call it from a blocking thread.
    pub(crate) fn manifest_range(&self, after: Option<&str>, limit: usize) -> (Vec<ManifestFile>, Option<String>) {
        self.index.range(after, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_behind_one_that_failed_are_waited_for() {
        let (has_failed, mut ended) = (AtomicBool::new(false), Vec::new());
        let parts = [Ok(()), Err("second"), Ok(()), Err("fourth"), Ok(())].into_iter().enumerate();
        let ends = parts.map(|(number, end)| {
            ended.push((number, has_failed.load(Ordering::Relaxed)));
            end
        });
        assert_eq!(all_ended(ends, &has_failed), Err("second"));
        assert_eq!(ended, [(0, false), (1, false), (2, true), (3, true), (4, true)]);
    }
}
