//! The loops that talk to control.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify, watch};
use uuid::Uuid;
use winston_wire::{AckedChange, CheckIn, ConfigVerdict, MAX_CONFLICTS, PROTOCOL_VERSION, Timestamp};

use super::applied::Applied;
use super::apply::{ApplyError, Round};
use super::backoff::{Backoff, random};
use super::client::{ClientError, ControlClient};
use super::status::{SyncState, SyncStatus};
use super::upload::{self, Ahead, UploadError};
use crate::candidate::Configs;
use crate::edits::Edits;
use crate::gateway::GatewayHandle;
use crate::journal::Cursor;

/// How long control may hold an answer back while nothing is new.
const LONG_POLL: Duration = Duration::from_secs(25);

/// Shortest time between two polls that bring nothing.
const POLL_FLOOR: Duration = Duration::from_secs(1);

/// Pause after an answer that only a person can change.
const PERMANENT_PAUSE: Duration = Duration::from_secs(60);

/// Pause between check-ins of a process whose place another one has taken. Control does not give it back; this finds out when the other
/// control or database behind the address has never heard of it.
const SUPERSEDED_PAUSE: Duration = Duration::from_secs(300);

/// Heartbeat until control has said otherwise, and its bounds.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Changes of the gateway's state are told at once, but not more often than this.
pub(super) const REPORT_PAUSE: Duration = Duration::from_millis(500);

/// Everything that the loops share.
pub(crate) struct Engine {
    pub(super) edits: Arc<Edits>,
    pub(super) client: ControlClient,
    gateway: GatewayHandle,
    /// `None` without a gateway.
    pub(super) configs: Option<Configs>,
    pub(super) status: Arc<SyncStatus>,
    pub(super) internal: Arc<OwnedFd>,
    started_at: Timestamp,
    /// Held while a round of pushes is applied or a conflict is resolved, so that they do not overlap.
    pub(super) applied: Mutex<Applied>,
    /// Last sequence number that control has committed, as it said itself; `None` until it has been asked.
    pub(super) acked: watch::Sender<Option<u64>>,
    /// The last poll brought something new.
    behind: AtomicBool,
    /// Another process has taken our place.
    superseded: watch::Sender<bool>,
    /// Journal and record that were found to be the ones that control has.
    pub(super) verified: std::sync::Mutex<Option<(Uuid, AckedChange)>>,
    /// Last record when conflicts were looked through.
    pub(super) settled_at: AtomicU64,
    /// A check-in is worth making now.
    pub(super) report_now: Notify,
    /// Time of the newest verdict that control has been told in this process's life.
    told: std::sync::Mutex<Option<Timestamp>>,
    /// The last check-in said that control's files differ, and wakes whoever compares them.
    pub(super) differs: AtomicBool,
    pub(super) compare: Notify,
}

