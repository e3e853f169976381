//! `.winston/staging`: where new contents wait for their place and displaced ones for their end.
//!
//! It is on the same file system as the tenant's files (a rename cannot leave one) and the agent cannot reach into it.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;

use super::intent::{self, Intent};
use crate::failpoint;
use crate::fs::{
    EntryKind, FsError, Opened, Root, Stat, is_unsupported, remove_tree, rename, rename_back, stat_at, unlink,
};

pub(super) struct Staging {
    dir: OwnedFd,
    /// Differs from start to start: what an earlier one could not settle keeps its name.
    start: u32,
    counter: AtomicU64,
    tenant_uid: u32,
}

/// Ending of the second name that keeps an old version while it is replaced.
const KEPT: &str = ".kept";

/// Owner and permission bits of a new file.
pub(super) struct Ownership {
    pub(super) mode: u32,
    pub(super) owner: Option<(u32, u32)>,
}

/// What a swap took out of the tree.
pub(super) enum Displaced {
    File(Opened),
    Other(EntryKind),
}

impl Staging {
    pub(super) fn open(root: &Root) -> Result<Self, FsError> {
        let start = getrandom::u32().unwrap_or_else(|_| std::process::id());
        let (dir, tenant_uid) = (root.internal_dir(".winston/staging")?, root.tenant_uid());
        Ok(Self { dir, start, counter: AtomicU64::new(0), tenant_uid })
    }

    pub(super) fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// A name for one operation.
    pub(super) fn next_id(&self) -> String {
        format!("{:08x}{:08x}", self.start, self.counter.fetch_add(1, Ordering::Relaxed))
    }

    /// Writes a new content and flushes it. The file stays open: after the swap its stat is the new version's.
    pub(super) fn create(&self, id: &str, content: &[u8], ownership: &Ownership) -> Result<File, FsError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut file = File::from(rustix::fs::openat(&self.dir, id, flags, Mode::from_raw_mode(0o600))?);
        failpoint::here("staged-created");
        failpoint::fails("stage-write")?;
        file.write_all(content)?;
        failpoint::here("staged-written");
        own(&file, ownership)?;
        failpoint::fails("stage-sync")?;
        file.sync_all()?;
        failpoint::here("staged-synced");
        Ok(file)
    }

    pub(super) fn write_intent(&self, id: &str, intent: &Intent) -> Result<(), FsError> {
        intent::write(&self.dir, id, intent)
    }

    /// Swaps the staged file with what is at `name`; both exist before and after.
    pub(super) fn exchange(&self, id: &str, parent: &OwnedFd, name: &str) -> Result<(), FsError> {
        match rename(&self.dir, id, parent, name, RenameFlags::EXCHANGE) {
            // The file system cannot exchange (NFS, some FUSE). A second name keeps the old version while the new one takes its place.
            Err(FsError::Io(error)) if is_unsupported(&error) => {
                let kept = format!("{id}{KEPT}");
                rustix::fs::linkat(parent, name, &self.dir, &kept, AtFlags::empty())?;
                rename(&self.dir, id, parent, name, RenameFlags::empty())?;
                rename(&self.dir, &kept, &self.dir, id, RenameFlags::empty())
            }
            done => done,
        }
    }

    /// Puts the staged file at a free name.
    pub(super) fn place(&self, id: &str, parent: &OwnedFd, name: &str) -> Result<(), FsError> {
        rename_back(&self.dir, id, parent, name)
    }

    /// Takes what is at `name` out of the tree.
    pub(super) fn take(&self, id: &str, parent: &OwnedFd, name: &str) -> Result<(), FsError> {
        rename(parent, name, &self.dir, id, RenameFlags::empty())
    }

    /// Opens what the swap took out of the tree. That can be what was put there since somebody looked, so a hard link to a file that is
    /// not the tenant's is told apart here too: it is a name, and nothing of it may be read, let alone recorded.
    pub(super) fn displaced(&self, id: &str) -> Result<Displaced, FsError> {
        match stat_at(&self.dir, id)? {
            Some(stat) if stat.kind == EntryKind::File => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = File::from(rustix::fs::openat(&self.dir, id, flags, Mode::empty())?);
                let stat = Stat::of(&file)?;
                if stat.is_foreign_link(self.tenant_uid) {
                    return Ok(Displaced::Other(EntryKind::Special));
                }
                Ok(Displaced::File(Opened { file, stat }))
            }
            Some(stat) => Ok(Displaced::Other(stat.kind)),
            None => Err(FsError::NotFound),
        }
    }

    /// Forgets an operation. What cannot be removed now is removed at the next start.
    pub(super) fn clear(&self, id: &str) {
        for result in [rustix::fs::unlinkat(&self.dir, id, AtFlags::empty()), intent::remove(&self.dir, id)] {
            match result {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => tracing::warn!(%errno, id, "could not clear a staged file"),
            }
        }
    }

    /// Gives a staged file the owner and mode of the one that it replaces, durably.
    pub(super) fn adopt(&self, id: &str, ownership: &Ownership) -> Result<(), FsError> {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = File::from(rustix::fs::openat(&self.dir, id, flags, Mode::empty())?);
        let stat = Stat::of(&file)?;
        // Only what we have made ourselves is given away. A swap could have left somebody else's file under this name.
        let makers =
            [Some(rustix::process::geteuid().as_raw()), Some(self.tenant_uid), ownership.owner.map(|(uid, _)| uid)];
        if stat.links != 1 || !makers.contains(&Some(stat.uid)) {
            return Err(FsError::Escape);
        }
        own(&file, ownership)?;
        Ok(file.sync_all()?)
    }

    /// Stat of a staged name; `None` when there is nothing.
    pub(super) fn stat(&self, id: &str) -> Result<Option<Stat>, FsError> {
        stat_at(&self.dir, id)
    }

    /// Removes one staged name, whatever it is. What cannot be removed now is removed at the next start.
    pub(super) fn discard(&self, name: &str) {
        match self.remove(name) {
            Ok(()) | Err(FsError::NotFound) => {}
            Err(error) => tracing::warn!(%error, name, "could not clear a staged file"),
        }
    }

    /// Removes what is at `name`, whatever it is, with everything in it. One rename takes it out of everybody's reach.
    pub(super) fn remove_from(&self, parent: &OwnedFd, name: &str) -> Result<(), FsError> {
        let id = self.next_id();
        self.take(&id, parent, name)?;
        self.discard(&id);
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), FsError> {
        match unlink(&self.dir, name) {
            Err(FsError::NotAFile(EntryKind::Directory)) => self.remove_tree(name),
            // What POSIX says instead of EISDIR.
            Err(FsError::Denied) if matches!(self.stat(name), Ok(Some(stat)) if stat.kind == EntryKind::Directory) => {
                self.remove_tree(name)
            }
            done => done,
        }
    }

    /// Removes a staged directory and everything in it.
    fn remove_tree(&self, name: &str) -> Result<(), FsError> {
        let id = name.split('.').next().unwrap_or(name);
        remove_tree(&self.dir, name, || format!("{id}.d{}", self.counter.fetch_add(1, Ordering::Relaxed)))
    }

    /// Names of everything that is staged.
    pub(super) fn names(&self) -> Result<Vec<String>, FsError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&self.dir, ".", flags, Mode::empty())?;
        let mut names = Vec::new();
        Root::each_entry(dir.as_fd(), |entry| names.extend(String::from_utf8(entry.name)))?;
        Ok(names)
    }

    /// Whether the staged name still is the file that `stat` describes.
    pub(super) fn holds(&self, id: &str, stat: &Stat) -> bool {
        matches!(stat_at(&self.dir, id), Ok(Some(found)) if found.is_version(stat))
    }

    /// Finishes what [`Staging::exchange`] may have left half done without `RENAME_EXCHANGE`: a second name of the old version either
    /// becomes the displaced file or is one name too many.
    pub(super) fn settle_kept(&self) -> Result<(), FsError> {
        for name in self.names()? {
            let Some(id) = name.strip_suffix(KEPT) else { continue };
            match stat_at(&self.dir, id)? {
                // The directory is ours alone, so nothing can come in between.
                None => rename(&self.dir, &name, &self.dir, id, RenameFlags::empty())?,
                Some(_) => unlink(&self.dir, &name)?,
            }
        }
        Ok(())
    }

    /// Removes everything that is staged, but what belongs to the operations in `unsettled`.
    pub(super) fn empty(&self, unsettled: &HashSet<String>) -> Result<(), FsError> {
        for name in self.names()? {
            let id = name.split('.').next().unwrap_or(&name);
            if unsettled.contains(id) {
                continue;
            }
            self.discard(&name);
        }
        Ok(())
    }
}

