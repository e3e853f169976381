//! Making a directory and changing permission bits.

use rustix::fs::Mode;

use super::super::commit::{Pending, now_ns};
use super::super::{EditError, Edits, Precondition};
use crate::fs::{EntryKind, FsError, Stat, TenantPath};

impl Edits {
    /// Makes a directory and its parents. `false` when it was there. Blocking.
    pub(crate) fn make_directory(&self, path: &TenantPath) -> Result<bool, EditError> {
        self.permit(path)?;
        self.settled()?;
        let _lock = self.locks.lock(std::iter::once(path.as_str()));
        match self.root.stat(path)?.map(|stat| stat.kind) {
            Some(EntryKind::Directory) => return Ok(false),
            Some(EntryKind::Symlink) => return Err(FsError::Escape.into()),
            Some(_) => return Err(FsError::Exists.into()),
            None => {}
        }
        self.make_directories(path)?;
        Ok(true)
    }

    /// Sets the permission bits of a file or a directory. By handle, so never of what a link leads to. Returns them as they are then. Blocking.
    pub(crate) fn set_mode(&self, path: &TenantPath, mode: u32, precondition: Precondition) -> Result<u32, EditError> {
        self.permit(path)?;
        self.settled()?;
        let _lock = self.locks.lock(std::iter::once(path.as_str()));
        if self.directory_at(path)?.is_some() {
            if !matches!(precondition, Precondition::None | Precondition::Present) {
                return Err(EditError::PreconditionFailed { current: None });
            }
            self.permit_whole(path)?;
            let dir = self.root.open_dir(path)?;
            rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode)).map_err(FsError::from)?;
            rustix::fs::fsync(&dir).map_err(FsError::from)?;
            self.count_flush();
            return Ok(Stat::of(&dir)?.mode);
        }
        let mut pending = Pending::default();
        let examined = self.examine(path, &mut pending);
        self.commit(pending)?;
        let current = examined?;
        precondition.check(&current)?;
        let opened = self.root.open_file(path)?;
        rustix::fs::fchmod(&opened.file, Mode::from_raw_mode(self.mode_for(path, mode))).map_err(FsError::from)?;
        opened.file.sync_all().map_err(FsError::from)?;
        self.count_flush();
        let stat = Stat::of(&opened.file)?;
        // The same version under another stat, unless it was written to meanwhile.
        if let (Some(version), Some(file)) = (current.recorded, &current.file)
            && stat.is_version(&file.stat)
        {
            let mut pending = Pending::default();
            pending.seen(path, version, stat, now_ns());
            self.commit(pending)?;
        }
        Ok(stat.mode)
    }
}
