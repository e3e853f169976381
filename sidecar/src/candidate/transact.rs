//! One change of the configuration from its submission to its verdict.

use std::time::Duration;

use serde_json::Value;
use winston_wire::{Base, ConfigIssue, ConfigVerdict, ContentHash, Timestamp, Verdict};

use super::cli::{self, Answer as Said, Question};
use super::effect::{self, Effect};
use super::owner::Owner;
use super::record::{NEW, OLD, OWNED, Owned, Phase, Record, Resume, TRANSACTION, resume};
use super::report::{Activity, Open};
use super::store::{FileSet, SetFile};
use super::trial::{Action, Event, Failure, Look, Ruling, Standing, State, reload_in, resumed, step};
use super::{Answer, Origin, Submission, SubmitError, checks, include, owned, redact, swap};
use crate::edits::{Author, EditError, Edits, Precondition, SetError};
use crate::failpoint;
use crate::fs::TenantPath;
use crate::gateway::Stream;
use crate::merge::{self, MAX_MERGE_BYTES};

/// Longest pause between two looks at the gateway.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// Longest wait for one answer of the gateway.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Pause before what the volume refused is tried again.
const VOLUME_PAUSE: Duration = Duration::from_secs(2);

/// Of the gateway's output, what a verdict shows: lines, and characters of each.
const MOST_LINES: usize = 20;
const LONGEST_LINE: usize = 400;

/// Shortest value that is taken for a secret.
const SHORTEST_SECRET: usize = 8;

/// A submission, ready to be tried.
struct Prepared {
    old: FileSet,
    new: FileSet,
    owned: Option<Owned>,
    /// The configuration was made here, out of what was there.
    mixed: bool,
}

/// What the checks found.
pub(super) struct Checked {
    pub(super) errors: Vec<ConfigIssue>,
    pub(super) warnings: Vec<ConfigIssue>,
    effect: Effect,
    /// What is to be said about the checks themselves.
    remark: String,
}

/// A trial under way.
struct Trial {
    record: Record,
    old: FileSet,
    new: FileSet,
    /// Secrets of the candidate, longest first.
    secrets: Vec<String>,
    /// The end of a process that is known.
    seen_exit: Option<Timestamp>,
    /// The last line of the gateway's output before the trial, and the last that was looked at.
    first_line: u64,
    seen_line: u64,
    restarted: bool,
    /// See [`Prepared`].
    mixed: bool,
    errors: Vec<ConfigIssue>,
    lines: Vec<String>,
    kept: Vec<String>,
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
            pushed,
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
                let pid = self.status().pid;
                let restart = pid.is_some() && pid == record.pid;
                record.phase = Phase::Probation;
                let (state, actions) = resumed(&self.limits, restart, self.now());
                let mut trial = self.trial(record, old, new);
                // A process that ended before we looked ended with the candidate.
                trial.seen_exit = None;
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
        self.shared.change(|report| report.open = None);
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

