//! `.winston/staging`: where new contents wait for their place and displaced ones for their end.
//!
//! It is on the same file system as the tenant's files (a rename cannot leave one) and the agent cannot reach into it.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;

use super::intent::{self, Intent};
use crate::fs::{EntryKind, FsError, Opened, Root, Stat, rename, stat_at};

pub(super) struct Staging {
    dir: OwnedFd,
    counter: AtomicU64,
}

/// Owner and permission bits of a new file.
pub(super) struct Ownership {
    pub(super) mode: u32,
    pub(super) owner: Option<(u32, u32)>,
}

/// What a swap took out of the tree.
pub(super) enum Displaced {
    File(Opened),
    Other,
}

impl Staging {
    pub(super) fn open(root: &Root) -> Result<Self, FsError> {
        Ok(Self { dir: root.internal_dir(".winston/staging")?, counter: AtomicU64::new(0) })
    }

    pub(super) fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// A name for one operation. Names need not survive a restart: recovery empties the directory.
    pub(super) fn next_id(&self) -> String {
        format!("{:016x}", self.counter.fetch_add(1, Ordering::Relaxed))
    }

    /// Writes a new content and flushes it. The file stays open: after the swap its stat is the new version's.
    pub(super) fn create(&self, id: &str, content: &[u8], ownership: &Ownership) -> Result<File, FsError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut file = File::from(rustix::fs::openat(&self.dir, id, flags, Mode::from_raw_mode(0o600))?);
        file.write_all(content)?;
        if let Some((uid, gid)) = ownership.owner {
            match rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
                Ok(()) => {}
                // Only root can give files away; everybody else keeps their own.
                Err(Errno::PERM) if !rustix::process::geteuid().is_root() => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(ownership.mode & 0o1777))?;
        file.sync_all()?;
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
                let kept = format!("{id}.kept");
                rustix::fs::linkat(parent, name, &self.dir, &kept, AtFlags::empty())?;
                rename(&self.dir, id, parent, name, RenameFlags::empty())?;
                rename(&self.dir, &kept, &self.dir, id, RenameFlags::empty())
            }
            done => done,
        }
    }

    /// Puts the staged file at a free name.
    pub(super) fn place(&self, id: &str, parent: &OwnedFd, name: &str) -> Result<(), FsError> {
        match rename(&self.dir, id, parent, name, RenameFlags::NOREPLACE) {
            // A hard link never replaces, so it does the same where the flag is not supported.
            Err(FsError::Io(error)) if is_unsupported(&error) => {
                rustix::fs::linkat(&self.dir, id, parent, name, AtFlags::empty())?;
                Ok(rustix::fs::unlinkat(&self.dir, id, AtFlags::empty())?)
            }
            done => done,
        }
    }

    /// Takes what is at `name` out of the tree.
    pub(super) fn take(&self, id: &str, parent: &OwnedFd, name: &str) -> Result<(), FsError> {
        rename(parent, name, &self.dir, id, RenameFlags::empty())
    }

    /// Opens what the swap took out of the tree.
    pub(super) fn displaced(&self, id: &str) -> Result<Displaced, FsError> {
        match stat_at(&self.dir, id)? {
            Some(stat) if stat.kind == EntryKind::File => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = File::from(rustix::fs::openat(&self.dir, id, flags, Mode::empty())?);
                let stat = Stat::of(&file)?;
                Ok(Displaced::File(Opened { file, stat }))
            }
            Some(_) => Ok(Displaced::Other),
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

    /// Names of everything that is staged.
    pub(super) fn names(&self) -> Result<Vec<String>, FsError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&self.dir, ".", flags, Mode::empty())?;
        let mut names = Vec::new();
        Root::each_entry(dir.as_fd(), |entry| names.extend(String::from_utf8(entry.name)))?;
        Ok(names)
    }

    /// Removes everything that is staged. A directory that a race displaced here is left for a person.
    pub(super) fn empty(&self) -> Result<(), FsError> {
        for name in self.names()? {
            if let Err(errno) = rustix::fs::unlinkat(&self.dir, &name, AtFlags::empty()) {
                tracing::warn!(%errno, name, "could not clear a staged file");
            }
        }
        Ok(())
    }
}

fn is_unsupported(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP))
}
