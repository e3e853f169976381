//! What is done about the configuration while none is tried: see `guard`, which decides it.

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use tokio::time::Instant;
use winston_wire::{ConfigVerdict, ContentHash, Source, Timestamp, Verdict};

use super::enact::remember_mixed;
use super::guard::{Order, Proof, Scene};
use super::outcome::verdict;
use super::owner::Owner;
use super::report::{Repair, Standing};
use super::secrets::secrets_in;
use super::store::{FileSet, SetFile};
use super::{Answer, Origin, Submission, SubmitError, owned, swap};
use crate::edits::{Author, EditError, Look, Precondition, hash_of};
use crate::failpoint;
use crate::fs::{FsError, Root, TenantPath};

/// Pause after something that could not be done.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Orders that are carried out before others get a turn.
const MOST_ORDERS: usize = 4;

/// Refused configurations of ours that are kept beside the one in use.
const MOST_REJECTED: usize = 5;

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
            Ok(Ok(Some(_))) => {
                self.guard.mended(self.status().restarts);
                self.gateway.config_ready();
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
            Ok(Look::Absent | Look::Opaque) => None,
            Err(error) => {
                tracing::debug!(%error, "could not look at the configuration");
                return None;
            }
        };
        let drifted = self.drifted(hash).await;
        let status = self.status();
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
            good: good.iter().filter_map(|set| Some((set.seq, config_of(set)?))).collect(),
            // To enforce them may need a restart, and that has time until the gateway is resumed.
            drifted: drifted && status.suspension.is_none(),
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
            let there = swap::read(edits, &config)?;
            let over = there.as_deref().map_or(Precondition::Absent, |there| Precondition::Match(hash_of(there)));
            let rejected = match &there {
                Some(there) => Some(reject(edits.root(), &config, there)?),
                None => None,
            };
            failpoint::here("config-rejected");
            remember_mixed(store, &shared, &[(config.as_str().to_owned(), hash_of(&wanted))]);
            edits.put(&config, &wanted, &repairer(), over)?;
            failpoint::here("config-repaired");
            Ok(Some(Restored { rejected, secrets: there.as_deref().map(secrets_in).unwrap_or_default() }))
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
        Some(())
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

    /// There is no configuration: the newest last-known-good set comes back, without what is there.
    pub(super) async fn bootstrap(&mut self) -> Answer {
        let (config, shared) = (self.config.clone(), std::sync::Arc::clone(&self.shared));
        let good = self.shared.good();
        let done = self.blocking(move |edits, store| -> Result<u64, SubmitError> {
            if swap::read(edits, &config)?.is_some() {
                return Err(SubmitError::NoSet);
            }
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
                edits.put(&config, content, &repairer(), Precondition::Absent)?;
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
        Ok(verdict)
    }
}

fn repairer() -> Author {
    Author { source: Source::System, actor: Some("config-repair".into()), generation: None }
}

/// Keeps a refused configuration beside the one in use, for whoever wants to know; as the tenant's, and for nobody else to read. The path.
fn reject(root: &Root, config: &TenantPath, content: &[u8]) -> Result<String, FsError> {
    let parent = root.parent(config)?;
    let time = Timestamp::now().to_string().replace(['-', ':'], "");
    let time = time.split('.').next().unwrap_or(&time);
    let prefix = format!("{}.rejected.", parent.name);
    let name = format!("{prefix}{time}Z");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let made = match rustix::fs::openat(&parent.dir, &name, flags, Mode::from_raw_mode(0o600)) {
        // One within the same second is enough.
        Err(rustix::io::Errno::EXIST) => None,
        made => Some(File::from(made?)),
    };
    if let Some(mut file) = made {
        file.write_all(content)?;
        if let Some((uid, gid)) = root.owner() {
            rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        file.sync_all()?;
        rustix::fs::fsync(&parent.dir)?;
    }
    let mut ours = Vec::new();
    Root::each_entry(std::os::fd::AsFd::as_fd(&parent.dir), |entry| {
        let name = std::str::from_utf8(&entry.name).ok();
        // The gateway keeps some too, under other names.
        if let Some(name) = name.filter(|name| name.strip_prefix(&prefix).is_some_and(is_our_time)) {
            ours.push(name.to_owned());
        }
    })?;
    ours.sort_unstable();
    for old in ours.iter().rev().skip(MOST_REJECTED) {
        let _ = rustix::fs::unlinkat(&parent.dir, old.as_str(), AtFlags::empty());
    }
    Ok(config.parent().map_or_else(|| name.clone(), |directory| format!("{directory}/{name}")))
}

/// Such as `20260101T000000Z`.
fn is_our_time(text: &str) -> bool {
    text.len() == 16
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_configurations_are_kept_within_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path(), None).unwrap();
        let state = dir.path().join(".openclaw");
        std::fs::create_dir(&state).unwrap();
        for year in 2000..2010 {
            std::fs::write(state.join(format!("openclaw.json.rejected.{year}0101T000000Z")), "old").unwrap();
        }
        std::fs::write(state.join("openclaw.json.rejected.2000-01-01T00-00-00-000Z"), "the gateway's").unwrap();
        let config = TenantPath::parse(".openclaw/openclaw.json").unwrap();
        let path = reject(&root, &config, b"theirs").unwrap();
        assert_eq!(std::fs::read(dir.path().join(&path)).unwrap(), b"theirs");
        let left = std::fs::read_dir(&state).unwrap().count();
        assert_eq!(left, MOST_REJECTED + 1);
        assert!(is_our_time(path.rsplit('.').next().unwrap()), "{path}");
    }
}
