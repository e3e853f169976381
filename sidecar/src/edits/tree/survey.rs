//! What is below a directory.

use std::collections::HashSet;
use std::os::fd::AsFd;

use super::super::commit::Pending;
use super::super::{EditError, Edits};
use super::{MAX_ENTRIES, MAX_RECORDS};
use crate::fs::{Class, EntryKind, FsError, Root, Stat, TenantPath};

/// Everything below one directory that an edit of the whole has to know, bounded.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Regular files that matter to the caller of [`Edits::survey`], with their paths as they are *named* (not as they are reached).
    pub(super) files: Vec<(TenantPath, Stat)>,
    /// Directories below, as they are named.
    pub(super) directories: Vec<TenantPath>,
    /// Links, special files and names that are no text, as they are named where possible.
    pub(super) others: Vec<String>,
    /// Everything.
    pub(super) entries: usize,
}

impl Edits {
    /// Lists everything below `reached`, as if it were below `named`. Files are listed when `matters` says so of their named path.
    ///
    /// Fails with [`EditError::Secret`] or [`EditError::Internal`] when something may not be touched.
    pub(super) fn survey(
        &self,
        reached: &TenantPath,
        named: &TenantPath,
        matters: impl Fn(&TenantPath) -> bool,
    ) -> Result<Survey, EditError> {
        let mut survey = Survey::default();
        let mut waiting = vec![(reached.clone(), named.clone())];
        while let Some((reached, named)) = waiting.pop() {
            let dir = match self.root.open_dir(&reached) {
                Ok(dir) => dir,
                // Gone or replaced meanwhile; what was asked for itself must be there.
                Err(FsError::NotFound | FsError::NotADirectory | FsError::Escape) if survey.entries > 0 => continue,
                Err(error) => return Err(error.into()),
            };
            let mut refused = Ok(());
            Root::each_entry(dir.as_fd(), |entry| {
                survey.entries += 1;
                if refused.is_err() || survey.entries > MAX_ENTRIES || survey.files.len() > MAX_RECORDS {
                    return;
                }
                let text = std::str::from_utf8(&entry.name).ok();
                let Some((below, path)) = text.and_then(|name| Some((reached.child(name)?, named.child(name)?))) else {
                    survey.others.push(format!("{named}/{}", String::from_utf8_lossy(&entry.name)));
                    return;
                };
                match self.layout.class(&path) {
                    Class::Secret => refused = Err(EditError::Secret),
                    Class::Internal => refused = Err(EditError::Internal),
                    Class::Tracked | Class::Untracked => {}
                }
                match entry.stat.kind {
                    EntryKind::Directory => {
                        waiting.push((below, path.clone()));
                        survey.directories.push(path);
                    }
                    EntryKind::File if matters(&path) => survey.files.push((path, entry.stat)),
                    EntryKind::File => {}
                    EntryKind::Symlink | EntryKind::Special => survey.others.push(path.as_str().to_owned()),
                }
            })?;
            refused?;
            if survey.entries > MAX_ENTRIES {
                return Err(EditError::TooMany { what: "entries of a directory", limit: MAX_ENTRIES as u64 });
            }
            if survey.files.len() > MAX_RECORDS {
                return Err(EditError::TooMany { what: "files with a history", limit: MAX_RECORDS as u64 });
            }
        }
        Ok(survey)
    }

    /// Records what the agent did below a directory, so that the index is right about it. The caller holds all locks.
    pub(super) fn absorb_below(&self, directory: &TenantPath, survey: &Survey) -> Result<(), EditError> {
        let mut pending = Pending::default();
        let present: HashSet<_> = survey.files.iter().map(|(path, _)| path).collect();
        let vanished: Vec<_> =
            self.indexed_below(directory).into_iter().filter(|path| !present.contains(path)).collect();
        for path in survey.files.iter().map(|(path, _)| path).chain(&vanished) {
            match self.examine(path, &mut pending) {
                Ok(_) => {}
                Err(error) if error.is_about_the_path() => {}
                Err(error) => {
                    self.commit(pending)?;
                    return Err(error.into());
                }
            }
            if pending.is_large() {
                self.commit(std::mem::take(&mut pending))?;
            }
        }
        self.commit(pending)?;
        Ok(())
    }

    /// Everything that the index knows below a directory.
    pub(in super::super) fn indexed_below(&self, directory: &TenantPath) -> Vec<TenantPath> {
        self.index.below(directory.as_str())
    }

    /// Refuses the root, our directory, the state directory, the workspace, and what they are in.
    pub(super) fn permit_whole(&self, path: &TenantPath) -> Result<(), EditError> {
        let needed = path.is_root() || self.layout.state.is_within(path) || self.layout.workspace.is_within(path);
        if needed { Err(EditError::Protected) } else { self.permit(path) }
    }

    /// What is at a path, if it is a directory.
    pub(super) fn directory_at(&self, path: &TenantPath) -> Result<Option<Stat>, FsError> {
        Ok(self.root.stat(path)?.filter(|stat| stat.kind == EntryKind::Directory))
    }
}
