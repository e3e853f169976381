//! Finding what the agent does to its files.
//!
//! inotify says where to look, never what to believe: an event marks a path dirty, and once it has settled [`Edits::absorb`] compares the file with the
//! index. Everything that events can miss (start, queue overflow, a directory that filled before it was watched, no inotify at
//! all) is covered by listing: a watch is added first and the directory is listed after, and a slow timer lists the whole tree.
//!
//! | File | What |
//! |---|---|
//! | [`thread`] | the loop: what is looked at when |
//! | [`absorb`] | looking: renames, recording, pauses after failures |
//! | [`halt`] | when nothing may count as deleted, and when that is over |
//! | [`scan`], [`list`] | listing a part of the tree, and what becomes of what it finds |
//! | [`watcher`], [`support`] | inotify, and where it does not work |
//! | [`settle`], [`gone`] | how long a path waits until it is looked at, and until it counts as gone |

mod absorb;
mod gone;
mod halt;
mod list;
mod scan;
mod settle;
mod status;
mod support;
mod thread;
mod watcher;

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use crate::edits::Edits;

pub(crate) use status::{AcceptError, WatchStatus};
use thread::Thread;

/// Events that may wait; when they overflow, the tree is listed instead.
const QUEUE: usize = 4096;

/// What differs between installations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WatchSettings {
    /// Between full listings even when events seem complete.
    pub(crate) rescan: Duration,
    /// Between listings of what events do not cover.
    pub(crate) poll: Duration,
    /// Whether inotify may be used.
    pub(crate) events: bool,
}

/// What wakes the thread.
enum Message {
    /// Boxed, because a queue has room for as many from its start.
    Event(Box<notify::Event>),
    /// [`WatchStatus::accept`].
    Accept,
    Stop,
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
        status.started(messages.clone());
        let mut thread = Thread::new(edits, settings, status, messages.clone());
        thread.begin();
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