    async fn swap(&mut self, trial: &mut Trial) -> Result<Event, SubmitError> {
        let (record, old, new) = (trial.record.clone(), trial.old.clone(), trial.new.clone());
        let made = new.file(&self.config).filter(|_| trial.mixed);
        let made: Vec<_> =
            made.and_then(|file| Some((file.path.as_str().to_owned(), file.hash()?))).into_iter().collect();
        let shared = std::sync::Arc::clone(&self.shared);
        let swapped = self.blocking(move |edits, store| -> Result<(), SetError> {
            let staged = || -> Result<(), EditError> {
                store.keep(OLD, &old)?;
                store.keep(NEW, &new)?;
                store.write(TRANSACTION, &record).map_err(|error| EditError::Fs(error.into()))
            };
            staged().inspect_err(|_| forget(store))?;
            failpoint::here("config-staged");
            // Before the file: what is made out of the tenant's must never look like a push.
            remember_mixed(store, &shared, &made);
            swap::swap(edits, &record.author(), &old, &new).inspect_err(|_| forget(store))?;
            failpoint::here("config-swapped");
            let record = Record { phase: Phase::Probation, ..record };
            if let Err(error) = store.write(TRANSACTION, &record) {
                // The journal tells the same.
                tracing::warn!(%error, "could not note that a configuration is on trial");
            }
            failpoint::here("config-on-trial");
            Ok(())
        });
        let before = self.status();
        match swapped.await? {
            Ok(()) => {
                trial.record.phase = Phase::Probation;
                let generation = trial.record.generation;
                tracing::info!(origin = ?trial.record.origin, generation, effect = ?trial.record.effect, "a configuration is on trial");
                // The first configuration has nothing to go back to: without it there would be no gateway at all.
                let had_one = trial.old.files.iter().any(|file| file.path == self.config && file.content.is_some());
                Ok(Event::Swapped(if had_one { Standing::of(before.state) } else { Standing::Off }))
            }
            Err(SetError { index, error }) => Err(SubmitError::Edit { index, error }),
        }
    }

    async fn restart(&mut self, trial: &mut Trial) {
        trial.restarted = true;
        match self.gateway.restart().await {
            Ok(status) => trial.seen_exit = status.last_exit.map(|exit| exit.at),
            // The next looks show what became of it.
            Err(error) => tracing::warn!(%error, "the gateway could not be restarted for a new configuration"),
        }
    }

    async fn look(&mut self, trial: &mut Trial) -> Result<Look, SubmitError> {
        let mut states = self.gateway.subscribe();
        states.mark_unchanged();
        let mut halted = self.halted.clone();
        tokio::select! {
            () = tokio::time::sleep(LOOK_PAUSE) => {}
            Ok(()) = states.changed() => {}
            Ok(()) = halted.changed() => {}
        }
        let lines = self.gateway.lines_after(trial.seen_line);
        if let Some(line) = lines.last() {
            trial.seen_line = line.seq;
        }
        let own = lines.iter().filter(|line| line.stream != Stream::Winston);
        let mut reloads: Vec<_> = own.filter_map(|line| reload_in(&line.line)).collect();
        if !reloads.is_empty() && !self.is_ours(trial).await? {
            // What somebody else wrote meanwhile is not the candidate's fault.
            reloads.clear();
        }
        let status = self.status();
        let answers = status.state == winston_wire::GatewayState::Ready && self.gateway.serves(ANSWER_LIMIT).await;
        let status = if answers { self.status() } else { status };
        if self.is_halted() {
            return Err(SubmitError::ShuttingDown);
        }
        let ended = status.last_exit.filter(|exit| trial.seen_exit.is_none_or(|seen| seen < exit.at));
        if let Some(exit) = &ended {
            trial.seen_exit = Some(exit.at);
        }
        let ended = ended.map(|exit| (exit.cause, exit.meaning));
        Ok(Look { state: status.state, ended, answers, reloads })
    }

    /// Whether the configuration on disk is the candidate, perhaps as the gateway rewrote it.
    async fn is_ours(&self, trial: &Trial) -> Result<bool, SubmitError> {
        let Some(ours) = trial.new.content(&self.config).map(<[u8]>::to_vec) else { return Ok(false) };
        let config = self.config.clone();
        self.blocking(move |edits, _| match swap::read(edits, &config) {
            Ok(Some(there)) => there == ours || swap::is_rewritten(&there, &ours),
            _ => false,
        })
        .await
    }

