//! Listing a part of the tree and comparing it with the index.
//!
//! A large part is listed by a few threads: most of the time goes into system calls, one for each file, and into waiting for notify's thread to watch
//! a directory. Each directory is watched before it is listed, by the same thread, so that the order that closes the race with whoever fills a new
//! directory does not depend on how many there are.

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::edits::Edits;
use crate::fs::{Class, EntryKind, FsError, Root, Stat, TenantPath, stat_at};

/// Directories that are listed before threads are started for the rest.
const ALONE: usize = 16;

/// Threads for a large part of the tree. One more than the cores that they are worth, because one waits for its watch.
const THREADS: usize = 3;
const STACK_BYTES: usize = 128 * 1024;

/// Files of a directory that are compared at once, and are in memory until then.
const CHUNK: usize = 512;

/// Findings that wait for whoever asked for the listing, of up to [`CHUNK`] files each; the threads wait when there are more.
const FINDINGS: usize = 4;

/// Tracked files whose stat tuple is not the recorded one, with their sizes in bytes.
pub(super) type Differing = Vec<(TenantPath, u64)>;

/// What a listing found.
#[derive(Default)]
pub(super) struct Found {
    /// Recorded files that are gone.
    pub(super) gone: Vec<TenantPath>,
    /// Directories that were descended into.
    pub(super) directories: u64,
    /// Names that were looked at.
    pub(super) examined: u64,
}

/// Walks `directory` and everything below it that the watcher descends into: calls `watch` for each directory before it is listed, and `differing` with
/// what it finds, in any order. Reads no file. Holds a bounded number of names at a time.
pub(super) fn scan(
    edits: &Edits,
    directory: &TenantPath,
    watch: &(dyn Fn(&TenantPath) + Sync),
    mut differing: impl FnMut(Differing),
) -> Found {
    edits.index().begin_listing(directory.as_str());
    let scan = Scan {
        edits,
        watch,
        queue: Mutex::new(Queue { waiting: vec![directory.clone()], busy: 0 }),
        is_over: AtomicBool::new(false),
        changed: Condvar::new(),
        directories: AtomicU64::new(0),
        examined: AtomicU64::new(0),
    };
    scan.run(ALONE, &mut differing);
    if scan.has_more() {
        scan.run_threads(&mut differing);
    }
    // Also what no thread could be started for.
    scan.run(usize::MAX, &mut differing);
    // What the selection left out since it was recorded keeps its last version.
    let tracked = |path: &TenantPath| edits.layout().class(path) == Class::Tracked;
    Found {
        gone: edits.index().end_listing(directory.as_str(), tracked),
        directories: scan.directories.into_inner(),
        examined: scan.examined.into_inner(),
    }
}

/// Directories that are still to be listed.
struct Queue {
    waiting: Vec<TenantPath>,
    /// Directories that are being listed: more may come from them.
    busy: usize,
}

struct Scan<'a> {
    edits: &'a Edits,
    watch: &'a (dyn Fn(&TenantPath) + Sync),
    queue: Mutex<Queue>,
    /// Nobody listens any more.
    is_over: AtomicBool,
    /// There is more to list, or nothing will come any more.
    changed: Condvar,
    directories: AtomicU64,
    examined: AtomicU64,
}

impl Scan<'_> {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Plain values, valid at any time.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_more(&self) -> bool {
        !self.queue().waiting.is_empty()
    }

    /// Lists up to `most` directories.
    fn run(&self, most: usize, differing: &mut dyn FnMut(Differing)) {
        for _ in 0..most {
            let Some(turn) = self.next() else { return };
            turn.list(differing);
        }
    }

    /// Lists the rest with threads, as far as there are any to be had.
    fn run_threads(&self, differing: &mut dyn FnMut(Differing)) {
        std::thread::scope(|scope| {
            let (sender, findings) = sync_channel(FINDINGS);
            for _ in 0..THREADS {
                let sender = sender.clone();
                let thread = std::thread::Builder::new().name("list".to_owned()).stack_size(STACK_BYTES);
                if let Err(error) = thread.spawn_scoped(scope, move || self.run(usize::MAX, &mut self.sending(&sender)))
                {
                    tracing::warn!(%error, "could not start a thread for listing the tree");
                }
            }
            drop(sender);
            findings.into_iter().for_each(differing);
        });
    }

    fn sending<'s>(&'s self, sender: &'s SyncSender<Differing>) -> impl FnMut(Differing) + 's {
        move |files| {
            if sender.send(files).is_err() {
                self.is_over.store(true, Ordering::Relaxed);
            }
        }
    }

    /// The next directory; `None` when there is none and none will come.
    fn next(&self) -> Option<Turn<'_>> {
        let mut queue = self.queue();
        loop {
            if self.is_over.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(directory) = queue.waiting.pop() {
                queue.busy += 1;
                return Some(Turn { scan: self, directory, below: Vec::new() });
            }
            if queue.busy == 0 {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A directory that is being listed.
struct Turn<'a> {
    scan: &'a Scan<'a>,
    directory: TenantPath,
    /// What else is to be listed.
    below: Vec<TenantPath>,
}

/// Also when listing it panicked, or the others would wait for ever.
impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.scan.queue();
        queue.busy -= 1;
        queue.waiting.append(&mut self.below);
        if queue.busy == 0 || !queue.waiting.is_empty() {
            self.scan.changed.notify_all();
        }
    }
}

