//! The one place that records that a file is gone, and so the one that never lets everything be recorded as gone.
//!
//! A data directory that is not in its place says nothing about the files. One in which *every* file with a history is gone at once looks like a
//! volume that was emptied or came up empty, and looks the same when an agent has wiped its whole tree. Nobody is served by hundreds of
//! deletions that follow from a mistake, so they are held back until the files are there again or an operator says that they were to go. What is
//! new is recorded meanwhile. Whatever leaves at least one file with a history (the gateway's configuration, as a rule) is recorded, however
//! large: `rm -rf workspace/*` is the agent's right. So is removing the last files one by one: a single file is never held back.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::PoisonError;

use super::Edits;
use super::commit::{Pending, agent};
use super::withheld::Withheld;
use crate::fs::{Class, TenantPath};
use crate::index::Version;

/// Fewest files that count as everything.
const FEWEST: usize = 2;

/// Files of the index that are looked at without holding it.
const PAGE: usize = 512;

impl Edits {
    /// Deletions that are held back.
    pub(crate) fn withheld(&self) -> &Withheld {
        &self.withheld
    }

    /// A recorded file was found to be gone: the agent's deletion, unless it is held back. What is recorded of the path then: nothing, or still what
    /// was. The caller holds the path's lock.
    pub(super) fn note_gone(
        &self,
        path: &TenantPath,
        known: Option<Version>,
        pending: &mut Pending,
    ) -> Option<Version> {
        let version = known?;
        if self.holds_back(path) {
            return Some(version);
        }
        pending.deleted(path, &agent(), version.hash);
        None
    }

    fn holds_back(&self, path: &TenantPath) -> bool {
        if self.withheld.holds(path) || !self.root.still_in_place() {
            return true;
        }
        if self.withheld.is_accepted(path) || self.has_survivor() {
            return false;
        }
        let gone = self.all_gone();
        if gone.len() < FEWEST {
            return false;
        }
        tracing::error!(
            files = gone.len(),
            "every file with a history is gone at once; no deletion is recorded until they are back or POST /watch/accept"
        );
        self.withheld.hold(gone);
        self.withheld.holds(path)
    }

    /// Whether any file with a history is there, of those that are not spoken for already.
    pub(super) fn has_survivor(&self) -> bool {
        let mut survivor = self.survivor.lock().unwrap_or_else(PoisonError::into_inner);
        // Most often the one of the last time.
        if survivor.as_ref().is_some_and(|path| self.index.version(path.as_str()).is_some() && self.survives(path)) {
            return true;
        }
        *survivor = None;
        self.each_indexed(|path| {
            if self.survives(&path) {
                *survivor = Some(path);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        survivor.is_some()
    }

    /// That a name cannot be looked at (permissions, an I/O error) does not say that it is gone.
    fn survives(&self, path: &TenantPath) -> bool {
        self.counts(path) && !matches!(self.root.stat(path), Ok(None))
    }

    fn counts(&self, path: &TenantPath) -> bool {
        self.layout.class(path) == Class::Tracked && !self.withheld.holds(path) && !self.withheld.is_accepted(path)
    }

    /// When nothing survives: all that there was.
    fn all_gone(&self) -> BTreeSet<TenantPath> {
        let mut gone = BTreeSet::new();
        self.each_indexed(|path| {
            if self.counts(&path) {
                gone.insert(path);
            }
            ControlFlow::Continue(())
        });
        gone
    }

    /// Every path of the index, a few at a time, so that nobody waits for what is done with them.
    fn each_indexed(&self, mut visit: impl FnMut(TenantPath) -> ControlFlow<()>) {
        let mut after: Option<String> = None;
        loop {
            let (files, through) = self.index.range(after.as_deref(), PAGE);
            for path in files.iter().filter_map(|file| TenantPath::parse(&file.path).ok()) {
                if visit(path).is_break() {
                    return;
                }
            }
            after = through;
            if after.is_none() {
                return;
            }
        }
    }
}
