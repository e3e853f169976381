//! The one write path: the only code that changes a tenant's file and the only code that records a change.
//!
//! Everything here is synchronous and is called from blocking threads; the order of steps is what makes it safe, and it can be read from
//! top to bottom. `docs/ARCHITECTURE.md` tells the same story in prose.

mod absorb;
mod commit;
mod delete;
mod examine;
#[cfg(test)]
mod fuzz;
mod gone;
mod intent;
mod locks;
mod look;
mod ownership;
mod put;
mod recover;
mod restate;
mod staging;
mod swap;
mod transaction;
mod tree;
mod withheld;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};
use winston_wire::{ContentHash, Source};

use crate::fs::{Class, EntryKind, FsError, Layout, Root, TenantPath};
use crate::index::{Index, Record};
use crate::journal::{self, Journal, JournalError};

pub(crate) use absorb::Move;
pub(crate) use look::Look;
pub(crate) use transaction::{Outcome, SetError, Transaction};
pub(crate) use withheld::{Halt, Withheld};

use locks::PathLocks;
use staging::Staging;

/// Attempts at an edit while the agent changes the same path underneath us.
const ATTEMPTS: usize = 16;

/// Who makes a change.
#[derive(Debug, Clone)]
pub(crate) struct Author {
    pub(crate) source: Source,
    pub(crate) actor: Option<String>,
    /// Generation of the push, for [`Source::System`].
    pub(crate) generation: Option<u64>,
}

/// What must be there for an edit to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precondition {
    /// Whatever is there is replaced; it stays in history.
    None,
    /// `If-Match`: exactly this content.
    Match(ContentHash),
    /// `If-Match: *`: anything.
    Present,
    /// `If-None-Match: *`: nothing.
    Absent,
    /// A push for any version: like [`Precondition::None`], and removing what is not there is no error.
    Force,
}

