//! Sets of files in `.winston/config`: what was there before a trial, what is on trial, what is known to be good.
//!
//! A set is a directory that appears and disappears as a whole: its contents, numbered, and `set.json`, which names them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use winston_wire::{ContentHash, Timestamp};

use super::record::{NEW, OLD, TRANSACTION};
use crate::edits::hash_of;
use crate::failpoint;
use crate::fs::{EntryKind, FsError, Root, TenantPath, replace_file};

/// Our directory below the data directory.
const DIRECTORY: &str = ".winston/config";

/// Names the files of a set.
const MANIFEST: &str = "set.json";

/// Largest state file of ours that is read back, in bytes.
const MAX_STATE_BYTES: u64 = 64 * 1024 * 1024;

/// Last-known-good sets that are kept.
pub(super) const MOST_GOOD: usize = 5;

/// One file of a set, with its content; `None`: there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SetFile {
    pub(super) path: TenantPath,
    pub(super) content: Option<Vec<u8>>,
}

impl SetFile {
    pub(super) fn hash(&self) -> Option<ContentHash> {
        self.content.as_deref().map(hash_of)
    }
}

/// Files that belong together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct FileSet {
    pub(super) files: Vec<SetFile>,
}

impl FileSet {
    /// The file at a path, if the set says anything about it.
    pub(super) fn file(&self, path: &TenantPath) -> Option<&SetFile> {
        self.files.iter().find(|file| file.path == *path)
    }

    /// Its content.
    pub(super) fn content(&self, path: &TenantPath) -> Option<&[u8]> {
        self.file(path)?.content.as_deref()
    }
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    at: Timestamp,
    /// Where it came from, in a few words.
    origin: String,
    files: Vec<Named>,
}

#[derive(Serialize, Deserialize)]
struct Named {
    path: TenantPath,
    hash: Option<ContentHash>,
}

/// A last-known-good set, without its contents.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct GoodSet {
    /// Names it; larger is newer.
    pub(crate) seq: u64,
    /// Since when it is known to be good.
    pub(crate) at: Timestamp,
    /// Where it came from, in a few words.
    pub(crate) origin: String,
    /// Its files with their hashes.
    pub(crate) files: Vec<GoodFile>,
}

/// A file of a [`GoodSet`].
#[derive(Debug, Clone, Serialize)]
pub(crate) struct GoodFile {
    pub(crate) path: TenantPath,
    pub(crate) hash: Option<ContentHash>,
}

/// The directory. Everything here blocks.
pub(super) struct Store {
    dir: OwnedFd,
    good: OwnedFd,
}

impl Store {
    pub(super) fn open(root: &Root) -> Result<Self, FsError> {
        let store = Self { dir: root.internal_dir(DIRECTORY)?, good: root.internal_dir(&format!("{DIRECTORY}/good"))? };
        store.tidy()?;
        Ok(store)
    }

