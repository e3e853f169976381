//! What the journal keeps in memory: the newest changes, what control has, and which contents are still needed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use winston_wire::{Change, ContentHash};

use super::{NewRecord, Replayed};
use crate::journal::Content;

/// Changes that `GET /changes` can show.
pub(crate) const RECENT_CHANGES: usize = 1000;

struct State {
    acked: u64,
    recent: VecDeque<Change>,
    objects: HashMap<ContentHash, u64>,
}

/// See the module.
pub(crate) struct Ledger {
    state: Mutex<State>,
}

impl Ledger {
    pub(super) fn new(acked: u64, replayed: &Replayed) -> Self {
        let mut objects = replayed.objects.clone();
        objects.retain(|_, needed_by| *needed_by > acked);
        Self { state: Mutex::new(State { acked, recent: replayed.recent.clone(), objects }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is valid between any two statements, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records have become durable.
    pub(super) fn appended(&self, records: &[NewRecord], changes: &[Change]) {
        let mut state = self.lock();
        for (record, change) in records.iter().zip(changes) {
            if let (Content::Object(_) | Content::Stored, Some(hash)) = (&record.content, change.hash) {
                state.objects.insert(hash, change.seq);
            }
            if state.recent.len() == RECENT_CHANGES {
                state.recent.pop_front();
            }
            state.recent.push_back(change.clone());
        }
    }

    /// Contents of these records (ascending) were dropped.
    pub(super) fn omitted(&self, seqs: &[u64]) {
        let mut state = self.lock();
        for change in state.recent.iter_mut().filter(|change| seqs.binary_search(&change.seq).is_ok()) {
            change.content_omitted = true;
        }
    }

    /// Forgets contents that have been removed.
    pub(super) fn forget(&self, hashes: &[ContentHash]) {
        let mut state = self.lock();
        for hash in hashes {
            state.objects.remove(hash);
        }
    }

    /// Whether no record from `seq` on needs this content.
    pub(super) fn is_free_before(&self, hash: ContentHash, seq: u64) -> bool {
        self.lock().objects.get(&hash).is_none_or(|needed_by| *needed_by < seq)
    }

    /// The change with this number, if it is among the recent ones.
    pub(super) fn change_at(&self, seq: u64) -> Option<Change> {
        let state = self.lock();
        let at = state.recent.binary_search_by_key(&seq, |change| change.seq).ok()?;
        state.recent.get(at).cloned()
    }

    /// Control has committed up to `seq`. Returns the contents that nobody needs any more.
    pub(super) fn acknowledge(&self, seq: u64) -> Vec<ContentHash> {
        let mut state = self.lock();
        state.acked = seq;
        let released: Vec<_> =
            state.objects.iter().filter(|(_, needed_by)| **needed_by <= seq).map(|(hash, _)| *hash).collect();
        for hash in &released {
            state.objects.remove(hash);
        }
        released
    }

    /// Whether a record that control lacks needs this content.
    pub(super) fn needs(&self, hash: ContentHash) -> bool {
        self.lock().objects.contains_key(&hash)
    }

    /// The newest change of a path after `seq`, if it is among the recent ones.
    pub(crate) fn newest_of(&self, path: &str, seq: u64) -> Option<Change> {
        let state = self.lock();
        state.recent.iter().rev().take_while(|change| change.seq > seq).find(|change| change.path == path).cloned()
    }

    /// Whether this push of a path is recorded, as far as the recent changes tell. Generations alone do not identify it: a control that was
    /// restored from a backup gives them out again.
    pub(crate) fn has_push(&self, path: &str, generation: u64, hash: Option<ContentHash>) -> bool {
        let is_it =
            |change: &Change| change.generation == Some(generation) && change.hash == hash && change.path == path;
        self.lock().recent.iter().any(is_it)
    }

    /// The newest push of a path that was recorded, as far as the recent changes tell.
    pub(crate) fn last_push(&self, path: &str) -> Option<Change> {
        let is_it = |change: &&Change| change.generation.is_some() && change.path == path;
        self.lock().recent.iter().rev().find(is_it).cloned()
    }

    /// The newest change of a path, as far as the recent changes tell.
    pub(crate) fn last_change(&self, path: &str) -> Option<Change> {
        self.lock().recent.iter().rev().find(|change| change.path == path).cloned()
    }

    /// Last sequence number that control has committed.
    pub(crate) fn acked(&self) -> u64 {
        self.lock().acked
    }

    /// The newest changes, newest first.
    pub(crate) fn newest(&self, limit: usize) -> Vec<Change> {
        self.lock().recent.iter().rev().take(limit).cloned().collect()
    }
}