impl Turn<'_> {
    fn list(mut self, differing: &mut dyn FnMut(Differing)) {
        let Scan { edits, watch, .. } = *self.scan;
        watch(&self.directory);
        self.scan.directories.fetch_add(1, Ordering::Relaxed);
        match edits.root().open_dir(&self.directory).and_then(|dir| self.read(dir.as_fd(), differing)) {
            Ok(()) | Err(FsError::NotFound | FsError::NotADirectory | FsError::Escape) => {}
            // What is below it will be missing from the listing, and each of those files is looked at before it counts as gone.
            Err(error) => tracing::warn!(directory = %self.directory, %error, "could not list a directory"),
        }
    }

    fn read(&mut self, dir: std::os::fd::BorrowedFd<'_>, differing: &mut dyn FnMut(Differing)) -> Result<(), FsError> {
        let layout = self.scan.edits.layout();
        let mut tracked = layout.files_of(&self.directory);
        let mut files = Files::default();
        let mut examined = 0;
        let listed = Root::each_name(dir, |name, kind| {
            examined += 1;
            let Some(text) = utf8(name) else { return Ok(()) };
            // What the directory says saves asking for most of what is not compared.
            let stat = match kind {
                Some(EntryKind::Directory) => None,
                Some(EntryKind::File) if !tracked.is_tracked(text) => return Ok(()),
                Some(EntryKind::File) | None => match stat_at(dir, name)? {
                    Some(stat) => Some(stat),
                    None => return Ok(()),
                },
                Some(EntryKind::Symlink | EntryKind::Special) => return Ok(()),
            };
            match stat {
                Some(stat) if stat.kind == EntryKind::File => {
                    if kind.is_some() || tracked.is_tracked(text) {
                        files.push(text, stat);
                    }
                    if files.is_full() {
                        self.compare(&mut files, differing);
                    }
                }
                Some(stat) if stat.kind != EntryKind::Directory => {}
                Some(_) | None => {
                    self.below.extend(self.directory.child(text).filter(|path| layout.descends(path)));
                }
            }
            Ok(())
        });
        self.scan.examined.fetch_add(examined, Ordering::Relaxed);
        // Also what was seen before a failure.
        self.compare(&mut files, differing);
        listed
    }

    fn compare(&self, files: &mut Files, differing: &mut dyn FnMut(Differing)) {
        let found = self.scan.edits.index().list(&self.directory, files.in_order());
        files.clear();
        if !found.is_empty() {
            differing(found);
        }
    }
}

fn utf8(name: &CStr) -> Option<&str> {
    name.to_str().ok()
}

/// Files of one directory. Their names share one buffer.
#[derive(Default)]
struct Files {
    names: String,
    /// With the place of each name.
    files: Vec<(std::ops::Range<usize>, Stat)>,
}

impl Files {
    fn push(&mut self, name: &str, stat: Stat) {
        let start = self.names.len();
        self.names.push_str(name);
        self.files.push((start..self.names.len(), stat));
    }

    fn is_full(&self) -> bool {
        self.files.len() >= CHUNK
    }

    /// In the order that the index has them.
    fn in_order(&mut self) -> impl Iterator<Item = (&str, &Stat)> {
        let names = &self.names;
        self.files.sort_unstable_by(|(a, _), (b, _)| names[a.clone()].cmp(&names[b.clone()]));
        self.files.iter().map(|(at, stat)| (&names[at.clone()], stat))
    }

    fn clear(&mut self) {
        self.names.clear();
        self.files.clear();
    }
}
