//! Deletions that are held back: which files may not be recorded as gone, whoever finds that they are.
//!
//! The watcher and [`Edits`](super::Edits) put files in and take them out; [`mod@super::gone`] asks before it records that a file is gone. What an
//! edit removes itself is none of this: it is recorded as the edit that it is. The file `.winston/halted` says over restarts that something
//! was held back; what it was is found by the next listing.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::fs::{FsError, TenantPath, replace_file, unlink};

/// In our own directory: deletions were held back when the sidecar ended.
const MARK: &str = "halted";

/// Why deletions are held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Halt {
    /// The data directory is not in its place: nothing at all is recorded.
    Away,
    /// They were held back when the sidecar ended, and the tree has not been listed yet.
    Unlisted,
    /// Every file with a history is gone at once: what is new is recorded, that this many are gone is not.
    Emptied { files: usize },
}

#[derive(Debug, Default)]
struct State {
    away: bool,
    unlisted: bool,
    held: BTreeSet<TenantPath>,
    /// Were held, and somebody has said that they are to be recorded as gone.
    accepted: BTreeSet<TenantPath>,
}

impl State {
    fn halt(&self) -> Option<Halt> {
        match self {
            Self { away: true, .. } => Some(Halt::Away),
            Self { unlisted: true, .. } => Some(Halt::Unlisted),
            Self { held, .. } if !held.is_empty() => Some(Halt::Emptied { files: held.len() }),
            _ => None,
        }
    }

    /// Whether a process that starts now has to hold deletions back.
    fn outlasts_the_process(&self) -> bool {
        self.unlisted || !self.held.is_empty() || !self.accepted.is_empty()
    }

    fn holds(&self, path: &TenantPath) -> bool {
        self.away || self.unlisted || self.held.contains(path)
    }

    fn hold(&mut self, paths: BTreeSet<TenantPath>) {
        self.held.extend(paths);
    }

    fn listed(&mut self, gone: BTreeSet<TenantPath>) {
        self.unlisted = false;
        self.hold(gone);
    }

    fn accept(&mut self) -> Vec<TenantPath> {
        if self.away || self.unlisted {
            return Vec::new();
        }
        let paths = std::mem::take(&mut self.held);
        self.accepted.extend(paths.iter().cloned());
        paths.into_iter().collect()
    }

