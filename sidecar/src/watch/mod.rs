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

/// Pause before a path that could not be looked at is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Pause after a failure to record (a full volume, most often), doubled up to the second one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

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
    polling: AtomicBool,
    halted: AtomicBool,
}

impl WatchStatus {
    /// Full listings so far.
    pub(crate) fn rescans(&self) -> u64 {
        self.rescans.load(Ordering::Relaxed)
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
    pub(crate) fn start(edits: Arc<Edits>, settings: WatchSettings, status: Arc<WatchStatus>) -> std::io::Result<Self> {
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
            pause: None,
        };
        thread.rescan();
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
    /// After a failure: how long, and until when nothing is recorded.
    pause: Option<(Duration, Instant)>,
}

impl Thread {
    fn run(&mut self, receiver: &Receiver<Message>) {
        let mut next_rescan = Instant::now() + self.rescan_interval();
        let mut next_save = Instant::now() + SAVE;
        loop {
            let now = Instant::now();
            let resume = self.pause.map_or(now, |(_, until)| until);
            // What is due while nothing can be recorded is no reason to wake up.
            let due = self.settling.next().filter(|_| !self.status.halted()).map(|due| due.max(resume));
            let wake = due.map_or(next_rescan, |due| due.min(next_rescan)).min(next_save);
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
            // What cannot be watched is listed often, from the moment that this is known.
            next_rescan = next_rescan.min(now + self.rescan_interval());
            if self.overflow.swap(false, Ordering::AcqRel) || now >= next_rescan {
                self.rescan();
                next_rescan = Instant::now() + self.rescan_interval();
            }
            self.absorb_due(Instant::now());
            if now >= next_save {
                self.save();
                next_save = now + SAVE;
            }
        }
        self.finish();
    }

    /// The last look: everything that differs, once. What cannot be recorded now is found at the next start.
    fn finish(&mut self) {
        self.rescan();
        let end = Instant::now() + LONGEST_PAUSE * 2;
        let mut left = Vec::new();
        loop {
            let some = self.settling.take_due(end, CHUNK);
            if some.is_empty() {
                break;
            }
            left.push(some);
        }
        for paths in left.into_iter().filter(|_| !self.status.halted()) {
            if let Err(error) = self.edits.absorb(&paths) {
                tracing::warn!(%error, "could not record the last changes; they are found at the next start");
                return;
            }
        }
        self.save();
    }

    fn rescan_interval(&self) -> Duration {
        let poll = self.status.polling() || self.status.halted();
        if poll { POLL.min(self.settings.rescan) } else { self.settings.rescan }
    }

    fn save(&self) {
        let journal = self.edits.journal();
        if self.edits.index().is_saved(journal.epoch(), journal.head_seq()) {
            return;
        }
        if let Err(error) = self.edits.save_index() {
            tracing::warn!(%error, "could not write the index; the next start will compare more files");
        }
    }

    /// Lists everything, with fresh watches, and marks what differs from the index as due.
    fn rescan(&mut self) {
        self.status.rescans.fetch_add(1, Ordering::Relaxed);
        let in_place = self.edits.root().still_in_place();
        if !in_place && !self.status.halted() {
            tracing::error!("the data directory was moved or unmounted; nothing is recorded until it is back");
        }
        self.status.halted.store(!in_place, Ordering::Relaxed);
        if !in_place {
            return;
        }
        // Dropping the old watcher drops its queue, so nothing stale comes after the listing.
        self.watcher = None;
        self.watcher = self.new_watcher();
        self.status.polling.store(self.watcher.is_none(), Ordering::Relaxed);
        let now = Instant::now();
        for path in self.scan(&TenantPath::default()) {
            self.settling.postpone(path, now, Duration::ZERO);
        }
        self.absorb_due(Instant::now());
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
                Ok(()) => {}
                Err(error) if has_vanished(&error) => {}
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
        if self.pause.is_some_and(|(_, until)| now < until) || self.status.halted() {
            return;
        }
        loop {
            let due = self.settling.take_due(now, CHUNK);
            if due.is_empty() {
                return;
            }
            match self.edits.absorb(&due) {
                Ok(unfinished) => {
                    if self.pause.take().is_some() {
                        tracing::info!("changes can be recorded again");
                    }
                    self.mark(unfinished.unstable);
                    for path in unfinished.failed {
                        self.settling.postpone(path, Instant::now(), RETRY);
                    }
                }
                Err(error) => {
                    let length = self.pause.map_or(FIRST_PAUSE, |(length, _)| (length * 2).min(LONGEST_PAUSE));
                    if self.pause.is_none() {
                        tracing::error!(%error, "could not record changes; trying again with growing pauses");
                    }
                    let now = Instant::now();
                    self.pause = Some((length, now + length));
                    for path in due {
                        self.settling.postpone(path, now, length);
                    }
                    return;
                }
            }
        }
    }
}

/// The directory went away between being listed and being watched.
fn has_vanished(error: &notify::Error) -> bool {
    match &error.kind {
        notify::ErrorKind::PathNotFound => true,
        notify::ErrorKind::Io(error) => {
            matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
        }
        _ => false,
    }
}

fn is_reading(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if *access != AccessKind::Close(AccessMode::Write))
}
