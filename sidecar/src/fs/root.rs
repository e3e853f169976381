//! The confined handle on a tenant's data directory.
//!
//! Every path is resolved by the kernel, relative to one directory handle, with `openat2(2)` and
//! `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS`: whatever a tenant does to its tree, also between two of our system
//! calls, resolution cannot leave it. Links are not followed even inside the root, because a link is another name for a file and could
//! lead around the rules for secrets and for our own directory. Mutations act on one name in a parent directory that was opened that way.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags};
use rustix::io::{Errno, ReadWriteFlags};
use winston_wire::Timestamp;

use super::TenantPath;
use super::class::INTERNAL;

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Longer than a removed name stays in the kernel's memory after it was counted out: microseconds, or as long as the remover is not run.
const NAME_GOES: Duration = Duration::from_millis(200);

/// Why the file system did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FsError {
    /// No such file or directory.
    #[error("not found")]
    NotFound,
    /// The path is, or passes through, a symbolic link, or resolution would leave the root.
    #[error("Access denied")]
    Escape,
    /// A file was wanted and something else is there.
    #[error("is a {}", .0.as_str())]
    NotAFile(EntryKind),
    /// A component that should be a directory is not one.
    #[error("not a directory")]
    NotADirectory,
    /// Somebody created the name meanwhile.
    #[error("already exists")]
    Exists,
    /// Disk or quota is full.
    #[error("no space left on the volume")]
    NoSpace,
    /// The volume is mounted read-only.
    #[error("the volume is read-only")]
    ReadOnly,
    /// The operating system refused: permissions.
    #[error("permission denied by the file system")]
    Denied,
    /// The file system does not take such a name.
    #[error("name too long for the file system")]
    NameTooLong,
    /// The path is on another file system than the data directory.
    #[error("is on another file system than the data directory; mount the volume at WINSTON_DATA_DIR itself")]
    CrossDevice,
    /// Anything else.
    #[error(transparent)]
    Io(io::Error),
}

impl From<Errno> for FsError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::NotFound,
            Errno::LOOP => Self::Escape,
            Errno::ISDIR => Self::NotAFile(EntryKind::Directory),
            // ENXIO: a socket, or a FIFO opened for writing without a reader.
            Errno::NXIO => Self::NotAFile(EntryKind::Special),
            Errno::NOTDIR => Self::NotADirectory,
            Errno::EXIST => Self::Exists,
            Errno::NOSPC | Errno::DQUOT => Self::NoSpace,
            Errno::ROFS => Self::ReadOnly,
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::NAMETOOLONG => Self::NameTooLong,
            Errno::XDEV => Self::CrossDevice,
            other => Self::Io(other.into()),
        }
    }
}

impl From<io::Error> for FsError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(code) => Errno::from_raw_os_error(code).into(),
            None => Self::Io(error),
        }
    }
}

impl FsError {
    /// The path itself is the problem: the same request will fail again.
    pub(crate) fn is_about_the_path(&self) -> bool {
        match self {
            Self::Escape | Self::NotAFile(_) | Self::NotADirectory | Self::NameTooLong | Self::CrossDevice => true,
            Self::NotFound | Self::Exists | Self::NoSpace | Self::ReadOnly | Self::Denied | Self::Io(_) => false,
        }
    }
}

/// What a name refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Directory,
    Symlink,
    /// FIFO, socket or device.
    Special,
}

impl EntryKind {
    fn from_type(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            _ => Self::Special,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symbolic link",
            Self::Special => "special file",
        }
    }
}

/// The parts of `stat(2)` that identify a version of a file. Times are nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) kind: EntryKind,
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) size: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) ctime_ns: i64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u64,
}

impl Stat {
    #[allow(clippy::unnecessary_cast)] // The field types differ between architectures.
    fn from_raw(raw: &rustix::fs::Stat) -> Self {
        Self {
            kind: EntryKind::from_type(FileType::from_raw_mode(raw.st_mode)),
            dev: raw.st_dev as u64,
            ino: raw.st_ino as u64,
            size: raw.st_size.max(0) as u64,
            mtime_ns: (raw.st_mtime as i64).saturating_mul(1_000_000_000).saturating_add(raw.st_mtime_nsec as i64),
            ctime_ns: (raw.st_ctime as i64).saturating_mul(1_000_000_000).saturating_add(raw.st_ctime_nsec as i64),
            mode: raw.st_mode & 0o7777,
            uid: raw.st_uid,
            gid: raw.st_gid,
            links: raw.st_nlink as u64,
        }
    }

    /// The same file with the same content, as far as what survives a rename tells (`ctime` does not).
    pub(crate) fn is_version(&self, other: &Self) -> bool {
        (self.ino, self.size, self.mtime_ns) == (other.ino, other.size, other.mtime_ns)
    }

