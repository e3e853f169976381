//! Which paths have been quiet long enough to be looked at. Pure: time is passed in.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::fs::TenantPath;

struct Marked {
    first: Instant,
    last: Instant,
}

/// Dirty paths. A path is due `quiet` after its last mark, at the latest `patience` after its first.
pub(super) struct Settling {
    quiet: Duration,
    patience: Duration,
    dirty: HashMap<TenantPath, Marked>,
}

impl Settling {
    pub(super) fn new(quiet: Duration, patience: Duration) -> Self {
        Self { quiet, patience, dirty: HashMap::new() }
    }

    pub(super) fn mark(&mut self, path: TenantPath, now: Instant) {
        self.dirty.entry(path).and_modify(|marked| marked.last = now).or_insert(Marked { first: now, last: now });
    }

    fn due_at(&self, marked: &Marked) -> Instant {
        (marked.last + self.quiet).min(marked.first + self.patience)
    }

    /// When the next path is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.dirty.values().map(|marked| self.due_at(marked)).min()
    }

    /// Takes up to `limit` paths that are due.
    pub(super) fn take_due(&mut self, now: Instant, limit: usize) -> Vec<TenantPath> {
        let due = self.dirty.iter().filter(|(_, marked)| self.due_at(marked) <= now);
        let due: Vec<_> = due.map(|(path, _)| path.clone()).take(limit).collect();
        for path in &due {
            self.dirty.remove(path);
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
