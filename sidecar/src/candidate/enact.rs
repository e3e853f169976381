//! What a trial does to the disk and to the gateway.

use std::sync::Arc;
use std::time::Duration;

use winston_wire::{ContentHash, Source};

use super::footing::{Footing, last_ended};
use super::owner::Owner;
use super::record::{MIXED, NEW, OLD, Phase, Record, TRANSACTION};
use super::report::Shared;
use super::store::Store;
use super::transact::{Trial, forget};
use super::trial::{Event, Failure, Look, Ruling, Standing, State, reload_in};
use super::{SubmitError, redact, swap};
use crate::edits::{Author, EditError, SetError};
use crate::failpoint;
use crate::gateway::Stream;

/// Longest pause between two looks at the gateway.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// Longest wait for one answer of the gateway.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Pause before what the volume refused is tried again.
const VOLUME_PAUSE: Duration = Duration::from_secs(2);

/// Of the gateway's output, what a verdict shows: lines, and characters of each.
const MOST_LINES: usize = 20;
const LONGEST_LINE: usize = 400;

/// Who puts sets back.
pub(crate) const ROLLBACK: &str = "config-rollback";

impl Owner {
    pub(super) async fn swap(&mut self, trial: &mut Trial) -> Result<Event, SubmitError> {
        let (mut record, old, new) = (trial.record.clone(), trial.old.clone(), trial.new.clone());
        let made = new.file(&self.config).filter(|_| trial.mixed);
        let made: Vec<_> =
            made.and_then(|file| Some((file.path.as_str().to_owned(), file.hash()?))).into_iter().collect();
        let (shared, gateway) = (Arc::clone(&self.shared), self.gateway.clone());
        let swapped = self.blocking(move |edits, store| -> Result<(Record, Footing), SetError> {
            let mut staged = || -> Result<(), EditError> {
                record.pushed_before = swap::pushed(edits, &old, |path, hash| shared.is_mixed(path, hash))?;
                store.keep(OLD, &old)?;
                store.keep(NEW, &new)?;
                store.write(TRANSACTION, &record).map_err(|error| EditError::Fs(error.into()))
            };
            staged().inspect_err(|_| forget(store))?;
            failpoint::here("config-staged");
            // Before the file: what is made out of the tenant's must never look like a push.
            remember_mixed(store, &shared, &made);
            swap::swap(edits, &record.author(), &old, &new).inspect_err(|_| forget(store))?;
            // At once: whoever lives now can read it.
            let (status, lives) = gateway.sighted();
            let footing = Footing::of(&status, lives);
            failpoint::here("config-swapped");
            let was_ready = footing.standing == Standing::Ready;
            let record = Record { phase: Phase::Probation, was_ready, ..record };
            if let Err(error) = store.write(TRANSACTION, &record) {
                // The journal tells the same.
                tracing::warn!(%error, "could not note that a configuration is on trial");
            }
            failpoint::here("config-on-trial");
            Ok((record, footing))
        });
        match swapped.await? {
            Ok((record, footing)) => {
                let (origin, generation, effect) = (record.origin, record.generation, record.effect);
                tracing::info!(?origin, generation, ?effect, "a configuration is on trial");
                trial.record = record;
                (trial.seen_exit, trial.earlier) = (footing.seen_exit, footing.earlier);
                Ok(Event::Swapped(footing.standing))
            }
            Err(SetError { index, error }) => Err(SubmitError::Edit { index, error }),
        }
    }

    pub(super) async fn restart(&mut self, trial: &mut Trial) {
        trial.restarted = true;
        match self.gateway.restart().await {
            Ok(status) => {
                trial.seen_exit = status.last_exit.map(|exit| exit.at);
                // What the process before it wrote is not about this one.
                trial.seen_line = self.gateway.last_line();
            }
            // The next looks show what became of it.
            Err(error) => tracing::warn!(%error, "the gateway could not be restarted for a new configuration"),
        }
    }

