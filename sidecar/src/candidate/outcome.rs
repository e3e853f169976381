//! From a ruling to a verdict that is durable and known.

use winston_wire::{ConfigIssue, ConfigVerdict, ContentHash, Timestamp, Verdict};

use super::effect::Effect;
use super::owner::Owner;
use super::record::{OWNED, Record, VERDICTS};
use super::store::{FileSet, SetFile};
use super::transact::{Trial, forget};
use super::trial::Ruling;
use super::{Answer, redact};
use crate::failpoint;

impl Owner {
    /// Makes the outcome durable and known.
    pub(super) async fn finish(&mut self, mut trial: Trial, mut ruling: Ruling) -> Answer {
        if ruling == (Ruling::Kept { proved: true }) && !self.is_ours(&trial).await? {
            // The gateway did well with something else, perhaps without having seen this.
            ruling = Ruling::Kept { proved: false };
            trial.record.remark = "somebody edited it while it was on trial, and the edit stays".into();
        }
        let Trial { record, old: _, new, errors, lines, kept, secrets, .. } = trial;
        let generation = record.generation;
        let outcome = match &ruling {
            Ruling::Kept { .. } => verdict(generation, Verdict::Applied, applied_reason(&record, &ruling)),
            Ruling::First(failure) => {
                let reason = format!("{}, but it stays: there is no earlier one", failure.sentence());
                verdict(generation, Verdict::Applied, reason)
            }
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
        if outcome.verdict == Verdict::Applied {
            self.kept(&record, new, ruling == Ruling::Kept { proved: true }, config_hash).await;
        }
        self.publish(outcome.clone()).await;
        failpoint::here("config-verdict");
        let _ = self.blocking(|_, store| forget(store)).await;
        failpoint::here("config-done");
        tracing::info!(generation, verdict = outcome.verdict.as_str(), reason = outcome.reason, "configuration");
        Ok(outcome)
    }

    pub(super) async fn kept(&mut self, record: &Record, new: FileSet, proved: bool, config_hash: Option<ContentHash>) {
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
        if let Ok(Err(error)) = self.blocking(move |_, store| store.write(VERDICTS, &kept)).await {
            tracing::warn!(%error, "a verdict cannot be remembered");
        }
        self.shared.set_verdicts(verdicts);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_issue_is_named() {
        let issue = |path: &str| ConfigIssue { path: path.into(), message: "is wrong".into() };
        assert_eq!(named(&[issue("a.b"), issue("c")]), "a.b: is wrong, and 1 more");
        assert_eq!(named(&[issue("")]), "openclaw.json: is wrong");
    }
}