fn own(file: &File, ownership: &Ownership) -> Result<(), FsError> {
    if let Some((uid, gid)) = ownership.owner {
        match rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
            Ok(()) => {}
            // Only root can give files away; everybody else keeps their own.
            Err(Errno::PERM) if !rustix::process::geteuid().is_root() => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(ownership.mode & 0o1777))?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

    use super::*;

    fn staging(data: &std::path::Path) -> Staging {
        Staging::open(&Root::open(data, None).unwrap()).unwrap()
    }

    /// A staged file gets owner and mode of the one that it replaces. What a swap may have left under its name instead gets nothing: it could be
    /// somebody else's, or have another name.
    #[test]
    fn only_a_file_of_ours_is_given_away() {
        let dir = tempfile::tempdir().unwrap();
        let staging = staging(dir.path());
        let staged = |name: &str| dir.path().join(".winston/staging").join(name);
        let mine = Ownership { mode: 0o600, owner: None };
        staging.create("ours", b"ours", &mine).unwrap();
        staging.adopt("ours", &Ownership { mode: 0o640, owner: None }).unwrap();
        assert_eq!(staged("ours").metadata().unwrap().permissions().mode() & 0o7777, 0o640);

        let wanted = || Ownership { mode: 0o666, owner: None };
        std::fs::hard_link(staged("ours"), dir.path().join("another-name")).unwrap();
        assert!(matches!(staging.adopt("ours", &wanted()), Err(FsError::Escape)));
        std::os::unix::fs::symlink("../../another-name", staged("link")).unwrap();
        assert!(staging.adopt("link", &wanted()).is_err());
        assert!(matches!(staging.adopt("nothing", &wanted()), Err(FsError::NotFound)));
        assert_eq!(staged("ours").metadata().unwrap().permissions().mode() & 0o7777, 0o640);

        // Only root can make files of somebody else's; elsewhere there is nothing to see.
        staging.create("theirs", b"theirs", &mine).unwrap();
        if chown(staged("theirs"), Some(12345), None).is_ok() {
            let given = Ownership { mode: 0o666, owner: Some((54321, 54321)) };
            assert!(matches!(staging.adopt("theirs", &given), Err(FsError::Escape)));
            let stat = staged("theirs").metadata().unwrap();
            assert_eq!((stat.uid(), stat.permissions().mode() & 0o7777), (12345, 0o600));
            // The tenant's own may have come there by a swap that was undone.
            staging.adopt("theirs", &Ownership { mode: 0o644, owner: Some((12345, 12345)) }).unwrap();
        }
    }
}
