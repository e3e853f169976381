//! What survives a crash: the transaction that is open, the verdicts, the versions of ours that hold others' work.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use winston_wire::{ConfigIssue, ConfigVerdict, ContentHash, MAX_VERDICTS, Source, Timestamp};

use super::effect::Effect;
use crate::edits::Author;

/// Names in `.winston/config`.
pub(super) const TRANSACTION: &str = "transaction";
pub(super) const VERDICTS: &str = "verdicts";
pub(super) const MIXED: &str = "mixed";
pub(super) const OWNED: &str = "owned";
pub(super) const OLD: &str = "old";
pub(super) const NEW: &str = "new";

/// Most versions that [`Mixed`] remembers.
const MOST_MIXED: usize = 1000;

/// Versions of one path that are remembered.
const MOST_OF_A_PATH: usize = 8;

/// How far a transaction is, as far as the disk has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub(super) enum Phase {
    /// Both sets are kept; whether the new one was swapped in, the journal tells.
    Swapping,
    /// The new set is in place and on trial.
    Probation,
    /// The old set is being put back.
    Returning { reason: String, lines: Vec<String> },
}

/// Who started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Origin {
    /// Control.
    Push,
    /// Somebody, here.
    Local,
    /// Somebody, here, who wants a last-known-good set.
    Rollback,
    /// The keys that control owns had been changed.
    Owned,
}

impl Origin {
    /// In a few words.
    pub(super) fn words(self, generation: Option<u64>) -> String {
        match (self, generation) {
            (Self::Push, Some(generation)) => format!("push, generation {generation}"),
            (Self::Push, None) => "push".into(),
            (Self::Local, _) => "local change".into(),
            (Self::Rollback, _) => "rollback".into(),
            (Self::Owned, _) => "owned keys".into(),
        }
    }
}

/// The transaction that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    #[serde(flatten)]
    pub(super) phase: Phase,
    pub(super) origin: Origin,
    pub(super) source: Source,
    #[serde(default)]
    pub(super) actor: Option<String>,
    #[serde(default)]
    pub(super) generation: Option<u64>,
    /// Last record of the journal before the set.
    pub(super) after_seq: u64,
    pub(super) started_at: Timestamp,
    pub(super) effect: Effect,
    /// The process that had read the old set.
    #[serde(default)]
    pub(super) pid: Option<u32>,
    /// It is known that it was ready when the new one was swapped in.
    #[serde(default)]
    pub(super) was_ready: bool,
    /// Number of the last line of its output before that.
    #[serde(default)]
    pub(super) line: Option<u64>,
    /// Content that control pushed for the configuration.
    #[serde(default)]
    pub(super) pushed: Option<ContentHash>,
    /// Paths of the old set that were as control had pushed them.
    #[serde(default)]
    pub(super) pushed_before: Vec<String>,
    #[serde(default)]
    pub(super) warnings: Vec<ConfigIssue>,
    /// What is to be said about the checks.
    #[serde(default)]
    pub(super) remark: String,
    /// The keys that control owns from then on.
    #[serde(default)]
    pub(super) owned: Option<Owned>,
}

impl Record {
    pub(super) fn author(&self) -> Author {
        Author { source: self.source, actor: self.actor.clone(), generation: self.generation }
    }
}

/// The keys of the configuration that control owns, as a merge patch (RFC 7396).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owned {
    pub(crate) generation: u64,
    pub(crate) patch: Value,
}

/// The newest verdicts, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Verdicts(pub(super) Vec<ConfigVerdict>);

/// Control keeps times to the microsecond, and tells verdicts apart by them.
const TICK: Duration = Duration::from_micros(1);

impl Verdicts {
    /// Adds one. A generation has one verdict, the newest. Control is told what is newer than what it was told last, so each one is dated after
    /// those before it: also one that was reached earlier and had to wait, and one after the clock was set back.
    pub(super) fn add(&mut self, mut verdict: ConfigVerdict) {
        let newest = self.0.iter().map(|known| known.at).max();
        if let Some(next) = newest.and_then(|newest| newest.checked_add(TICK).ok()) {
            verdict.at = verdict.at.max(next);
        }
        if verdict.generation.is_some() {
            self.0.retain(|known| known.generation != verdict.generation);
        }
        self.0.push(verdict);
        while self.0.len() > MAX_VERDICTS {
            self.0.remove(0);
        }
    }

    pub(super) fn of(&self, generation: u64) -> Option<&ConfigVerdict> {
        self.0.iter().rev().find(|verdict| verdict.generation == Some(generation))
    }
}

/// Versions that were written as `system` and yet hold somebody else's work: put back, or made out of what was there. A push must not replace
/// one as if it were control's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mixed(BTreeMap<String, Hashes>);

/// The newest such versions of one path, newest last. More than one: a version that was about to be written and never was leaves the one before
/// it on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OneOrMore")]
struct Hashes(Vec<ContentHash>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(ContentHash),
    More(Vec<ContentHash>),
}

impl From<OneOrMore> for Hashes {
    fn from(known: OneOrMore) -> Self {
        match known {
            OneOrMore::One(hash) => Self(vec![hash]),
            OneOrMore::More(hashes) => Self(hashes),
        }
    }
}

