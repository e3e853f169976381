//! What a transaction does to the disk, one name at a time.

use rustix::fs::RenameFlags;
use serde::{Deserialize, Serialize};
use winston_wire::ContentHash;

use super::super::Edits;
use crate::fs::{EntryKind, FsError, Stat, TenantPath, is_unsupported, rename, rename_back};

/// One change of one name, as it is written in the intent. `slot` is a name in `.winston/staging`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub(in super::super) enum Step {
    /// The staged file takes the path; what was there goes to the slot.
    Put { slot: String, path: TenantPath, hash: ContentHash, size: u64, ours: Identity, replaces: bool },
    /// The file goes to the slot.
    Delete { slot: String, path: TenantPath },
    /// The file (inode `ino`) goes to `to`; what was there goes to the slot.
    Move {
        slot: String,
        from: TenantPath,
        to: TenantPath,
        ino: u64,
        hash: Option<ContentHash>,
        size: u64,
        replaces: bool,
    },
    /// The directory (inode `ino`) goes to `to`, where nothing is.
    MoveDirectory { from: TenantPath, to: TenantPath, ino: u64 },
    /// The directory goes to the slot.
    DeleteDirectory { slot: String, path: TenantPath },
}

/// What identifies a staged file after it was renamed, and after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Identity {
    ino: u64,
    size: u64,
    mtime_ns: i64,
}

impl Identity {
    /// No file has this one.
    pub(super) const NONE: Self = Self { ino: 0, size: 0, mtime_ns: 0 };

    pub(super) fn of(stat: &Stat) -> Self {
        Self { ino: stat.ino, size: stat.size, mtime_ns: stat.mtime_ns }
    }

    /// A stat that [`Stat::is_version`] of the file itself accepts.
    pub(super) fn stat(&self) -> Stat {
        Stat {
            kind: EntryKind::File,
            dev: 0,
            ino: self.ino,
            size: self.size,
            mtime_ns: self.mtime_ns,
            ctime_ns: 0,
            mode: 0,
            uid: 0,
            gid: 0,
            links: 1,
        }
    }
}

impl Step {
    /// Paths whose directories change.
    pub(super) fn paths(&self) -> impl Iterator<Item = &TenantPath> {
        let (one, other) = match self {
            Self::Put { path, .. } | Self::Delete { path, .. } | Self::DeleteDirectory { path, .. } => (path, None),
            Self::Move { from, to, .. } | Self::MoveDirectory { from, to, .. } => (from, Some(to)),
        };
        std::iter::once(one).chain(other)
    }

    /// What it takes out of the tree for good: the slot, and the path that it was at.
    pub(super) fn displaces(&self) -> Option<(&str, &TenantPath)> {
        match self {
            Self::Put { slot, path, replaces: true, .. } | Self::Delete { slot, path } => Some((slot, path)),
            Self::Move { slot, to, replaces: true, .. } => Some((slot, to)),
            _ => None,
        }
    }

    /// Name in the staging directory, when it has one.
    pub(super) fn slot(&self) -> Option<&str> {
        match self {
            Self::Put { slot, .. }
            | Self::Delete { slot, .. }
            | Self::Move { slot, .. }
            | Self::DeleteDirectory { slot, .. } => Some(slot),
            Self::MoveDirectory { .. } => None,
        }
    }
}

impl Edits {
    /// Does a step. [`FsError::Exists`] and [`FsError::NotFound`] say that the agent was there meanwhile.
    pub(in super::super) fn take_step(&self, step: &Step) -> Result<(), FsError> {
        match step {
            Step::Put { slot, path, replaces, .. } => {
                let parent = self.root.parent(path)?;
                if *replaces {
                    self.staging.exchange(slot, &parent.dir, parent.name)
                } else {
                    self.staging.place(slot, &parent.dir, parent.name)
                }
            }
            Step::Delete { slot, path } | Step::DeleteDirectory { slot, path } => {
                let parent = self.root.parent(path)?;
                self.staging.take(slot, &parent.dir, parent.name)
            }
            Step::Move { slot, from, to, replaces: true, .. } => {
                let (source, target) = (self.root.parent(from)?, self.root.parent(to)?);
                // In this order a reader of the target always finds a whole file.
                match rename(&source.dir, source.name, &target.dir, target.name, RenameFlags::EXCHANGE) {
                    Ok(()) => self.staging.take(slot, &source.dir, source.name),
                    Err(FsError::Io(error)) if is_unsupported(&error) => {
                        self.staging.take(slot, &target.dir, target.name)?;
                        rename_back(&source.dir, source.name, &target.dir, target.name)
                    }
                    Err(error) => Err(error),
                }
            }
            Step::Move { from, to, .. } => {
                let (source, target) = (self.root.parent(from)?, self.root.parent(to)?);
                rename_back(&source.dir, source.name, &target.dir, target.name)
            }
            Step::MoveDirectory { from, to, .. } => {
                let (source, target) = (self.root.parent(from)?, self.root.parent(to)?);
                // Without the flag only an empty directory could be replaced, and there is none: the caller has looked.
                match rename(&source.dir, source.name, &target.dir, target.name, RenameFlags::NOREPLACE) {
                    Err(FsError::Io(error)) if is_unsupported(&error) => {
                        rename(&source.dir, source.name, &target.dir, target.name, RenameFlags::empty())
                    }
                    done => done,
                }
            }
        }
    }
}
