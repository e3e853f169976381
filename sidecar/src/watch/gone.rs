//! Files that are gone and wait a moment: for the other half of their rename, and for whether everything is going. Pure: time is passed in.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::fs::TenantPath;

/// Files that may wait; more are recorded as gone at once.
const MOST: usize = 16 * 1024;

/// See the module.
pub(super) struct Gone {
    quiet: Duration,
    patience: Duration,
    paths: BTreeMap<TenantPath, u64>,
    by_inode: HashMap<u64, Vec<TenantPath>>,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Gone {
    /// Files wait until nothing has joined them for `quiet`, at the latest until `patience` after the first.
    pub(super) fn new(quiet: Duration, patience: Duration) -> Self {
        let (paths, by_inode) = (BTreeMap::new(), HashMap::new());
        Self { quiet, patience, paths, by_inode, first: None, last: None }
    }

    /// A recorded file is gone; `inode` as it was recorded. `false` when no more can wait.
    pub(super) fn hold(&mut self, path: TenantPath, inode: u64, now: Instant) -> bool {
        if self.paths.len() >= MOST && !self.paths.contains_key(&path) {
            return false;
        }
        self.first.get_or_insert(now);
        if self.paths.insert(path.clone(), inode).is_none() {
            self.last = Some(now);
            self.by_inode.entry(inode).or_default().push(path);
        }
        true
    }

    /// The path is a file again.
    pub(super) fn is_back(&mut self, path: &TenantPath) {
        if let Some(inode) = self.paths.remove(path) {
            self.forget_inode(inode, path);
        }
    }

    /// A new file has appeared: takes out the one that it may have been.
    pub(super) fn partner(&mut self, inode: u64) -> Option<TenantPath> {
        let path = self.by_inode.get(&inode)?.first()?.clone();
        self.is_back(&path);
        Some(path)
    }

    fn forget_inode(&mut self, inode: u64, path: &TenantPath) {
        if let Some(paths) = self.by_inode.get_mut(&inode) {
            paths.retain(|held| held != path);
            if paths.is_empty() {
                self.by_inode.remove(&inode);
            }
        }
        if self.paths.is_empty() {
            (self.first, self.last) = (None, None);
        }
    }

    /// When the waiting is over.
    pub(super) fn next(&self) -> Option<Instant> {
        let (first, last) = self.first.zip(self.last)?;
        Some((last + self.quiet).min(first + self.patience))
    }

    /// Takes out everything, if its time has come.
    pub(super) fn release(&mut self, now: Instant) -> Vec<TenantPath> {
        if self.next().is_some_and(|next| next <= now) { self.take() } else { Vec::new() }
    }

    /// Takes out everything.
    pub(super) fn take(&mut self) -> Vec<TenantPath> {
        (self.first, self.last) = (None, None);
        self.by_inode = HashMap::new();
        std::mem::take(&mut self.paths).into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_millis(500);
    const PATIENCE: Duration = Duration::from_secs(5);

    fn path(text: &str) -> TenantPath {
        TenantPath::parse(text).unwrap()
    }

    #[test]
    fn files_wait_until_no_more_come() {
        let start = Instant::now();
        let mut gone = Gone::new(QUIET, PATIENCE);
        assert_eq!(gone.next(), None);
        assert!(gone.hold(path("a"), 1, start));
        assert!(gone.hold(path("b"), 2, start + QUIET / 2));
        // Hearing of a file again does not make it wait longer.
        assert!(gone.hold(path("a"), 1, start + QUIET));
        assert!(gone.release(start + QUIET).is_empty());
        assert_eq!(gone.release(start + QUIET / 2 + QUIET), [path("a"), path("b")]);
        assert_eq!((gone.next(), gone.partner(1)), (None, None));
    }

    #[test]
    fn a_stream_does_not_wait_for_ever() {
        let start = Instant::now();
        let mut gone = Gone::new(QUIET, PATIENCE);
        for step in 0..20 {
            gone.hold(path(&format!("{step:02}")), step, start + QUIET / 2 * u32::try_from(step).unwrap());
        }
        assert_eq!(gone.release(start + PATIENCE).len(), 20);
    }

    #[test]
    fn a_partner_is_given_once() {
        let start = Instant::now();
        let mut gone = Gone::new(QUIET, PATIENCE);
        gone.hold(path("a"), 1, start);
        gone.hold(path("b"), 1, start);
        gone.hold(path("c"), 3, start);
        assert_eq!(gone.partner(1), Some(path("a")));
        gone.is_back(&path("b"));
        assert_eq!((gone.partner(1), gone.partner(2)), (None, None));
        assert_eq!(gone.take(), [path("c")]);
    }

    #[test]
    fn there_is_a_limit() {
        let mut gone = Gone::new(QUIET, PATIENCE);
        let now = Instant::now();
        for file in 0..MOST {
            assert!(gone.hold(path(&format!("{file}")), file as u64, now));
        }
        assert!(!gone.hold(path("one more"), 1, now));
        assert!(gone.hold(path("7"), 7, now));
    }
}
