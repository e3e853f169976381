//! Finding what the agent does to its files.
//!
//! inotify says where to look, never what to believe: an event marks a path dirty, and once it has settled [`Edits::absorb`] compares the file with the
//! index. Everything that events can miss (start, queue overflow, a directory that filled before it was watched, no inotify at
//! all) is covered by listing: a watch is added first and the directory is listed after, and a slow timer lists the whole tree.

mod scan;
mod settle;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::edits::Edits;
use crate::fs::{EntryKind, TenantPath};
use crate::journal::JournalError;

use settle::Settling;

/// Events that may wait; when they overflow, the tree is listed instead.
const QUEUE: usize = 4096;

/// Quiet time after which a path is looked at, and the longest that a busy one is put off.
const QUIET: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_millis(500);

/// Full listing when inotify cannot watch everything, or the volume is not where it should be.
const POLL: Duration = Duration::from_secs(5);

/// How often the index is written while there is something new in it.
const SAVE: Duration = Duration::from_secs(60);

/// Paths compared under one set of locks and one journal flush.
const CHUNK: usize = 128;

/// Timing that differs between installations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WatchSettings {
    /// Full listing even when events seem complete.
    pub(crate) rescan: Duration,
}

enum Message {
    Event(notify::Event),
    Stop,
}

/// Facts for the status page.
#[derive(Debug, Default)]
pub(crate) struct WatchStatus {
    rescans: AtomicU64,
    watches: AtomicU64,
    polling: AtomicBool,
    halted: AtomicBool,
}

impl WatchStatus {
    /// Full listings so far.
    pub(crate) fn rescans(&self) -> u64 {
        self.rescans.load(Ordering::Relaxed)
    }

    /// Directories that are watched.
    pub(crate) fn watches(&self) -> u64 {
        self.watches.load(Ordering::Relaxed)
    }

    /// inotify does not cover the whole tree.
    pub(crate) fn polling(&self) -> bool {
        self.polling.load(Ordering::Relaxed)
    }

    /// The data directory is not in its place; nothing is recorded.
    pub(crate) fn halted(&self) -> bool {
        self.halted.load(Ordering::Relaxed)
    }
}

/// Handle on the watching thread.
pub(crate) struct Watch {
    messages: SyncSender<Message>,
    thread: std::thread::JoinHandle<()>,
}

impl Watch {
    /// Lists the tree once, records what changed while nobody watched, and starts watching. Blocking until the first listing is done.
    pub(crate) fn start(
        edits: Arc<Edits>,
        settings: WatchSettings,
        status: Arc<WatchStatus>,
    ) -> Result<Self, JournalError> {
        let (messages, receiver) = sync_channel(QUEUE);
        let overflow = Arc::new(AtomicBool::new(false));
        let mut thread = Thread {
            edits,
            settings,
            status,
            events: messages.clone(),
            overflow,
            watcher: None,
            settling: Settling::new(QUIET, PATIENCE),
        };
        thread.rescan()?;
        let thread = std::thread::Builder::new()
            .name("watch".to_owned())
            .stack_size(512 * 1024)
            .spawn(move || thread.run(&receiver))?;
        Ok(Self { messages, thread })
    }

    /// Records what is still unrecorded, writes the index and ends the thread. Blocking.
    pub(crate) fn stop(self) {
        // The thread drains its queue, so a full one only delays the message; without a thread there is nobody to wait for.
        let told = self.messages.send(Message::Stop);
        if told.is_ok() && self.thread.join().is_err() {
            tracing::error!("the watching thread had panicked");
        }
    }
}

struct Thread {
    edits: Arc<Edits>,
    settings: WatchSettings,
    status: Arc<WatchStatus>,
    events: SyncSender<Message>,
    overflow: Arc<AtomicBool>,
    watcher: Option<RecommendedWatcher>,
    settling: Settling,
}

