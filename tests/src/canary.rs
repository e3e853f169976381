//! A tree outside a data directory that must stay unread and unchanged, whatever is asked of the sidecar.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use sha2::{Digest as _, Sha256};

/// Stands in each file of the tree and nowhere else. No file name contains it.
pub const MARK: &str = "canary-3c1f9a77e0b2-canary";

/// The tree, and how it was when it was made.
pub struct Canary {
    root: PathBuf,
    before: BTreeMap<PathBuf, Entry>,
    hashes: Vec<String>,
    /// Files with another name inside the data directory: renaming that name changes their ctime and their count of links.
    linked: Vec<PathBuf>,
}

/// Everything about an entry that reading or changing it would change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    mode: u32,
    owner: (u32, u32),
    inode: u64,
    links: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    accessed: (i64, i64),
    content: Vec<u8>,
}

impl Canary {
    /// Makes the tree in `root`, which does not exist yet: `files` by path with a filling; the mark is put around it. Times of reading are
    /// set back, so that the next read of each file shows (also on a volume that is mounted `relatime`).
    pub fn plant(root: &Path, files: &[(&str, String)]) -> Result<Self> {
        let mut hashes = Vec::new();
        for (path, filling) in files {
            let path = root.join(path);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            let content = format!("{MARK}\n{filling}\n{MARK}\n");
            hashes.push(Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect());
            std::fs::write(&path, content)?;
        }
        Ok(Self { root: root.to_owned(), before: BTreeMap::new(), hashes, linked: Vec::new() })
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// This file gets another name inside the data directory.
    pub fn linked(&mut self, path: &str) {
        self.linked.push(self.root.join(path));
    }

    /// From now on nothing may change. Says whether reading a file would be noticed here.
    pub fn arm(&mut self) -> Result<bool> {
        let old = TimeSpec::new(1_000_000_000, 0);
        for path in walk(&self.root)? {
            let modified = std::fs::symlink_metadata(&path)?;
            let modified = TimeSpec::new(modified.mtime(), modified.mtime_nsec());
            utimensat(nix::fcntl::AT_FDCWD, &path, &old, &modified, UtimensatFlags::NoFollowSymlink)?;
        }
        self.before = self.look()?;
        // A file beside it, treated alike and read: does its time move?
        let probe = self.root.with_extension("probe");
        std::fs::write(&probe, "x")?;
        let written = std::fs::metadata(&probe)?;
        let written = TimeSpec::new(written.mtime(), written.mtime_nsec());
        utimensat(nix::fcntl::AT_FDCWD, &probe, &old, &written, UtimensatFlags::NoFollowSymlink)?;
        std::fs::read(&probe)?;
        let noticed = std::fs::metadata(&probe)?.atime() != 1_000_000_000;
        std::fs::remove_file(&probe)?;
        Ok(noticed)
    }

    /// Whether bytes tell anything of the tree's contents: the mark, or the hash of a file.
    #[must_use]
    pub fn leaks(&self, bytes: &[u8]) -> bool {
        let text = String::from_utf8_lossy(bytes);
        text.contains(MARK) || self.hashes.iter().any(|hash| text.contains(hash.as_str()))
    }

    /// An error that names what is not as it was.
    pub fn check(&self) -> Result<()> {
        let after = self.look()?;
        let mut wrong = Vec::new();
        for (path, entry) in &self.before {
            match after.get(path) {
                None => wrong.push(format!("{} is gone", path.display())),
                Some(now) if now != entry => wrong.push(format!("{}: {entry:?} became {now:?}", path.display())),
                Some(_) => {}
            }
        }
        wrong.extend(
            after
                .keys()
                .filter(|path| !self.before.contains_key(*path))
                .map(|path| format!("{} was created", path.display())),
        );
        if wrong.is_empty() { Ok(()) } else { bail!("outside the data directory: {}", wrong.join("; ")) }
    }

    /// An error when a file below `directory` tells anything of the tree.
    pub fn check_unknown_to(&self, directory: &Path) -> Result<()> {
        for path in walk(directory)? {
            if std::fs::symlink_metadata(&path)?.is_file() && self.leaks(&std::fs::read(&path)?) {
                bail!("{} knows what is outside the data directory", path.display());
            }
        }
        Ok(())
    }

    fn look(&self) -> Result<BTreeMap<PathBuf, Entry>> {
        let mut entries = BTreeMap::new();
        for path in walk(&self.root)? {
            // The walk reads directories, which is noted; files are opened so that it is not.
            let meta = std::fs::symlink_metadata(&path)?;
            let linked = self.linked.contains(&path);
            let accessed = if meta.is_dir() { (0, 0) } else { (meta.atime(), meta.atime_nsec()) };
            let mut content = Vec::new();
            if meta.is_file() {
                let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_NOATIME;
                let file = nix::fcntl::open(&path, flags, nix::sys::stat::Mode::empty())?;
                File::from(file).read_to_end(&mut content)?;
            }
            let entry = Entry {
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                inode: meta.ino(),
                links: if linked { 0 } else { meta.nlink() },
                size: if meta.is_dir() { 0 } else { meta.size() },
                modified: (meta.mtime(), meta.mtime_nsec()),
                changed: if linked { (0, 0) } else { (meta.ctime(), meta.ctime_nsec()) },
                accessed,
                content,
            };
            entries.insert(path, entry);
        }
        Ok(entries)
    }
}

/// A directory and everything below it; links are not followed.
fn walk(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![root.to_owned()];
    let mut next = 0;
    while next < found.len() {
        if std::fs::symlink_metadata(&found[next])?.is_dir() {
            let mut below: Vec<_> = std::fs::read_dir(&found[next])?
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<Result<_, _>>()?;
            below.sort();
            found.append(&mut below);
        }
        next += 1;
    }
    Ok(found)
}