    async fn put_back(&mut self, trial: &mut Trial, state: &State) -> Result<Event, SubmitError> {
        let State::Returning { failure } = state else { return Err(SubmitError::ShuttingDown) };
        if trial.lines.is_empty() {
            trial.lines = self.last_lines(trial);
        }
        let (reason, lines) = (failure.sentence(), trial.lines.clone());
        tracing::warn!(generation = trial.record.generation, reason, "a configuration is taken back");
        trial.record.phase = Phase::Returning { reason, lines };
        loop {
            let (record, config) = (trial.record.clone(), self.config.clone());
            let (old, new, shared) = (trial.old.clone(), trial.new.clone(), std::sync::Arc::clone(&self.shared));
            let done = self.blocking(move |edits, store| -> Result<swap::PutBack, EditError> {
                if let Err(error) = store.write(TRANSACTION, &record) {
                    tracing::warn!(%error, "could not note that a configuration is taken back");
                }
                failpoint::here("config-return");
                // Before the files: what is put back must never look like a push.
                remember_mixed(store, &shared, &swap::would_write(edits, &config, &old, &new)?);
                let author =
                    Author { source: winston_wire::Source::System, actor: Some(ROLLBACK.into()), generation: None };
                let done = swap::put_back(edits, &author, &config, &old, &new)?;
                remember_mixed(store, &shared, &done.written);
                failpoint::here("config-returned");
                Ok(done)
            });
            match done.await? {
                Ok(done) => {
                    trial.kept = done.kept;
                    self.set_trouble(None);
                    return Ok(Event::Returned);
                }
                Err(error) => self.set_trouble(Some(format!("the configuration cannot be put back: {error}"))),
            }
            tokio::time::sleep(VOLUME_PAUSE).await;
            if self.is_halted() {
                return Err(SubmitError::ShuttingDown);
            }
        }
    }

    /// Brings the gateway up on the old set.
    async fn revive(&mut self, trial: &Trial, state: &State) {
        let status = self.status();
        let stuck = matches!(state, State::Ended(Ruling::RolledBack(Failure::Silent)));
        // A process that never read the new set, or refused it, takes the old one over while it runs.
        let same = !trial.restarted && status.pid == trial.record.pid && !stuck;
        match Standing::of(status.state) {
            Standing::Ready if same => {}
            Standing::Ready | Standing::Running => {
                if let Err(error) = self.gateway.restart().await {
                    tracing::warn!(%error, "the gateway could not be restarted on the old configuration");
                }
            }
            Standing::Waiting => self.gateway.config_ready(),
            Standing::Ending | Standing::Off => {}
        }
    }

    /// The gateway's own last words since the trial began.
    fn last_lines(&self, trial: &Trial) -> Vec<String> {
        let mut lines: Vec<_> = self
            .gateway
            .lines_after(trial.first_line)
            .into_iter()
            .filter(|line| line.stream != Stream::Winston && !line.line.trim().is_empty())
            .map(|line| redact(&line.line, &trial.secrets).chars().take(LONGEST_LINE).collect())
            .collect();
        lines.drain(..lines.len().saturating_sub(MOST_LINES));
        lines
    }

    /// Makes the outcome durable and known.
    async fn finish(&mut self, trial: Trial, ruling: Ruling) -> Answer {
        let Trial { record, old: _, new, errors, lines, kept, secrets, .. } = trial;
        let generation = record.generation;
        let outcome = match &ruling {
            Ruling::Kept { .. } => verdict(generation, Verdict::Applied, applied_reason(&record, &ruling)),
            Ruling::Invalid => {
                let reason = format!("{}{}", named(&errors), remark(&record.remark));
                verdict(generation, Verdict::Invalid, reason)
            }
            Ruling::RolledBack(failure) => verdict(generation, Verdict::RolledBack, failure.sentence()),
        };
        let issues = if errors.is_empty() { record.warnings.clone() } else { errors };
        let hide = |issue: ConfigIssue| ConfigIssue { message: redact(&issue.message, &secrets), ..issue };
        let reason = redact(&outcome.reason, &secrets);
        let hash = record.pushed;
        let outcome =
            ConfigVerdict { hash, reason, issues: issues.into_iter().map(hide).collect(), lines, kept, ..outcome };
        let config_hash = new.file(&self.config).and_then(SetFile::hash);
        if let Ruling::Kept { proved } = ruling {
            self.kept(&record, new, proved, config_hash).await;
        }
        self.publish(outcome.clone()).await;
        failpoint::here("config-verdict");
        let _ = self.blocking(|_, store| forget(store)).await;
        failpoint::here("config-done");
        tracing::info!(generation, verdict = outcome.verdict.as_str(), reason = outcome.reason, "configuration");
        Ok(outcome)
    }

