//! Copying a file or a directory.

use super::super::{Author, EditError, Edits, Precondition, SetError};
use crate::fs::{EntryKind, FsError, TenantPath};

/// Most bytes of one copy.
const MAX_COPY_BYTES: u64 = 256 * 1024 * 1024;

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) files: usize,
    pub(crate) bytes: u64,
    /// Links and special files: left out.
    pub(crate) skipped: Vec<String>,
    /// Content, when one file was copied.
    pub(crate) hash: Option<winston_wire::ContentHash>,
    /// Last of the records.
    pub(crate) seq: Option<u64>,
}

impl Edits {
    /// Copies a file, or a directory with the regular files and directories in it, as one transaction. Without `overwrite` nothing may be at
    /// `to`; with it files replace files, and a directory is merged into the one that is there. Blocking.
    pub(crate) fn copy(
        &self,
        from: &TenantPath,
        to: &TenantPath,
        author: &Author,
        source: Precondition,
        overwrite: bool,
    ) -> Result<Copied, EditError> {
        self.permit(from)?;
        self.permit(to)?;
        let there = self.root.stat(to)?;
        if there.is_some() && !overwrite {
            return Err(FsError::Exists.into());
        }
        let kind = self.root.stat(from)?.map(|stat| stat.kind);
        let target = if overwrite { Precondition::None } else { Precondition::Absent };
        let mut set = self.begin(author)?;
        let mut copied = Copied { files: 0, bytes: 0, skipped: Vec::new(), hash: None, seq: None };
        match kind {
            None => return Err(FsError::NotFound.into()),
            Some(EntryKind::File) => {
                let mut opened = self.root.open_file(from)?;
                let mode = opened.stat.mode & 0o777;
                let bytes = opened.read(self.max_file_bytes)?;
                let bytes = bytes.ok_or(EditError::TooLarge { limit: self.max_file_bytes })?;
                check_source(source, super::super::hash_of(&bytes))?;
                copied.files = 1;
                copied.bytes = bytes.len() as u64;
                set.put(to.clone(), &bytes, target, Some(mode))?;
            }
            Some(EntryKind::Directory) => {
                if !matches!(source, Precondition::None | Precondition::Present) {
                    return Err(EditError::PreconditionFailed { current: None });
                }
                if to.is_within(from) {
                    return Err(EditError::IntoItself);
                }
                set.directory(to.clone())?;
                let survey = self.survey(from, from, |_| true)?;
                copied.skipped = survey.others;
                for directory in survey.directories {
                    set.directory(directory.rebased(from, to).ok_or(FsError::NameTooLong)?)?;
                }
                for (file, stat) in survey.files {
                    let path = file.rebased(from, to).ok_or(FsError::NameTooLong)?;
                    let mut opened = match self.root.open_file(&file) {
                        Ok(opened) => opened,
                        // The agent removed or replaced it meanwhile.
                        Err(error) if error.is_about_the_path() || matches!(error, FsError::NotFound) => continue,
                        Err(error) => return Err(error.into()),
                    };
                    let bytes = opened.read(self.max_file_bytes)?;
                    let bytes = bytes.ok_or(EditError::TooLarge { limit: self.max_file_bytes })?;
                    copied.files += 1;
                    copied.bytes += bytes.len() as u64;
                    if copied.bytes > MAX_COPY_BYTES {
                        return Err(EditError::TooMany { what: "bytes", limit: MAX_COPY_BYTES });
                    }
                    set.put(path, &bytes, target, Some(stat.mode & 0o777))?;
                }
            }
            Some(kind) => return Err(FsError::NotAFile(kind).into()),
        }
        let outcomes = set.commit().map_err(|SetError { error, .. }| match error {
            // The target came into being since we looked.
            EditError::PreconditionFailed { .. } if !overwrite => FsError::Exists.into(),
            error => error,
        })?;
        copied.seq = outcomes.iter().filter_map(|outcome| outcome.seq).max();
        copied.hash = outcomes.first().filter(|_| kind == Some(EntryKind::File)).and_then(|outcome| outcome.hash);
        Ok(copied)
    }
}

fn check_source(source: Precondition, hash: winston_wire::ContentHash) -> Result<(), EditError> {
    match source {
        Precondition::Match(expected) if expected != hash => Err(EditError::PreconditionFailed { current: Some(hash) }),
        Precondition::Absent => Err(EditError::PreconditionFailed { current: Some(hash) }),
        _ => Ok(()),
    }
}