    /// When anything about it was last changed, as the kernel says.
    pub(crate) fn changed_at(&self) -> Option<Timestamp> {
        Timestamp::from_nanosecond(self.ctime_ns.into()).ok()
    }

    /// One of several names of a file that is not the tenant's: the others may be outside the tree, where its maker cannot read.
    pub(crate) fn is_foreign_link(&self, tenant_uid: u32) -> bool {
        self.links > 1 && self.uid != tenant_uid
    }

    /// Stat of an open file.
    pub(crate) fn of(file: impl AsFd) -> Result<Self, FsError> {
        Ok(Self::from_raw(&rustix::fs::fstat(file)?))
    }
}

/// A regular file, open for reading.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) stat: Stat,
}

impl Opened {
    /// Reads the whole file, or `None` when it is longer than `limit` bytes.
    pub(crate) fn read(&mut self, limit: u64) -> Result<Option<Vec<u8>>, FsError> {
        if self.stat.size > limit {
            return Ok(None);
        }
        let mut content = Vec::with_capacity(usize::try_from(self.stat.size).unwrap_or(0) + 1);
        (&mut self.file).take(limit + 1).read_to_end(&mut content)?;
        Ok((content.len() as u64 <= limit).then_some(content))
    }
}

/// One name in a directory.
#[derive(Debug)]
pub(crate) struct DirEntry {
    pub(crate) name: Vec<u8>,
    pub(crate) stat: Stat,
}

/// A directory in which one name is about to be changed.
#[derive(Debug)]
pub(crate) struct Parent<'a> {
    pub(crate) dir: OwnedFd,
    pub(crate) name: &'a str,
}

/// Handle on the data directory. Cheap to share, never leaves the tree.
#[derive(Debug)]
pub(crate) struct Root {
    dir: OwnedFd,
    path: PathBuf,
    /// Owner given to what we create; `None` keeps the process's own.
    owner: Option<(u32, u32)>,
    /// See [`Root::tenant_uid`].
    tenant_uid: u32,
    /// Our own directory as it was first opened: device and inode.
    internal: OnceLock<(u64, u64)>,
}

impl Root {
    /// Opens the data directory and checks that the kernel can confine us.
    pub(crate) fn open(path: &Path, owner: Option<(u32, u32)>) -> Result<Self, FsError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        let tenant_uid = owner.map_or_else(|| rustix::process::geteuid().as_raw(), |(uid, _)| uid);
        let root = Self { dir, path: path.to_owned(), owner, tenant_uid, internal: OnceLock::new() };
        root.resolve(".", OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(root)
    }

    /// Where the data directory is, for messages and for inotify.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the directory that we hold is still the one that the path names, and our own directory in it the one that was opened. A volume that was
    /// unmounted or replaced is not; where the agent is the same user as we are, it can move our directory away.
    pub(crate) fn still_in_place(&self) -> bool {
        let same = || -> Result<bool, Errno> {
            let held = rustix::fs::fstat(&self.dir)?;
            let named = rustix::fs::stat(&self.path)?;
            let ours = match self.internal.get() {
                Some(opened) => {
                    let found = rustix::fs::statat(&self.dir, INTERNAL, AtFlags::SYMLINK_NOFOLLOW)?;
                    (found.st_dev, found.st_ino) == *opened
                }
                None => true,
            };
            Ok((held.st_dev, held.st_ino) == (named.st_dev, named.st_ino) && held.st_nlink > 0 && ours)
        };
        same().unwrap_or(false)
    }

    /// What kind of file system this is; `None` when it does not say.
    pub(crate) fn file_system(&self) -> Option<rustix::fs::StatFs> {
        rustix::fs::fstatfs(&self.dir).ok()
    }