    async fn kept(&mut self, record: &Record, new: FileSet, proved: bool, config_hash: Option<ContentHash>) {
        if let (true, Some(hash)) = (proved, config_hash) {
            self.keep_good(new, record.origin.words(record.generation)).await;
            let now = self.now();
            self.guard.proved(hash, now);
        }
        failpoint::here("config-kept");
        if let Some(owned) = record.owned.clone() {
            let kept = owned.clone();
            match self.blocking(move |_, store| store.write(OWNED, &kept)).await {
                Ok(Ok(())) => self.owned = Some(owned),
                // Control sends it again with the next change of it; until then it is as before.
                Ok(Err(error)) => self.set_trouble(Some(format!("the owned keys cannot be remembered: {error}"))),
                Err(_) => {}
            }
            (self.drift, self.owned_problem) = (None, None);
        }
    }

    /// Adds a last-known-good set.
    pub(super) async fn keep_good(&mut self, set: FileSet, origin: String) {
        let done = self.blocking(move |_, store| (store.add_good(&set, &origin), store.good()));
        match done.await {
            Ok((Ok(()), good)) => {
                self.shared.set_good(good);
                self.set_trouble(None);
            }
            Ok((Err(error), good)) => {
                self.shared.set_good(good);
                self.set_trouble(Some(format!("a good configuration cannot be kept: {error}")));
            }
            Err(_) => {}
        }
    }

    /// A verdict becomes durable, then known. On a full volume it is known all the same.
    pub(super) async fn publish(&mut self, verdict: ConfigVerdict) {
        let verdicts = self.shared.verdicts_with(&verdict);
        let kept = verdicts.clone();
        if let Ok(Err(error)) = self.blocking(move |_, store| store.write(super::record::VERDICTS, &kept)).await {
            tracing::warn!(%error, "a verdict cannot be remembered");
        }
        self.shared.set_verdicts(verdicts);
    }

