//! Several edits, all or nothing, also across a crash.
//!
//! A [`Transaction`] collects operations; contents are staged and flushed while it grows, without any lock. [`Transaction::commit`] then locks
//! all paths and does, under one intent: swap each, flush each directory once, look at what was displaced, append *all* records in one
//! write. That write is the moment of truth: before it, everything goes back; from its first byte on, everything stays
//! (see `docs/adr/0005-transactions.md`).

mod intent;
mod record;
mod run;
mod settle;
mod steps;
mod undo;

use std::collections::HashSet;

use winston_wire::ContentHash;

use super::{Author, EditError, Edits, Precondition, hash_of};
use crate::fs::{Class, FsError, Stat, TenantPath};
use crate::journal::{Content, INLINE_CONTENT_BYTES};

pub(super) use intent::{Set, read as read_intent, remove as remove_intent, write as write_intent};
use steps::Identity;
pub(super) use steps::Step;

/// Most operations of one transaction: its records are one append.
pub(crate) const MAX_OPERATIONS: usize = 10_000;

/// Most bytes of paths of one transaction: they are in its intent.
const MAX_PATHS_BYTES: usize = 4 * 1024 * 1024;

/// Contents of one transaction that stay in memory until they are in their records. Further ones go to `.winston/objects` at once.
const MEMORY_BYTES: usize = 4 * 1024 * 1024;

/// Why a transaction did not happen. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(crate) struct SetError {
    /// Which operation is the reason, counted from 0; `None` when it is the set as a whole.
    pub(crate) index: Option<usize>,
    /// The reason.
    pub(crate) error: EditError,
}

impl<E: Into<EditError>> From<E> for SetError {
    fn from(error: E) -> Self {
        Self { index: None, error: error.into() }
    }
}

fn at(index: usize) -> impl Fn(EditError) -> SetError {
    move |error| SetError { index: Some(index), error }
}

/// What became of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) path: TenantPath,
    /// Content after it; `None` for a delete, or for a moved file over the size limit.
    pub(crate) hash: Option<ContentHash>,
    pub(crate) size: Option<u64>,
    /// The path did not exist before.
    pub(crate) created: bool,
    /// Position in the journal; `None` when nothing had to be recorded.
    pub(crate) seq: Option<u64>,
}

enum Op {
    Put {
        path: TenantPath,
        hash: ContentHash,
        size: u64,
        /// The staged file.
        ours: Identity,
        content: Content,
        precondition: Precondition,
        mode: Option<u32>,
    },
    Delete {
        path: TenantPath,
        precondition: Precondition,
    },
    Move {
        from: TenantPath,
        to: TenantPath,
        source: Precondition,
        target: Precondition,
    },
}

/// A set of edits that is being put together. Dropping it undoes the staging.
pub(crate) struct Transaction<'a> {
    edits: &'a Edits,
    author: &'a Author,
    id: String,
    ops: Vec<Op>,
    /// Directories that are made even when no file goes there.
    directories: Vec<TenantPath>,
    named: HashSet<TenantPath>,
    paths_bytes: usize,
    memory: usize,
    /// Contents kept in `.winston/objects` for our records.
    kept: Vec<ContentHash>,
    /// Something of it is left for the next start to settle: nothing staged may go.
    unsettled: bool,
}

impl Edits {
    /// Begins a transaction. Blocking.
    pub(crate) fn begin<'a>(&'a self, author: &'a Author) -> Result<Transaction<'a>, EditError> {
        self.settled()?;
        Ok(Transaction {
            edits: self,
            author,
            id: self.staging.next_id(),
            ops: Vec::new(),
            directories: Vec::new(),
            named: HashSet::new(),
            paths_bytes: 0,
            memory: 0,
            kept: Vec::new(),
            unsettled: false,
        })
    }
}

