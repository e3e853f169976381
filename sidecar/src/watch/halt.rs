//! When nothing may count as deleted, and when that is over.
//!
//! A data directory that is not in its place says nothing about the files: nothing is recorded until it is back. That every file is gone at once is
//! noticed where deletions are recorded (`edits/gone.rs`), and what is held back then is kept there (`edits/withheld.rs`), because the API and the sync
//! meet files that are gone too. This is about the end: the files come back, or an operator says that they were to go.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use notify::event::{EventKind, ModifyKind};
use winston_wire::ContentHash;

use super::thread::Thread;
use crate::fs::{EntryKind, TenantPath};

/// Once files come back, how long no more have to come until the rest counts as deleted.
const RETURN_QUIET: Duration = Duration::from_secs(5);

impl Thread {
    /// Whether the data directory is in its place; halts when it is not.
    pub(super) fn check_place(&mut self) -> bool {
        let away = !self.edits.root().still_in_place();
        if away != self.away {
            self.away = away;
            self.edits.withheld().set_away(away);
            if away {
                tracing::error!(
                    "the data directory, or .winston in it, was moved, unmounted or replaced; nothing is recorded until it is back"
                );
            } else {
                tracing::info!("the data directory is in its place again");
            }
        }
        if away {
            // Polling notices the return; what was to be looked at is found by the listing that follows.
            self.settling.clear();
            self.gone.take();
            self.poll_soon();
        }
        !away
    }

    /// Something happened to the data directory itself.
    pub(super) fn root_event(&mut self, kind: &EventKind) {
        if matches!(kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) | EventKind::Other) {
            self.check_place();
        }
    }

    /// A listing did not show these recorded files.
    pub(super) fn missed(&mut self, gone: Vec<TenantPath>, whole_tree: bool) {
        if whole_tree {
            // What is still gone is among these.
            self.gone.take();
            if self.edits.withheld().listed(|| gone.iter().cloned().collect()) {
                return;
            }
        }
        let now = Instant::now();
        let mut too_many = Vec::new();
        for path in gone {
            let inode = self.edits.index().record(path.as_str()).map_or(0, |record| record.ino);
            if !self.edits.withheld().holds(&path) && !self.gone.hold(path.clone(), inode, now) {
                too_many.push(path);
            }
        }
        self.record_deleted(too_many);
    }

    /// Of the paths that are about to be compared, those that are held back, with what was recorded.
    pub(super) fn held_among(&self, paths: &[TenantPath]) -> BTreeMap<TenantPath, Option<ContentHash>> {
        let held = paths.iter().filter(|path| self.edits.withheld().is_held(path));
        held.map(|path| (path.clone(), self.recorded_hash(path))).collect()
    }

    fn recorded_hash(&self, path: &TenantPath) -> Option<ContentHash> {
        self.edits.index().version(path.as_str()).and_then(|version| version.hash)
    }

    /// They have been compared: those that are there are not held back any more.
    pub(super) fn note_returned(&mut self, before: BTreeMap<TenantPath, Option<ContentHash>>) {
        for (path, hash) in before {
            if !matches!(self.edits.root().stat(&path), Ok(Some(stat)) if stat.kind == EntryKind::File) {
                continue;
            }
            self.edits.withheld().release([&path]);
            // Another content may be what somebody puts into an empty tree; the recorded one comes from nowhere but the files themselves.
            if self.recorded_hash(&path) == hash {
                self.returned = Some(Instant::now());
            }
        }
    }

    /// A listing does not tell of files that are there as they were recorded: with the directory that they are in, they may have come back so.
    pub(super) fn find_returned(&mut self, directory: &TenantPath) {
        for path in self.edits.withheld().held_below(directory) {
            let found = self.edits.root().stat(&path).ok().flatten();
            if found.is_some_and(|stat| self.edits.index().matching(path.as_str(), &stat).is_some()) {
                self.edits.withheld().release([&path]);
                self.returned = Some(Instant::now());
            }
        }
    }

    /// When the waiting for files that come back is over.
    pub(super) fn next_resume(&self) -> Option<Instant> {
        self.returned.map(|at| at + RETURN_QUIET)
    }

    /// Once files have come back and no more come, what is still gone is deleted.
    pub(super) fn resume_if_back(&mut self) {
        if self.next_resume().is_some_and(|at| at <= Instant::now()) && !self.away {
            self.accept();
        }
    }

    /// What is held back is deleted.
    pub(super) fn accept(&mut self) {
        self.returned = None;
        let paths = self.edits.withheld().accept();
        if paths.is_empty() {
            return;
        }
        tracing::info!(files = paths.len(), "recording the deletions that were held back");
        self.record_deleted(paths.clone());
        if self.pause.is_none() {
            // What was not recorded is there after all. After a failure the rest is looked at again, and remembered until then.
            self.edits.withheld().release(&paths);
        }
    }
}
