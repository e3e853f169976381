//! inotify: one watch per directory, and the directories for which there was none left.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::Message;
use super::status::WatchStatus;
use crate::fs::TenantPath;
use crate::sys;

/// Directories without a watch that are kept apart; with more, the whole tree is listed.
const MOST_UNWATCHED: usize = 10_000;

/// See the module.
pub(super) struct Watcher {
    inner: RecommendedWatcher,
    root: PathBuf,
    /// Without those inside others.
    unwatched: BTreeSet<TenantPath>,
}

impl Watcher {
    /// Opens an inotify instance. `overflow` is set whenever events were lost.
    pub(super) fn new(
        root: &Path,
        events: SyncSender<Message>,
        overflow: Arc<AtomicBool>,
    ) -> Result<Self, notify::Error> {
        let config = notify::Config::default().with_follow_symlinks(false);
        let handler = move |event: notify::Result<notify::Event>| match event {
            Ok(event) if event.need_rescan() => overflow.store(true, Ordering::Release),
            // Reading and opening change nothing; our own comparisons make most of these.
            Ok(event) if is_reading(&event.kind) => {}
            Ok(event) => {
                if let Err(TrySendError::Full(_)) = events.try_send(Message::Event(Box::new(event))) {
                    overflow.store(true, Ordering::Release);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "inotify reported an error; the tree is listed instead");
                overflow.store(true, Ordering::Release);
            }
        };
        // Its thread is woken by every file that is opened, also by us to be read: in turns, it takes many of these at once.
        let inner = sys::in_turns(|| RecommendedWatcher::new(handler, config))?;
        Ok(Self { inner, root: root.to_owned(), unwatched: BTreeSet::new() })
    }

    /// Watches a directory, also when it is believed to be watched: it may be another one by now. Fails when there is no watch left for it; then it
    /// is among [`Watcher::take_unwatched`].
    pub(super) fn watch(&mut self, directory: &TenantPath) -> Result<(), notify::Error> {
        match self.inner.watch(&self.root.join(directory.as_str()), RecursiveMode::NonRecursive) {
            Ok(()) => Ok(()),
            Err(error) if has_vanished(&error) => Ok(()),
            Err(error) => {
                let inside = self.unwatched.range::<TenantPath, _>((Bound::Unbounded, Bound::Included(directory)));
                // Sorted by bytes, a directory is not always right before what is inside it, but nearly: one too many costs a listing.
                if !inside.last().is_some_and(|outer| directory.is_within(outer)) {
                    if self.unwatched.len() >= MOST_UNWATCHED {
                        self.unwatched = BTreeSet::from([TenantPath::default()]);
                    } else {
                        self.unwatched.insert(directory.clone());
                    }
                }
                Err(error)
            }
        }
    }

    /// Directories that are not watched, at this moment.
    pub(super) fn unwatched(&self) -> usize {
        self.unwatched.len()
    }

    /// Takes out the directories that have to be listed because they are not watched.
    pub(super) fn take_unwatched(&mut self) -> BTreeSet<TenantPath> {
        std::mem::take(&mut self.unwatched)
    }
}

/// Watching the directories of a listing, from several threads.
pub(super) struct Watching<'a> {
    watcher: Option<Mutex<&'a mut Watcher>>,
    status: &'a WatchStatus,
}

impl<'a> Watching<'a> {
    /// Without a watcher nothing is watched.
    pub(super) fn new(watcher: Option<&'a mut Watcher>, status: &'a WatchStatus) -> Self {
        Self { watcher: watcher.map(Mutex::new), status }
    }

    /// Watches a directory that is about to be listed. What cannot be watched is polled, which the status says.
    pub(super) fn watch(&self, directory: &TenantPath) {
        let Some(watcher) = &self.watcher else { return };
        // The watcher's own set is valid between any two statements.
        let mut watcher = watcher.lock().unwrap_or_else(PoisonError::into_inner);
        let Err(error) = watcher.watch(directory) else { return };
        if !self.status.polling() {
            tracing::warn!(%error, "cannot watch every directory; the others are listed every few seconds; raise fs.inotify.max_user_watches");
            self.status.set_polling(Some(format!(
                "not every directory can be watched ({error}); the others are listed; raise fs.inotify.max_user_watches"
            )));
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