    /// `openat2` below the root. `EAGAIN` means that something was renamed during resolution; the kernel asks to try again.
    pub(super) fn resolve(&self, path: &str, flags: OFlags) -> Result<OwnedFd, FsError> {
        let path = if path.is_empty() { "." } else { path };
        for _ in 0..64 {
            match rustix::fs::openat2(&self.dir, path, flags | OFlags::CLOEXEC, Mode::empty(), RESOLVE) {
                Ok(fd) => return Ok(fd),
                Err(Errno::AGAIN | Errno::INTR) => {}
                // Only resolution was attempted, so EXDEV means "would leave the root".
                Err(Errno::XDEV) => return Err(FsError::Escape),
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(FsError::Io(io::ErrorKind::WouldBlock.into()))
    }

    /// Stat without following a final link; `None` when there is nothing.
    pub(crate) fn stat(&self, path: &TenantPath) -> Result<Option<Stat>, FsError> {
        match self.resolve(path.as_str(), OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(fd) => Stat::of(fd).map(Some),
            Err(FsError::NotFound | FsError::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a regular file for reading. Never blocks on a FIFO.
    pub(crate) fn open_file(&self, path: &TenantPath) -> Result<Opened, FsError> {
        let fd = self.resolve(path.as_str(), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let stat = Stat::of(&fd)?;
        self.checked(fd, stat)
    }

    /// A regular file, and no hard link to somebody else's. Blocking for a moment when the file is somebody else's and has just changed.
    pub(super) fn checked(&self, fd: OwnedFd, stat: Stat) -> Result<Opened, FsError> {
        if stat.kind != EntryKind::File {
            return Err(FsError::NotAFile(stat.kind));
        }
        if stat.is_foreign_link(self.tenant_uid()) {
            return Err(FsError::Escape);
        }
        // The count may be one because the tenant has removed the name that we opened, and the one that is left is outside. A name that is
        // removed stays so for this descriptor; if it still is there afterwards, it was the one name when the count was taken.
        if stat.uid != self.tenant_uid() && !still_named(&fd, &stat) {
            return Err(FsError::Escape);
        }
        Ok(Opened { file: File::from(fd), stat })
    }

    /// Reads a small file without ever waiting for the disk: `None` unless path and content are cached by the kernel. Safe to call on
    /// the event loop; everything that is not a quick success is left to [`Root::open_file`] on a blocking thread.
    pub(crate) fn read_cached(&self, path: &TenantPath, limit: usize) -> Option<(Vec<u8>, Stat)> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = RESOLVE | ResolveFlags::CACHED;
        let fd = rustix::fs::openat2(&self.dir, path.as_str(), flags, Mode::empty(), resolve).ok()?;
        // Judging somebody else's file can take time.
        let opened = match Stat::of(&fd) {
            Ok(stat) if stat.uid == self.tenant_uid() => self.checked(fd, stat).ok()?,
            _ => return None,
        };
        let size = usize::try_from(opened.stat.size).ok().filter(|size| *size <= limit)?;
        // One byte more, so that a file that grew meanwhile is noticed.
        let mut content = vec![0; size + 1];
        let read = rustix::io::preadv2(&opened.file, &mut [IoSliceMut::new(&mut content)], 0, ReadWriteFlags::NOWAIT);
        if read != Ok(size) {
            return None;
        }
        content.truncate(size);
        Some((content, opened.stat))
    }

    /// Opens a directory for listing.
    pub(crate) fn open_dir(&self, path: &TenantPath) -> Result<OwnedFd, FsError> {
        self.resolve(path.as_str(), OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Opens the directory in which `path` names an entry.
    pub(crate) fn parent<'a>(&self, path: &'a TenantPath) -> Result<Parent<'a>, FsError> {
        let (parent, name) = path.split().ok_or(FsError::NotAFile(EntryKind::Directory))?;
        Ok(Parent { dir: self.resolve(parent, OFlags::RDONLY | OFlags::DIRECTORY)?, name })
    }

    /// Like [`Root::parent`], but creates what is missing; each created directory is on disk before its child is.
    pub(crate) fn parent_created<'a>(&self, path: &'a TenantPath) -> Result<Parent<'a>, FsError> {
        match self.parent(path) {
            Err(FsError::NotFound) => {}
            found => return found,
        }
        let (parent, _) = path.split().ok_or(FsError::NotAFile(EntryKind::Directory))?;
        let mut reached = String::with_capacity(parent.len());
        for component in parent.split('/') {
            let dir = self.resolve(&reached, OFlags::RDONLY | OFlags::DIRECTORY)?;
            if !reached.is_empty() {
                reached.push('/');
            }
            reached.push_str(component);
            match rustix::fs::mkdirat(&dir, component, Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    self.own(&reached)?;
                    rustix::fs::fsync(&dir)?;
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.parent(path)
    }

    /// Gives a directory that we have just made to the tenant's user. By handle: the name could mean something else by now.
    fn own(&self, path: &str) -> Result<(), FsError> {
        if let Some((uid, gid)) = self.owner {
            let dir = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            rustix::fs::fchown(dir, Some(uid), Some(gid))?;
        }
        Ok(())
    }

    /// The user whose files the tenant's are: the configured owner, or the one that this process runs as.
    pub(crate) fn tenant_uid(&self) -> u32 {
        self.tenant_uid
    }

    /// Owner for new files: the configured one.
    pub(crate) fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    /// Creates (or keeps) a directory of our own below the root, mode 0700, and opens it.
    pub(crate) fn internal_dir(&self, path: &str) -> Result<OwnedFd, FsError> {
        let mut reached = String::new();
        for component in path.split('/') {
            let dir = self.resolve(&reached, OFlags::RDONLY | OFlags::DIRECTORY)?;
            match rustix::fs::mkdirat(&dir, component, Mode::from_raw_mode(0o700)) {
                Ok(()) => rustix::fs::fsync(&dir)?,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            if !reached.is_empty() {
                reached.push('/');
            }
            reached.push_str(component);
        }
        let opened = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        if path == INTERNAL {
            let stat = rustix::fs::fstat(&opened)?;
            self.internal.get_or_init(|| (stat.st_dev, stat.st_ino));
        }
        Ok(opened)
    }

    /// Calls `visit` for every entry of an open directory. Entries that vanish meanwhile are left out; links are not followed.
    pub(crate) fn each_entry(dir: BorrowedFd<'_>, mut visit: impl FnMut(DirEntry)) -> Result<(), FsError> {
        Self::each_name(dir, |name, _| {
            if let Some(stat) = stat_at(dir, name)? {
                visit(DirEntry { name: name.to_bytes().to_vec(), stat });
            }
            Ok(())
        })
    }

    /// Calls `visit` with the name of every entry of an open directory and with what it is, where the directory says so.
    pub(crate) fn each_name(
        dir: BorrowedFd<'_>,
        mut visit: impl FnMut(&CStr, Option<EntryKind>) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        let mut buffer = Vec::with_capacity(16 * 1024);
        let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                let kind = entry.file_type();
                visit(name, (kind != FileType::Unknown).then(|| EntryKind::from_type(kind)))?;
            }
        }
        Ok(())
    }
}

/// Whether the name by which this was opened is still there (under any path). The kernel counts a name out and notes the time before it
/// lets go of it, so a file that changed just now is given time first: files that changed together wait together.
fn still_named(fd: &OwnedFd, stat: &Stat) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let changed = Duration::from_nanos(u64::try_from(stat.ctime_ns).unwrap_or(0));
    std::thread::sleep(NAME_GOES.saturating_sub(now.saturating_sub(changed)));
    match rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new()) {
        // proc(5). A name that ends like this is taken for a removed one, which is the safe mistake.
        Ok(path) => !path.to_bytes().ends_with(b" (deleted)"),
        Err(_) => false,
    }
}

/// Stat of a name in a directory, not following a link; `None` when there is nothing.
pub(crate) fn stat_at(dir: impl AsFd, name: impl rustix::path::Arg) -> Result<Option<Stat>, FsError> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(raw) => Ok(Some(Stat::from_raw(&raw))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// `renameat2(2)`.
pub(crate) fn rename(
    from: impl AsFd,
    from_name: &str,
    to: impl AsFd,
    to_name: &str,
    how: RenameFlags,
) -> Result<(), FsError> {
    Ok(rustix::fs::renameat_with(from, from_name, to, to_name, how)?)
}

/// Gives a name to something, unless something else has that name.
pub(crate) fn rename_back(from: impl AsFd, from_name: &str, to: impl AsFd, to_name: &str) -> Result<(), FsError> {
    match rename(from.as_fd(), from_name, to.as_fd(), to_name, RenameFlags::NOREPLACE) {
        // A hard link never replaces, so it does the same for files where the flag is not supported.
        Err(FsError::Io(error)) if is_unsupported(&error) => {
            rustix::fs::linkat(from.as_fd(), from_name, to, to_name, AtFlags::empty())?;
            Ok(rustix::fs::unlinkat(from, from_name, AtFlags::empty())?)
        }
        done => done,
    }
}

/// The file system does not know this way to rename (NFS, some FUSE).
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP))
}

