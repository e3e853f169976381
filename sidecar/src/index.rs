//! What the journal says is on disk: for every tracked file its last recorded version and the stat tuple under which that
//! version was seen. A file whose tuple still matches need not be read again.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use winston_wire::{Action, Change, ContentHash, Source};

use crate::fs::{Stat, replace_file};

/// Kernel timestamps move in ticks of up to 10 ms. A file that changed within this time before it was looked at may change again
/// under the same tuple.
const TIMESTAMP_TICK_NS: i64 = 20_000_000;

/// The stat tuple of a version: `(dev, ino, size, mtime, ctime)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Tuple(u64, u64, u64, i64, i64);

impl Tuple {
    /// Matches no file: inode numbers start at 1.
    const UNSEEN: Self = Self(0, 0, 0, 0, 0);

    fn of(stat: &Stat) -> Self {
        Self(stat.dev, stat.ino, stat.size, stat.mtime_ns, stat.ctime_ns)
    }
}

/// Last recorded version of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    /// Content; `None` when the file is over the size limit, which is then known by its tuple alone.
    pub(crate) hash: Option<ContentHash>,
    /// Who made it.
    pub(crate) source: Source,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    version: Version,
    tuple: Tuple,
    /// The tuple identifies the version: it was old enough when it was read.
    settled: bool,
    /// For a file over the size limit that only the journal tells of: its size, and when it was recorded.
    large: Option<(u64, i64)>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    epoch: Uuid,
    seq: u64,
    entries: usize,
}

const FORMAT: u32 = 1;
const FILE: &str = "index";

/// See the module.
pub(crate) struct Index {
    entries: Mutex<BTreeMap<Box<str>, Entry>>,
    saved_seq: AtomicU64,
    saved_epoch: Mutex<Uuid>,
}

