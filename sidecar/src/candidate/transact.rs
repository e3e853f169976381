//! One change of the configuration from its submission to its verdict.

use winston_wire::{ConfigIssue, ConfigVerdict, ContentHash, Timestamp, Verdict};

use super::effect::Effect;
use super::footing::Footing;
use super::outcome::verdict;
use super::owner::Owner;
use super::prepare::{Prepared, prepare};
use super::record::{NEW, OLD, OWNED, Phase, Record, Resume, TRANSACTION, resume};
use super::report::{Activity, Open};
use super::secrets::secrets_in;
use super::store::{FileSet, Store};
use super::trial::{Action, Event, Failure, Ruling, Standing, State, resumed, step};
use super::{Answer, NewFile, Origin, Submission, SubmitError, swap};
use crate::edits::{Author, EditError, Edits, Precondition};

/// A trial under way.
pub(super) struct Trial {
    pub(super) record: Record,
    pub(super) old: FileSet,
    pub(super) new: FileSet,
    /// Secrets of the candidate, longest first.
    pub(super) secrets: Vec<String>,
    /// The end of a process that is known.
    pub(super) seen_exit: Option<Timestamp>,
    /// Number of the process that was at its end before it could read the candidate: whatever its end means, it is not about that.
    pub(super) earlier: Option<u64>,
    /// The last line of the gateway's output before the trial, and the last that was looked at.
    pub(super) first_line: u64,
    pub(super) seen_line: u64,
    pub(super) restarted: bool,
    /// See [`Prepared`].
    pub(super) mixed: bool,
    pub(super) errors: Vec<ConfigIssue>,
    pub(super) lines: Vec<String>,
    pub(super) kept: Vec<String>,
}

impl Owner {
    /// Tries a set out.
    pub(super) async fn transact(&mut self, submission: Submission) -> Answer {
        let generation = submission.author.generation;
        // A start finishes what was open first; whoever asks again then gets its verdict.
        if submission.origin == Origin::Push
            && let Some(known) = generation.and_then(|generation| self.shared.verdict_of(generation))
            && known.hash == submission.pushed
        {
            return Ok(known);
        }
        let open = Open { origin: submission.origin, generation, since: Timestamp::now() };
        self.shared.change(|report| report.open = Some(open));
        // Not before: whoever suspends it looks for what is open after he has said so.
        if self.gateway.is_fenced() {
            return Err(SubmitError::Suspended);
        }
        self.set_activity(Activity::Validating);
        let (origin, author, pushed) = (submission.origin, submission.author.clone(), submission.pushed);
        let (config, patch) = (self.config.clone(), self.owned.clone());
        let prepared = self.blocking(move |edits, _| prepare(edits, &config, submission, patch)).await??;
        let Some(prepared) = prepared else { return Err(SubmitError::Unusable("nothing was submitted".into())) };
        let Some(text) = prepared.new.content(&self.config).map(<[u8]>::to_vec) else {
            return self.nothing_to_try(prepared, &author, pushed).await;
        };
        let old_text = prepared.old.content(&self.config).map(<[u8]>::to_vec);
        let checked = self.check(text.clone(), old_text, prepared.new.clone()).await?;
        let Prepared { old, new, owned, mixed } = prepared;
        let status = self.status();
        let record = Record {
            phase: Phase::Swapping,
            origin,
            source: author.source,
            actor: author.actor,
            generation,
            after_seq: self.edits.journal().head_seq(),
            started_at: Timestamp::now(),
            effect: checked.effect,
            pid: status.pid,
            was_ready: false,
            line: Some(self.gateway.last_line()),
            pushed,
            pushed_before: Vec::new(),
            warnings: checked.warnings,
            remark: checked.remark,
            owned,
        };
        let mut trial = self.trial(record, old, new);
        trial.errors = checked.errors;
        trial.mixed = mixed;
        let in_order = trial.errors.is_empty();
        if in_order && trial.old == trial.new {
            // Nothing changes; whether it does well is known, or found out, without a trial.
            trial.record.remark = "it was in place already".into();
            return self.finish(trial, Ruling::Kept { proved: false }).await;
        }
        let event = Event::Validated(in_order.then_some(trial.record.effect));
        let (state, actions) = step(&self.limits, State::Validating, event, self.now());
        self.drive(trial, state, actions).await
    }

