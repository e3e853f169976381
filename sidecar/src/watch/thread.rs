//! The loop: what is looked at when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use notify::event::{EventKind, ModifyKind};

use super::absorb::Pause;
use super::gone::Gone;
use super::settle::Settling;
use super::status::WatchStatus;
use super::watcher::Watcher;
use super::{Message, WatchSettings, support};
use crate::edits::Edits;
use crate::fs::{EntryKind, TenantPath};
use crate::sys;

/// Quiet time after which a path is looked at, and the longest that a busy one is put off.
const QUIET: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_millis(500);

/// The same for a path that is gone: until it counts as deleted. Long enough for the new name of a renamed file to be looked at, and for `rm -r` to
/// get through.
const GONE_QUIET: Duration = Duration::from_millis(300);
const GONE_PATIENCE: Duration = Duration::from_secs(3);

/// Dirty paths that may wait; with more, the tree is listed instead.
pub(super) const MOST_DIRTY: usize = 16 * 1024;

/// Updates after which the index is written: so many, or this part of it; at the latest after this time. The journal has everything meanwhile.
const SAVE_UPDATES: u64 = 1024;
const SAVE_PART: u64 = 8;
const SAVE_LATEST: Duration = Duration::from_secs(300);
const SAVE_PAUSE: Duration = Duration::from_secs(10);

pub(super) struct Thread {
    pub(super) edits: Arc<Edits>,
    pub(super) settings: WatchSettings,
    pub(super) status: Arc<WatchStatus>,
    events: SyncSender<Message>,
    overflow: Arc<AtomicBool>,
    pub(super) watcher: Option<Watcher>,
    pub(super) settling: Settling,
    pub(super) gone: Gone,
    /// After a failure: nothing is recorded for a while.
    pub(super) pause: Option<Pause>,
    /// The data directory is not in its place.
    pub(super) away: bool,
    /// When a file whose deletion is held back last was there again with its recorded content.
    pub(super) returned: Option<Instant>,
    unsaved_since: Option<Instant>,
    last_save: Instant,
    next_rescan: Instant,
    next_poll: Option<Instant>,
}

impl Thread {
    pub(super) fn new(
        edits: Arc<Edits>,
        settings: WatchSettings,
        status: Arc<WatchStatus>,
        events: SyncSender<Message>,
    ) -> Self {
        let now = Instant::now();
        Self {
            edits,
            settings,
            status,
            events,
            overflow: Arc::new(AtomicBool::new(false)),
            watcher: None,
            settling: Settling::new(QUIET, PATIENCE),
            gone: Gone::new(GONE_QUIET, GONE_PATIENCE),
            pause: None,
            away: false,
            returned: None,
            unsaved_since: None,
            last_save: now,
            next_rescan: now + settings.rescan,
            next_poll: None,
        }
    }

    /// The first listing.
    pub(super) fn begin(&mut self) {
        self.rescan();
        self.edits.compared();
    }

