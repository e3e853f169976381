//! When nothing may count as deleted.
//!
//! A data directory that is not in its place says nothing about the files: nothing is recorded until it is back.
//!
//! A data directory in which *every* file with a history is gone at once looks like a volume that was emptied or came up empty, and looks the same
//! when an agent has wiped its whole tree. Nobody is served by hundreds of deletions that follow from a mistake, so they are held back until the
//! files are there again or an operator says that they were to go. What is new is recorded meanwhile. Whatever leaves at least one file with a
//! history (the gateway's configuration, as a rule) is recorded, however large: `rm -rf workspace/*` is the agent's right. So is removing the last
//! files one by one: a single file is never held back.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use notify::event::{EventKind, ModifyKind};
use winston_wire::ContentHash;

use super::status::Halt;
use super::thread::Thread;
use crate::fs::{Class, TenantPath, replace_file, unlink};

/// Fewest files that count as everything.
const FEWEST: usize = 2;

/// Once files come back, how long no more have to come until the rest counts as deleted.
const RETURN_QUIET: Duration = Duration::from_secs(5);

/// In our own directory: deletions were held back when the sidecar ended.
const MARK: &str = "halted";

/// Files that are gone and not recorded as deleted.
pub(super) struct Withheld {
    paths: BTreeSet<TenantPath>,
    /// What is held back is known. Not yet in a process that began halted, until its first listing is done.
    is_listed: bool,
    /// When one of them last was there again with its recorded content.
    returned: Option<Instant>,
}

impl Withheld {
    /// When the waiting for files that come back is over.
    pub(super) fn next(&self) -> Option<Instant> {
        self.returned.map(|at| at + RETURN_QUIET)
    }
}

impl Thread {
    /// Whether the data directory is in its place; halts when it is not.
    pub(super) fn check_place(&mut self) -> bool {
        let away = !self.edits.root().still_in_place();
        if away != self.away {
            self.away = away;
            if away {
                tracing::error!("the data directory was moved or unmounted; nothing is recorded until it is back");
            } else {
                tracing::info!("the data directory is in its place again");
            }
            self.tell_halt();
        }
        if away {
            // Polling notices the return; what was to be looked at is found by the listing that follows.
            self.settling.clear();
            self.gone.take();
            self.poll_soon();
        }
        !away
    }

    fn tell_halt(&self) {
        let emptied = self.withheld.as_ref().map(|withheld| Halt::Emptied { files: withheld.paths.len() });
        self.status.set_halt(if self.away { Some(Halt::Away) } else { emptied });
    }

