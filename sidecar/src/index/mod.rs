//! What the journal says is on disk: for every file with a history its last recorded version and the stat tuple under which that
//! version was seen. A file whose tuple still matches need not be read again.
//!
//! The index is exactly what the journal's records amount to, so its digest ([`Index::manifest`]) can be compared with control's. It is written to
//! disk now and then ([`mod@file`]) and brought up to date from the journal at the next start.

mod entry;
mod file;
mod leaf;
mod progress;
mod table;

use std::io;
use std::ops::{ControlFlow, RangeInclusive};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};
use uuid::Uuid;
use winston_wire::{Action, Change, ContentHash, ManifestDigest, ManifestFile, ManifestSummary};

pub(crate) use entry::{Record, Update, Version};

use crate::fs::{Stat, TenantPath, replace_file_by};
use file::{Encoder, Loaded};
use progress::Progress;
use table::Table;

/// Kernel timestamps move in ticks of up to 10 ms. A file that changed within this time before it was looked at may change again
/// under the same tuple.
const TIMESTAMP_TICK_NS: i64 = 20_000_000;

/// Bytes of the file that are encoded at a time; nobody else can use the index meanwhile.
const SAVE_BYTES: usize = 48 * 1024;

#[derive(Default)]
struct State {
    table: Table,
    digest: ManifestDigest,
    progress: Progress,
}

/// See the module.
pub(crate) struct Index {
    state: Mutex<State>,
    /// The newest moment at which the index was exact. Apart, so that asking for it never waits for the index.
    manifest: Mutex<Option<ManifestSummary>>,
    files: AtomicUsize,
    /// Updates since the index was last written.
    unsaved: AtomicU64,
    saved_seq: AtomicU64,
    saved_epoch: Mutex<Uuid>,
    /// Held while the index is written: there is one name for what is not whole yet.
    saving: Mutex<()>,
}

/// A lock on plain values that are valid between any two statements, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A member's part of the digest, as [`ManifestDigest`] defines it.
fn member(path: &str, hash: Option<ContentHash>) -> [u8; 32] {
    let mut sha = Sha256::new();
    sha.update(path.as_bytes());
    sha.update([0]);
    if let Some(hash) = hash {
        sha.update(hash.as_bytes());
    }
    sha.finalize().into()
}

impl State {
    fn set(&mut self, path: &str, record: &Record) {
        let before = self.table.insert(path, record).map(|before| before.version.hash);
        if before == Some(record.version.hash) {
            return;
        }
        if let Some(hash) = before {
            self.digest.remove(member(path, hash));
        }
        self.digest.add(member(path, record.version.hash));
    }

    fn remove(&mut self, path: &str) {
        if let Some(before) = self.table.remove(path) {
            self.digest.remove(member(path, before.version.hash));
        }
    }

    /// Notes that a version was seen under a tuple at `now_ns`.
    fn seen(&mut self, path: &str, version: Version, stat: &Stat, now_ns: i64) {
        let dev = self.table.intern(stat.dev);
        self.set(
            path,
            &Record {
                version,
                dev: dev.unwrap_or(0),
                // A device that cannot be named matches nothing.
                ino: if dev.is_some() { stat.ino } else { 0 },
                size: stat.size,
                mtime_ns: stat.mtime_ns,
                ctime_ns: stat.ctime_ns,
                settled: stat.ctime_ns.saturating_add(TIMESTAMP_TICK_NS) < now_ns,
                told: false,
            },
        );
    }
}