    pub(super) fn run(&mut self, receiver: &Receiver<Message>) {
        loop {
            let now = Instant::now();
            match receiver.recv_timeout(self.wake().saturating_duration_since(now)) {
                Ok(message) => {
                    // The rest of a burst as well, before looking at the clock again.
                    let mut next = Some(message);
                    while let Some(message) = next {
                        match message {
                            Message::Event(event) => self.event(&event),
                            Message::Accept => self.accept(),
                            Message::Stop => return self.finish(),
                        }
                        next = if self.overflow.load(Ordering::Acquire) { None } else { receiver.try_recv().ok() };
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.finish(),
            }
            let now = Instant::now();
            if self.overflow.swap(false, Ordering::AcqRel) || now >= self.next_rescan {
                self.rescan();
            } else if self.next_poll.is_some_and(|at| now >= at) {
                self.poll();
            }
            self.absorb_due();
            self.release_gone();
            self.resume_if_back();
            self.save_if_due();
        }
    }

    /// When there is something to do next. What cannot be done now is no reason to wake up.
    fn wake(&self) -> Instant {
        let resume = self.pause.as_ref().map(|pause| pause.until);
        let look = [self.settling.next(), self.gone.next()].into_iter().flatten().min();
        let look = look.filter(|_| !self.away).map(|due| resume.map_or(due, |resume| due.max(resume)));
        let back = self.next_resume();
        let due = [look, back, self.next_poll, self.next_save()].into_iter().flatten().min();
        due.map_or(self.next_rescan, |due| due.min(self.next_rescan))
    }

    /// The last look: everything that differs, once. What cannot be recorded now is found at the next start.
    fn finish(&mut self) {
        self.rescan();
        self.settling.hurry(Instant::now());
        self.absorb_due();
        self.record_gone();
        if !self.settling.is_empty() {
            tracing::warn!("not every change could be recorded; the next start looks again");
        }
        self.save();
    }

    fn next_save(&self) -> Option<Instant> {
        let (index, since) = (self.edits.index(), self.unsaved_since?);
        let many = SAVE_UPDATES.max(index.len() as u64 / SAVE_PART);
        let latest = since + SAVE_LATEST;
        Some(if index.unsaved() >= many { (self.last_save + SAVE_PAUSE).min(latest) } else { latest })
    }

    fn save_if_due(&mut self) {
        let now = Instant::now();
        if self.edits.index().unsaved() > 0 {
            self.unsaved_since.get_or_insert(now);
        }
        if self.next_save().is_some_and(|at| at <= now) {
            self.save();
        }
    }

    fn save(&mut self) {
        (self.unsaved_since, self.last_save) = (None, Instant::now());
        let journal = self.edits.journal();
        if self.edits.index().is_saved(journal.epoch(), journal.head_seq()) {
            return;
        }
        if let Err(error) = self.edits.save_index() {
            tracing::warn!(%error, "could not write the index; the next start will compare more files");
        }
    }

    /// Lists everything, with fresh watches, and looks at what differs from the index.
    pub(super) fn rescan(&mut self) {
        self.status.rescans.fetch_add(1, Ordering::Relaxed);
        self.next_rescan = Instant::now() + self.settings.rescan;
        if self.check_place() {
            // Dropping the old watcher drops its queue, so nothing stale comes after the listing.
            self.watcher = None;
            let reason = match self.new_watcher() {
                Ok(watcher) => {
                    self.watcher = Some(watcher);
                    None
                }
                Err(reason) => Some(reason),
            };
            self.status.has_events.store(reason.is_none(), Ordering::Relaxed);
            self.status.set_polling(reason);
            self.list(&TenantPath::default());
            sys::release_memory();
        }
        self.plan();
    }

    /// Lists what is not watched.
    fn poll(&mut self) {
        let was_away = self.away;
        if was_away || self.watcher.is_none() {
            if self.check_place() {
                // Back in its place, everything may be different, and old watches are of no use.
                if was_away { self.rescan() } else { self.list(&TenantPath::default()) }
            }
        } else {
            let directories = self.watcher.as_mut().map(Watcher::take_unwatched).unwrap_or_default();
            for directory in directories {
                self.list(&directory);
            }
            if self.watcher.as_ref().is_some_and(|watcher| watcher.unwatched() == 0) {
                self.status.set_polling(None);
            }
        }
        self.plan();
    }

    fn plan(&mut self) {
        let now = Instant::now();
        let unwatched = self.watcher.as_ref().map_or(0, Watcher::unwatched);
        self.status.unwatched.store(unwatched as u64, Ordering::Relaxed);
        let polls = self.away || self.watcher.is_none() || unwatched > 0;
        self.next_poll = polls.then(|| now + self.settings.poll);
    }

    /// There was more than can be remembered: a listing finds it, once something can be recorded.
    pub(super) fn list_again(&mut self) {
        let at = self.pause.as_ref().map_or_else(Instant::now, |pause| pause.until);
        self.next_rescan = self.next_rescan.min(at);
    }

    /// What has to be listed again is listed after the usual pause.
    pub(super) fn poll_soon(&mut self) {
        self.next_poll.get_or_insert(Instant::now() + self.settings.poll);
    }

    /// A watcher, or why there is none.
    fn new_watcher(&self) -> Result<Watcher, String> {
        let told = self.status.polling();
        if !self.settings.events {
            return Err("WINSTON_WATCH_MODE is `polling`".to_owned());
        }
        let root = self.edits.root();
        if let Some(name) = root.file_system().as_ref().and_then(support::without_events) {
            if !told {
                tracing::warn!(
                    name,
                    "inotify does not see every change on this file system; the tree is listed every few seconds instead"
                );
            }
            return Err(format!("the file system is {name}, on which inotify does not see every change"));
        }
        Watcher::new(root.path(), self.events.clone(), Arc::clone(&self.overflow)).map_err(|error| {
            if !told {
                tracing::warn!(%error, "inotify is not available; the tree is listed every few seconds instead");
            }
            format!("inotify is not available: {error}")
        })
    }

    fn event(&mut self, event: &notify::Event) {
        for path in &event.paths {
            let Ok(below) = path.strip_prefix(self.edits.root().path()) else { continue };
            let Some(path) = below.to_str().and_then(|text| TenantPath::parse(text).ok()) else {
                tracing::warn!(path = %path.display(), "a file name that is not UTF-8 has no history");
                continue;
            };
            if path.is_root() {
                self.root_event(&event.kind);
                continue;
            }
            match self.edits.root().stat(&path) {
                Ok(Some(stat)) if stat.kind == EntryKind::Directory => {
                    let noise = matches!(event.kind, EventKind::Modify(ModifyKind::Metadata(_) | ModifyKind::Data(_)));
                    if !noise && self.edits.layout().descends(&path) {
                        self.list_new(&path);
                    }
                }
                // At once and not when it is quiet: its new name must not be looked at before. It may have been a directory.
                Ok(None) => {
                    let below = self.edits.index().below(path.as_str());
                    below.into_iter().for_each(|path| self.hold_gone(path));
                    self.hold_gone(path);
                }
                Ok(Some(_)) | Err(_) => {
                    // What is a file or a link now may have been a directory.
                    let below = self.edits.index().below(path.as_str());
                    self.mark(below);
                    self.mark([path]);
                }
            }
        }
    }

    pub(super) fn mark(&mut self, paths: impl IntoIterator<Item = TenantPath>) {
        let now = Instant::now();
        for path in paths {
            if self.settling.len() >= MOST_DIRTY {
                return self.list_again();
            }
            self.settling.mark(path, now);
        }
    }
}