    /// Something happened to the data directory itself.
    pub(super) fn root_event(&mut self, kind: &EventKind) {
        if matches!(kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) | EventKind::Other) {
            self.check_place();
        }
    }

    /// Deletions that an earlier process held back are held back still.
    pub(super) fn remember_halt(&mut self) {
        let marked = self
            .edits
            .root()
            .internal_dir(".winston")
            .is_ok_and(|dir| rustix::fs::statat(&dir, MARK, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok());
        if marked {
            self.withheld = Some(Withheld { paths: BTreeSet::new(), is_listed: false, returned: None });
        }
    }

    /// A listing did not show these recorded files.
    pub(super) fn missed(&mut self, gone: Vec<TenantPath>, whole_tree: bool) {
        if whole_tree && self.withheld.as_ref().is_some_and(|withheld| !withheld.is_listed) {
            // The first listing of a process that began halted.
            return self.withhold_all(gone);
        }
        let Some(gone) = self.unless_emptied(gone) else { return };
        if whole_tree {
            // What is still gone is among these.
            self.gone.take();
        }
        let now = Instant::now();
        let mut too_many = Vec::new();
        for path in gone {
            let inode = self.edits.index().record(path.as_str()).map_or(0, |record| record.ino);
            if !self.is_withheld(&path) && !self.gone.hold(path.clone(), inode, now) {
                too_many.push(path);
            }
        }
        self.record_deleted(too_many);
    }

    /// Whether a deletion is held back.
    pub(super) fn is_withheld(&self, path: &TenantPath) -> bool {
        self.withheld.as_ref().is_some_and(|withheld| withheld.paths.contains(path))
    }

    /// Gives the files back unless they are all that there were; then they are withheld.
    pub(super) fn unless_emptied(&mut self, mut gone: Vec<TenantPath>) -> Option<Vec<TenantPath>> {
        // Some may have been deleted through the API while they waited; they are no part of what there was.
        gone.retain(|path| self.edits.index().version(path.as_str()).is_some());
        if gone.len() < FEWEST || self.withheld.is_some() {
            return Some(gone);
        }
        let paths: BTreeSet<_> = gone.iter().collect();
        let (layout, root) = (self.edits.layout(), self.edits.root());
        let left = |path: &TenantPath| !paths.contains(path) && layout.class(path) == Class::Tracked;
        // That a listing did not show it (permissions, an I/O error) is not yet that it is gone.
        if self.edits.index().any(left) || gone.iter().any(|path| !matches!(root.stat(path), Ok(None))) {
            return Some(gone);
        }
        self.withhold_all(gone);
        None
    }

    fn withhold_all(&mut self, gone: Vec<TenantPath>) {
        if gone.is_empty() {
            return self.end_halt();
        }
        tracing::error!(
            files = gone.len(),
            "every file with a history is gone at once; no deletion is recorded until they are back or POST /watch/accept"
        );
        self.withheld = Some(Withheld { paths: gone.into_iter().collect(), is_listed: true, returned: None });
        self.tell_halt();
        let dir = self.edits.root().internal_dir(".winston");
        let marked = dir.map_err(std::io::Error::other).and_then(|dir| replace_file(&dir, MARK, b""));
        if let Err(error) = marked {
            tracing::warn!(%error, "could not remember that deletions are held back");
        }
    }

    /// Of the withheld paths that are about to be compared: what was recorded.
    pub(super) fn before_return(&self, paths: &[TenantPath]) -> BTreeMap<TenantPath, Option<ContentHash>> {
        let Some(withheld) = &self.withheld else { return BTreeMap::new() };
        let index = self.edits.index();
        let hash = |path: &TenantPath| index.version(path.as_str()).and_then(|version| version.hash);
        paths.iter().filter(|path| withheld.paths.contains(*path)).map(|path| (path.clone(), hash(path))).collect()
    }

    /// They have been compared: those that are there are not withheld any more.
    pub(super) fn note_returned(&mut self, before: BTreeMap<TenantPath, Option<ContentHash>>) {
        let Some(withheld) = self.withheld.as_mut().filter(|withheld| withheld.is_listed) else { return };
        for (path, hash) in before {
            if !matches!(self.edits.root().stat(&path), Ok(Some(_))) {
                continue;
            }
            withheld.paths.remove(&path);
            // Another content may be what somebody puts into an empty tree; the recorded one comes from nowhere but the files themselves.
            if self.edits.index().version(path.as_str()).is_some_and(|version| version.hash == hash) {
                withheld.returned = Some(Instant::now());
            }
        }
        // What the API has deleted meanwhile is nobody's to hold back.
        let index = self.edits.index();
        withheld.paths.retain(|path| index.version(path.as_str()).is_some());
        let over = withheld.paths.is_empty();
        self.tell_halt();
        if over {
            self.end_halt();
        }
    }

    /// Once files have come back and no more come, what is still gone is deleted.
    pub(super) fn resume_if_back(&mut self) {
        let over = self.withheld.as_ref().and_then(Withheld::next).is_some_and(|at| at <= Instant::now());
        if over && !self.away {
            self.accept();
        }
    }

    /// What is withheld is deleted.
    pub(super) fn accept(&mut self) {
        let Some(withheld) = self.withheld.take().filter(|_| !self.away) else { return };
        tracing::info!(files = withheld.paths.len(), "recording the deletions that were held back");
        self.end_halt();
        self.record_deleted(withheld.paths.into_iter().collect());
    }

    fn end_halt(&mut self) {
        self.withheld = None;
        self.tell_halt();
        let dir = self.edits.root().internal_dir(".winston");
        match dir.and_then(|dir| unlink(&dir, MARK)) {
            Ok(()) | Err(crate::fs::FsError::NotFound) => {}
            Err(error) => tracing::warn!(%error, "could not forget that deletions were held back"),
        }
    }
}
