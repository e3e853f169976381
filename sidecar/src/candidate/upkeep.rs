//! What is done about the configuration while none is tried: see `guard`, which decides it.

use std::time::Duration;

use tokio::time::Instant;
use winston_wire::{ConfigVerdict, ContentHash, ExitCause, Source, Timestamp, Verdict};

use super::enact::remember_mixed;
use super::guard::{Order, Proof, Scene};
use super::outcome::verdict;
use super::owner::Owner;
use super::rejected::Rejected;
use super::report::{Repair, Standing};
use super::secrets::secrets_in;
use super::store::{FileSet, SetFile};
use super::{Answer, Origin, Submission, SubmitError, owned, rejected, swap};
use crate::edits::{Author, EditError, Edits, Look, Precondition, hash_of};
use crate::failpoint;
use crate::fs::{FsError, TenantPath};
use crate::gateway::{CONFIG_EXIT, Writer};

/// Pause after something that could not be done.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Orders that are carried out before others get a turn.
const MOST_ORDERS: usize = 4;

/// A last-known-good configuration is in the place of one that was refused.
struct Restored {
    /// Where the refused one is.
    rejected: Option<String>,
    /// Values in it that nobody should read in a verdict.
    secrets: Vec<String>,
}

impl Owner {
    /// Does whatever is to be done; when the next look is due.
    pub(super) async fn upkeep(&mut self) -> Option<Instant> {
        for _ in 0..MOST_ORDERS {
            let Some(scene) = self.scene().await else { return Some(Instant::now() + RETRY_PAUSE) };
            let now = self.now();
            let order = self.guard.look(&scene, now);
            let standing = match self.guard.proof {
                Proof::Proved => Standing::Good,
                Proof::Refused => Standing::Refused,
                Proof::None | Proof::Valid => Standing::Unknown,
            };
            self.shared.change(|report| (report.hash, report.standing) = (scene.config, standing));
            let done = match order {
                Order::Wait(due) => return due.map(|due| self.origin + due),
                Order::Keep => self.keep(&scene).await,
                Order::Validate => self.judge(&scene).await,
                Order::Restore(seq) => self.restore(seq, &scene).await,
                Order::Retry => {
                    self.gateway.config_ready();
                    Some(())
                }
                Order::Enforce => self.enforce().await,
            };
            if done.is_none() || self.is_halted() {
                return Some(Instant::now() + RETRY_PAUSE);
            }
        }
        Some(Instant::now())
    }

    /// A configuration that its user cannot read is not to be replaced: he gets it back, before the next start if that is possible.
    async fn mend(&mut self) {
        match self.blocking(|edits, _| edits.mend_config()).await {
            Ok(Ok(Some(was))) => {
                self.guard.mended(self.status().restarts);
                self.gateway.config_changed(Writer::Tenant(was.changed_at()));
            }
            // A start fails, and says what is to be done.
            Ok(Err(error)) => tracing::debug!(%error, "could not make the configuration readable"),
            Ok(Ok(None)) | Err(_) => {}
        }
    }

    /// Looks at everything; `None` when the disk cannot be read now.
    async fn scene(&mut self) -> Option<Scene> {
        self.mend().await;
        let config = self.config.clone();
        let found = self.blocking(move |edits, _| edits.look(&config)).await.ok()?;
        let hash = match found {
            Ok(Look::File { hash, .. }) => Some(hash),
            // Held back: nobody knows yet whether it was to go.
            Ok(Look::Withheld) => return None,
            Ok(Look::Absent | Look::Opaque) | Err(EditError::Fs(FsError::Escape)) => None,
            Err(error) => {
                tracing::debug!(%error, "could not look at the configuration");
                return None;
            }
        };
        let drifted = self.drifted(hash).await;
        let status = self.status();
        // Its own words name another trouble. One that was found around it has no line as evidence, and is surely not the configuration's fault.
        let is_doubtful = status.last_exit.as_ref().is_some_and(|exit| {
            exit.cause == ExitCause::Failed && exit.code == Some(CONFIG_EXIT) && exit.evidence.is_some()
        });
        let exit = status.last_exit.map(|exit| (exit.at, exit.cause));
        let ended = exit.map(|(at, _)| at);
        if self.damaged.0 != ended {
            self.damaged = (ended, Vec::new());
        }
        let mut good = self.shared.good();
        good.retain(|set| !self.damaged.1.contains(&set.seq));
        let config_of = |set: &super::GoodSet| set.files.iter().find(|file| file.path == self.config)?.hash;
        Some(Scene {
            config: hash,
            state: status.state,
            pid: status.pid,
            starts: status.restarts,
            exit,
            is_doubtful,
            good: good.iter().filter_map(|set| Some((set.seq, config_of(set)?))).collect(),
            // To enforce them may need a restart, and that has time until the gateway is resumed.
            drifted: drifted && !self.gateway.is_fenced(),
        })
    }

