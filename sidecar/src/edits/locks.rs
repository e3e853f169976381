//! One lock per path, out of a fixed number.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 64;

/// Locks that paths share by hash. Several are always taken in ascending order, so nobody waits in a circle.
pub(super) struct PathLocks {
    shards: Vec<Mutex<()>>,
    hasher: RandomState,
}

/// Held locks; dropping releases them.
pub(super) type Guards<'a> = Vec<MutexGuard<'a, ()>>;

impl PathLocks {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::new(())).collect(), hasher: RandomState::new() }
    }

    fn shard(&self, path: &str) -> usize {
        self.hasher.hash_one(path) as usize % SHARDS
    }

    fn take(&self, shards: impl Iterator<Item = usize>) -> Guards<'_> {
        // The lock protects files, not memory: after a panic the file system is as consistent as after a crash.
        shards.map(|shard| self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)).collect()
    }

    /// Locks some paths.
    pub(super) fn lock<'a>(&self, paths: impl Iterator<Item = &'a str>) -> Guards<'_> {
        let shards: std::collections::BTreeSet<_> = paths.map(|path| self.shard(path)).collect();
        self.take(shards.into_iter())
    }

    /// Locks every path: for an edit that changes the paths of files that it does not name.
    pub(super) fn lock_tree(&self) -> Guards<'_> {
        self.take(0..SHARDS)
    }
}
