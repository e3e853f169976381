//! Changes of the gateway's configuration: tried out before they count, and taken back when the gateway does not do well with them.
//!
//! | File | Its one job |
//! |---|---|
//! | `trial` | what happens to a candidate: the pure transition function and its diagram |
//! | `footing` | pure: which process it met, and whose ends are about it |
//! | `guard` | pure: what to do about the configuration while none is tried |
//! | `checks`, `effect` | pure: what is wrong with it, what a change needs |
//! | `cli` | asking the gateway's own validation |
//! | `store`, `record` | what is kept in `.winston/config`, and what a start makes of it |
//! | `swap` | a set on the tenant's disk: in place, and back |
//! | `prepare`, `examine`, `enact`, `outcome` | the steps of one change: the sets, the checks, the trial's actions, the verdict |
//! | `rejected` | refused configurations, beside the one in use |
//! | `owner`, `transact`, `upkeep` | the task that does all this, one thing after the other |
//! | `owned` | keys that control owns |
//! | `report`, `secrets` | what others are told, and what they are not told |
//!
//! [`start`] spawns the owner task; everybody else has a [`Configs`]. `docs/adr/0008-config-transactions.md` says why it is so.

mod checks;
mod cli;
mod effect;
mod enact;
mod examine;
mod footing;
mod guard;
mod outcome;
mod owned;
mod owner;
mod prepare;
mod record;
mod rejected;
mod report;
mod secrets;
mod store;
mod swap;
mod transact;
mod trial;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use winston_wire::{ConfigVerdict, ContentHash};

use crate::edits::{Author, EditError, Edits, Precondition};
use crate::fs::{FsError, TenantPath};
use crate::gateway::{Cli, GatewayHandle};

pub(crate) use enact::ROLLBACK;
pub(crate) use record::{Origin, Owned};
pub(crate) use report::Report;
pub(crate) use store::GoodSet;

/// Requests that may wait for the owner task.
const INBOX: usize = 16;

/// Times of the trials.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// Longest time of one validation.
    pub(crate) validation: Duration,
    /// Longest time until the gateway is ready with a candidate.
    pub(crate) start: Duration,
    /// How long it must go well after that.
    pub(crate) probation: Duration,
}

/// A file of a candidate.
#[derive(Debug, Clone)]
pub(crate) struct NewFile {
    pub(crate) path: TenantPath,
    /// `None`: it should not exist.
    pub(crate) content: Option<Bytes>,
    /// What it may replace.
    pub(crate) over: Precondition,
}

/// Files to be tried out together.
#[derive(Debug, Clone)]
pub(crate) struct Submission {
    pub(crate) origin: Origin,
    pub(crate) author: Author,
    /// With the configuration, unless `owned` is given.
    pub(crate) files: Vec<NewFile>,
    /// The keys that control owns from then on.
    pub(crate) owned: Option<Owned>,
    /// Content that control pushed for the configuration.
    pub(crate) pushed: Option<ContentHash>,
}

/// Why there is no verdict. Nothing was changed then, unless it says otherwise.
#[derive(Debug, Error)]
pub(crate) enum SubmitError {
    /// One of the files is another one than it was made for, or cannot be written.
    #[error("{error}")]
    Edit {
        /// Which of the files, counted from 0; `None` when it is about all of them.
        index: Option<usize>,
        /// The reason.
        error: EditError,
    },
    /// The configuration cannot be changed as asked.
    #[error("{0}")]
    Unusable(String),
    /// There is no such set.
    #[error("there is no such last-known-good set")]
    NoSet,
    /// The gateway takes no work, so it could prove nothing.
    #[error("the gateway is suspended; configurations are tried out again when it is resumed")]
    Suspended,
    /// Others wait already.
    #[error("too many changes of the configuration wait already")]
    Busy,
    /// The sidecar is going down; a trial that has begun goes on after the next start.
    #[error("shutting down")]
    ShuttingDown,
}

impl From<EditError> for SubmitError {
    fn from(error: EditError) -> Self {
        Self::Edit { index: None, error }
    }
}

impl From<FsError> for SubmitError {
    fn from(error: FsError) -> Self {
        Self::Edit { index: None, error: error.into() }
    }
}

type Answer = Result<ConfigVerdict, SubmitError>;

/// What can be asked of the owner task.
enum Request {
    Submit(Submission),
    /// A last-known-good set: this one, or the newest that is not in place.
    Rollback {
        to: Option<u64>,
        author: Author,
    },
    /// There is no configuration: bring the newest good set back.
    Bootstrap,
    /// Remember a verdict that was reached without a trial.
    Note(ConfigVerdict),
}

enum Command {
    Asked {
        request: Request,
        answer: oneshot::Sender<Answer>,
    },
    /// To be told once everything before it is done.
    Reached(oneshot::Sender<()>),
}