    /// Whether the keys that control owns differ in the configuration with this content.
    async fn drifted(&mut self, hash: Option<ContentHash>) -> bool {
        let (Some(hash), Some(wanted)) = (hash, self.owned.clone()) else { return false };
        if let Some((known, generation, drifted)) = self.drift
            && (known, generation) == (hash, wanted.generation)
        {
            return drifted;
        }
        let config = self.config.clone();
        let compared = self.blocking(move |edits, _| {
            let text = edits.content(&config, hash).ok().flatten()?;
            Some(owned::enforced(std::str::from_utf8(&text).ok()?, &wanted.patch).map(|changed| changed.is_some()))
        });
        let generation = self.owned.as_ref().map_or(0, |owned| owned.generation);
        let drifted = match compared.await {
            Ok(Some(Ok(drifted))) => {
                self.owned_problem = None;
                drifted
            }
            Ok(Some(Err(error))) => {
                self.owned_problem = Some(error.to_string());
                false
            }
            // It changed meanwhile, or is no text: the next look sees.
            Ok(None) | Err(_) => return false,
        };
        self.drift = Some((hash, generation, drifted));
        drifted
    }

    /// The configuration on disk is good.
    async fn keep(&mut self, scene: &Scene) -> Option<()> {
        let hash = scene.config?;
        let config = self.config.clone();
        let content = self.blocking(move |edits, _| edits.content(&config, hash)).await.ok()?.ok()??;
        let set = FileSet { files: vec![SetFile { path: self.config.clone(), content: Some(content) }] };
        // A set that came as one has more than the configuration.
        if scene.good.first().is_none_or(|(_, known)| *known != hash) {
            self.keep_good(set, "in use".into()).await;
        }
        let now = self.now();
        self.guard.proved(hash, now);
        Some(())
    }

    /// Somebody has edited the configuration under a running gateway.
    async fn judge(&mut self, scene: &Scene) -> Option<()> {
        let hash = scene.config?;
        let config = self.config.clone();
        let content = self.blocking(move |edits, _| edits.content(&config, hash)).await.ok()?.ok()??;
        let checked = self.check(content, None, FileSet::default()).await.ok()?;
        if let Some(issue) = checked.errors.first() {
            tracing::warn!(
                path = issue.path,
                message = issue.message,
                "the next start of the gateway would refuse openclaw.json"
            );
        }
        self.guard.judged(hash, checked.errors.is_empty());
        Some(())
    }

    /// The gateway refuses what is there: a last-known-good configuration takes its place, and what was there is kept beside it.
    async fn restore(&mut self, seq: u64, scene: &Scene) -> Option<()> {
        let (exit, _) = scene.exit?;
        let (config, shared) = (self.config.clone(), std::sync::Arc::clone(&self.shared));
        let done = self.blocking(move |edits, store| -> Result<Option<Restored>, EditError> {
            let wanted = store.good_set(seq).and_then(|set| set.content(&config).map(<[u8]>::to_vec));
            let Some(wanted) = wanted else { return Ok(None) };
            let (rejected, over, secrets) = match swap::read(edits, &config) {
                Ok(None) => (None, Precondition::Absent, Vec::new()),
                Ok(Some(there)) => {
                    let copy = rejected::copy(edits.root(), &config, &there)?;
                    (Some(copy), Precondition::Match(hash_of(&there)), secrets_in(&there))
                }
                Err(error) if rejected::is_in_the_way(&error) => {
                    (Some(rejected::set_aside(edits.root(), &config)?), Precondition::Absent, Vec::new())
                }
                Err(error) => return Err(error),
            };
            failpoint::here("config-rejected");
            remember_mixed(store, &shared, &[(config.as_str().to_owned(), hash_of(&wanted))]);
            let rejected = put_in_place(edits, &config, &wanted, over, rejected)?;
            failpoint::here("config-repaired");
            Ok(Some(Restored { rejected, secrets }))
        });
        let restored = match done.await {
            Ok(Ok(done)) => done,
            // It changed since the look.
            Ok(Err(EditError::PreconditionFailed { .. } | EditError::Busy)) => return Some(()),
            Ok(Err(error)) => {
                self.set_trouble(Some(format!("the last-known-good configuration cannot be put back: {error}")));
                return None;
            }
            Err(_) => return None,
        };
        let Some(Restored { rejected, secrets }) = restored else {
            tracing::error!(seq, "a last-known-good set is damaged; it is left out");
            // The next look orders the next older one.
            self.damaged.1.push(seq);
            return Some(());
        };
        let now = self.now();
        self.guard.restored(exit, now);
        self.set_trouble(None);
        self.gateway.config_ready();
        tracing::warn!(seq, rejected, "the gateway refused openclaw.json; a last-known-good one is in its place");
        let at = Timestamp::now();
        self.shared.change(|report| report.repair = Some(Repair { at, seq, rejected: rejected.clone() }));
        let theirs =
            rejected.map_or_else(|| "there was none".to_owned(), |path| format!("what was there is in {path}"));
        let reason =
            format!("the gateway refused openclaw.json, so last-known-good set {seq} is in its place; {theirs}");
        let lines = self.last_lines(0, &secrets);
        self.publish(ConfigVerdict { lines, ..verdict(None, Verdict::RolledBack, reason) }).await;
        self.prune().await;
        Some(())
    }