impl Transaction<'_> {
    fn slot(&self, index: usize) -> String {
        slot(&self.id, index)
    }

    /// A path takes part; once only, because a set has no order.
    fn claim(&mut self, path: &TenantPath) -> Result<(), EditError> {
        self.edits.permit(path)?;
        self.paths_bytes += path.as_str().len();
        if self.ops.len() + self.directories.len() >= MAX_OPERATIONS {
            return Err(EditError::TooMany { what: "operations", limit: MAX_OPERATIONS as u64 });
        }
        if self.paths_bytes > MAX_PATHS_BYTES {
            return Err(EditError::TooMany { what: "bytes of paths", limit: MAX_PATHS_BYTES as u64 });
        }
        if self.named.insert(path.clone()) { Ok(()) } else { Err(EditError::Duplicate) }
    }

    /// The file will have this content; it is staged durably before this returns. `mode` replaces the permission bits, otherwise those of the file
    /// that is there are kept. Blocking.
    pub(crate) fn put(
        &mut self,
        path: TenantPath,
        bytes: &[u8],
        precondition: Precondition,
        mode: Option<u32>,
    ) -> Result<(), EditError> {
        if bytes.len() as u64 > self.edits.max_file_bytes {
            return Err(EditError::TooLarge { limit: self.edits.max_file_bytes });
        }
        self.claim(&path)?;
        let hash = hash_of(bytes);
        let slot = self.slot(self.ops.len());
        let staged = self.edits.stage_for(&slot, &path, bytes, mode).map_err(EditError::from);
        let staged = staged.and_then(|ours| Ok((ours, self.keep(hash, bytes)?)));
        let (ours, content) = staged.inspect_err(|_| self.edits.staging.discard(&slot))?;
        self.ops.push(Op::Put { path, hash, size: bytes.len() as u64, ours, content, precondition, mode });
        Ok(())
    }

    fn keep(&mut self, hash: ContentHash, bytes: &[u8]) -> Result<Content, EditError> {
        if bytes.len() <= INLINE_CONTENT_BYTES && self.memory + bytes.len() <= MEMORY_BYTES {
            self.memory += bytes.len();
            return Ok(Content::Inline(bytes.to_vec()));
        }
        self.edits.journal.keep_object(hash, bytes)?;
        self.kept.push(hash);
        Ok(Content::Stored)
    }

    /// The file will be gone.
    pub(crate) fn delete(&mut self, path: TenantPath, precondition: Precondition) -> Result<(), EditError> {
        self.claim(&path)?;
        self.ops.push(Op::Delete { path, precondition });
        Ok(())
    }

    /// The file will be at `to`. With [`Precondition::Absent`] about the target, one that is there is [`FsError::Exists`].
    pub(crate) fn move_file(
        &mut self,
        from: TenantPath,
        to: TenantPath,
        source: Precondition,
        target: Precondition,
    ) -> Result<(), EditError> {
        self.claim(&from)?;
        self.claim(&to)?;
        self.ops.push(Op::Move { from, to, source, target });
        Ok(())
    }

    /// The directory will be there, even empty.
    pub(crate) fn directory(&mut self, path: TenantPath) -> Result<(), EditError> {
        self.claim(&path)?;
        self.directories.push(path);
        Ok(())
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.unsettled {
            for index in 0..self.ops.len() {
                self.edits.staging.discard(&self.slot(index));
            }
        }
        if !self.kept.is_empty() {
            self.edits.journal.release_objects(&self.kept);
        }
    }
}

/// Name in `.winston/staging` of what belongs to one operation.
fn slot(id: &str, index: usize) -> String {
    format!("{id}.{index}")
}

impl Op {
    /// Every path that it touches.
    fn paths(&self) -> impl Iterator<Item = &TenantPath> {
        let (one, other) = match self {
            Self::Put { path, .. } | Self::Delete { path, .. } => (path, None),
            Self::Move { from, to, .. } => (from, Some(to)),
        };
        std::iter::once(one).chain(other)
    }
}

impl Edits {
    /// Stages a content as a new file would be.
    fn stage_for(&self, slot: &str, path: &TenantPath, bytes: &[u8], mode: Option<u32>) -> Result<Identity, FsError> {
        let file = self.staging.create(slot, bytes, &self.ownership_of_new(path, mode))?;
        self.count_flush();
        Ok(Identity::of(&Stat::of(&file)?))
    }

    /// Whether changes of a path are recorded: it is tracked, or the API has put a file there, which is recorded wherever it is.
    pub(super) fn has_history(&self, path: &TenantPath) -> bool {
        self.layout.class(path) == Class::Tracked || self.index.version(path.as_str()).is_some()
    }

    /// Makes a directory and its parents; whatever is there already stays.
    pub(super) fn make_directories(&self, path: &TenantPath) -> Result<(), FsError> {
        match path.child("x") {
            Some(child) => self.root.parent_created(&child).map(|_| ()),
            None => Err(FsError::NameTooLong),
        }
    }
}