/// The configuration, as the rest of the sidecar sees it.
#[derive(Clone)]
pub(crate) struct Configs {
    shared: Arc<report::Shared>,
    inbox: mpsc::Sender<Command>,
    halt: Arc<watch::Sender<bool>>,
}

/// Spawns the owner task, which first finishes what an earlier process began.
pub(crate) async fn start(
    edits: Arc<Edits>,
    gateway: GatewayHandle,
    cli: Cli,
    times: Times,
) -> Result<Configs, FsError> {
    let (inbox, commands) = mpsc::channel(INBOX);
    let (halt, halted) = watch::channel(false);
    let opening = Arc::clone(&edits);
    let opened = tokio::task::spawn_blocking(move || (cli::left_behind(), store::Store::open(opening.root()))).await;
    let (left_behind, store) = opened.map_err(|_| FsError::Io(std::io::Error::other("shutting down")))?;
    let store = store?;
    // Nothing waits for it.
    tokio::task::spawn_blocking(move || left_behind.iter().for_each(|directory| cli::remove(directory)));
    let shared = Arc::new(report::Shared::new(&store));
    tokio::spawn(owner::run(owner::Parts {
        edits,
        gateway,
        cli,
        times,
        store: Arc::new(store),
        shared: Arc::clone(&shared),
        inbox: commands,
        halted,
    }));
    Ok(Configs { shared, inbox, halt: Arc::new(halt) })
}

impl Configs {
    /// Tries a set out. Waits for whatever is tried out before it, and for the verdict. Dropping the future withdraws the wait, not the request.
    pub(crate) async fn submit(&self, submission: Submission) -> Answer {
        self.ask(Request::Submit(submission)).await
    }

    /// Brings a last-known-good set back: `to`, or the newest one that is not in place.
    pub(crate) async fn rollback(&self, to: Option<u64>, author: Author) -> Answer {
        self.ask(Request::Rollback { to, author }).await
    }

    /// Without a configuration: brings the newest last-known-good set back. Whether there was one.
    pub(crate) async fn bootstrap(&self) -> bool {
        self.ask(Request::Bootstrap).await.is_ok()
    }

    /// Remembers a verdict that was reached without a trial.
    pub(crate) async fn note(&self, verdict: ConfigVerdict) {
        if let Err(error) = self.ask(Request::Note(verdict)).await {
            tracing::warn!(%error, "a verdict is not remembered");
        }
    }

    /// Waits until what an earlier process began is finished, and every request before this one: only then does [`Configs::verdict_of`] know all.
    pub(crate) async fn caught_up(&self) -> Result<(), SubmitError> {
        let (done, reached) = oneshot::channel();
        self.send(Command::Reached(done))?;
        reached.await.map_err(|_| SubmitError::ShuttingDown)
    }

    async fn ask(&self, request: Request) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Asked { request, answer })?;
        answered.await.unwrap_or(Err(SubmitError::ShuttingDown))
    }

    fn send(&self, command: Command) -> Result<(), SubmitError> {
        self.inbox.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SubmitError::Busy,
            mpsc::error::TrySendError::Closed(_) => SubmitError::ShuttingDown,
        })
    }

    /// The verdict about a push, if there is one.
    pub(crate) fn verdict_of(&self, generation: u64, pushed: Option<ContentHash>) -> Option<ConfigVerdict> {
        // Generations alone do not identify a push: a control that was restored from a backup gives them out again.
        self.shared.verdict_of(generation).filter(|verdict| verdict.hash == pushed)
    }

    /// The newest verdicts, oldest first.
    pub(crate) fn verdicts(&self) -> Vec<ConfigVerdict> {
        self.shared.verdicts()
    }

    /// Sees every new verdict; fast ones may be skipped.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.subscribe()
    }

    /// Whether this version, although `system` wrote it, holds somebody else's work.
    pub(crate) fn is_mixed(&self, path: &str, hash: ContentHash) -> bool {
        self.shared.is_mixed(path, hash)
    }

    /// Everything that is to be told.
    pub(crate) fn report(&self) -> Report {
        self.shared.report()
    }

    /// The last-known-good sets, newest first.
    pub(crate) fn good(&self) -> Vec<GoodSet> {
        self.shared.good()
    }

    /// Before the gateway is stopped for good: what it does from now on is not the candidate's fault.
    pub(crate) fn halt(&self) {
        self.halt.send_replace(true);
    }
}

/// Known secrets in a text, replaced. `secrets` are longest first.
fn redact(text: &str, secrets: &[String]) -> String {
    let mut text = text.to_owned();
    for secret in secrets {
        if text.contains(secret.as_str()) {
            text = text.replace(secret.as_str(), "[redacted]");
        }
    }
    text
}