    fn release(&mut self, path: &TenantPath) {
        self.held.remove(path);
        self.accepted.remove(path);
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Withheld {
    state: Mutex<State>,
    /// Some file is in the sets of the state, so that asking costs nothing while there is none.
    any: AtomicBool,
    /// `.winston`, and whether the mark is there.
    dir: OwnedFd,
    marked: AtomicBool,
}

impl Withheld {
    /// What an earlier process held back is held back still.
    pub(super) fn open(dir: OwnedFd) -> Self {
        let marked = rustix::fs::statat(&dir, MARK, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok();
        let state = Mutex::new(State { unlisted: marked, ..State::default() });
        Self { state, any: AtomicBool::new(false), dir, marked: AtomicBool::new(marked) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Plain values, valid at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let done = change(&mut state);
        self.any.store(!state.held.is_empty() || !state.accepted.is_empty(), Ordering::Release);
        let wanted = state.outlasts_the_process();
        // Under the lock, so that the last word on disk is the last one here.
        if wanted != self.marked.load(Ordering::Relaxed) {
            let kept = if wanted {
                replace_file(&self.dir, MARK, b"")
            } else {
                match unlink(&self.dir, MARK) {
                    Ok(()) | Err(FsError::NotFound) => Ok(()),
                    Err(error) => Err(std::io::Error::other(error)),
                }
            };
            match kept {
                Ok(()) => self.marked.store(wanted, Ordering::Relaxed),
                Err(error) => tracing::warn!(%error, wanted, "could not remember whether deletions are held back"),
            }
        }
        done
    }

    /// Why deletions are held back, if they are.
    pub(crate) fn halt(&self) -> Option<Halt> {
        self.state().halt()
    }

    /// Whether the data directory is out of its place.
    pub(crate) fn set_away(&self, away: bool) {
        self.change(|state| state.away = away);
    }

    /// Whether that this file is gone is not to be recorded.
    pub(crate) fn holds(&self, path: &TenantPath) -> bool {
        self.state().holds(path)
    }

    /// Whether this very file is known to be gone, and not recorded as such.
    pub(crate) fn is_held(&self, path: &TenantPath) -> bool {
        self.any.load(Ordering::Acquire) && self.state().held.contains(path)
    }

    /// Whether that this file is gone was held back and is to be recorded now.
    pub(super) fn is_accepted(&self, path: &TenantPath) -> bool {
        self.any.load(Ordering::Acquire) && self.state().accepted.contains(path)
    }

    /// Holds these files back beside those that are held back already.
    pub(super) fn hold(&self, paths: BTreeSet<TenantPath>) {
        self.change(|state| state.hold(paths));
    }

    /// The first listing of a process that began halted is over: `gone` is what is held back. `false` when there was no such listing to wait for.
    pub(crate) fn listed(&self, gone: impl FnOnce() -> BTreeSet<TenantPath>) -> bool {
        if self.halt() != Some(Halt::Unlisted) {
            return false;
        }
        self.change(|state| state.listed(gone()));
        true
    }

    /// Those of the files below a directory that are held back.
    pub(crate) fn held_below(&self, directory: &TenantPath) -> Vec<TenantPath> {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        self.state().held.iter().filter(|path| path.is_within(directory)).cloned().collect()
    }

    /// A file is there, or its deletion is recorded: nothing is held back of it any more.
    pub(crate) fn release<'a>(&self, paths: impl IntoIterator<Item = &'a TenantPath>) {
        if self.any.load(Ordering::Acquire) {
            self.change(|state| paths.into_iter().for_each(|path| state.release(path)));
        }
    }

    /// What is held back is to be recorded as gone; which files. Until [`Withheld::release`] they are remembered as such.
    pub(crate) fn accept(&self) -> Vec<TenantPath> {
        self.change(State::accept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TenantPath {
        TenantPath::parse(text).unwrap()
    }

    fn paths(texts: &[&str]) -> BTreeSet<TenantPath> {
        texts.iter().map(|text| path(text)).collect()
    }

    #[test]
    fn a_file_is_held_back_until_it_is_accepted_or_there_again() {
        let mut state = State::default();
        state.hold(paths(&["a", "b", "c"]));
        assert_eq!(state.halt(), Some(Halt::Emptied { files: 3 }));
        state.release(&path("a"));
        assert!(!state.holds(&path("a")) && state.holds(&path("b")) && !state.holds(&path("d")));
        assert_eq!(state.accept(), [path("b"), path("c")]);
        assert!(!state.holds(&path("b")) && state.accepted.contains(&path("b")));
        assert_eq!(state.halt(), None);
        // Not before they are recorded may a restart forget.
        state.release(&path("b"));
        assert!(state.outlasts_the_process());
        state.release(&path("c"));
        assert!(!state.outlasts_the_process());
    }

    #[test]
    fn until_it_is_listed_everything_is_held_back() {
        let mut state = State { unlisted: true, ..State::default() };
        assert!(state.holds(&path("a")) && state.outlasts_the_process());
        assert_eq!((state.accept(), state.halt()), (Vec::new(), Some(Halt::Unlisted)));
        state.listed(paths(&["b"]));
        assert!(!state.holds(&path("a")) && state.holds(&path("b")));
        state.listed(BTreeSet::new());
        assert!(state.holds(&path("b")));
    }

    #[test]
    fn while_the_directory_is_away_nothing_is_accepted() {
        let mut state = State { away: true, ..State::default() };
        assert!(state.holds(&path("a")) && !state.outlasts_the_process());
        state.hold(paths(&["a", "b"]));
        assert_eq!((state.accept(), state.halt()), (Vec::new(), Some(Halt::Away)));
        state.away = false;
        assert_eq!(state.accept().len(), 2);
    }
}
