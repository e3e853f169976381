//! A round in which everything is right, and forged ones that are wrong in one way each.

use super::*;
use crate::crash::config::deed::config;
use crate::tenant::hash;

/// A round: deeds and what was found.
struct Round {
    deeds: Vec<Deed>,
    after: After,
}

fn deed(id: u64, act: Act, told: Told) -> Deed {
    Deed { id, act, told, saved: None, round: 0 }
}

impl Round {
    /// What was there, and a good set on it.
    fn good() -> Self {
        let mut first = deed(0, Act::Put(Behaviour::Good), Told::Unknown);
        (first.saved, first.round) = (Some(config(0, Behaviour::Good)), u64::MAX);
        let mut round = Self { deeds: vec![first], after: After::default() };
        round.wrote(CONFIG, "agent", "", &config(0, Behaviour::Good));
        round.set(1, Behaviour::Good, Verdict::Applied);
        round.after.serves = Some("deed-1".to_owned());
        round
    }

    /// A set that was swapped in, with its verdict.
    fn set(&mut self, id: u64, behaviour: Behaviour, verdict: Verdict) {
        self.deeds.push(deed(id, Act::Set(behaviour), Told::Generation(id)));
        self.after.verdicts.insert(id, verdict);
        let actor = Deed::actor(id);
        self.wrote(CONFIG, "system", &actor, &config(id, behaviour));
        self.wrote(SOUL, "system", &actor, &soul(id));
    }

    /// A record, the file on disk, and control's list.
    fn wrote(&mut self, path: &str, source: &str, actor: &str, content: &str) {
        let seen = &mut self.after.seen;
        let generation =
            self.deeds.iter().find(|deed| Deed::actor(deed.id) == actor).and_then(|deed| match deed.told {
                Told::Generation(generation) => Some(generation),
                _ => None,
            });
        seen.history.push(Record {
            seq: seen.history.len() as u64 + 1,
            path: path.to_owned(),
            source: source.to_owned(),
            actor: (!actor.is_empty()).then(|| actor.to_owned()),
            hash: Some(hash(content)),
            previous_hash: seen.listed.get(path).cloned(),
            generation,
            content: Some(content.as_bytes().to_vec()),
            ..Record::default()
        });
        seen.disk.insert(path.to_owned(), content.as_bytes().to_vec());
        seen.listed.insert(path.to_owned(), hash(content));
    }

    fn findings(&self) -> Vec<Finding> {
        judge(&self.deeds, &self.after)
    }
}

/// Something is found, of this kind.
#[track_caller]
fn found(kind: Kind, forge: impl FnOnce(&mut Round)) {
    let mut round = Round::good();
    forge(&mut round);
    let findings = round.findings();
    assert!(findings.iter().any(|finding| finding.kind == kind), "{kind:?} is not in {findings:#?}");
}

#[test]
fn nothing_is_found_where_everything_is_right() {
    let mut round = Round::good();
    assert_eq!(round.findings(), []);
    // A refused set goes back, and the agent signs what was there.
    round.set(2, Behaviour::Refused, Verdict::RolledBack);
    round.wrote(CONFIG, "system", "config-rollback", &config(1, Behaviour::Good));
    round.wrote(SOUL, "system", "config-rollback", &soul(1));
    let signed = config(1, Behaviour::Good).replace("\"ui\"", "\"messages\": {\"agent\": \"deed-3\"}, \"ui\"");
    round.deeds.push(Deed { saved: Some(signed.clone()), ..deed(3, Act::Edit, Told::Saved) });
    round.wrote(CONFIG, "agent", "", &signed);
    round.deeds.push(deed(4, Act::Put(Behaviour::Invalid), Told::Verdict(Verdict::Invalid)));
    assert_eq!(round.findings(), []);
}