impl Index {
    /// Loads the index that belongs to this journal. A missing, foreign or damaged one counts as empty: then files are hashed again.
    pub(crate) fn load(dir: &OwnedFd, epoch: Uuid) -> Self {
        let Loaded { table, digest, seq } = match file::read(dir, epoch) {
            Ok(loaded) => loaded.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "the index could not be read; files are compared by content");
                Loaded::default()
            }
        };
        let state = State { table, digest, ..State::default() };
        Self {
            files: AtomicUsize::new(state.table.len()),
            state: Mutex::new(state),
            manifest: Mutex::new(None),
            unsaved: AtomicU64::new(0),
            saved_seq: AtomicU64::new(seq),
            saved_epoch: Mutex::new(epoch),
            saving: Mutex::new(()),
        }
    }

    /// Journal position that the index on disk contains.
    pub(crate) fn saved_seq(&self) -> u64 {
        self.saved_seq.load(Ordering::Acquire)
    }

    /// Updates that the index on disk lacks.
    pub(crate) fn unsaved(&self) -> u64 {
        self.unsaved.load(Ordering::Relaxed)
    }

    /// Whether the index on disk is of this journal and contains everything up to `seq`.
    pub(crate) fn is_saved(&self, epoch: Uuid, seq: u64) -> bool {
        self.unsaved() == 0 && self.saved_seq() == seq && *lock(&self.saved_epoch) == epoch
    }

    /// Brings the index up to a journal record that is newer than it.
    pub(crate) fn replay(&self, change: &Change) {
        if change.seq <= self.saved_seq() {
            return;
        }
        let mut state = lock(&self.state);
        if let Some(previous) = &change.previous_path {
            state.remove(previous);
        }
        if change.action == Action::Delete {
            state.remove(&change.path);
        } else {
            let told = change.size.filter(|_| change.hash.is_none());
            let recorded_ns = i64::try_from(change.timestamp.as_nanosecond()).unwrap_or(i64::MAX);
            let record = Record {
                version: Version { hash: change.hash, source: change.source },
                dev: 0,
                ino: 0,
                size: told.unwrap_or(0),
                mtime_ns: if told.is_some() { recorded_ns } else { 0 },
                ctime_ns: 0,
                settled: false,
                told: told.is_some(),
            };
            state.set(&change.path, &record);
        }
        self.updated(&state, 1);
    }

    /// All records up to `seq`, the newest one, have been replayed.
    pub(crate) fn replayed(&self, seq: u64) {
        let mut state = lock(&self.state);
        state.progress.start(seq);
        self.updated(&state, 0);
    }

    /// Brings the index up to what the journal has recorded as `records`, and to what was seen besides.
    pub(crate) fn apply(&self, records: Option<RangeInclusive<u64>>, updates: Vec<Update>) {
        if updates.is_empty() && records.is_none() {
            return;
        }
        let count = updates.len();
        let mut state = lock(&self.state);
        for update in updates {
            match update {
                Update::Seen { path, version, stat, at_ns } => state.seen(path.as_str(), version, &stat, at_ns),
                Update::Gone { path } => state.remove(path.as_str()),
            }
        }
        if let Some(records) = records {
            state.progress.applied(records);
        }
        self.updated(&state, count as u64);
    }

    fn updated(&self, state: &State, updates: u64) {
        self.unsaved.fetch_add(updates, Ordering::Relaxed);
        self.files.store(state.table.len(), Ordering::Relaxed);
        if state.progress.is_exact() {
            let (seq, files) = (state.progress.through(), state.table.len() as u64);
            *lock(&self.manifest) = Some(ManifestSummary { seq, files, digest: state.digest });
        }
    }

    /// All files in one number, as of the newest record at which the index was exactly what the journal says. Never waits.
    pub(crate) fn manifest(&self) -> Option<ManifestSummary> {
        *lock(&self.manifest)
    }

    /// Up to `limit` files behind `after` (or from the first), by the bytes of their paths; and where the range ends, `None` for the end.
    pub(crate) fn range(&self, after: Option<&str>, limit: usize) -> (Vec<ManifestFile>, Option<String>) {
        let mut files: Vec<ManifestFile> = Vec::new();
        let mut more = false;
        lock(&self.state).table.visit(after, |path, entry| {
            more = files.len() == limit;
            let hash = entry.record().and_then(|record| record.version.hash);
            if !more {
                files.push(ManifestFile { path: path.to_owned(), hash });
            }
            if more { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let through = files.last().filter(|_| more).map(|file| file.path.clone());
        (files, through)
    }

    /// Last recorded version of a path.
    pub(crate) fn version(&self, path: &str) -> Option<Version> {
        self.record(path).map(|record| record.version)
    }

    /// What is known about a path.
    pub(crate) fn record(&self, path: &str) -> Option<Record> {
        lock(&self.state).table.get(path)
    }

    /// The recorded version, if the file is certainly still the one that was seen.
    pub(crate) fn matching(&self, path: &str, stat: &Stat) -> Option<Version> {
        let state = lock(&self.state);
        let record = state.table.get(path)?;
        record.matches(state.table.device(stat.dev), stat).then_some(record.version)
    }

    /// Whether a file over the size limit is still the one that was recorded. Such files have no hash, so the tuple has to do.
    pub(crate) fn same_large(&self, path: &str, stat: &Stat) -> bool {
        lock(&self.state).table.get(path).is_some_and(|record| record.same_large(stat))
    }

    /// Number of files.
    pub(crate) fn len(&self) -> usize {
        self.files.load(Ordering::Relaxed)
    }

    /// Begins a listing of a directory and everything below it (`""` for all). One listing at a time.
    pub(crate) fn begin_listing(&self, directory: &str) {
        lock(&self.state).table.each_below(directory, |mut entry| entry.set_absent());
    }

    /// A listing has found these files in `directory`; best in the order of their names. Returns those that are not certainly the recorded ones,
    /// with their sizes in bytes.
    pub(crate) fn list<'a>(
        &self,
        directory: &TenantPath,
        files: impl Iterator<Item = (&'a str, &'a Stat)>,
    ) -> Vec<(TenantPath, u64)> {
        let mut differing = Vec::new();
        let mut path = String::with_capacity(directory.as_str().len() + 64);
        let mut state = lock(&self.state);
        let mut place = None;
        let mut device = None;
        for (name, stat) in files {
            path.clear();
            path.push_str(directory.as_str());
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(name);
            let found = state.table.find_after(place, &path);
            place = found.or(place);
            if device.is_none_or(|(dev, _)| dev != stat.dev) {
                device = Some((stat.dev, state.table.device(stat.dev)));
            }
            let number = device.and_then(|(_, number)| number);
            if !found.is_some_and(|at| state.table.confirm(at, number, stat)) {
                differing.extend(directory.child(name).map(|path| (path, stat.size)));
            }
        }
        differing
    }

    /// Ends a listing: files that it did not show and nobody has seen since it began, among those that `wanted` is true for.
    pub(crate) fn end_listing(&self, directory: &str, mut wanted: impl FnMut(&TenantPath) -> bool) -> Vec<TenantPath> {
        let mut absent = Vec::new();
        let mut text = String::new();
        lock(&self.state).table.each_below(directory, |entry| {
            if entry.is_present() {
                return;
            }
            entry.path(&mut text);
            absent.extend(TenantPath::parse(&text).ok().filter(|path| wanted(path)));
        });
        absent
    }

    /// Files below a directory.
    pub(crate) fn below(&self, directory: &str) -> Vec<TenantPath> {
        let mut paths = Vec::new();
        let mut text = String::new();
        lock(&self.state).table.each_below(directory, |entry| {
            entry.path(&mut text);
            paths.extend(TenantPath::parse(&text));
        });
        paths
    }

    /// Writes the index so that it contains at least everything that it contained when this was called.
    ///
    /// Others go on meanwhile: what they change may be in the file or not, and either way the journal has it behind the position that the
    /// file names, so that the next start replays it.
    pub(crate) fn save(&self, dir: &OwnedFd, epoch: Uuid) -> io::Result<()> {
        let _turn = lock(&self.saving);
        let seq = lock(&self.state).progress.through();
        let unsaved = self.unsaved();
        let mut encoder = Encoder::new(epoch, seq);
        replace_file_by(dir, file::NAME, |file| {
            loop {
                let mut more = false;
                let after = encoder.last().map(str::to_owned);
                lock(&self.state).table.visit(after.as_deref(), |path, entry| {
                    if let Some(record) = entry.record() {
                        encoder.entry(path, &record);
                    }
                    more = encoder.waiting() >= SAVE_BYTES;
                    if more { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                if !more {
                    break;
                }
                encoder.write(file)?;
            }
            // Copied last: devices are only ever added.
            let devices = lock(&self.state).table.devices().to_vec();
            encoder.finish(&devices, file)
        })?;
        *lock(&self.saved_epoch) = epoch;
        self.saved_seq.store(seq, Ordering::Release);
        self.unsaved.fetch_sub(unsaved, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
