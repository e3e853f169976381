//! Looking at dirty paths: which are renames, which are gone, and what happens when nothing can be recorded.

use std::time::{Duration, Instant};

use super::thread::{MOST_DIRTY, Thread};
use crate::edits::Move;
use crate::fs::{Class, EntryKind, TenantPath};
use crate::journal::JournalError;

/// Pause before a path that could not be looked at is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Pause after a failure to record (a full volume, most often), doubled up to the second one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Paths compared under one set of locks and one journal flush.
const CHUNK: usize = 128;

/// Nothing is recorded until `until`.
pub(super) struct Pause {
    length: Duration,
    pub(super) until: Instant,
}

impl Thread {
    /// Whether anything can be recorded now.
    fn can_record(&self) -> bool {
        self.pause.as_ref().is_none_or(|pause| Instant::now() >= pause.until)
    }

    /// Looks at every path that is due.
    pub(super) fn absorb_due(&mut self) {
        let now = Instant::now();
        while self.can_record() {
            let due = self.settling.take_due(now, CHUNK);
            if due.is_empty() {
                return;
            }
            if !self.check_place() {
                // A listing follows when it is back.
                return;
            }
            self.look(due);
        }
    }

    /// Sorts out renames and files that are gone, and records the rest.
    fn look(&mut self, due: Vec<TenantPath>) {
        let mut paths = Vec::with_capacity(due.len());
        let mut files = Vec::with_capacity(due.len());
        // What is gone first: it may be what one of the new files was.
        for path in due {
            if self.edits.layout().class(&path) != Class::Tracked {
                continue;
            }
            match self.edits.root().stat(&path) {
                Ok(Some(stat)) if stat.kind == EntryKind::File => files.push((path, stat)),
                Ok(_) => self.hold_gone(path),
                Err(_) => paths.push(path),
            }
        }
        let mut moves = Vec::new();
        for (path, stat) in files {
            self.gone.is_back(&path);
            // With another name left, the file was not renamed but linked.
            let new = stat.links == 1 && self.edits.index().version(path.as_str()).is_none();
            match new.then(|| self.gone.partner(stat.ino)).flatten() {
                Some(from) => moves.push(Move { from, to: path }),
                None => paths.push(path),
            }
        }
        self.record(paths, moves);
    }

    /// A path is not a file (any more). If it was recorded, it waits for its new name.
    pub(super) fn hold_gone(&mut self, path: TenantPath) {
        // Something without a history may come and go.
        let Some(record) = self.edits.index().record(path.as_str()) else { return };
        if !self.edits.withheld().holds(&path) && !self.gone.hold(path, record.ino, Instant::now()) {
            // One too many to wait: a listing sees them all at once.
            self.list_again();
        }
    }

    /// Looks at paths of a listing, which are there.
    pub(super) fn absorb_now(&mut self, paths: Vec<TenantPath>) {
        if self.can_record() && self.check_place() {
            self.record(paths, Vec::new());
        } else {
            let now = Instant::now();
            for path in paths {
                if self.settling.len() >= MOST_DIRTY {
                    return self.list_again();
                }
                self.settling.postpone(path, now, FIRST_PAUSE);
            }
        }
    }

    fn record(&mut self, paths: Vec<TenantPath>, moves: Vec<Move>) {
        if paths.is_empty() && moves.is_empty() {
            return;
        }
        let before = self.held_among(&paths);
        match self.edits.absorb(&paths, &moves) {
            Ok(unfinished) => {
                if self.pause.take().is_some() {
                    tracing::info!("changes can be recorded again");
                }
                self.note_returned(before);
                self.mark(unfinished.unstable);
                for path in unfinished.failed {
                    self.settling.postpone(path, Instant::now(), RETRY);
                }
            }
            Err(error) => {
                let ends = moves.into_iter().flat_map(|Move { from, to }| [from, to]);
                self.failed(&error, paths.into_iter().chain(ends));
            }
        }
    }

    fn failed(&mut self, error: &JournalError, paths: impl Iterator<Item = TenantPath>) {
        let length = self.pause.as_ref().map_or(FIRST_PAUSE, |pause| (pause.length * 2).min(LONGEST_PAUSE));
        if self.pause.is_none() {
            tracing::error!(%error, "could not record changes; trying again with growing pauses");
        }
        let now = Instant::now();
        self.pause = Some(Pause { length, until: now + length });
        for path in paths {
            self.settling.postpone(path, now, length);
        }
    }

    /// Records files that have been gone for long enough.
    pub(super) fn release_gone(&mut self) {
        if self.away || !self.can_record() {
            return;
        }
        let gone = self.gone.release(Instant::now());
        self.delete(gone);
    }

    /// Records every file that is gone, without further waiting.
    pub(super) fn record_gone(&mut self) {
        let gone = self.gone.take();
        self.delete(gone);
    }

    fn delete(&mut self, gone: Vec<TenantPath>) {
        if gone.is_empty() || !self.check_place() {
            return;
        }
        self.record_deleted(gone);
    }

    /// Records files as deleted; those that are there after all are compared.
    pub(super) fn record_deleted(&mut self, mut gone: Vec<TenantPath>) {
        while !gone.is_empty() {
            let rest = gone.split_off(gone.len().min(CHUNK));
            self.record(std::mem::replace(&mut gone, rest), Vec::new());
        }
    }
}