    pub(super) async fn look(&mut self, trial: &mut Trial) -> Result<Look, SubmitError> {
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
        let answers = status.state.is_up() && self.gateway.serves(ANSWER_LIMIT).await;
        let status = if answers { self.status() } else { status };
        if self.is_halted() {
            return Err(SubmitError::ShuttingDown);
        }
        let number = last_ended(&status);
        let ended = status.last_exit.filter(|exit| trial.seen_exit.is_none_or(|seen| seen < exit.at));
        if let Some(exit) = &ended {
            trial.seen_exit = Some(exit.at);
        }
        let earlier_ended = ended.is_some() && trial.earlier.take() == Some(number);
        let ended = ended.filter(|_| !earlier_ended).map(|exit| (exit.cause, exit.meaning));
        Ok(Look { state: status.state, ended, earlier_ended, answers, reloads })
    }

    /// Whether the configuration on disk is the candidate, perhaps as the gateway rewrote it.
    pub(super) async fn is_ours(&self, trial: &Trial) -> Result<bool, SubmitError> {
        let Some(ours) = trial.new.content(&self.config).map(<[u8]>::to_vec) else { return Ok(false) };
        let config = self.config.clone();
        self.blocking(move |edits, _| match swap::read(edits, &config) {
            Ok(Some(there)) => there == ours || swap::is_rewritten(&there, &ours),
            _ => false,
        })
        .await
    }

    pub(super) async fn put_back(&mut self, trial: &mut Trial, state: &State) -> Result<Event, SubmitError> {
        let State::Returning { failure } = state else { return Err(SubmitError::ShuttingDown) };
        if trial.lines.is_empty() {
            trial.lines = self.last_lines(trial.first_line, &trial.secrets);
        }
        if !failure.is_refusal() && trial.old.content(&self.config).is_none() {
            return Ok(Event::NothingToReturn);
        }
        let (reason, lines) = (failure.sentence(), trial.lines.clone());
        tracing::warn!(generation = trial.record.generation, reason, "a configuration is taken back");
        trial.record.phase = Phase::Returning { reason, lines };
        loop {
            let (record, config) = (trial.record.clone(), self.config.clone());
            let (old, new, shared) = (trial.old.clone(), trial.new.clone(), Arc::clone(&self.shared));
            let done = self.blocking(move |edits, store| -> Result<swap::PutBack, EditError> {
                if let Err(error) = store.write(TRANSACTION, &record) {
                    tracing::warn!(%error, "could not note that a configuration is taken back");
                }
                failpoint::here("config-return");
                // Before the files: what is put back must not look like a push, unless it is one.
                remember_mixed(store, &shared, &swap::would_mix(edits, &config, &old, &new, &record.pushed_before)?);
                let author = Author { source: Source::System, actor: Some(ROLLBACK.into()), generation: None };
                let done = swap::put_back(edits, &author, &config, &old, &new, &record.pushed_before)?;
                remember_mixed(store, &shared, &done.mixed);
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
    pub(super) async fn revive(&mut self, trial: &Trial, state: &State) {
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
            Standing::Waiting | Standing::Ending => self.gateway.config_ready(),
            Standing::Off => {}
        }
    }

    /// The gateway's own last words after the line `after`, without what a configuration holds that nobody should read.
    pub(super) fn last_lines(&self, after: u64, secrets: &[String]) -> Vec<String> {
        let mut lines: Vec<_> = self
            .gateway
            .lines_after(after)
            .into_iter()
            .filter(|line| line.stream != Stream::Winston && !line.line.trim().is_empty())
            .map(|line| redact(&line.line, secrets).chars().take(LONGEST_LINE).collect())
            .collect();
        lines.drain(..lines.len().saturating_sub(MOST_LINES));
        lines
    }
}

/// Notes versions that were written as `system` and hold somebody else's work. Blocking.
pub(super) fn remember_mixed(store: &Store, shared: &Shared, versions: &[(String, ContentHash)]) {
    if versions.is_empty() {
        return;
    }
    let mixed = shared.note_mixed(versions);
    if let Err(error) = store.write(MIXED, &mixed) {
        tracing::warn!(%error, "could not remember which versions hold others' work");
    }
}
