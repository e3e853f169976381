//! The task through which every change of the configuration goes, one after the other.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use winston_wire::{ContentHash, GatewayStatus, Timestamp};

use super::guard::Guard;
use super::record::{OWNED, Owned};
use super::report::{Activity, OwnedKeys, Shared};
use super::store::Store;
use super::trial::Limits;
use super::{Command, Request, SubmitError, Times, owned};
use crate::edits::Edits;
use crate::fs::TenantPath;
use crate::gateway::{Cli, GatewayHandle};

/// Between two looks at the configuration that others' records cause.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// A gateway that does not answer for so long, while it should be ready, does not do well.
const SILENCE: Duration = Duration::from_secs(20);

/// What the task is made of.
pub(super) struct Parts {
    pub(super) edits: Arc<Edits>,
    pub(super) gateway: GatewayHandle,
    pub(super) cli: Cli,
    pub(super) times: Times,
    pub(super) store: Arc<Store>,
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: mpsc::Receiver<Command>,
    pub(super) halted: watch::Receiver<bool>,
}

/// The task.
pub(super) struct Owner {
    pub(super) edits: Arc<Edits>,
    pub(super) gateway: GatewayHandle,
    pub(super) cli: Arc<Cli>,
    pub(super) times: Times,
    pub(super) limits: Limits,
    pub(super) store: Arc<Store>,
    pub(super) shared: Arc<Shared>,
    pub(super) halted: watch::Receiver<bool>,
    /// The configuration's path.
    pub(super) config: TenantPath,
    pub(super) guard: Guard,
    pub(super) owned: Option<Owned>,
    /// Why the keys that control owns could not be enforced.
    pub(super) owned_problem: Option<String>,
    /// Whether those keys differ in the configuration with this content.
    pub(super) drift: Option<(ContentHash, u64, bool)>,
    /// Last-known-good sets that turned out to be damaged when one was needed because of this end.
    pub(super) damaged: (Option<Timestamp>, Vec<u64>),
    /// Zero of the times in `guard` and in trials.
    pub(super) origin: Instant,
}

/// Runs until it is halted, or every handle is gone.
pub(super) async fn run(parts: Parts) {
    let Some(config) = parts.edits.layout().config_file() else { return };
    let mut inbox = parts.inbox;
    let mut head = parts.edits.journal().head();
    let mut states = parts.gateway.subscribe();
    let mut halted = parts.halted.clone();
    let owned = {
        let store = Arc::clone(&parts.store);
        tokio::task::spawn_blocking(move || store.read(OWNED)).await.ok().flatten()
    };
    let times = parts.times;
    let mut owner = Owner {
        edits: parts.edits,
        gateway: parts.gateway,
        cli: Arc::new(parts.cli),
        times,
        limits: Limits { start: times.start, probation: times.probation, silence: SILENCE },
        store: parts.store,
        shared: parts.shared,
        halted: parts.halted,
        config,
        guard: Guard::new(times.probation),
        owned,
        owned_problem: None,
        drift: None,
        damaged: (None, Vec::new()),
        origin: Instant::now(),
    };
    owner.recover().await;
    owner.shared.change(|report| report.open = None);
    while !owner.is_halted() {
        let due = owner.upkeep().await;
        owner.tell();
        let command = tokio::select! {
            command = inbox.recv() => Some(command),
            Ok(()) = states.changed() => None,
            Ok(()) = async { sleep(LOOK_PAUSE).await; head.changed().await } => None,
            () = reached(due) => None,
            Ok(()) = halted.changed() => None,
        };
        match command {
            Some(Some(command)) => owner.handle(command).await,
            Some(None) => return,
            None => {}
        }
    }
}

async fn reached(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

impl Owner {
    pub(super) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    pub(super) fn is_halted(&self) -> bool {
        *self.halted.borrow()
    }

    /// A clean record of what the gateway does now.
    pub(super) fn status(&self) -> GatewayStatus {
        self.gateway.status()
    }

    async fn handle(&mut self, command: Command) {
        let (request, answer) = match command {
            Command::Asked { request, answer } => (request, answer),
            Command::Reached(done) => {
                let _ = done.send(());
                return;
            }
        };
        let suspended = self.gateway.is_fenced();
        let done = match request {
            // A trial would restart it, or take its silence for a failure.
            Request::Submit(_) | Request::Rollback { .. } if suspended => Err(SubmitError::Suspended),
            Request::Submit(submission) => self.transact(submission).await,
            Request::Rollback { to, author } => self.rollback(to, author).await,
            Request::Bootstrap => self.bootstrap().await,
            Request::Note(verdict) => {
                self.publish(verdict.clone()).await;
                Ok(verdict)
            }
        };
        self.set_activity(Activity::Idle);
        self.shared.change(|report| report.open = None);
        // Nobody may be waiting any more.
        let _ = answer.send(done);
    }

    pub(super) fn set_activity(&self, activity: Activity) {
        self.shared.change(|report| report.activity = activity);
    }

    /// What went wrong beside the verdicts; logged when it changes.
    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        self.shared.change(|report| {
            if let Some(trouble) = trouble.as_ref().filter(|trouble| report.trouble.as_ref() != Some(trouble)) {
                tracing::error!(trouble, "the configuration cannot be looked after");
            }
            report.trouble = trouble;
        });
    }

    fn tell(&self) {
        let enforced = self.guard.enforcements();
        let owned = self.owned.as_ref().map(|owned| OwnedKeys {
            generation: owned.generation,
            keys: owned::keys(&owned.patch),
            enforced,
            contested: enforced >= super::guard::WAR,
            problem: self.owned_problem.clone(),
        });
        self.shared.change(|report| report.owned = owned);
    }

    /// Runs work that blocks.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Edits, &Store) -> T + Send + 'static,
    ) -> Result<T, SubmitError> {
        let (edits, store) = (Arc::clone(&self.edits), Arc::clone(&self.store));
        tokio::task::spawn_blocking(move || work(&edits, &store)).await.map_err(|_| SubmitError::ShuttingDown)
    }
}