    /// Everything that is known about a configuration without starting the gateway with it. `set` has what comes along with it.
    pub(super) async fn check(
        &self,
        text: Vec<u8>,
        old: Option<Vec<u8>>,
        set: FileSet,
    ) -> Result<Checked, SubmitError> {
        let (cli, state) = (std::sync::Arc::clone(&self.cli), self.edits.layout().state.clone());
        let own = self.blocking(move |edits, _| {
            let value = parsed(&text);
            let effect = match (&value, old.as_deref().map(parsed)) {
                (Ok(new), Some(Ok(old))) if !effect::reload_is_off(&old) => effect::effect(&effect::changed(&old, new)),
                _ => Effect::Restart,
            };
            let read = |path: &TenantPath| match set.file(path) {
                Some(file) => file.content.clone(),
                None => swap::read(edits, path).ok().flatten(),
            };
            let beside = value.as_ref().map(|value| include::included(&state, value, read)).unwrap_or_default();
            let env_file = state.child(".env").and_then(|path| swap::read(edits, &path).ok().flatten());
            let env_file = String::from_utf8(env_file.unwrap_or_default()).unwrap_or_default();
            let has_variable = |name: &str| {
                cli.environment.iter().any(|(known, value)| known == name && !value.is_empty())
                    || checks::names_in_env_file(&env_file).any(|known| known == name)
            };
            let surroundings = checks::Surroundings { port: cli.port, has_variable: &has_variable };
            let findings = value.map(|value| checks::check(&value, &surroundings));
            (findings, effect, Question { config: text, beside })
        });
        let (findings, effect, question) = own.await?;
        let said = cli::validate(&self.cli, question, self.times.validation).await;
        let mut checked = Checked { errors: Vec::new(), warnings: Vec::new(), effect, remark: String::new() };
        let unreadable = match findings {
            Ok(findings) => {
                (checked.errors, checked.warnings) = (findings.errors, findings.warnings);
                None
            }
            Err(error) => Some(ConfigIssue { path: String::new(), message: error }),
        };
        match said {
            Said::Invalid(issues) => checked.errors.extend(issues),
            Said::Valid(warnings) => {
                let known: Vec<_> = checked.errors.iter().map(|issue| issue.path.clone()).collect();
                checked.warnings.extend(warnings.into_iter().filter(|issue| !known.contains(&issue.path)));
                if unreadable.is_some() {
                    checked.remark = "only the gateway's own validation could read it".into();
                }
            }
            Said::None(why) => {
                tracing::warn!(why, "a configuration was checked without the gateway's own validation");
                checked.remark = format!("checked without the gateway's own validation: {why}");
                checked.errors.extend(unreadable);
            }
        }
        Ok(checked)
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
        let files = set.files.into_iter().map(|file| super::NewFile {
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

/// Who puts sets back.
pub(super) const ROLLBACK: &str = "config-rollback";

/// Notes versions that were written as `system` and hold somebody else's work. Blocking.
pub(super) fn remember_mixed(
    store: &super::store::Store,
    shared: &super::report::Shared,
    versions: &[(String, ContentHash)],
) {
    if versions.is_empty() {
        return;
    }
    let mixed = shared.note_mixed(versions);
    if let Err(error) = store.write(super::record::MIXED, &mixed) {
        tracing::warn!(%error, "could not remember which versions hold others' work");
    }
}

/// The transaction is over. What cannot be removed now is found, and found finished, by the next start.
fn forget(store: &super::store::Store) {
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

fn prepare(
    edits: &Edits,
    config: &TenantPath,
    submission: Submission,
    owned: Option<Owned>,
) -> Result<Option<Prepared>, SubmitError> {
    let Submission { mut files, owned: new_owned, .. } = submission;
    for (index, file) in files.iter().enumerate() {
        edits.permit(&file.path).map_err(|error| SubmitError::Edit { index: Some(index), error })?;
    }
    let mixed = !files.iter().any(|file| file.path == *config);
    if mixed {
        // Only the keys that control owns change: over what is there.
        let content = swap::read(edits, config)?;
        let over = content
            .as_deref()
            .map_or(Precondition::Absent, |content| Precondition::Match(crate::edits::hash_of(content)));
        files.push(super::NewFile { path: config.clone(), content: content.map(Into::into), over });
    }
    let patch = new_owned.as_ref().or(owned.as_ref()).map(|owned| &owned.patch);
    let mut new = FileSet::default();
    for file in &files {
        let mut content = file.content.as_ref().map(|content| content.to_vec());
        if file.path == *config
            && let (Some(patch), Some(text)) = (patch, content.as_deref().and_then(|text| std::str::from_utf8(text).ok()))
            // What cannot be read is found by the checks.
            && let Ok(Some(text)) = owned::enforced(text, patch)
        {
            content = Some(text.into_bytes());
        }
        if content.as_ref().is_some_and(|content| file.path == *config && content.len() > MAX_MERGE_BYTES) {
            return Err(SubmitError::Unusable(format!("openclaw.json is larger than {MAX_MERGE_BYTES} bytes")));
        }
        new.files.push(SetFile { path: file.path.clone(), content });
    }
    let old = swap::read_set(edits, new.files.iter().map(|file| &file.path))?;
    for (index, (file, there)) in files.iter().zip(&old.files).enumerate() {
        let current = there.hash();
        let holds = match file.over {
            Precondition::None | Precondition::Push(Base::Any) => true,
            Precondition::Match(wanted) | Precondition::Push(Base::Hash(wanted)) => current == Some(wanted),
            Precondition::Present => current.is_some(),
            Precondition::Absent | Precondition::Push(Base::Absent) => current.is_none(),
        };
        if !holds {
            let error = EditError::PreconditionFailed { current };
            return Err(SubmitError::Edit { index: Some(index), error });
        }
    }
    Ok((!files.is_empty()).then_some(Prepared { old, new, owned: new_owned, mixed }))
}

fn parsed(text: &[u8]) -> Result<Value, String> {
    if text.len() > MAX_MERGE_BYTES {
        return Err(format!("it is larger than {MAX_MERGE_BYTES} bytes"));
    }
    merge::value(std::str::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())?)
}

pub(super) fn verdict(generation: Option<u64>, verdict: Verdict, reason: String) -> ConfigVerdict {
    ConfigVerdict {
        generation,
        hash: None,
        verdict,
        reason,
        issues: Vec::new(),
        lines: Vec::new(),
        kept: Vec::new(),
        at: Timestamp::now(),
    }
}

fn applied_reason(record: &Record, ruling: &Ruling) -> String {
    match (ruling, record.effect) {
        _ if !record.remark.is_empty() => record.remark.clone(),
        (Ruling::Kept { proved: false }, _) => "the gateway is stopped, so it was not tried".into(),
        (_, Effect::None | Effect::Hot) => "the gateway took it over while it ran".into(),
        (_, Effect::Restart) => "the gateway was restarted with it".into(),
    }
}

fn remark(remark: &str) -> String {
    if remark.is_empty() { String::new() } else { format!(" ({remark})") }
}

/// The first issue, and how many more there are.
fn named(issues: &[ConfigIssue]) -> String {
    let Some(first) = issues.first() else { return "it is not valid".into() };
    let path = if first.path.is_empty() { "openclaw.json" } else { &first.path };
    let more = if issues.len() > 1 { format!(", and {} more", issues.len() - 1) } else { String::new() };
    format!("{path}: {}{more}", first.message)
}

/// Values under keys that sound like secrets, longest first.
fn secrets_in(config: &[u8]) -> Vec<String> {
    let mut secrets = Vec::new();
    if let Ok(value) = parsed(config) {
        collect_secrets(&value, false, &mut secrets);
    }
    secrets.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    secrets.dedup();
    secrets
}

fn collect_secrets(value: &Value, secret: bool, secrets: &mut Vec<String>) {
    match value {
        Value::String(text) if secret && text.len() >= SHORTEST_SECRET && !text.contains("${") => {
            secrets.push(text.clone());
        }
        Value::Array(items) => items.iter().for_each(|item| collect_secrets(item, secret, secrets)),
        Value::Object(members) => {
            for (key, value) in members {
                let key = key.to_ascii_lowercase();
                let secret = secret || ["token", "secret", "password", "key"].iter().any(|end| key.ends_with(end));
                collect_secrets(value, secret, secrets);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_a_configuration_are_known_by_their_keys() {
        let text = br#"{gateway: {auth: {token: "long-secret-1"}}, models: {apiKey: ["long-secret-22", "short"]},
            other: "not-a-secret", ref: {token: "${NAME_OF_IT}"}}"#;
        assert_eq!(secrets_in(text), ["long-secret-22", "long-secret-1"]);
        assert!(secrets_in(b"no json {").is_empty());
    }

    #[test]
    fn the_first_issue_is_named() {
        let issue = |path: &str| ConfigIssue { path: path.into(), message: "is wrong".into() };
        assert_eq!(named(&[issue("a.b"), issue("c")]), "a.b: is wrong, and 1 more");
        assert_eq!(named(&[issue("")]), "openclaw.json: is wrong");
    }
}
