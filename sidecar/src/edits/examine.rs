//! Looking at what is on disk, and recording what the journal does not know.

use winston_wire::ContentHash;

use super::commit::{NewVersion, Pending, agent, now_ns};
use super::{Edits, hash_of};
use crate::fs::{Class, EntryKind, FsError, Opened, Stat, TenantPath};
use crate::index::Version;

/// Reads of a file that keeps changing before we take what we got.
const READS: usize = 3;

/// What a path refers to now, as it will be recorded once the pending records are committed.
pub(super) struct Current {
    pub(super) file: Option<OnDisk>,
    /// Version in history, when the path has a history. Without a file it is one whose deletion is held back.
    pub(super) recorded: Option<Version>,
    /// The file changed while it was read.
    pub(super) unstable: bool,
}

/// A regular file on disk.
pub(super) struct OnDisk {
    pub(super) stat: Stat,
    /// `None` when it is over the size limit.
    pub(super) hash: Option<ContentHash>,
}

impl Current {
    pub(super) fn hash(&self) -> Option<ContentHash> {
        self.file.as_ref().and_then(|file| file.hash)
    }

    /// Content of the version that a new one will follow in history.
    pub(super) fn previous(&self) -> Option<ContentHash> {
        let recorded = || self.recorded.and_then(|version| version.hash);
        self.file.as_ref().map_or_else(recorded, |file| file.hash)
    }

    /// Whether a version here will be the first one, as far as history knows.
    pub(super) fn is_new(&self) -> bool {
        self.file.is_none() && self.recorded.is_none()
    }

    /// The file is gone, and nobody knows yet whether it was to go.
    pub(super) fn is_withheld(&self) -> bool {
        self.file.is_none() && self.recorded.is_some()
    }

    pub(super) const ABSENT: Self = Self { file: None, recorded: None, unstable: false };
}

impl Edits {
    /// Looks at a path. Whatever is there that the journal does not know was made by the agent and goes to `pending`.
    ///
    /// The caller holds the path's lock. Fails when something other than a file is there.
    pub(super) fn examine(&self, path: &TenantPath, pending: &mut Pending) -> Result<Current, FsError> {
        let tracked = self.layout.class(path) == Class::Tracked;
        let known = self.index.version(path.as_str());
        let found = match self.root.stat(path) {
            Ok(found) => found,
            // Behind a link now: not a file of the tree any more.
            Err(FsError::Escape) => {
                self.note_gone(path, known, pending);
                return Err(FsError::Escape);
            }
            // Out of file descriptors, an I/O error …: says nothing about the file.
            Err(error) => return Err(error),
        };
        let Some(stat) = found else {
            return Ok(Current { recorded: self.note_gone(path, known, pending), ..Current::ABSENT });
        };
        if stat.kind != EntryKind::File {
            self.note_gone(path, known, pending);
            return Err(FsError::NotAFile(stat.kind));
        }
        if let Some(version) = self.index.matching(path.as_str(), &stat) {
            return Ok(Current {
                file: Some(OnDisk { stat, hash: version.hash }),
                recorded: Some(version),
                unstable: false,
            });
        }
        let at_ns = now_ns();
        self.hashed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let seen = match self.root.open_file(path) {
            Ok(opened) => Seen::read(opened, self.max_file_bytes)?,
            Err(FsError::NotFound) => {
                return Ok(Current { recorded: self.note_gone(path, known, pending), ..Current::ABSENT });
            }
            Err(error) => return Err(error),
        };
        let Seen { stat, hash, content, unstable } = seen;
        let same = match hash {
            Some(_) => known.is_some_and(|version| version.hash == hash),
            None => self.index.same_large(path.as_str(), &stat),
        };
        let version = match known {
            Some(version) if same => version,
            _ => {
                let version = Version { hash, source: winston_wire::Source::Agent };
                if tracked {
                    let previous = known.and_then(|version| version.hash);
                    let created = known.is_none();
                    pending.version(path, &agent(), NewVersion { hash, previous, size: stat.size, created, content });
                }
                version
            }
        };
        if tracked && !unstable {
            pending.seen(path, version, stat, at_ns);
        } else if tracked {
            // Known under a tuple that matches nothing, so the next look reads it again.
            pending.seen(path, version, Stat { ino: 0, ..stat }, at_ns);
        }
        Ok(Current { file: Some(OnDisk { stat, hash }), recorded: tracked.then_some(version), unstable })
    }
}

/// A file's content and the stat that goes with it.
pub(super) struct Seen {
    pub(super) stat: Stat,
    pub(super) hash: Option<ContentHash>,
    pub(super) content: Option<Vec<u8>>,
    pub(super) unstable: bool,
}

impl Seen {
    /// Reads a file; again when it changed meanwhile, up to [`READS`] times.
    pub(super) fn read(mut opened: Opened, limit: u64) -> Result<Self, FsError> {
        for attempt in 1.. {
            let content = opened.read(limit)?;
            let after = Stat::of(&opened.file)?;
            let stable = after == opened.stat;
            if stable || attempt == READS {
                let hash = content.as_deref().map(hash_of);
                return Ok(Self { stat: after, hash, content, unstable: !stable });
            }
            opened.stat = after;
            std::io::Seek::rewind(&mut opened.file)?;
        }
        Err(FsError::NotFound)
    }
}
