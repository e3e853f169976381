//! How much room the journal takes, and what the cap on it has cost.

use std::sync::atomic::{AtomicU64, Ordering};

use super::replay::Replayed;

/// Shared counters. Bytes are those of the files; what a file system adds to them is not counted.
#[derive(Debug)]
pub(super) struct Usage {
    /// `WINSTON_JOURNAL_MAX_BYTES`.
    max: u64,
    bytes: AtomicU64,
    flushes: AtomicU64,
    contents_dropped: AtomicU64,
    /// Last record that has lost its content and that control does not have yet; 0 when there is none.
    dropped_to: AtomicU64,
    /// Segments that start before this have no contents left to drop.
    clean_to: AtomicU64,
    /// Rewriting failed; it is not tried again before the journal has grown beyond this.
    pause_until: AtomicU64,
    /// Last record that neither control nor the index on disk needs any more.
    dispensable: AtomicU64,
}

impl Usage {
    /// `objects` are the bytes of large contents.
    pub(super) fn new(max: u64, objects: u64, replayed: &Replayed) -> Self {
        Self {
            max,
            bytes: AtomicU64::new(replayed.bytes + objects),
            flushes: AtomicU64::new(0),
            contents_dropped: AtomicU64::new(replayed.dropped),
            dropped_to: AtomicU64::new(replayed.dropped_to),
            clean_to: AtomicU64::new(replayed.clean_to),
            pause_until: AtomicU64::new(0),
            dispensable: AtomicU64::new(0),
        }
    }

    pub(super) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, bytes: u64) {
        // Files that somebody else touched must not make this wrap around.
        let less = |now: u64| Some(now.saturating_sub(bytes));
        let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Bytes of segments and contents together.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the journal takes more than it may.
    pub(super) fn is_over(&self) -> bool {
        self.bytes() > self.max
    }

    /// Whether contents should be dropped now.
    pub(super) fn is_due(&self) -> bool {
        self.is_over() && self.bytes() > self.pause_until.load(Ordering::Relaxed)
    }

    /// Dropping contents failed: not again before the journal has grown by `more` bytes.
    pub(super) fn pause(&self, more: u64) {
        self.pause_until.store(self.bytes().saturating_add(more), Ordering::Relaxed);
    }

    /// The segments before `first` have no contents any more.
    pub(super) fn cleaned(&self, first: u64) {
        self.clean_to.fetch_max(first, Ordering::Relaxed);
    }

    /// What control had, it has no more: its contents count again.
    pub(super) fn unclean(&self) {
        self.clean_to.store(0, Ordering::Relaxed);
    }

    /// First segment that may have contents to drop.
    pub(super) fn clean_to(&self) -> u64 {
        self.clean_to.load(Ordering::Relaxed)
    }

    pub(super) fn count_flush(&self) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
    }

    /// Flushes of segments, contents and their directories so far.
    pub(super) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// Contents dropped so far, with those of earlier processes that control lacks still.
    pub(super) fn contents_dropped(&self) -> u64 {
        self.contents_dropped.load(Ordering::Relaxed)
    }

    /// `count` records up to `seq` have lost their contents; true when none had before, since control last had everything.
    pub(super) fn dropped(&self, count: u64, seq: u64) -> bool {
        self.contents_dropped.fetch_add(count, Ordering::Relaxed);
        self.dropped_to.fetch_max(seq, Ordering::Relaxed) == 0
    }

    /// Control has everything up to `seq`; true when that includes the last record without its content.
    pub(super) fn acknowledged(&self, seq: u64, dispensable: u64) -> bool {
        self.dispensable.fetch_max(dispensable, Ordering::Relaxed);
        let passed = |to: u64| (to > 0 && to <= seq).then_some(0);
        self.dropped_to.fetch_update(Ordering::Relaxed, Ordering::Relaxed, passed).is_ok()
    }

    /// Last record that nobody needs any more.
    pub(super) fn dispensable(&self) -> u64 {
        self.dispensable.load(Ordering::Relaxed)
    }
}