impl Index {
    /// Loads the index that belongs to this journal. A missing, foreign or damaged one counts as empty: then files are hashed again.
    pub(crate) fn load(dir: &OwnedFd, epoch: Uuid) -> Self {
        let (entries, seq) = match read(dir, epoch) {
            Ok(Some(loaded)) => loaded,
            Ok(None) => (BTreeMap::new(), 0),
            Err(error) => {
                tracing::warn!(%error, "the index could not be read; files are compared by content");
                (BTreeMap::new(), 0)
            }
        };
        Self { entries: Mutex::new(entries), saved_seq: AtomicU64::new(seq), saved_epoch: Mutex::new(epoch) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Entry>> {
        // Each critical section is one map operation, so the map is whole even after a panic elsewhere.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Journal position that the index on disk contains.
    pub(crate) fn saved_seq(&self) -> u64 {
        self.saved_seq.load(Ordering::Acquire)
    }

    /// Whether the index on disk is of this journal and contains everything up to `seq`.
    pub(crate) fn is_saved(&self, epoch: Uuid, seq: u64) -> bool {
        self.saved_seq() == seq && *self.saved_epoch.lock().unwrap_or_else(PoisonError::into_inner) == epoch
    }

    /// Brings the index up to a journal record that is newer than it.
    pub(crate) fn replay(&self, change: &Change) {
        if change.seq <= self.saved_seq() {
            return;
        }
        let mut entries = self.lock();
        if let Some(previous) = &change.previous_path {
            entries.remove(previous.as_str());
        }
        if change.action == Action::Delete {
            entries.remove(change.path.as_str());
        } else {
            let version = Version { hash: change.hash, source: change.source };
            let recorded_ns = i64::try_from(change.timestamp.as_nanosecond()).unwrap_or(i64::MAX);
            let large = change.size.filter(|_| change.hash.is_none()).map(|size| (size, recorded_ns));
            entries.insert(change.path.as_str().into(), Entry { version, tuple: Tuple::UNSEEN, settled: false, large });
        }
    }

    /// Last recorded version of a path.
    pub(crate) fn version(&self, path: &str) -> Option<Version> {
        self.lock().get(path).map(|entry| entry.version)
    }

    /// The recorded version, if the file is certainly still the one that was seen.
    pub(crate) fn matching(&self, path: &str, stat: &Stat) -> Option<Version> {
        let entries = self.lock();
        let entry = entries.get(path)?;
        (entry.settled && entry.tuple == Tuple::of(stat)).then_some(entry.version)
    }

    /// Whether a file over the size limit is still the one that was recorded. Such files have no hash, so the tuple has to do.
    pub(crate) fn same_large(&self, path: &str, stat: &Stat) -> bool {
        let entries = self.lock();
        let Some(entry) = entries.get(path).filter(|entry| entry.version.hash.is_none()) else { return false };
        // A volume may come back under another device number.
        let same = Tuple(stat.dev, entry.tuple.1, entry.tuple.2, entry.tuple.3, entry.tuple.4) == Tuple::of(stat);
        same || entry.large.is_some_and(|(size, recorded_ns)| size == stat.size && stat.mtime_ns <= recorded_ns)
    }

    /// Notes that a version was seen under a tuple at `now_ns`.
    pub(crate) fn insert(&self, path: &str, version: Version, stat: &Stat, now_ns: i64) {
        let settled = stat.ctime_ns.saturating_add(TIMESTAMP_TICK_NS) < now_ns;
        self.lock().insert(path.into(), Entry { version, tuple: Tuple::of(stat), settled, large: None });
    }

    /// The path is gone.
    pub(crate) fn remove(&self, path: &str) {
        self.lock().remove(path);
    }

    /// Shows the files behind a path, in the order of their paths' bytes, until `visit` says no.
    pub(crate) fn each_after(&self, after: Option<&str>, visit: &mut dyn FnMut(&str, Version) -> bool) {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        for (path, entry) in self.lock().range::<str, _>((from, std::ops::Bound::Unbounded)) {
            if !visit(path, entry.version) {
                return;
            }
        }
    }

    /// Number of tracked files.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Indexed paths below a directory (`""` for all) that are not in `present`.
    pub(crate) fn missing(&self, directory: &str, present: &HashSet<Box<str>>) -> Vec<Box<str>> {
        let prefix = if directory.is_empty() { String::new() } else { format!("{directory}/") };
        let entries = self.lock();
        let from = entries.range::<str, _>((std::ops::Bound::Included(prefix.as_str()), std::ops::Bound::Unbounded));
        from.map(|(path, _)| path)
            .take_while(|path| path.starts_with(&prefix))
            .filter(|path| !present.contains(*path))
            .cloned()
            .collect()
    }

    /// Writes the index so that it contains everything up to `seq`. The caller guarantees that no edit is half done.
    pub(crate) fn save(&self, dir: &OwnedFd, epoch: Uuid, seq: u64) -> io::Result<()> {
        let mut text = Vec::new();
        {
            let entries = self.lock();
            serde_json::to_writer(&mut text, &Header { format: FORMAT, epoch, seq, entries: entries.len() })?;
            text.push(b'\n');
            for (path, entry) in entries.iter() {
                serde_json::to_writer(&mut text, &(path, entry.version, entry.tuple, entry.settled))?;
                text.push(b'\n');
            }
        }
        let crc = crc32fast::hash(&text);
        writeln!(text, "{crc:08x}")?;
        replace_file(dir, FILE, &text)?;
        *self.saved_epoch.lock().unwrap_or_else(PoisonError::into_inner) = epoch;
        self.saved_seq.store(seq, Ordering::Release);
        Ok(())
    }
}

type Loaded = (BTreeMap<Box<str>, Entry>, u64);

fn read(dir: &OwnedFd, epoch: Uuid) -> io::Result<Option<Loaded>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = match rustix::fs::openat(dir, FILE, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let mut reader = BufReader::new(file);
    let mut crc = crc32fast::Hasher::new();
    let mut line = String::new();
    reader.read_line(&mut line)?;
    crc.update(line.as_bytes());
    let header: Header = serde_json::from_str(&line)?;
    if header.format != FORMAT || header.epoch != epoch {
        return Ok(None);
    }
    let mut entries = BTreeMap::new();
    for _ in 0..header.entries {
        line.clear();
        reader.read_line(&mut line)?;
        crc.update(line.as_bytes());
        let (path, version, tuple, settled) = serde_json::from_str(&line)?;
        entries.insert(path, Entry { version, tuple, settled, large: None });
    }
    line.clear();
    reader.read_line(&mut line)?;
    if u32::from_str_radix(line.trim_end(), 16).ok() != Some(crc.finalize()) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "checksum of the index does not match"));
    }
    Ok(Some((entries, header.seq)))
}