/// Why an edit did not happen. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EditError {
    /// Our own directory.
    #[error("Cannot modify .winston directory")]
    Internal,
    /// Credentials and live databases.
    #[error("this path holds credentials or a live database and is not served")]
    Secret,
    /// Over the size limit.
    #[error("file is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    /// More in one request than one transaction takes.
    #[error("at most {limit} {what} in one request")]
    TooMany { what: &'static str, limit: u64 },
    /// A path is named twice in one transaction.
    #[error("this path is named twice")]
    Duplicate,
    /// A directory that the tenant cannot be without, or that holds one.
    #[error("this directory is needed and cannot be removed or moved")]
    Protected,
    /// A directory with entries, and nobody said that they may go.
    #[error("the directory is not empty")]
    NotEmpty,
    /// A directory cannot go into itself.
    #[error("a directory cannot go into itself")]
    IntoItself,
    /// The precondition does not hold.
    #[error("the file has changed")]
    PreconditionFailed { current: Option<ContentHash> },
    /// The path changed faster than we could follow.
    #[error("the file keeps changing; try again")]
    Busy,
    /// The file system.
    #[error("{0}")]
    Fs(#[from] FsError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// A finished edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) hash: ContentHash,
    pub(crate) size: u64,
    /// The path did not exist before.
    pub(crate) created: bool,
    /// Position in the journal; `None` when the content was there already.
    pub(crate) seq: Option<u64>,
}

/// See the module.
pub(crate) struct Edits {
    root: Arc<Root>,
    layout: Layout,
    index: Index,
    journal: Journal,
    staging: Staging,
    withheld: Withheld,
    /// A file with a history that was there when it was last looked for one.
    survivor: Mutex<Option<TenantPath>>,
    locks: PathLocks,
    max_file_bytes: u64,
    data_flushes: AtomicU64,
    hashed: AtomicU64,
    /// What an earlier process left half done has been settled.
    is_settled: AtomicBool,
    /// The tree has been compared with the index once since the start.
    is_compared: AtomicBool,
    settling: Mutex<()>,
}

impl Edits {
    /// Takes over a data directory: opens the journal, settles what a crash left half done, loads the index.
    pub(crate) fn open(
        root: Arc<Root>,
        layout: Layout,
        max_file_bytes: u64,
        limits: journal::Limits,
    ) -> Result<Self, EditError> {
        let opening = Journal::identify(&root)?;
        let is_used = || layout.config_file().is_some_and(|file| matches!(root.stat(&file), Ok(Some(_))));
        if opening.is_new() && is_used() {
            // It may be right: the files of another installation. Where somebody moved the history away, nobody must find out later.
            tracing::warn!(
                epoch = %opening.epoch(),
                "there are files of a tenant and no history of them: a new one begins. If .winston was here before, stop, put it back, start again"
            );
        }
        let index = Index::load(&root.internal_dir(".winston")?, opening.epoch());
        let journal = opening.open(limits, &mut |change| index.replay(change))?;
        index.replayed(journal.head_seq());
        let staging = Staging::open(&root)?;
        let withheld = Withheld::open(root.internal_dir(".winston")?);
        let edits = Self {
            root,
            layout,
            index,
            journal,
            staging,
            withheld,
            survivor: Mutex::new(None),
            locks: PathLocks::new(),
            max_file_bytes,
            data_flushes: AtomicU64::new(0),
            hashed: AtomicU64::new(0),
            is_settled: AtomicBool::new(false),
            is_compared: AtomicBool::new(false),
            settling: Mutex::new(()),
        };
        if let Err(error) = edits.settled() {
            tracing::error!(%error, "interrupted writes cannot be settled yet; edits wait for it");
        }
        Ok(edits)
    }

    /// The journal.
    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The tenant's root.
    pub(crate) fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// Where things are in the root.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What is recorded about the files.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// Size limit of one file, in bytes.
    pub(crate) fn max_file_bytes(&self) -> u64 {
        self.max_file_bytes
    }

    /// Flushes of files and directories so far.
    pub(crate) fn data_flushes(&self) -> u64 {
        self.data_flushes.load(Ordering::Relaxed)
    }

    /// Files whose content was read to compare it, so far.
    pub(crate) fn hashed(&self) -> u64 {
        self.hashed.load(Ordering::Relaxed)
    }

    fn count_flush(&self) {
        self.data_flushes.fetch_add(1, Ordering::Relaxed);
    }

    /// What is recorded about a path, once no edit of it is under way. Blocking.
    pub(crate) fn recorded(&self, path: &TenantPath) -> Option<Record> {
        let _lock = self.locks.lock(std::iter::once(path.as_str()));
        self.index.record(path.as_str())
    }

    /// Writes the index to disk. Blocking.
    pub(crate) fn save_index(&self) -> Result<(), JournalError> {
        let internal = self.root.internal_dir(".winston")?;
        self.index.save(&internal, self.journal.epoch())?;
        Ok(())
    }

    /// Removes something that has no history, with everything in it. Blocking.
    pub(crate) fn discard(&self, parent: &OwnedFd, name: &str) -> Result<(), FsError> {
        self.staging.remove_from(parent, name)
    }

    /// Refuses paths that callers may not touch.
    pub(crate) fn permit(&self, path: &TenantPath) -> Result<(), EditError> {
        match self.layout.class(path) {
            Class::Internal => Err(EditError::Internal),
            Class::Secret => Err(EditError::Secret),
            Class::Untracked | Class::Tracked if path.is_root() => Err(FsError::NotAFile(EntryKind::Directory).into()),
            Class::Untracked | Class::Tracked => Ok(()),
        }
    }
}

impl Precondition {
    /// Whether it holds over what is there. `hash` is the content of a file that is there, `None` over the size limit.
    pub(crate) fn holds(self, is_there: bool, hash: Option<ContentHash>) -> bool {
        match self {
            Self::None | Self::Force => true,
            Self::Match(expected) => hash == Some(expected),
            Self::Present => is_there,
            Self::Absent => !is_there,
        }
    }

    /// Checks what is there.
    fn check(self, current: &examine::Current) -> Result<(), EditError> {
        let (is_there, hash) = (current.file.is_some(), current.hash());
        if self.holds(is_there, hash) { Ok(()) } else { Err(EditError::PreconditionFailed { current: hash }) }
    }

    /// For an intent: the version that is there, if the edit may replace no other.
    fn only_over(self, current: Option<ContentHash>) -> Option<Option<ContentHash>> {
        self.is_strict().then_some(current)
    }

    /// Whether a version that slipped in must stop the edit instead of being recorded and replaced.
    fn is_strict(self) -> bool {
        !matches!(self, Self::None | Self::Force)
    }
}

/// SHA-256 of some bytes.
pub(crate) fn hash_of(bytes: &[u8]) -> ContentHash {
    ContentHash::from_bytes(Sha256::digest(bytes).into())
}
