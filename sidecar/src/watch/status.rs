//! What the status page says about watching, and the operator's word to it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::Message;
use crate::edits::{Halt, Withheld};

fn reason(halt: Halt) -> String {
    match halt {
        Halt::Away => {
            "the data directory, or .winston in it, was moved, unmounted or replaced; nothing is recorded until it is back".to_owned()
        }
        Halt::Unlisted => {
            "every file with a history was gone at once before the restart; the tree is being listed".to_owned()
        }
        Halt::Emptied { files } => format!(
            "all {files} files with a history are gone at once; put them back, or accept it with POST /watch/accept"
        ),
    }
}

/// Why an operator's word had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AcceptError {
    /// Nothing is held back.
    #[error("no deletion is held back")]
    NotHalted,
    /// The files are elsewhere, not deleted.
    #[error("the data directory is not in its place; it has to come back first")]
    Away,
    /// The watching thread has not started, has ended, or has too much to do.
    #[error("the watcher is busy; try again")]
    Busy,
}

/// Facts for the status page.
#[derive(Debug, Default)]
pub(crate) struct WatchStatus {
    pub(super) rescans: AtomicU64,
    pub(super) examined: AtomicU64,
    pub(super) directories: AtomicU64,
    pub(super) unwatched: AtomicU64,
    pub(super) has_events: AtomicBool,
    polling: Mutex<Option<String>>,
    thread: OnceLock<SyncSender<Message>>,
}

impl WatchStatus {
    fn why_polling(&self) -> MutexGuard<'_, Option<String>> {
        // A plain value, valid at any time.
        self.polling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Full listings so far.
    pub(crate) fn rescans(&self) -> u64 {
        self.rescans.load(Ordering::Relaxed)
    }

    /// Names of files and directories that were looked at in listings so far.
    pub(crate) fn examined(&self) -> u64 {
        self.examined.load(Ordering::Relaxed)
    }

    /// Directories that the last full listing descended into.
    pub(crate) fn directories(&self) -> u64 {
        self.directories.load(Ordering::Relaxed)
    }

    /// Directories that could not be watched and are listed every few seconds; of those inside each other the outermost.
    pub(crate) fn unwatched(&self) -> u64 {
        self.unwatched.load(Ordering::Relaxed)
    }

    /// `events` with inotify, `polling` without.
    pub(crate) fn mode(&self) -> &'static str {
        if self.has_events.load(Ordering::Relaxed) { "events" } else { "polling" }
    }

    /// inotify does not cover the whole tree.
    pub(crate) fn polling(&self) -> bool {
        self.why_polling().is_some()
    }

    /// Why deletions are held back or, if they are not, why it polls.
    pub(crate) fn reason(&self, withheld: &Withheld) -> Option<String> {
        withheld.halt().map(reason).or_else(|| self.why_polling().clone())
    }

    pub(super) fn set_polling(&self, reason: Option<String>) {
        *self.why_polling() = reason;
    }

    pub(super) fn started(&self, thread: SyncSender<Message>) {
        // There is one thread in a process's life.
        let _ = self.thread.set(thread);
    }

    /// An operator confirms that the files that are gone were to go. Their deletions are recorded soon; how many there are.
    pub(crate) fn accept(&self, withheld: &Withheld) -> Result<usize, AcceptError> {
        let files = match withheld.halt() {
            None => return Err(AcceptError::NotHalted),
            Some(Halt::Away) => return Err(AcceptError::Away),
            Some(Halt::Unlisted) => return Err(AcceptError::Busy),
            Some(Halt::Emptied { files }) => files,
        };
        let thread = self.thread.get().ok_or(AcceptError::Busy)?;
        match thread.try_send(Message::Accept) {
            Ok(()) => Ok(files),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(AcceptError::Busy),
        }
    }
}