/// Removes a name that is not a directory.
pub(crate) fn unlink(dir: impl AsFd, name: &str) -> Result<(), FsError> {
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;

    /// Only root can make files of somebody else's; elsewhere there is nothing to see.
    #[test]
    fn a_foreign_file_is_read_under_its_one_name_only() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (data, outside) = (dir.path().join("data"), dir.path().join("outside"));
        std::fs::create_dir(&data).unwrap();
        for file in [&data.join("own.md"), &outside] {
            std::fs::write(file, "x").unwrap();
            chown(file, Some(65534), Some(65534)).unwrap();
        }
        std::fs::hard_link(&outside, data.join("link.md")).unwrap();
        let root = Root::open(&data, None).unwrap();
        let open = |path: &str| root.open_file(&TenantPath::parse(path).unwrap());
        assert!(open("own.md").is_ok());
        assert!(matches!(open("link.md"), Err(FsError::Escape)));
        // The name goes away between opening and looking: the file has one name again, and it is not ours.
        for name in ["link.md", "own.md"] {
            let fd = root.resolve(name, OFlags::RDONLY).unwrap();
            std::fs::remove_file(data.join(name)).unwrap();
            let stat = Stat::of(&fd).unwrap();
            assert!(matches!(root.checked(fd, stat), Err(FsError::Escape)), "{name}");
        }
    }
}