impl Engine {
    pub(crate) fn new(
        edits: Arc<Edits>,
        client: ControlClient,
        gateway: GatewayHandle,
        configs: Option<Configs>,
        status: Arc<SyncStatus>,
    ) -> Result<Self, crate::fs::FsError> {
        let internal = edits.root().internal_dir(".winston")?;
        let applied = Applied::load(&internal);
        status.set_state(SyncState::Connecting, None);
        status.set_applied(applied.generation, applied.told());
        Ok(Self {
            edits,
            client,
            gateway,
            configs,
            status,
            internal: Arc::new(internal),
            started_at: Timestamp::now(),
            applied: Mutex::new(applied),
            acked: watch::channel(None).0,
            behind: AtomicBool::new(false),
            superseded: watch::channel(false).0,
            verified: std::sync::Mutex::default(),
            settled_at: AtomicU64::new(u64::MAX),
            report_now: Notify::new(),
            told: std::sync::Mutex::default(),
            differs: AtomicBool::new(false),
            compare: Notify::new(),
        })
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(&self) {
        tokio::join!(self.check_in_loop(), self.upload_loop(), self.desired_loop(), self.entropy_loop());
    }

    /// Before the gateway starts for the first time: fetches and applies what control wants. Gives up when control does not answer.
    pub(crate) async fn first_files(&self) -> bool {
        // A process that has not checked in is nobody to control.
        let fetched = async {
            self.check_in().await?;
            self.pull(Duration::ZERO).await
        };
        match fetched.await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "no files from control yet");
                false
            }
        }
    }

    /// Sends what is left, for the end of the process.
    pub(crate) async fn flush(&self) {
        let acked = *self.acked.borrow();
        let Some(acked) = acked.filter(|_| !self.is_superseded()) else { return };
        let (mut cursor, mut ahead) = (Cursor::after(acked), Ahead::default());
        while let Ok(Some((acked, next))) = upload::send_next(&self.edits, &self.client, cursor, &mut ahead).await {
            if upload::acknowledge(&self.edits, acked).await.is_err() {
                return;
            }
            cursor = next;
        }
        let _ = self.check_in().await;
    }

    async fn check_in_loop(&self) {
        let mut gateway = self.gateway.subscribe();
        let mut verdicts = self.configs.as_ref().map(Configs::subscribe);
        let mut backoff = Backoff::default();
        loop {
            let checked_in = self.check_in().await;
            let answered = checked_in.is_ok();
            let pause = match checked_in {
                Ok(heartbeat) => {
                    backoff.reset();
                    heartbeat
                }
                Err(error) => self.failed(&error, &mut backoff),
            };
            tokio::time::sleep(REPORT_PAUSE.min(pause)).await;
            // Control may have asked for a longer pause; news do not shorten it.
            let welcome = answered && !self.is_superseded();
            tokio::select! {
                () = tokio::time::sleep(pause.saturating_sub(REPORT_PAUSE)) => {}
                // A supervisor that has ended says nothing new; then only the clock counts.
                Ok(()) = gateway.changed(), if welcome => {}
                () = self.report_now.notified(), if welcome => {}
                () = changed(&mut verdicts), if welcome => {}
            }
        }
    }

    async fn check_in(&self) -> Result<Duration, ClientError> {
        self.settle_conflicts().await;
        let report = self.status.report();
        let edits = Arc::clone(&self.edits);
        let manifest = tokio::task::spawn_blocking(move || edits.manifest()).await.unwrap_or(None);
        let (epoch, head_seq) = (self.edits.journal().epoch(), self.edits.journal().head_seq());
        let verdicts = self.untold_verdicts();
        let newest = verdicts.iter().map(|verdict| verdict.at).max();
        let answer = self
            .client
            .check_in(&CheckIn {
                protocol: PROTOCOL_VERSION,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                epoch,
                session: self.client.session(),
                started_at: self.started_at,
                head_seq,
                applied_generation: report.applied_generation,
                gateway: self.gateway.status(),
                conflicts: report.conflicts.into_iter().rev().take(MAX_CONFLICTS).collect(),
                verdicts,
                manifest,
            })
            .await?;
        if let Some(newest) = newest {
            *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(newest);
        }
        self.superseded.send_replace(false);
        self.status.set_state(SyncState::Connected, None);
        self.status.set_desired(answer.desired_generation);
        let heartbeat =
            Duration::from_secs(u64::from(answer.heartbeat_seconds)).clamp(REPORT_PAUSE * 2, HEARTBEAT * 20);
        if self.edits.journal().epoch() != epoch {
            // An answer about a journal that is no more.
            return Ok(heartbeat);
        }
        if answer.acked_seq > self.edits.journal().head_seq() {
            return self.start_new_epoch(epoch, "control has more of this journal than the volume").await;
        }
        if let Some(theirs) = &answer.acked_change
            && !self.is_ours(epoch, theirs).await
        {
            return self
                .start_new_epoch(epoch, "control has another record than the volume under the same number")
                .await;
        }
        self.differs.store(answer.manifest_differs, Ordering::Relaxed);
        if answer.manifest_differs {
            self.compare.notify_one();
        }
        self.acked.send_if_modified(|acked| {
            // Only the first answer, or one that goes back: in between, the upload loop knows better.
            let news = acked.is_none_or(|acked| answer.acked_seq < acked);
            if news {
                *acked = Some(answer.acked_seq);
            }
            news
        });
        Ok(heartbeat)
    }

    /// The verdicts that control has not been told yet. All of them once after each start: it keeps those that it does not know.
    fn untold_verdicts(&self) -> Vec<ConfigVerdict> {
        let told = *self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut verdicts = self.configs.as_ref().map(Configs::verdicts).unwrap_or_default();
        verdicts.retain(|verdict| told.is_none_or(|told| verdict.at > told));
        verdicts
    }

    async fn upload_loop(&self) {
        let mut head = self.edits.journal().head();
        let mut acked = self.acked.subscribe();
        let mut backoff = Backoff::default();
        // Control says where to begin.
        let Ok(Some(mut committed)) = acked.wait_for(Option::is_some).await.map(|acked| *acked) else { return };
        // What an earlier process could not forget in time.
        if let Err(error) = upload::acknowledge(&self.edits, committed).await {
            tracing::warn!(%error, "could not remove what control has");
        }
        let (mut cursor, mut ahead) = (Cursor::after(committed), Ahead::default());
        loop {
            self.served().await;
            let sent = upload::send_next(&self.edits, &self.client, cursor.clone(), &mut ahead).await;
            let sent = match sent {
                Ok(Some((acked_seq, next))) => {
                    let progress = acked_seq != committed;
                    committed = acked_seq;
                    cursor = next;
                    self.acked.send_replace(Some(acked_seq));
                    acked.mark_unchanged();
                    upload::acknowledge(&self.edits, acked_seq).await.map(|()| Some(progress))
                }
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            };
            match sent {
                Ok(Some(true)) => {
                    backoff.reset();
                    self.status.set_upload(None);
                }
                // The batch was taken note of but nothing was committed: as good as a failure.
                Ok(Some(false)) => tokio::time::sleep(backoff.next(random())).await,
                Ok(None) => {
                    self.status.set_upload(None);
                    tokio::select! {
                        Ok(_) = head.wait_for(|head| *head >= cursor.next_seq()) => {}
                        Ok(()) = acked.changed() => {
                            committed = acked.borrow_and_update().unwrap_or(0);
                            cursor = Cursor::after(committed);
                        }
                        else => return,
                    }
                }
                Err(error) => {
                    // The place in the file may be what is wrong; and what was read ahead need not wait in memory.
                    (cursor, ahead) = (Cursor::after(committed), Ahead::default());
                    self.status.set_upload(Some(error.to_string()));
                    let pause = match &error {
                        UploadError::Client(error) => self.failed(error, &mut backoff),
                        UploadError::Journal(_)
                        | UploadError::Unreadable(_)
                        | UploadError::Foreign { .. }
                        | UploadError::Stuck
                        | UploadError::ShuttingDown => backoff.next(random()),
                    };
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn desired_loop(&self) {
        let mut backoff = Backoff::default();
        // Control answers nobody who has not checked in.
        let mut acked = self.acked.subscribe();
        if acked.wait_for(Option::is_some).await.is_err() {
            return;
        }
        loop {
            self.served().await;
            let asked = Instant::now();
            match self.pull(LONG_POLL).await {
                Ok(()) => {
                    backoff.reset();
                    // A control (or a proxy before it) that does not hold the answer back must not make this a busy loop.
                    if !self.behind.swap(false, Ordering::Relaxed) {
                        tokio::time::sleep(POLL_FLOOR.saturating_sub(asked.elapsed())).await;
                    }
                }
                Err(ApplyError::Client(error)) => {
                    let pause = self.failed(&error, &mut backoff);
                    tokio::time::sleep(pause).await;
                }
                Err(error) => {
                    tracing::error!(%error, "could not apply pushed files; trying again");
                    tokio::time::sleep(backoff.next(random())).await;
                }
            }
        }
    }

    /// Asks for pushes newer than what was applied, and applies them.
    async fn pull(&self, wait: Duration) -> Result<(), ApplyError> {
        let generation = self.applied.lock().await.generation;
        let desired = self.client.desired(generation, wait).await?;
        if self.is_superseded() {
            // Noticed by another call while this one waited: its files are the other process's to apply.
            return Err(ClientError::Superseded.into());
        }
        self.status.set_state(SyncState::Connected, None);
        let mut applied = self.applied.lock().await;
        if desired.generation == applied.generation {
            return Ok(());
        }
        if desired.generation < applied.generation && desired.files.is_empty() {
            // A control that went back in time. It takes our generation over with the next check-in; to go back with it would give numbers that
            // have been used to other pushes.
            drop(applied);
            self.check_in().await?;
            return Ok(());
        }
        self.behind.store(true, Ordering::Relaxed);
        let mut after = applied.clone();
        let round = Round {
            edits: &self.edits,
            client: &self.client,
            internal: &self.internal,
            configs: self.configs.as_ref(),
        };
        let done = round.apply(desired, &mut after).await;
        if done.is_ok() {
            if let Err(error) = after.saved(&self.internal).await {
                // Applying again after a restart changes nothing that is in place.
                tracing::warn!(%error, "could not remember the applied generation");
            }
            self.status.set_applied(after.generation, after.told());
            *applied = after;
        } else {
            // What was merged stays known; the rest of the round starts over.
            (applied.merged, applied.merging) = (after.merged, after.merging);
        }
        drop(applied);
        done?;
        self.gateway.config_ready();
        // Tells control without waiting for the heartbeat.
        if let Err(error) = self.check_in().await {
            tracing::debug!(%error, "could not report the applied generation yet");
        }
        Ok(())
    }

    /// Whether another process has taken our place.
    fn is_superseded(&self) -> bool {
        *self.superseded.borrow()
    }

    /// Waits until control serves this process.
    pub(super) async fn served(&self) {
        // The sender lives as long as we do.
        let _ = self.superseded.subscribe().wait_for(|superseded| !superseded).await;
    }

    /// Notes a failure and says how long to wait.
    fn failed(&self, error: &ClientError, backoff: &mut Backoff) -> Duration {
        let state = match error {
            ClientError::Unreachable(_) | ClientError::Unavailable { .. } => SyncState::Unreachable,
            ClientError::Unauthorized => SyncState::Unauthorized,
            ClientError::Superseded => {
                self.superseded.send_replace(true);
                SyncState::Superseded
            }
            ClientError::Refused { .. } | ClientError::BadAnswer(_) | ClientError::TooLarge { .. } => {
                SyncState::Refused
            }
        };
        self.status.set_state(state, Some(error.to_string()));
        let pause = backoff.next(random());
        match error {
            ClientError::Unreachable(_) => pause,
            ClientError::Unavailable { retry_after, .. } => {
                pause.max(retry_after.unwrap_or_default().min(PERMANENT_PAUSE))
            }
            ClientError::Superseded => SUPERSEDED_PAUSE,
            ClientError::Unauthorized
            | ClientError::Refused { .. }
            | ClientError::BadAnswer(_)
            | ClientError::TooLarge { .. } => PERMANENT_PAUSE,
        }
    }
}

/// Waits for something new; for ever when there will be nothing.
async fn changed(news: &mut Option<watch::Receiver<u64>>) {
    if let Some(news) = news
        && news.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
