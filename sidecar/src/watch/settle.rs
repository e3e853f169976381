//! Which paths have been quiet long enough to be looked at. Pure: time is passed in.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::fs::TenantPath;

struct Marked {
    first: Instant,
    due: Instant,
}

/// Dirty paths. A path is due `quiet` after its last mark, at the latest `patience` after its first.
pub(super) struct Settling {
    quiet: Duration,
    patience: Duration,
    dirty: HashMap<TenantPath, Marked>,
    queue: BTreeSet<(Instant, TenantPath)>,
}

/// Room for this many paths is kept after a storm.
const KEPT_CAPACITY: usize = 1024;

impl Settling {
    pub(super) fn new(quiet: Duration, patience: Duration) -> Self {
        Self { quiet, patience, dirty: HashMap::new(), queue: BTreeSet::new() }
    }

    /// Something happened to a path.
    pub(super) fn mark(&mut self, path: TenantPath, now: Instant) {
        let first = self.dirty.get(&path).map_or(now, |marked| marked.first);
        self.set(path, first, (now + self.quiet).min(first + self.patience));
    }

    /// A path could not be looked at: again after a delay.
    pub(super) fn postpone(&mut self, path: TenantPath, now: Instant, delay: Duration) {
        self.set(path, now, now + delay);
    }

    /// Number of dirty paths.
    pub(super) fn len(&self) -> usize {
        self.dirty.len()
    }

    /// Whether nothing is dirty.
    pub(super) fn is_empty(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Everything is due now.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.queue = std::mem::take(&mut self.queue).into_iter().map(|(_, path)| (now, path)).collect();
        self.dirty.values_mut().for_each(|marked| marked.due = now);
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.dirty = HashMap::new();
        self.queue.clear();
    }

    fn set(&mut self, path: TenantPath, first: Instant, due: Instant) {
        if let Some(before) = self.dirty.insert(path.clone(), Marked { first, due }) {
            self.queue.remove(&(before.due, path.clone()));
        }
        self.queue.insert((due, path));
    }

    /// When the next path is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// Takes up to `limit` paths that are due, those that wait longest first.
    pub(super) fn take_due(&mut self, now: Instant, limit: usize) -> Vec<TenantPath> {
        let mut due = Vec::new();
        while due.len() < limit
            && let Some((at, _)) = self.queue.first()
            && *at <= now
            && let Some((_, path)) = self.queue.pop_first()
        {
            self.dirty.remove(&path);
            due.push(path);
        }
        if self.dirty.is_empty() && self.dirty.capacity() > KEPT_CAPACITY {
            self.dirty = HashMap::new();
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_millis(30);
    const PATIENCE: Duration = Duration::from_millis(500);

    fn path(text: &str) -> TenantPath {
        TenantPath::parse(text).unwrap()
    }

    #[test]
    fn a_path_is_due_once_it_is_quiet() {
        let start = Instant::now();
        let mut settling = Settling::new(QUIET, PATIENCE);
        settling.mark(path("a"), start);
        settling.mark(path("a"), start + QUIET / 2);
        assert_eq!(settling.take_due(start + QUIET, 9), []);
        assert_eq!(settling.next(), Some(start + QUIET / 2 + QUIET));
        assert_eq!(settling.take_due(start + QUIET * 2, 9), [path("a")]);
        assert_eq!(settling.next(), None);
    }

    #[test]
    fn a_postponed_path_waits_unless_something_happens_to_it() {
        let start = Instant::now();
        let mut settling = Settling::new(QUIET, PATIENCE);
        settling.postpone(path("a"), start, PATIENCE * 4);
        settling.postpone(path("b"), start, PATIENCE * 4);
        settling.mark(path("b"), start);
        assert_eq!(settling.take_due(start + PATIENCE, 9), [path("b")]);
        assert_eq!(settling.take_due(start + PATIENCE * 4, 9), [path("a")]);
        assert_eq!(settling.next(), None);
    }

    #[test]
    fn a_path_that_never_rests_is_due_all_the_same() {
        let start = Instant::now();
        let mut settling = Settling::new(QUIET, PATIENCE);
        let mut now = start;
        while now < start + PATIENCE {
            settling.mark(path("log"), now);
            now += QUIET / 2;
        }
        assert_eq!(settling.take_due(start + PATIENCE, 9), [path("log")]);
    }
}
