//! A directory handle, and the few things done through it.
//!
//! Every path is resolved one component at a time from an open directory and never through a symbolic link: an
//! earlier run of the agent may have put one where a directory belongs.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};
use std::time::SystemTime;

use rustix::fs::{self, AtFlags, Mode, OFlags, Stat};
use rustix::io::{Errno, Result};

/// Levels of a tree that is removed: each holds a handle.
const DEEPEST: usize = 200;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// An open directory.
#[derive(Debug)]
pub(crate) struct Dir(OwnedFd);

impl Dir {
    /// Opens a path that the operator named; here, and only here, links are followed.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        fs::open(path, DIRECTORY, Mode::empty()).map(Self)
    }

    /// Opens a directory in this one. A symbolic link or a file there is `ENOTDIR`.
    pub(crate) fn child(&self, name: &OsStr) -> Result<Self> {
        fs::openat(&self.0, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).map(Self)
    }

    /// Opens a directory in this one, which is made with exactly this mode when it is missing.
    pub(crate) fn child_or_new(&self, name: &OsStr, mode: u32) -> Result<Self> {
        match fs::mkdirat(&self.0, name, Mode::from_raw_mode(mode)) {
            Ok(()) => {
                let made = self.child(name)?;
                made.set_mode(mode)?; // mkdir subtracts the umask
                Ok(made)
            }
            Err(Errno::EXIST) => self.child(name),
            // A read-only file system says so even about a directory that is there.
            Err(error) => self.child(name).map_err(|_| error),
        }
    }

    /// Opens a path of several components beneath this directory. What is missing is made: the last one with `mode`,
    /// those above it as passages that anybody may walk through.
    pub(crate) fn descend(&self, path: &Path, mode: u32) -> Result<Self> {
        let mut parts = path.components().peekable();
        let mut here = self.try_clone()?;
        while let Some(Component::Normal(name)) = parts.next() {
            let mode = if parts.peek().is_none() { mode } else { 0o755 };
            here = here.child_or_new(name, mode)?;
        }
        Ok(here)
    }

    /// Opens a path beneath this directory that is there.
    pub(crate) fn walk(&self, path: &Path) -> Result<Self> {
        let mut here = self.try_clone()?;
        for part in path.components() {
            let Component::Normal(name) = part else { return Err(Errno::INVAL) };
            here = here.child(name)?;
        }
        Ok(here)
    }

    /// The names of its entries, at most `most`.
    pub(crate) fn names(&self, most: usize) -> Vec<OsString> {
        let Ok(entries) = fs::Dir::read_from(&self.0) else { return Vec::new() };
        let names = entries.flatten().map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
        names.filter(|name| name != "." && name != "..").take(most).collect()
    }

    /// Owner, mode and device of the directory itself.
    pub(crate) fn stat(&self) -> Result<Stat> {
        fs::fstat(&self.0)
    }

    /// Sets the directory's own mode.
    pub(crate) fn set_mode(&self, mode: u32) -> Result<()> {
        fs::fchmod(&self.0, Mode::from_raw_mode(mode))
    }

    /// Whether this process may list, enter and change the directory.
    pub(crate) fn usable(&self) -> bool {
        let access = fs::Access::READ_OK | fs::Access::WRITE_OK | fs::Access::EXEC_OK;
        fs::accessat(&self.0, ".", access, AtFlags::EACCESS).is_ok()
    }

    /// The content of a small file of ours; `None` when there is none.
    pub(crate) fn read(&self, name: &OsStr) -> Option<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = fs::openat(&self.0, name, flags, Mode::empty()).ok()?;
        let mut content = Vec::new();
        let mut file = std::fs::File::from(fd);
        std::io::Read::read_to_end(&mut file, &mut content).ok()?;
        Some(content)
    }

    /// Content and time of the last change of a regular file that may be anybody's; `None` when it is larger, or no file.
    pub(crate) fn read_regular(&self, name: &OsStr, largest: u64) -> Option<(Vec<u8>, SystemTime)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = std::fs::File::from(fs::openat(&self.0, name, flags, Mode::empty()).ok()?);
        let metadata = file.metadata().ok().filter(|metadata| metadata.is_file() && metadata.len() <= largest)?;
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(file, largest), &mut content).ok()?;
        Some((content, metadata.modified().ok()?))
    }

    /// Puts a file of mode 0600 in place, whole or not at all. It is not flushed: the same bytes are written again at
    /// the next start, and a flush costs milliseconds on a network volume.
    pub(crate) fn write(&self, name: &OsStr, content: &[u8]) -> Result<()> {
        if self.read(name).is_some_and(|there| there == content) {
            return Ok(());
        }
        let mut staged = name.to_owned();
        staged.push(".new");
        self.remove(&staged)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = fs::openat(&self.0, &staged, flags, Mode::RUSR | Mode::WUSR)?;
        let mut rest = content;
        while !rest.is_empty() {
            let written = rustix::io::write(&fd, rest)?;
            rest = &rest[written..];
        }
        fs::renameat(&self.0, &staged, &self.0, name)
    }

    /// Removes a file; it may be missing.
    pub(crate) fn remove(&self, name: &OsStr) -> Result<()> {
        match fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    /// Removes an empty directory.
    pub(crate) fn remove_empty(&self, name: &OsStr) -> Result<()> {
        fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)
    }

    /// Removes whatever has this name, with everything in it. No link is followed, whoever changes the tree meanwhile.
    pub(crate) fn remove_all(&self, name: &OsStr) -> Result<()> {
        self.remove_tree(name, 0)
    }

    fn remove_tree(&self, name: &OsStr, depth: usize) -> Result<()> {
        match self.remove(name) {
            Err(Errno::ISDIR | Errno::PERM) if depth < DEEPEST => {}
            other => return other,
        }
        let dir = self.child(name)?;
        for entry in dir.names(usize::MAX) {
            // What cannot be removed keeps the directory, which then says so.
            let _ = dir.remove_tree(&entry, depth + 1);
        }
        self.remove_empty(name)
    }

    /// Makes a symbolic link, in place of whatever link there is.
    pub(crate) fn link(&self, name: &OsStr, target: &Path) -> Result<()> {
        match fs::readlinkat(&self.0, name, Vec::new()) {
            Ok(there) if there.as_bytes() == target.as_os_str().as_bytes() => return Ok(()),
            Ok(_) => self.remove(name)?,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        fs::symlinkat(target, &self.0, name)
    }

    /// Another handle on it.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        self.0.try_clone().map(Self).map_err(|_| Errno::MFILE)
    }

    /// The handle, for what this type does not do.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// The handle itself.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn makes_directories_with_exact_modes() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        dir.descend(Path::new("a/b/c"), 0o700).unwrap();
        dir.descend(Path::new("a/b/c"), 0o755).unwrap();
        let mode = |path: &str| {
            let meta = std::fs::metadata(root.path().join(path)).unwrap();
            meta.permissions().mode() & 0o7777
        };
        assert_eq!(mode("a/b"), 0o755);
        assert_eq!(mode("a/b/c"), 0o700, "an existing mode is the tenant's");
    }

    #[test]
    fn a_tree_goes_and_what_its_links_name_stays() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("kept"), "").unwrap();
        std::fs::create_dir_all(root.path().join("a/b/c")).unwrap();
        std::fs::write(root.path().join("a/b/file"), "").unwrap();
        symlink(outside.path(), root.path().join("a/b/link")).unwrap();
        let dir = Dir::open(root.path()).unwrap();
        dir.remove_all(OsStr::new("a")).unwrap();
        dir.remove_all(OsStr::new("a")).unwrap();
        assert_eq!(dir.names(9), [""; 0]);
        symlink(outside.path(), root.path().join("link")).unwrap();
        dir.remove_all(OsStr::new("link")).unwrap();
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn a_link_is_put_in_the_place_of_another_and_of_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        let read = || std::fs::read_link(root.path().join("link")).unwrap();
        for target in ["/one", "/one", "/two"] {
            dir.link(OsStr::new("link"), Path::new(target)).unwrap();
            assert_eq!(read(), Path::new(target));
        }
        std::fs::create_dir(root.path().join("taken")).unwrap();
        assert!(dir.link(OsStr::new("taken"), Path::new("/one")).is_err());
    }

    #[test]
    fn a_link_is_not_a_directory() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), root.path().join("workspace")).unwrap();
        let dir = Dir::open(root.path()).unwrap();
        let error = dir.descend(Path::new("workspace/x"), 0o755).unwrap_err();
        assert_eq!(error, Errno::NOTDIR);
        assert!(!outside.path().join("x").exists());
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        let name = OsStr::new("SOUL.md");
        std::fs::write(root.path().join("SOUL.md.new"), "left by a crash").unwrap();
        dir.write(name, b"one").unwrap();
        dir.write(name, b"two").unwrap();
        assert_eq!(dir.read(name).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
        dir.remove(name).unwrap();
        dir.remove(name).unwrap();
        assert_eq!(dir.read(name), None);
    }
}