#[test]
fn torn_sets_and_configurations_are_found() {
    found(Kind::Torn, |round| {
        round.after.seen.history.pop();
        round.after.seen.disk.remove(SOUL);
        round.after.seen.listed.remove(SOUL);
    });
    found(Kind::Torn, |round| {
        let mixed = config(1, Behaviour::Good).replacen("deed-1", "deed-0", 1);
        round.wrote(CONFIG, "system", "config-rollback", &mixed);
    });
    // The configuration went back, the other file did not.
    found(Kind::Torn, |round| {
        round.set(2, Behaviour::Refused, Verdict::RolledBack);
        round.wrote(CONFIG, "system", "config-rollback", &config(1, Behaviour::Good));
    });
    found(Kind::Torn, |round| round.wrote(SOUL, "system", "deed-1", "half"));
}

#[test]
fn wrong_verdicts_are_found() {
    found(Kind::Verdict, |round| {
        let _ = round.after.verdicts.insert(1, Verdict::RolledBack);
    });
    found(Kind::Verdict, |round| {
        let _ = round.after.verdicts.insert(1, Verdict::Invalid);
    });
    found(Kind::Verdict, |round| {
        let _ = round.after.verdicts.insert(1, Verdict::Conflict);
    });
    found(Kind::Verdict, |round| {
        round.set(2, Behaviour::Refused, Verdict::Applied);
        round.after.serves = Some("deed-2".to_owned());
    });
    // Its verdict is right, and it is there all the same.
    found(Kind::Verdict, |round| round.set(2, Behaviour::Crashes, Verdict::RolledBack));
    // What became of a good one when its gateway was killed may be either.
    let mut round = Round::good();
    round.set(2, Behaviour::Good, Verdict::RolledBack);
    round.wrote(CONFIG, "system", "config-rollback", &config(1, Behaviour::Good));
    round.wrote(SOUL, "system", "config-rollback", &soul(1));
    assert!(round.findings().iter().all(|finding| finding.kind == Kind::Verdict) && !round.findings().is_empty());
    round.after.disturbed.insert(0);
    assert_eq!(round.findings(), []);
}

#[test]
fn what_does_not_come_to_an_end_is_found() {
    found(Kind::Stuck, |round| {
        let _ = round.after.verdicts.remove(&1);
    });
    found(Kind::Stuck, |round| round.after.serves = Some("deed-0".to_owned()));
    found(Kind::Stuck, |round| round.after.serves = None);
}

#[test]
fn lost_doubled_and_foreign_records_are_found() {
    found(Kind::Lost, |round| {
        round.deeds.push(deed(2, Act::Put(Behaviour::Good), Told::Verdict(Verdict::Applied)));
    });
    found(Kind::Lost, |round| {
        round.deeds.push(Deed { saved: Some("{}".to_owned()), ..deed(2, Act::Edit, Told::Saved) });
    });
    found(Kind::Duplicated, |round| round.wrote(CONFIG, "system", "deed-1", &config(1, Behaviour::Good)));
    found(Kind::Misattributed, |round| round.wrote(CONFIG, "admin", "deed-1", &config(1, Behaviour::Good)));
    found(Kind::Misattributed, |round| round.wrote(CONFIG, "admin", "deed-9", &config(1, Behaviour::Good)));
    found(Kind::Misattributed, |round| round.wrote(CONFIG, "agent", "", &config(1, Behaviour::Good)));
    found(Kind::Misattributed, |round| {
        round.deeds.push(deed(2, Act::Put(Behaviour::Good), Told::Refused));
        round.wrote(CONFIG, "admin", "deed-2", &config(2, Behaviour::Good));
    });
    found(Kind::Misattributed, |round| round.wrote(CONFIG, "system", "owned-keys", &config(1, Behaviour::Good)));
    found(Kind::Leftover, |round| round.wrote("workspace/x.md", "agent", "", "x"));
    found(Kind::Leftover, |round| round.after.seen.left.push(".winston/config/new".to_owned()));
    found(Kind::Differs, |round| drop(round.after.seen.listed.remove(SOUL)));
}
