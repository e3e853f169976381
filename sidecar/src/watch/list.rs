//! Listing, watching and sorting out what a listing finds.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::scan::{self, Differing, Found};
use super::thread::{MOST_DIRTY, Thread};
use super::watcher::Watching;
use crate::fs::TenantPath;

/// New files that a listing puts off, because they may be renamed ones. More are recorded as new at once.
const MOST_NEW: usize = MOST_DIRTY;

/// Files that are recorded together while a listing goes on: so many, or of so many bytes. Writers through the API wait for them.
const CHUNK: usize = 2048;
const CHUNK_BYTES: u64 = 32 * 1024 * 1024;

impl Thread {
    /// Watches and lists a directory and what is below it. Recorded files that differ are looked at while the listing goes on, so that it need not
    /// remember them; files that are gone and new ones wait for each other.
    pub(super) fn list(&mut self, directory: &TenantPath) {
        let edits = Arc::clone(&self.edits);
        let (mut watcher, status) = (self.watcher.take(), Arc::clone(&self.status));
        let watching = Watching::new(watcher.as_mut(), &status);
        let pairs = edits.index().len() > 0;
        let mut listing = Listing { thread: self, changed: Vec::new(), bytes: 0, new: Vec::new(), pairs };
        let Found { gone, directories, examined } =
            scan::scan(&edits, directory, &|directory| watching.watch(directory), |files| listing.differing(files));
        let Listing { changed, new, .. } = listing;
        self.watcher = watcher;
        self.status.examined.fetch_add(examined, Ordering::Relaxed);
        if directory.is_root() {
            self.status.directories.store(directories, Ordering::Relaxed);
        }
        let now = Instant::now();
        for path in changed {
            self.settling.postpone(path, now, Duration::ZERO);
        }
        self.missed(gone, directory.is_root());
        self.find_returned(directory);
        for path in new {
            self.settling.postpone(path, now, Duration::ZERO);
        }
        self.absorb_due();
        if directory.is_root() {
            // Both halves of every rename have been seen.
            self.record_gone();
        }
    }

    /// A directory has appeared: what is in it waits until it is quiet, as if there had been an event for each file.
    pub(super) fn list_new(&mut self, directory: &TenantPath) {
        let edits = Arc::clone(&self.edits);
        let mut watcher = self.watcher.take();
        let watching = Watching::new(watcher.as_mut(), &self.status);
        let mut files: Vec<TenantPath> = Vec::new();
        let Found { gone, examined, .. } =
            scan::scan(&edits, directory, &|directory| watching.watch(directory), |found| {
                if files.len() <= MOST_DIRTY {
                    files.extend(found.into_iter().map(|(path, _)| path));
                }
            });
        self.watcher = watcher;
        self.status.examined.fetch_add(examined, Ordering::Relaxed);
        if self.watcher.as_ref().is_some_and(|watcher| watcher.unwatched() > 0) {
            self.poll_soon();
        }
        self.mark(gone);
        self.mark(files);
        self.find_returned(directory);
    }
}

/// A listing of the whole tree or of a part that is not watched.
struct Listing<'a> {
    thread: &'a mut Thread,
    changed: Vec<TenantPath>,
    /// Of `changed`.
    bytes: u64,
    new: Vec<TenantPath>,
    /// The index was not empty: a new file may have been another one before.
    pairs: bool,
}

impl Listing<'_> {
    fn differing(&mut self, files: Differing) {
        for (path, size) in files {
            let index = self.thread.edits.index();
            if self.pairs && self.new.len() < MOST_NEW && index.version(path.as_str()).is_none() {
                self.new.push(path);
                continue;
            }
            self.changed.push(path);
            self.bytes += size;
            if self.changed.len() >= CHUNK || self.bytes >= CHUNK_BYTES {
                self.bytes = 0;
                self.thread.absorb_now(std::mem::take(&mut self.changed));
            }
        }
    }
}