    /// The gateway does not wait for this: the agent may have left a large directory in the place of its configuration.
    async fn prune(&self) {
        let config = self.config.clone();
        if let Ok(Err(error)) = self.blocking(move |edits, _| rejected::prune(edits, &config)).await {
            tracing::warn!(%error, "old refused configurations stay");
        }
    }

    /// Somebody has changed keys that control owns.
    async fn enforce(&mut self) -> Option<()> {
        let now = self.now();
        self.guard.enforced(now);
        let times = self.guard.enforcements();
        tracing::warn!(times, "keys that control owns were changed here; they are set again");
        let author = Author { source: Source::System, actor: Some("owned-keys".into()), generation: None };
        let submission = Submission { origin: Origin::Owned, author, files: Vec::new(), owned: None, pushed: None };
        match self.transact(submission).await {
            Ok(verdict) if verdict.verdict == Verdict::Applied => self.owned_problem = None,
            Ok(verdict) => self.owned_problem = Some(verdict.reason),
            Err(SubmitError::ShuttingDown) => return None,
            Err(error) => self.owned_problem = Some(error.to_string()),
        }
        self.set_activity(super::report::Activity::Idle);
        self.shared.change(|report| report.open = None);
        Some(())
    }

    /// There is no configuration that could be read: the newest last-known-good set comes back, without what is there.
    pub(super) async fn bootstrap(&mut self) -> Answer {
        let (config, shared) = (self.config.clone(), std::sync::Arc::clone(&self.shared));
        let good = self.shared.good();
        let done = self.blocking(move |edits, store| -> Result<u64, SubmitError> {
            let in_the_way = match swap::read(edits, &config) {
                Ok(None) => false,
                Ok(Some(_)) => return Err(SubmitError::NoSet),
                Err(error) if rejected::is_in_the_way(&error) => true,
                Err(error) => return Err(error.into()),
            };
            for set in good {
                let Some(files) = store.good_set(set.seq) else { continue };
                let Some(content) = files.content(&config) else { continue };
                // The configuration last: the gateway starts as soon as there is one.
                for SetFile { path, content } in files.files.iter().filter(|file| file.path != config) {
                    let Some(content) = content else { continue };
                    match edits.put(path, content, &repairer(), Precondition::Absent) {
                        Ok(_) | Err(EditError::PreconditionFailed { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                remember_mixed(store, &shared, &[(config.as_str().to_owned(), hash_of(content))]);
                let aside = in_the_way.then(|| rejected::set_aside(edits.root(), &config)).transpose()?;
                put_in_place(edits, &config, content, Precondition::Absent, aside)?;
                return Ok(set.seq);
            }
            Err(SubmitError::NoSet)
        });
        let seq = done.await??;
        tracing::info!(seq, "there was no openclaw.json; a last-known-good one is in its place");
        let reason = format!(
            "there was no openclaw.json and no word from control, so last-known-good set {seq} is in its place"
        );
        let verdict = verdict(None, Verdict::Applied, reason);
        self.publish(verdict.clone()).await;
        self.prune().await;
        Ok(verdict)
    }
}

/// Puts a last-known-good configuration in place. Where what gave way for it is kept.
fn put_in_place(
    edits: &Edits,
    config: &TenantPath,
    content: &[u8],
    over: Precondition,
    rejected: Option<Rejected>,
) -> Result<Option<String>, EditError> {
    if let Err(error) = edits.put(config, content, &repairer(), over) {
        // Tried again and again, it would take the place of those that were kept before.
        rejected.into_iter().for_each(Rejected::undo);
        return Err(error);
    }
    Ok(rejected.map(|rejected| rejected.path))
}

fn repairer() -> Author {
    Author { source: Source::System, actor: Some("config-repair".into()), generation: None }
}
