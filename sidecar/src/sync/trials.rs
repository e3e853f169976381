//! Pushes with the gateway's configuration: they are tried out, with everything that came in the same push.

use winston_wire::{ConfigVerdict, DesiredFile, Source, Timestamp, Verdict};

use super::applied::{Applied, Merged};
use super::apply::{ApplyError, Failure, Outcome, Plan, Push, Round, is_the_volume, note, written};
use crate::candidate::{Configs, NewFile, Origin, Owned, Submission, SubmitError};
use crate::edits::{Author, EditError};
use crate::fs::TenantPath;

/// Most files of one trial, and most bytes of them. What is beyond is applied by itself.
const MOST_FILES: usize = 200;
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// Attempts at a set whose files change between the look at them and the swap.
const ATTEMPTS: usize = 8;

/// Why a file of a set stays as it is.
const EDITED: &str = "it was edited while it was on trial";

/// What is tried out together.
pub(super) struct TrialSet {
    /// The configuration, or the keys of it that control owns.
    config: DesiredFile,
    others: Vec<DesiredFile>,
}

/// A file of the set with what is to be written.
struct Planned {
    /// Position in `others`; `None` for the configuration.
    at: Option<usize>,
    merged: Option<Merged>,
}

impl Round<'_> {
    /// Takes what is to be tried out from `files`, oldest push first. Without a gateway there is nothing to try it out with.
    pub(super) fn take_trials(&self, files: &mut Vec<DesiredFile>) -> Vec<TrialSet> {
        if self.configs.is_none() {
            return Vec::new();
        }
        let (mut configs, rest): (Vec<_>, Vec<_>) =
            std::mem::take(files).into_iter().partition(|file| self.is_config(file));
        *files = rest;
        configs.sort_by_key(|config| config.generation);
        let mut sets = Vec::new();
        for config in configs {
            let (mut others, rest): (Vec<_>, Vec<_>) = std::mem::take(files)
                .into_iter()
                .partition(|file| file.generation == config.generation && !file.merge && !config.merge);
            *files = rest;
            files.extend(others.split_off(others.len().min(MOST_FILES)));
            sets.push(TrialSet { config, others });
        }
        sets
    }

    /// Tries a set out and notes how its files ended.
    pub(super) async fn try_out(&self, set: TrialSet, applied: &mut Applied) -> Result<(), ApplyError> {
        let Some(configs) = self.configs else { return Ok(()) };
        let TrialSet { config, others } = set;
        // This push may be the one that a crash interrupted.
        match configs.caught_up().await {
            Err(SubmitError::ShuttingDown) => return Err(ApplyError::ShuttingDown),
            Err(_) => return Err(ApplyError::Edit { path: config.path, error: EditError::Busy }),
            Ok(()) => {}
        }
        // A round that was interrupted starts over.
        if let Some(verdict) = configs.verdict_of(config.generation, config.hash) {
            tracing::debug!(
                generation = config.generation,
                verdict = verdict.verdict.as_str(),
                "this push has its verdict"
            );
            return self.after_verdict(&verdict, config, others, applied).await;
        }
        if config.merge {
            return self.own(configs, config).await;
        }
        if config.hash.is_none() {
            let reason = "openclaw.json cannot be removed while its gateway runs here";
            return self.untried(configs, verdict(&config, Verdict::Invalid, reason), others, applied).await;
        }
        self.try_files(configs, config, others, applied).await
    }

    /// Control owns other keys from now on.
    async fn own(&self, configs: &Configs, config: DesiredFile) -> Result<(), ApplyError> {
        let Some(path) = self.edits.layout().config_file() else { return Ok(()) };
        let content = match self.wanted(&path, config.hash).await? {
            Ok(content) => content,
            Err(error) => {
                configs.note(verdict(&config, Verdict::Invalid, &error.to_string())).await;
                return Ok(());
            }
        };
        // Without a content control owns nothing.
        let patch = content.map_or_else(|| Ok(serde_json::json!({})), |content| serde_json::from_slice(&content));
        let patch = match patch {
            Ok(patch @ serde_json::Value::Object(_)) => patch,
            Ok(_) | Err(_) => {
                configs.note(verdict(&config, Verdict::Invalid, "the owned keys are not a JSON object")).await;
                return Ok(());
            }
        };
        let owned = Owned { generation: config.generation, patch };
        for _ in 0..ATTEMPTS {
            let submission = Submission {
                origin: Origin::Push,
                author: author(&config),
                files: Vec::new(),
                owned: Some(owned.clone()),
                pushed: config.hash,
            };
            match configs.submit(submission).await {
                Ok(_) => return Ok(()),
                Err(SubmitError::Edit { error: EditError::PreconditionFailed { .. } | EditError::Busy, .. }) => {}
                Err(error) => {
                    configs.note(untried(&config, error)?).await;
                    return Ok(());
                }
            }
        }
        Err(ApplyError::Edit { path: config.path, error: EditError::Busy })
    }

    async fn try_files(
        &self,
        configs: &Configs,
        config: DesiredFile,
        mut others: Vec<DesiredFile>,
        applied: &mut Applied,
    ) -> Result<(), ApplyError> {
        let Some(config_push) = self.push(&config, applied).await? else {
            let verdict = verdict(&config, Verdict::Conflict, "the pushed content cannot be had");
            return self.untried(configs, verdict, others, applied).await;
        };
        // Contents in memory, within bounds.
        let (mut pushes, mut bytes, mut large) = (Vec::new(), 0, Vec::new());
        for (at, file) in others.iter().enumerate() {
            if self.edits.journal().ledger().has_push(&file.path, file.generation, file.hash) {
                continue;
            }
            if bytes > MOST_BYTES {
                large.push(at);
            } else if let Some(push) = self.push(file, applied).await? {
                bytes += push.1.as_ref().map_or(0, bytes::Bytes::len);
                pushes.push((at, push));
            }
        }
        let mut refused: Vec<(usize, EditError)> = Vec::new();
        for _ in 0..ATTEMPTS {
            let plan = self.decided(&config, &config_push, applied).await?;
            let mut files = Vec::new();
            let mut planned = Vec::new();
            match plan {
                Plan::Write { content, over, merged } => {
                    files.push(NewFile { path: config_push.0.clone(), content, over });
                    planned.push(Planned { at: None, merged });
                }
                Plan::Done => {
                    let verdict = verdict(&config, Verdict::Applied, "the configuration has it already");
                    note(config, Outcome::Done, applied);
                    return self.untried(configs, verdict, others, applied).await;
                }
                Plan::Unapplied { local, reason } => {
                    let verdict = verdict(&config, Verdict::Conflict, &reason);
                    note(config, Outcome::Unapplied { local, reason }, applied);
                    return self.untried(configs, verdict, others, applied).await;
                }
            }
            let mut unapplied = Vec::new();
            for (at, push) in &pushes {
                if let Some((_, error)) = refused.iter().find(|(refused, _)| refused == at) {
                    let (local, reason) = (self.recorded(&others[*at].path), error.to_string());
                    unapplied.push((*at, Outcome::Unapplied { local, reason }));
                    continue;
                }
                match self.decided(&others[*at], push, applied).await? {
                    Plan::Done => {}
                    Plan::Write { content, over, merged } => {
                        files.push(NewFile { path: push.0.clone(), content, over });
                        planned.push(Planned { at: Some(*at), merged });
                    }
                    Plan::Unapplied { local, reason } => {
                        unapplied.push((*at, Outcome::Unapplied { local, reason }));
                    }
                }
            }
            for (file, plan) in files.iter().zip(&planned) {
                if let Some(merged) = plan.merged {
                    self.remember(file.path.as_str(), merged, file.over, applied).await?;
                }
            }
            let paths: Vec<_> = files.iter().map(|file| file.path.clone()).collect();
            let (author, pushed) = (author(&config), config.hash);
            let submission = Submission { origin: Origin::Push, author, files, owned: None, pushed };
            let outcome = match configs.submit(submission).await {
                Ok(outcome) => outcome,
                Err(SubmitError::Edit { error: EditError::PreconditionFailed { .. } | EditError::Busy, .. }) => {
                    continue;
                }
                Err(SubmitError::Edit { index: Some(index), error })
                    if !is_the_volume(&error) && planned.get(index).is_some_and(|plan| plan.at.is_some()) =>
                {
                    refused.extend(planned[index].at.map(|at| (at, error)));
                    continue;
                }
                Err(error) => {
                    let verdict = untried(&config, error)?;
                    return self.untried(configs, verdict, others, applied).await;
                }
            };
            self.ended(&outcome, &config, &others, &planned, &paths, applied);
            for (at, outcome) in unapplied {
                note(others[at].clone(), outcome, applied);
            }
            let large = large.iter().rev().map(|at| others.swap_remove(*at)).collect();
            return self.each(large, applied).await;
        }
        Err(ApplyError::Edit { path: config.path, error: EditError::Busy })
    }

    /// Notes what a verdict means for the files of its set.
    fn ended(
        &self,
        outcome: &ConfigVerdict,
        config: &DesiredFile,
        others: &[DesiredFile],
        planned: &[Planned],
        paths: &[TenantPath],
        applied: &mut Applied,
    ) {
        for (plan, path) in planned.iter().zip(paths) {
            let file = plan.at.map_or(config, |at| &others[at]);
            let kept = outcome.kept.iter().any(|kept| kept == path.as_str());
            if outcome.verdict == Verdict::Applied {
                written(&file.path, plan.merged.is_some(), applied);
            } else if !kept {
                // What was there before is there again, merged or not.
                applied.merging.remove(&file.path);
            }
            let outcome = if kept {
                let local = self.recorded(path.as_str());
                Outcome::Unapplied { local, reason: EDITED.to_owned() }
            } else {
                Outcome::Done
            };
            note(file.clone(), outcome, applied);
        }
    }

    /// There was no trial: the files that came with the configuration go their own ways. Its verdict comes after them, because a round that is
    /// interrupted starts over as long as there is none.
    async fn untried(
        &self,
        configs: &Configs,
        verdict: ConfigVerdict,
        others: Vec<DesiredFile>,
        applied: &mut Applied,
    ) -> Result<(), ApplyError> {
        self.each(others, applied).await?;
        configs.note(verdict).await;
        Ok(())
    }

    /// A round was interrupted after the verdict: notes again what it means for the files of the set, and applies those that were not in the trial.
    async fn after_verdict(
        &self,
        outcome: &ConfigVerdict,
        config: DesiredFile,
        others: Vec<DesiredFile>,
        applied: &mut Applied,
    ) -> Result<(), ApplyError> {
        if config.merge {
            return Ok(());
        }
        let was = outcome.verdict;
        let kept = |file: &DesiredFile| outcome.kept.contains(&file.path);
        let stays = |file: &DesiredFile, reason: &str| Outcome::Unapplied {
            local: self.recorded(&file.path),
            reason: reason.to_owned(),
        };
        let ended = match was {
            Verdict::Conflict => stays(&config, &outcome.reason),
            _ if kept(&config) => stays(&config, EDITED),
            _ => Outcome::Done,
        };
        note(config, ended, applied);
        let mut bytes = 0;
        for file in others {
            if kept(&file) {
                let ended = stays(&file, EDITED);
                note(file, ended, applied);
            } else if matches!(was, Verdict::Applied | Verdict::Conflict) || bytes > MOST_BYTES {
                // What has its record is not written again.
                self.one(file, applied).await?;
            } else if let Some(push) = self.push(&file, applied).await? {
                // The set was not put in place, or went back, and stays away as a whole.
                bytes += push.1.as_ref().map_or(0, bytes::Bytes::len);
                let ended = match self.decided(&file, &push, applied).await? {
                    Plan::Unapplied { local, reason } => Outcome::Unapplied { local, reason },
                    Plan::Done | Plan::Write { .. } => Outcome::Done,
                };
                if was == Verdict::RolledBack {
                    // What was before a merge is there again.
                    applied.merging.remove(&file.path);
                }
                note(file, ended, applied);
            }
        }
        Ok(())
    }

    /// Applies files by themselves.
    async fn each(&self, files: Vec<DesiredFile>, applied: &mut Applied) -> Result<(), ApplyError> {
        for file in files {
            self.one(file, applied).await?;
        }
        Ok(())
    }

    /// Path and content of a push; `None` when they cannot be had, which is noted.
    async fn push(
        &self,
        file: &DesiredFile,
        applied: &mut Applied,
    ) -> Result<Option<(TenantPath, Option<bytes::Bytes>)>, ApplyError> {
        let path = match TenantPath::parse(&file.path) {
            Ok(path) => path,
            Err(error) => {
                let local = self.recorded(&file.path);
                note(file.clone(), Outcome::Unapplied { local, reason: error.to_string() }, applied);
                return Ok(None);
            }
        };
        match self.wanted(&path, file.hash).await? {
            Ok(content) => Ok(Some((path, content))),
            Err(error) => {
                let local = self.recorded(&file.path);
                note(file.clone(), Outcome::Unapplied { local, reason: error.to_string() }, applied);
                Ok(None)
            }
        }
    }

    async fn decided(
        &self,
        file: &DesiredFile,
        (path, content): &(TenantPath, Option<bytes::Bytes>),
        applied: &Applied,
    ) -> Result<Plan, ApplyError> {
        let push = Push { path: path.clone(), file, content: content.clone() };
        match self.decide(&push, applied).await {
            Ok(plan) => Ok(plan),
            Err(Failure::Edit(error)) if is_the_volume(&error) => {
                Err(ApplyError::Edit { path: file.path.clone(), error })
            }
            Err(Failure::Edit(error)) => {
                Ok(Plan::Unapplied { local: self.recorded(&file.path), reason: error.to_string() })
            }
            Err(Failure::Round(error)) => Err(error),
        }
    }
}

/// The verdict of a submission that was not tried; an error when it is to be submitted again.
fn untried(config: &DesiredFile, error: SubmitError) -> Result<ConfigVerdict, ApplyError> {
    match error {
        SubmitError::ShuttingDown => Err(ApplyError::ShuttingDown),
        SubmitError::Busy | SubmitError::Suspended => {
            Err(ApplyError::Edit { path: config.path.clone(), error: EditError::Busy })
        }
        SubmitError::Edit { error, .. } if is_the_volume(&error) => {
            Err(ApplyError::Edit { path: config.path.clone(), error })
        }
        error => Ok(verdict(config, Verdict::Invalid, &error.to_string())),
    }
}

fn author(file: &DesiredFile) -> Author {
    Author { source: Source::System, actor: file.actor.clone(), generation: Some(file.generation) }
}

fn verdict(config: &DesiredFile, verdict: Verdict, reason: &str) -> ConfigVerdict {
    ConfigVerdict {
        generation: Some(config.generation),
        hash: config.hash,
        verdict,
        reason: reason.to_owned(),
        issues: Vec::new(),
        lines: Vec::new(),
        kept: Vec::new(),
        at: Timestamp::now(),
    }
}
