//! How far pushes are, kept in `.winston/applied`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use winston_wire::{Base, Conflict, ContentHash};

use crate::fs::replace_file;

const FILE: &str = "applied";

/// Largest file that is read back, in bytes.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Most paths whose merged version is remembered. Beyond that, pushes that meet an edit are conflicts.
pub(super) const MAX_MERGED: usize = 10_000;

/// Generation of pushes that was worked through, and what has to be remembered of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Applied {
    pub(super) generation: u64,
    /// Pushes that were not applied, at most one for a path.
    pub(super) conflicts: Vec<Unapplied>,
    /// Merged versions by path. They are recorded as the push's, and yet hold somebody's edit: the next push must not replace one as if
    /// it were control's own.
    #[serde(default)]
    pub(super) merged: BTreeMap<String, Merged>,
    /// Merged versions that are about to be written, or have just been. Until that is known, the one on disk may be this or the one in `merged`.
    #[serde(default)]
    pub(super) merging: BTreeMap<String, Merged>,
}

/// A push that was merged with a local edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Merged {
    /// What came out.
    pub(super) hash: ContentHash,
    /// What was pushed.
    pub(super) pushed: ContentHash,
    /// What it was pushed for.
    pub(super) base: ContentHash,
}

/// A push that was not applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unapplied {
    /// What others are told.
    #[serde(flatten)]
    pub(super) conflict: Conflict,
    /// What the push was made for.
    #[serde(default = "any")]
    pub(super) base: Base,
}

fn any() -> Base {
    Base::Any
}

impl Applied {
    /// Reads the file. When it is missing or damaged, pushes are worked through from the start, which changes nothing
    /// that is in place already.
    pub(super) fn load(dir: &OwnedFd) -> Self {
        let read = || -> Option<Self> {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = File::from(rustix::fs::openat(dir, FILE, flags, Mode::empty()).ok()?);
            let mut text = Vec::new();
            file.take(MAX_BYTES).read_to_end(&mut text).ok()?;
            serde_json::from_slice(&text).ok()
        };
        read().unwrap_or_default()
    }

    /// Writes the file, on disk before the answer.
    pub(super) async fn saved(&self, dir: &Arc<OwnedFd>) -> io::Result<()> {
        let (copy, dir) = (self.clone(), Arc::clone(dir));
        let saved = tokio::task::spawn_blocking(move || copy.save(&dir)).await;
        saved.unwrap_or_else(|_| Err(io::Error::other("shutting down")))
    }

    /// The same. Blocking.
    fn save(&self, dir: &OwnedFd) -> io::Result<()> {
        replace_file(dir, FILE, &serde_json::to_vec(self)?)
    }

    /// The merge that made this version of a path, if one did.
    pub(super) fn merge_of(&self, path: &str, hash: ContentHash) -> Option<Merged> {
        [&self.merging, &self.merged]
            .into_iter()
            .find_map(|known| known.get(path).filter(|merged| merged.hash == hash))
            .copied()
    }

    /// Something else than a merge is at this path now.
    pub(super) fn forget_merges(&mut self, path: &str) {
        self.merged.remove(path);
        self.merging.remove(path);
    }

    /// The conflicts as others are told of them.
    pub(super) fn told(&self) -> Vec<Conflict> {
        self.conflicts.iter().map(|unapplied| unapplied.conflict.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_file_is_understood() {
        let text = r#"{"generation":3,"conflicts":[{"path":"a","generation":2,"local_hash":null}]}"#;
        let applied: Applied = serde_json::from_str(text).unwrap();
        assert_eq!((applied.generation, applied.conflicts.len(), applied.merged.len()), (3, 1, 0));
        assert_eq!(applied.conflicts[0].base, Base::Any);
        let again: Applied = serde_json::from_slice(&serde_json::to_vec(&applied).unwrap()).unwrap();
        assert_eq!(again, applied);
    }
}
