//! Looking at a path on behalf of the sync.

use std::io::Read as _;

use winston_wire::{ContentHash, Source};

use super::commit::Pending;
use super::{EditError, Edits};
use crate::fs::{FsError, TenantPath};
use crate::journal::Cursor;

/// How far back a content is looked for in the journal, and how much of it is in memory at once.
const SEARCHED_RECORDS: u64 = 1000;
const SEARCHED_AT_ONCE: usize = 50;
const SEARCHED_BYTES: usize = 1024 * 1024;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing.
    Absent,
    /// Nothing, and whether the recorded file was to go is not known: its deletion is held back.
    Withheld,
    /// A file of at most the size limit.
    File {
        /// Its content's hash.
        hash: ContentHash,
        /// Who made this version; `None` for a path without history.
        source: Option<Source>,
    },
    /// A file over the size limit, or no file.
    Opaque,
}

impl Edits {
    /// Looks at a path; what the journal does not know of it is recorded first. Blocking.
    pub(crate) fn look(&self, path: &TenantPath) -> Result<Look, EditError> {
        self.permit(path)?;
        self.settled()?;
        let _lock = self.locks.lock(std::iter::once(path.as_str()));
        let mut pending = Pending::default();
        let examined = self.examine(path, &mut pending);
        self.commit(pending)?;
        match examined {
            Ok(current) if current.is_withheld() => Ok(Look::Withheld),
            Ok(current) if current.file.is_none() => Ok(Look::Absent),
            Ok(current) => Ok(current.hash().map_or(Look::Opaque, |hash| Look::File {
                hash,
                source: current.recorded.map(|version| version.source),
            })),
            Err(FsError::NotAFile(_)) => Ok(Look::Opaque),
            Err(error) => Err(error.into()),
        }
    }

    /// The content at a path, if it has this hash and is not over the size limit. Blocking.
    pub(crate) fn content(&self, path: &TenantPath, hash: ContentHash) -> Result<Option<Vec<u8>>, EditError> {
        self.permit(path)?;
        let mut opened = match self.root.open_file(path) {
            Err(FsError::NotFound | FsError::NotADirectory | FsError::NotAFile(_)) => return Ok(None),
            opened => opened?,
        };
        let content = opened.read(self.max_file_bytes)?;
        Ok(content.filter(|content| super::hash_of(content) == hash))
    }

    /// A content that the newest records carry. Blocking.
    pub(crate) fn recorded_content(&self, hash: ContentHash) -> Option<Vec<u8>> {
        if let Ok(Some(object)) = self.journal.object(hash) {
            let mut content = Vec::new();
            object.take(self.max_file_bytes).read_to_end(&mut content).ok()?;
            return Some(content).filter(|content| super::hash_of(content) == hash);
        }
        let mut cursor = Cursor::after(self.journal.head_seq().saturating_sub(SEARCHED_RECORDS));
        loop {
            let batch = self.journal.read(&mut cursor, SEARCHED_AT_ONCE, SEARCHED_BYTES).ok()?;
            if batch.records.is_empty() {
                return None;
            }
            let found =
                batch.records.into_iter().find(|record| record.change.hash == Some(hash) && record.inline.is_some());
            if let Some(record) = found {
                return record.inline;
            }
        }
    }
}