impl Thread {
    fn run(&mut self, receiver: &Receiver<Message>) {
        let mut next_rescan = Instant::now() + self.rescan_interval();
        let mut next_save = Instant::now() + SAVE;
        loop {
            let now = Instant::now();
            let wake = self.settling.next().map_or(next_rescan, |due| due.min(next_rescan)).min(next_save);
            match receiver.recv_timeout(wake.saturating_duration_since(now)) {
                Ok(Message::Event(event)) => {
                    self.event(&event);
                    // The rest of a burst as well, before looking at the clock again.
                    let mut stop = false;
                    while let Ok(message) = receiver.try_recv() {
                        match message {
                            Message::Event(event) => self.event(&event),
                            Message::Stop => stop = true,
                        }
                        if stop || self.overflow.load(Ordering::Acquire) {
                            break;
                        }
                    }
                    if stop {
                        break;
                    }
                }
                Ok(Message::Stop) => break,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = Instant::now();
            if self.overflow.swap(false, Ordering::AcqRel) || now >= next_rescan {
                if let Err(error) = self.rescan() {
                    tracing::error!(%error, "could not record what a full listing found; trying again");
                }
                next_rescan = Instant::now() + self.rescan_interval();
            }
            self.absorb_due(now);
            if now >= next_save {
                self.save();
                next_save = now + SAVE;
            }
        }
        self.absorb_due(Instant::now() + PATIENCE);
        if let Err(error) = self.rescan() {
            tracing::error!(%error, "could not record the last changes; they will be found at the next start");
        }
        self.save();
    }

    fn rescan_interval(&self) -> Duration {
        let poll = self.status.polling() || self.status.halted();
        if poll { POLL.min(self.settings.rescan) } else { self.settings.rescan }
    }

    fn save(&self) {
        if *self.edits.journal().head().borrow() == self.edits.index().saved_seq() {
            return;
        }
        if let Err(error) = self.edits.save_index() {
            tracing::warn!(%error, "could not write the index; the next start will compare more files");
        }
    }

    /// Lists everything, with fresh watches.
    fn rescan(&mut self) -> Result<(), JournalError> {
        self.status.rescans.fetch_add(1, Ordering::Relaxed);
        let in_place = self.edits.root().still_in_place();
        if self.status.halted.swap(!in_place, Ordering::Relaxed) == in_place && !in_place {
            tracing::error!("the data directory was moved or unmounted; nothing is recorded until it is back");
        }
        if !in_place {
            return Ok(());
        }
        // Dropping the old watcher drops its queue, so nothing stale comes after the listing.
        self.watcher = None;
        self.watcher = self.new_watcher();
        self.status.watches.store(0, Ordering::Relaxed);
        self.status.polling.store(self.watcher.is_none(), Ordering::Relaxed);
        let dirty = self.scan(&TenantPath::default());
        for chunk in dirty.chunks(CHUNK) {
            let unstable = self.edits.absorb(chunk)?;
            self.mark(unstable);
        }
        Ok(())
    }

    fn new_watcher(&self) -> Option<RecommendedWatcher> {
        let events = self.events.clone();
        let overflow = Arc::clone(&self.overflow);
        let config = notify::Config::default().with_follow_symlinks(false);
        let handler = move |event: notify::Result<notify::Event>| match event {
            Ok(event) if event.need_rescan() => overflow.store(true, Ordering::Release),
            // Reading and opening change nothing; our own comparisons make most of these.
            Ok(event) if is_reading(&event.kind) => {}
            Ok(event) => {
                if let Err(TrySendError::Full(_)) = events.try_send(Message::Event(event)) {
                    overflow.store(true, Ordering::Release);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "inotify reported an error; the tree is listed instead");
                overflow.store(true, Ordering::Release);
            }
        };
        match RecommendedWatcher::new(handler, config) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, "inotify is not available; the tree is listed every few seconds instead");
                None
            }
        }
    }

    /// Watches and lists a directory and what is below it; returns what has to be compared.
    fn scan(&mut self, directory: &TenantPath) -> Vec<TenantPath> {
        let (watcher, status, root) = (&mut self.watcher, &self.status, self.edits.root());
        let mut watch = |directory: &TenantPath| {
            let Some(watcher) = watcher.as_mut() else { return };
            let absolute = root.path().join(directory.as_str());
            match watcher.watch(&absolute, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    status.watches.fetch_add(1, Ordering::Relaxed);
                }
                Err(notify::Error { kind: notify::ErrorKind::PathNotFound, .. }) => {}
                Err(error) => {
                    if !status.polling.swap(true, Ordering::Relaxed) {
                        tracing::warn!(%error, "cannot watch every directory; the tree is listed every few seconds as well");
                    }
                }
            }
        };
        scan::scan(&self.edits, directory, &mut watch)
    }

    fn event(&mut self, event: &notify::Event) {
        for path in &event.paths {
            let Ok(below) = path.strip_prefix(self.edits.root().path()) else { continue };
            let Some(path) = below.to_str().and_then(|text| TenantPath::parse(text).ok()) else {
                tracing::warn!(path = %path.display(), "a file name that is not UTF-8 has no history");
                continue;
            };
            let directory =
                matches!(self.edits.root().stat(&path), Ok(Some(stat)) if stat.kind == EntryKind::Directory);
            if !directory {
                // It may have been a directory until now, so everything recorded below it is looked at too.
                let below = self.edits.vanished(&path, &std::collections::HashSet::new());
                self.mark(below);
                self.mark([path]);
            } else if self.edits.layout().descends(&path)
                && !matches!(event.kind, EventKind::Modify(ModifyKind::Metadata(_) | ModifyKind::Data(_)))
            {
                let dirty = self.scan(&path);
                self.mark(dirty);
            }
        }
    }

    fn mark(&mut self, paths: impl IntoIterator<Item = TenantPath>) {
        let now = Instant::now();
        for path in paths {
            self.settling.mark(path, now);
        }
    }

    fn absorb_due(&mut self, now: Instant) {
        loop {
            let due = self.settling.take_due(now, CHUNK);
            if due.is_empty() {
                return;
            }
            match self.edits.absorb(&due) {
                Ok(unstable) => self.mark(unstable),
                Err(error) => {
                    tracing::error!(%error, "could not record changes; trying again");
                    self.mark(due);
                    return;
                }
            }
        }
    }
}

fn is_reading(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if *access != AccessKind::Close(AccessMode::Write))
}