    /// There is no configuration, and none came along: what control wants to own is remembered for the first one.
    async fn nothing_to_try(&mut self, prepared: Prepared, author: &Author, pushed: Option<ContentHash>) -> Answer {
        let Some(owned) = prepared.owned else {
            return Err(SubmitError::Unusable(
                "openclaw.json cannot be removed while its gateway is hosted here".into(),
            ));
        };
        let kept = owned.clone();
        self.blocking(move |_, store| store.write(OWNED, &kept)).await?.map_err(|error| EditError::Fs(error.into()))?;
        self.owned = Some(owned);
        let reason = "there is no openclaw.json yet; the keys are set as soon as there is one".into();
        let verdict = ConfigVerdict { hash: pushed, ..verdict(author.generation, Verdict::Applied, reason) };
        self.publish(verdict.clone()).await;
        Ok(verdict)
    }

    fn trial(&self, record: Record, old: FileSet, new: FileSet) -> Trial {
        let status = self.status();
        let line = self.gateway.last_line();
        let secrets = new.content(&self.config).map(secrets_in).unwrap_or_default();
        Trial {
            record,
            old,
            new,
            secrets,
            seen_exit: status.last_exit.map(|exit| exit.at),
            earlier: None,
            first_line: line,
            seen_line: line,
            restarted: false,
            mixed: false,
            errors: Vec::new(),
            lines: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// Goes on with what an earlier process began.
    pub(super) async fn recover(&mut self) {
        let found = self.blocking(move |edits, store| {
            let record: Record = store.read(TRANSACTION)?;
            let sets = store.set(OLD).zip(store.set(NEW));
            let Some((old, new)) = sets else {
                tracing::error!("a change of the configuration was interrupted, and what belongs to it is damaged");
                forget(store);
                return None;
            };
            let in_place = is_in_journal(edits, &record, &new);
            Some((resume(&record.phase, in_place), record, old, new))
        });
        let Ok(Some((mut resume, mut record, old, new))) = found.await else { return };
        let judged = record.generation.and_then(|generation| self.shared.verdict_of(generation));
        if judged.is_some_and(|verdict| verdict.hash == record.pushed && verdict.at >= record.started_at) {
            // Its verdict was the last thing before the end.
            resume = Resume::Drop;
        }
        let (origin, generation, since) = (record.origin, record.generation, record.started_at);
        tracing::info!(?origin, generation, ?resume, "a change of the configuration was interrupted");
        self.shared.change(|report| report.open = Some(Open { origin, generation, since }));
        let _ = match resume {
            Resume::Drop => {
                let _ = self.blocking(|_, store| forget(store)).await;
                Ok(())
            }
            Resume::Probation => {
                let (status, effect) = (self.status(), record.effect);
                // In another container its number may be a new process's.
                let is_same = status.adopted && status.pid.is_some() && status.pid == record.pid;
                // Lines that are not on the volume are gone, and their numbers are given out again: what it said of the set is not to be known then.
                let line = record.line.filter(|line| *line <= self.gateway.last_line());
                let is_clear = record.was_ready && (line.is_some() || effect == Effect::None);
                let met = is_same.then_some(if is_clear { Standing::Ready } else { Standing::Running });
                record.phase = Phase::Probation;
                let (state, actions) = resumed(&self.limits, met, effect, self.now());
                let mut trial = self.trial(record, old, new);
                if let (Some(line), true) = (line, is_same) {
                    // What it said meanwhile counts.
                    trial.seen_line = line;
                }
                // Whether a process that ended meanwhile had read the candidate is not to be known. The next one reads it, and shows.
                let status = self.status();
                trial.earlier = Footing::of(&status, true).earlier;
                trial.first_line = 0;
                self.drive(trial, state, actions).await.map(drop)
            }
            Resume::Return => {
                let Phase::Returning { reason, lines } = record.phase.clone() else { return };
                let mut trial = self.trial(record, old, new);
                trial.lines = lines;
                trial.restarted = true;
                let state = State::Returning { failure: Failure::Found(reason) };
                self.drive(trial, state, vec![Action::Return]).await.map(drop)
            }
        };
        self.set_activity(Activity::Idle);
    }

    /// Carries out what the trial says until it is over.
    async fn drive(&mut self, mut trial: Trial, mut state: State, mut actions: Vec<Action>) -> Answer {
        loop {
            let mut event = None;
            for action in actions {
                match action {
                    Action::Swap => event = Some(self.swap(&mut trial).await?),
                    Action::Restart => self.restart(&mut trial).await,
                    Action::Wake => self.gateway.config_ready(),
                    Action::Look => event = Some(Event::Looked(self.look(&mut trial).await?)),
                    Action::Return => event = Some(self.put_back(&mut trial, &state).await?),
                    Action::Revive => self.revive(&trial, &state).await,
                    Action::Report => {
                        let State::Ended(ruling) = state else { return Err(SubmitError::ShuttingDown) };
                        return self.finish(trial, ruling).await;
                    }
                }
            }
            let Some(event) = event else { return Err(SubmitError::ShuttingDown) };
            (state, actions) = step(&self.limits, state, event, self.now());
            self.set_activity(match &state {
                State::Validating => Activity::Validating,
                State::Swapping { .. } => Activity::Swapping,
                State::Starting { .. } => Activity::Starting,
                State::Watching { .. } => Activity::Watching,
                State::Returning { .. } | State::Ended(_) => Activity::Returning,
            });
        }
    }

    /// Brings a last-known-good set back, as a change like any other.
    pub(super) async fn rollback(&mut self, to: Option<u64>, author: Author) -> Answer {
        let config = self.config.clone();
        let good = self.shared.good();
        let wanted = self.blocking(move |edits, store| {
            let there = swap::read(edits, &config).ok().flatten();
            let mut sets = good.iter().filter(|set| to.is_none_or(|to| set.seq == to));
            sets.find_map(|set| {
                let set = store.good_set(set.seq)?;
                (to.is_some() || set.content(&config) != there.as_deref()).then_some(set)
            })
        });
        let set = wanted.await?.ok_or(SubmitError::NoSet)?;
        let files = set.files.into_iter().map(|file| NewFile {
            path: file.path,
            content: file.content.map(Into::into),
            over: Precondition::None,
        });
        self.transact(Submission {
            origin: Origin::Rollback,
            author,
            files: files.collect(),
            owned: None,
            pushed: None,
        })
        .await
    }
}

/// The transaction is over. What cannot be removed now is found, and found finished, by the next start.
pub(super) fn forget(store: &Store) {
    if let Err(error) = store.remove(TRANSACTION) {
        tracing::warn!(%error, "could not end a change of the configuration");
        return;
    }
    for name in [OLD, NEW] {
        if let Err(error) = store.drop_set(name) {
            tracing::warn!(%error, name, "could not remove a set");
        }
    }
}

/// Whether the new set reached the disk: all records of a set are one append, so one of them is enough.
fn is_in_journal(edits: &Edits, record: &Record, new: &FileSet) -> bool {
    edits.journal().ledger().newest(usize::MAX).into_iter().any(|change| {
        change.seq > record.after_seq
            && change.source == record.source
            && change.generation == record.generation
            && new.files.iter().any(|file| file.path.as_str() == change.path && file.hash() == change.hash)
    })
}