    /// What a crash left half made, or half removed, goes; and the sets of a transaction that was not written down, or is over.
    fn tidy(&self) -> Result<(), FsError> {
        let is_open = rustix::fs::statat(&self.dir, TRANSACTION, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        for dir in [&self.dir, &self.good] {
            for (name, kind) in entries(dir)? {
                let is_half = name.ends_with(".new") || name.ends_with(".gone");
                match kind {
                    EntryKind::Directory if is_half || (!is_open && [OLD, NEW].contains(&name.as_str())) => {
                        remove_directory(dir, &name)?;
                    }
                    EntryKind::File if is_half => rustix::fs::unlinkat(dir, &name, AtFlags::empty())?,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Reads one of our state files; `None` when it is missing or says nothing readable.
    pub(super) fn read<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&read_file(&self.dir, name).ok()?).ok()
    }

    /// Replaces one of our state files; on disk when this returns.
    pub(super) fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        failpoint::fails("config-state")?;
        replace_file(&self.dir, name, &serde_json::to_vec(value)?)
    }

    /// Removes one of our state files, for good when this returns.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) => Ok(rustix::fs::fsync(&self.dir)?),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Keeps a set under a name, replacing the one that is there; on disk when this returns.
    pub(super) fn keep(&self, name: &str, set: &FileSet) -> Result<(), FsError> {
        self.drop_set(name)?;
        keep_in(&self.dir, name, set, "")
    }

    /// A set by its name; `None` when it is missing or damaged.
    pub(super) fn set(&self, name: &str) -> Option<FileSet> {
        load_from(&self.dir, name)
    }

    pub(super) fn drop_set(&self, name: &str) -> Result<(), FsError> {
        drop_from(&self.dir, name)
    }

    /// The last-known-good sets, newest first.
    pub(super) fn good(&self) -> Vec<GoodSet> {
        let mut sets: Vec<_> = directories(&self.good)
            .unwrap_or_default()
            .iter()
            .filter_map(|name| {
                let dir = open_dir(&self.good, name).ok()?;
                let manifest: Manifest = serde_json::from_slice(&read_file(&dir, MANIFEST).ok()?).ok()?;
                let file = |named: Named| GoodFile { path: named.path, hash: named.hash };
                let files = manifest.files.into_iter().map(file).collect();
                Some(GoodSet { seq: name.parse().ok()?, at: manifest.at, origin: manifest.origin, files })
            })
            .collect();
        sets.sort_by_key(|set| std::cmp::Reverse(set.seq));
        sets
    }

    pub(super) fn good_set(&self, seq: u64) -> Option<FileSet> {
        load_from(&self.good, &seq.to_string())
    }

    /// Adds a last-known-good set and forgets those that are too many. A set like the newest one adds nothing.
    pub(super) fn add_good(&self, set: &FileSet, origin: &str) -> Result<(), FsError> {
        let known = self.good();
        let newest = known.first();
        let same = newest.is_some_and(|newest| {
            newest.files.len() == set.files.len()
                && newest.files.iter().zip(&set.files).all(|(a, b)| a.path == b.path && a.hash == b.hash())
                // A damaged one is none.
                && self.good_set(newest.seq).is_some()
        });
        if same {
            return Ok(());
        }
        // Room first: on a full volume the newest one is worth more than the oldest.
        for old in known.iter().skip(MOST_GOOD - 1) {
            drop_from(&self.good, &old.seq.to_string())?;
        }
        keep_in(&self.good, &(newest.map_or(0, |newest| newest.seq) + 1).to_string(), set, origin)
    }
}

fn open_dir(parent: &OwnedFd, name: &str) -> Result<OwnedFd, FsError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

fn read_file(dir: &OwnedFd, name: &str) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?);
    let mut text = Vec::new();
    file.take(MAX_STATE_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

fn directories(parent: &OwnedFd) -> Result<Vec<String>, FsError> {
    let directories = entries(parent)?.into_iter().filter(|(_, kind)| *kind == EntryKind::Directory);
    Ok(directories.map(|(name, _)| name).collect())
}

fn entries(parent: &OwnedFd) -> Result<Vec<(String, EntryKind)>, FsError> {
    let again = open_dir(parent, ".")?;
    let mut entries = Vec::new();
    Root::each_entry(again.as_fd(), |entry| {
        if let Ok(name) = std::str::from_utf8(&entry.name) {
            entries.push((name.to_owned(), entry.stat.kind));
        }
    })?;
    Ok(entries)
}

fn keep_in(parent: &OwnedFd, name: &str, set: &FileSet, origin: &str) -> Result<(), FsError> {
    let making = format!("{name}.new");
    remove_directory(parent, &making)?;
    let made = || -> Result<(), FsError> {
        rustix::fs::mkdirat(parent, &making, Mode::from_raw_mode(0o700))?;
        let dir = open_dir(parent, &making)?;
        for (slot, file) in set.files.iter().enumerate() {
            if let Some(content) = &file.content {
                failpoint::fails("config-content")?;
                replace_file(&dir, &slot.to_string(), content)?;
            }
        }
        let named = |file: &SetFile| Named { path: file.path.clone(), hash: file.hash() };
        let files = set.files.iter().map(named).collect();
        let manifest = Manifest { at: Timestamp::now(), origin: origin.to_owned(), files };
        replace_file(&dir, MANIFEST, &serde_json::to_vec(&manifest).map_err(io::Error::from)?)?;
        rustix::fs::renameat(parent, &making, parent, name)?;
        Ok(rustix::fs::fsync(parent)?)
    };
    made().inspect_err(|_| {
        let _ = remove_directory(parent, &making);
    })
}

fn load_from(parent: &OwnedFd, name: &str) -> Option<FileSet> {
    let dir = open_dir(parent, name).ok()?;
    let manifest: Manifest = serde_json::from_slice(&read_file(&dir, MANIFEST).ok()?).ok()?;
    let mut files = Vec::with_capacity(manifest.files.len());
    for (slot, Named { path, hash }) in manifest.files.into_iter().enumerate() {
        let content = match hash {
            None => None,
            // What the disk has spoiled must not reach the gateway.
            Some(hash) => Some(read_file(&dir, &slot.to_string()).ok().filter(|content| hash_of(content) == hash)?),
        };
        files.push(SetFile { path, content });
    }
    Some(FileSet { files })
}

fn drop_from(parent: &OwnedFd, name: &str) -> Result<(), FsError> {
    let gone = format!("{name}.gone");
    remove_directory(parent, &gone)?;
    match rustix::fs::renameat(parent, name, parent, &gone) {
        Ok(()) => remove_directory(parent, &gone),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes a directory of ours, which holds files only.
fn remove_directory(parent: &OwnedFd, name: &str) -> Result<(), FsError> {
    let dir = match open_dir(parent, name) {
        Err(FsError::NotFound) => return Ok(()),
        opened => opened?,
    };
    let mut names = Vec::new();
    Root::each_entry(dir.as_fd(), |entry| names.push(entry.name.clone()))?;
    for name in names {
        rustix::fs::unlinkat(&dir, name.as_slice(), AtFlags::empty())?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path(), None).unwrap();
        let store = Store::open(&root).unwrap();
        (dir, store)
    }

    fn set(content: &str) -> FileSet {
        let file = |path: &str, content: Option<&str>| SetFile {
            path: TenantPath::parse(path).unwrap(),
            content: content.map(|content| content.as_bytes().to_vec()),
        };
        FileSet { files: vec![file(".openclaw/openclaw.json", Some(content)), file("workspace/gone.md", None)] }
    }

    #[test]
    fn a_set_comes_back_as_it_was_or_not_at_all() {
        let (dir, store) = store();
        store.keep("old", &set("{}")).unwrap();
        assert_eq!(store.set("old"), Some(set("{}")));
        store.keep("old", &set("{\"a\":1}")).unwrap();
        assert_eq!(store.set("old"), Some(set("{\"a\":1}")));
        std::fs::write(dir.path().join(".winston/config/old/0"), "{\"a\":2}").unwrap();
        assert_eq!(store.set("old"), None);
        store.drop_set("old").unwrap();
        assert_eq!(store.set("old"), None);
        assert!(!dir.path().join(".winston/config/old").exists());
    }

    #[test]
    fn a_damaged_good_set_is_made_anew() {
        let (dir, store) = store();
        store.add_good(&set("{}"), "test").unwrap();
        std::fs::write(dir.path().join(".winston/config/good/1/0"), "spoiled").unwrap();
        store.add_good(&set("{}"), "test").unwrap();
        assert_eq!((store.good_set(1), store.good_set(2)), (None, Some(set("{}"))));
    }

    #[test]
    fn a_start_removes_what_belongs_to_no_transaction() {
        let (dir, store) = store();
        let left = || {
            let entries = std::fs::read_dir(dir.path().join(".winston/config")).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort_unstable();
            names
        };
        let again = || Store::open(&Root::open(dir.path(), None).unwrap()).unwrap();
        for name in [OLD, NEW, "old.gone"] {
            store.keep(name, &set("{}")).unwrap();
        }
        store.write(TRANSACTION, &1).unwrap();
        std::fs::write(dir.path().join(".winston/config/verdicts.new"), "half").unwrap();
        again();
        assert_eq!(left(), ["good", NEW, OLD, TRANSACTION]);
        store.remove(TRANSACTION).unwrap();
        again();
        assert_eq!(left(), ["good"]);
    }

    #[test]
    fn the_newest_good_sets_are_kept_each_once() {
        let (_dir, store) = store();
        for number in 0..8 {
            for _ in 0..2 {
                store.add_good(&set(&number.to_string()), "test").unwrap();
            }
        }
        let seqs: Vec<_> = store.good().iter().map(|set| set.seq).collect();
        assert_eq!(seqs, [8, 7, 6, 5, 4]);
        assert_eq!(store.good_set(8), Some(set("7")));
        assert_eq!(store.good_set(3), None);
    }

    #[test]
    fn what_a_crash_left_half_made_is_not_taken_for_a_set() {
        let (dir, store) = store();
        store.add_good(&set("{}"), "test").unwrap();
        let good = dir.path().join(".winston/config/good");
        std::fs::create_dir(good.join("2.new")).unwrap();
        std::fs::write(good.join("2.new/0"), "half").unwrap();
        std::fs::create_dir(good.join("3")).unwrap();
        assert_eq!(store.good().len(), 1);
        let root = Root::open(dir.path(), None).unwrap();
        let store = Store::open(&root).unwrap();
        assert!(!good.join("2.new").exists());
        assert_eq!(store.good_set(1), Some(set("{}")));
    }
}