impl Mixed {
    pub(super) fn note(&mut self, path: &str, hash: ContentHash) {
        if self.0.len() >= MOST_MIXED && !self.0.contains_key(path) {
            self.0.pop_first();
        }
        let Hashes(known) = self.0.entry(path.to_owned()).or_insert_with(|| Hashes(Vec::new()));
        known.retain(|known| *known != hash);
        known.push(hash);
        known.drain(..known.len().saturating_sub(MOST_OF_A_PATH));
    }

    pub(super) fn has(&self, path: &str, hash: ContentHash) -> bool {
        self.0.get(path).is_some_and(|Hashes(known)| known.contains(&hash))
    }
}

/// What a start does with the transaction that it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resume {
    /// Nothing had happened.
    Drop,
    /// The set is in place: its trial goes on.
    Probation,
    /// Goes on putting the old set back.
    Return,
}

/// Decides that. `in_place`: the journal has the new configuration.
pub(super) fn resume(phase: &Phase, in_place: bool) -> Resume {
    match phase {
        Phase::Swapping if in_place => Resume::Probation,
        Phase::Swapping => Resume::Drop,
        Phase::Probation => Resume::Probation,
        Phase::Returning { .. } => Resume::Return,
    }
}

#[cfg(test)]
mod tests {
    use winston_wire::Verdict;

    use super::*;

    fn verdict(generation: Option<u64>, reason: &str) -> ConfigVerdict {
        ConfigVerdict {
            generation,
            hash: None,
            verdict: Verdict::Applied,
            reason: reason.to_owned(),
            issues: Vec::new(),
            lines: Vec::new(),
            kept: Vec::new(),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_generation_has_its_newest_verdict_and_old_ones_go() {
        let mut verdicts = Verdicts::default();
        for generation in 0..100 {
            verdicts.add(verdict(Some(generation), "first"));
            verdicts.add(verdict(Some(generation), "second"));
            verdicts.add(verdict(None, "local"));
        }
        assert_eq!(verdicts.0.len(), MAX_VERDICTS);
        assert_eq!(verdicts.of(99).map(|verdict| verdict.reason.as_str()), Some("second"));
        assert_eq!(verdicts.of(1), None);
    }

    #[test]
    fn a_verdict_that_had_to_wait_is_dated_after_those_before_it() {
        let mut verdicts = Verdicts::default();
        let late = Timestamp::UNIX_EPOCH + Duration::from_secs(7);
        verdicts.add(ConfigVerdict { at: late, ..verdict(None, "local") });
        verdicts.add(verdict(Some(1), "it waited"));
        verdicts.add(verdict(Some(2), "the same moment"));
        let times: Vec<_> = verdicts.0.iter().map(|verdict| verdict.at).collect();
        assert_eq!(times, [late, late + TICK, late + TICK + TICK]);
    }

    #[test]
    fn a_start_goes_on_from_what_is_on_disk() {
        let returning = Phase::Returning { reason: String::new(), lines: Vec::new() };
        assert_eq!(resume(&Phase::Swapping, false), Resume::Drop);
        assert_eq!(resume(&Phase::Swapping, true), Resume::Probation);
        assert_eq!(resume(&Phase::Probation, true), Resume::Probation);
        assert_eq!(resume(&returning, false), Resume::Return);
    }

    #[test]
    fn a_record_is_read_back() {
        let record = Record {
            phase: Phase::Returning { reason: "it ended".into(), lines: vec!["x".into()] },
            origin: Origin::Push,
            source: Source::System,
            actor: None,
            generation: Some(3),
            after_seq: 7,
            started_at: Timestamp::UNIX_EPOCH,
            effect: Effect::Hot,
            pid: Some(1),
            was_ready: true,
            line: Some(7),
            pushed: None,
            pushed_before: Vec::new(),
            warnings: Vec::new(),
            remark: String::new(),
            owned: None,
        };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record, "{text}");
    }

    #[test]
    fn memory_of_mixed_versions_is_bounded() {
        let mut mixed = Mixed::default();
        for number in 0..2 * MOST_MIXED {
            mixed.note(&format!("{number:05}"), hash_of_number(number));
        }
        assert_eq!(mixed.0.len(), MOST_MIXED);
        assert!(mixed.has("01999", hash_of_number(1999)) && !mixed.has("01999", hash_of_number(1)));
    }

    #[test]
    fn versions_that_were_never_written_do_not_push_out_the_one_on_disk() {
        let mut mixed = Mixed::default();
        for number in 0..2 * MOST_OF_A_PATH {
            mixed.note("a", hash_of_number(number % MOST_OF_A_PATH));
        }
        assert!((0..MOST_OF_A_PATH).all(|number| mixed.has("a", hash_of_number(number))));
        mixed.note("a", hash_of_number(MOST_OF_A_PATH));
        assert!(!mixed.has("a", hash_of_number(0)) && mixed.has("a", hash_of_number(1)));
        let again: Mixed = serde_json::from_str(&serde_json::to_string(&mixed).unwrap()).unwrap();
        assert_eq!(again, mixed);
        let older = format!("{{\"a\":\"{}\"}}", hash_of_number(3));
        assert!(serde_json::from_str::<Mixed>(&older).unwrap().has("a", hash_of_number(3)));
    }

    fn hash_of_number(number: usize) -> ContentHash {
        crate::edits::hash_of(number.to_string().as_bytes())
    }
}
