//! What must be true after a round, given everything that was done. Pure: no clock, no file, no process.
//!
//! A deed is known by its actor in the history and by its number in every configuration that it brought, so nothing is guessed: which configuration a record has, who
//! wrote it, and whether the verdict fits.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::deed::{Act, Behaviour, Deed, Signed, Told, Verdict, signed, soul};
use super::stage::SOUL;
use crate::crash::oracle::chain::{agree, chain};
use crate::crash::oracle::{Finding, Kind, Record, Seen};
use crate::trial::CONFIG;

/// What was found when everything was quiet, after a last start of the gateway.
#[derive(Debug, Clone, Default)]
pub(super) struct After {
    /// History, disk, control's list, and what is left of changes.
    pub(super) seen: Seen,
    /// Control's verdicts by generation.
    pub(super) verdicts: BTreeMap<u64, Verdict>,
    /// The marker that the gateway named when it was ready last.
    pub(super) serves: Option<String>,
    /// Rounds in which the gateway was killed, or given what it refuses by the agent: a good change may have been taken back then.
    pub(super) disturbed: HashSet<u64>,
}

/// Judges what was seen by what was done. The deed 0 is the configuration that was there at first. No finding means that every promise was kept.
pub(super) fn judge(deeds: &[Deed], after: &After) -> Vec<Finding> {
    let mut judge = Judge {
        deeds: deeds.iter().map(|deed| (deed.id, deed)).collect(),
        after,
        by_actor: HashMap::new(),
        saved: HashMap::new(),
        findings: chain(&after.seen.history),
    };
    judge.findings.extend(agree(&after.seen));
    for record in &after.seen.history {
        judge.record(record);
    }
    for deed in deeds {
        judge.deed(deed);
    }
    judge.end(deeds);
    judge.findings
}

/// Whether a configuration can be among the last-known-good ones: the gateway was well with it, or it is an edit under a running gateway that
/// passed the validation, which does not see that a start refuses it.
fn counts_as_good(deed: &Deed) -> bool {
    deed.act == Act::Break || deed.act.behaviour().is_none_or(Behaviour::is_good)
}

struct Judge<'a> {
    deeds: HashMap<u64, &'a Deed>,
    after: &'a After,
    /// Records of each deed: path and number.
    by_actor: HashMap<u64, Vec<(&'a str, u64)>>,
    /// How often a content of the agent's was recorded as the agent's.
    saved: HashMap<u64, u64>,
    findings: Vec<Finding>,
}

impl<'a> Judge<'a> {
    fn find(&mut self, kind: Kind, what: String) {
        self.findings.push(Finding { kind, what });
    }

    /// The deed behind a configuration, when all of it is from that one.
    fn known(&self, content: &[u8]) -> Option<(&'a Deed, Signed)> {
        let signed = signed(content)?;
        let deed = self.deeds.get(&signed.id).copied()?;
        let brings = deed.id == 0 || deed.act.behaviour().is_some();
        brings.then_some((deed, signed))
    }

    /// A record has a whole content, and its author wrote it.
    fn record(&mut self, record: &'a Record) {
        let Record { seq, path, source, actor, content, .. } = record;
        let content = content.as_deref().unwrap_or_default();
        if path == SOUL {
            return self.soul_record(record, content);
        }
        if path != CONFIG {
            return self.find(Kind::Leftover, format!("{path}: record {seq}, nobody made this file"));
        }
        if record.hash.is_none() {
            return self.find(Kind::Lost, format!("{path}: record {seq} of {source} {actor:?} removes it"));
        }
        let Some((deed, said)) = self.known(content) else {
            let text = String::from_utf8_lossy(content);
            return self.find(Kind::Torn, format!("{path}: record {seq} of {source} {actor:?} is of nobody: {text}"));
        };
        let wrong = match (source.as_str(), actor.as_deref()) {
            ("agent", _) => self.agent_record(content),
            ("system", Some("config-rollback")) => None,
            ("system", Some("owned-keys")) => {
                (!self.is_owned(&said)).then(|| "has a key of nobody whom control could mean".to_owned())
            }
            ("system", Some("config-repair")) => {
                (!counts_as_good(deed)).then(|| format!("puts back {:?} of deed {}", deed.act, deed.id))
            }
            ("admin" | "system", Some(name)) => self.deed_record(record, name, &said),
            _ => Some("is of nobody".to_owned()),
        };
        if let Some(wrong) = wrong {
            self.find(Kind::Misattributed, format!("{path}: record {seq} of {source} {actor:?} {wrong}"));
        }
    }

    fn is_owned(&self, said: &Signed) -> bool {
        let owners = self.deeds.values().filter(|deed| deed.act == Act::Own);
        owners.into_iter().any(|deed| said.level.as_deref() == Some(&*Deed::actor(deed.id)))
    }

    /// What the agent saved, or what the gateway made of a configuration.
    fn agent_record(&mut self, content: &[u8]) -> Option<String> {
        let saved = self.deeds.values().find(|deed| deed.saved.as_deref().map(str::as_bytes) == Some(content));
        if let Some(deed) = saved {
            *self.saved.entry(deed.id).or_default() += 1;
            return None;
        }
        let stamped =
            serde_json::from_slice::<serde_json::Value>(content).is_ok_and(|config| config.get("meta").is_some());
        (!stamped).then(|| "was not saved by the agent".to_owned())
    }

    /// A record in the name of a deed.
    fn deed_record(&mut self, record: &'a Record, name: &str, said: &Signed) -> Option<String> {
        let id = name.strip_prefix("deed-").and_then(|id| id.parse().ok());
        let Some(deed) = id.and_then(|id: u64| self.deeds.get(&id).copied()) else {
            return Some("names nobody".to_owned());
        };
        self.by_actor.entry(deed.id).or_default().push((&record.path, record.seq));
        let source = if deed.act.is_push() { "system" } else { "admin" };
        if record.source != source {
            return Some(format!("is by {:?}", deed.act));
        }
        if let (true, Told::Generation(generation)) = (deed.act.is_push(), deed.told)
            && record.generation != Some(generation)
        {
            return Some(format!("has generation {:?}, not {generation}", record.generation));
        }
        match deed.act {
            Act::Set(_) | Act::Push(_) | Act::Put(_) if said.id != deed.id => {
                Some(format!("has the one of {}", said.id))
            }
            Act::Rollback if !self.deeds.get(&said.id).is_some_and(|deed| counts_as_good(deed)) => {
                Some(format!("brings the one of {}, which the gateway refuses", said.id))
            }
            Act::Own if said.level.as_deref() != Some(name) => Some(format!("has {:?} for its key", said.level)),
            act if act.is_agents() => Some("is the agent's".to_owned()),
            _ => None,
        }
    }

    fn soul_record(&mut self, record: &'a Record, content: &[u8]) {
        let Record { seq, path, source, actor, .. } = record;
        let of = |deed: &&&Deed| matches!(deed.act, Act::Set(_)) && soul(deed.id).as_bytes() == content;
        let Some(owner) = self.deeds.values().find(of).copied() else {
            // Before the first set there is none, and a set that goes back takes it along.
            if record.hash.is_some() || actor.as_deref() != Some("config-rollback") {
                self.find(Kind::Torn, format!("{path}: record {seq} of {source} {actor:?} is of nobody"));
            }
            return;
        };
        let id = actor.as_deref().and_then(|name| name.strip_prefix("deed-")?.parse::<u64>().ok());
        match id.and_then(|id| self.deeds.get(&id)) {
            Some(deed) if deed.id == owner.id && source == "system" => {
                self.by_actor.entry(deed.id).or_default().push((path, *seq));
            }
            Some(deed) if deed.act == Act::Rollback && source == "admin" => {}
            None if matches!(actor.as_deref(), Some("config-rollback" | "config-repair")) => {}
            _ => self.find(
                Kind::Misattributed,
                format!("{path}: record {seq} of {source} {actor:?} has the file of deed {}", owner.id),
            ),
        }
    }

    fn verdict(&self, deed: &Deed) -> Option<Verdict> {
        match deed.told {
            Told::Generation(generation) => self.after.verdicts.get(&generation).copied(),
            Told::Verdict(verdict) => Some(verdict),
            Told::Saved | Told::Refused | Told::Unknown => None,
        }
    }

    /// A deed has the records that its verdict says, each once, and the verdict is right.
    fn deed(&mut self, deed: &Deed) {
        let Deed { id, act, told, .. } = deed;
        let records = self.by_actor.get(id).cloned().unwrap_or_default();
        let of =
            |path: &str| records.iter().filter(|(found, _)| *found == path).map(|(_, seq)| *seq).collect::<Vec<_>>();
        let (configs, souls) = (of(CONFIG), of(SOUL));
        if configs.len() > 1 || souls.len() > 1 || self.saved.get(id).is_some_and(|times| *times > 1) {
            self.find(Kind::Duplicated, format!("deed {id}, {act:?}, has the records {records:?}"));
        }
        if *told == Told::Refused && !records.is_empty() {
            self.find(Kind::Misattributed, format!("deed {id}, {act:?}, was refused and has the records {records:?}"));
        }
        let verdict = self.verdict(deed);
        // What the gateway has to do with a rollback depends on the set, and owned keys may change nothing.
        let brings = matches!(act, Act::Set(_) | Act::Push(_) | Act::Put(_));
        if let (true, Some(verdict)) = (brings, verdict) {
            let must = matches!(verdict, Verdict::Applied | Verdict::RolledBack);
            if must && configs.is_empty() {
                self.find(Kind::Lost, format!("deed {id}, {act:?}, is {verdict:?} and has no record"));
            }
            if !must && !configs.is_empty() {
                self.find(Kind::Verdict, format!("deed {id}, {act:?}, is {verdict:?} and has record {configs:?}"));
            }
        }
        if matches!(act, Act::Set(_)) {
            let together =
                matches!((configs.as_slice(), souls.as_slice()), ([config], [soul]) if config.abs_diff(*soul) == 1);
            // A later push took the configuration's place before it was delivered, and the other file is by itself then.
            let alone = verdict == Some(Verdict::Conflict) || (verdict.is_none() && self.is_superseded(deed));
            let by_itself = configs.is_empty() && (souls.is_empty() || alone);
            if !together && !by_itself {
                self.find(Kind::Torn, format!("deed {id}, {act:?}: half a set: {records:?}, {verdict:?}"));
            }
            let is_there = self.after.seen.disk.get(SOUL).is_some_and(|there| *there == soul(*id).into_bytes());
            if is_there && matches!(verdict, Some(Verdict::RolledBack | Verdict::Invalid)) {
                self.find(Kind::Torn, format!("deed {id}, {act:?}, is {verdict:?}, and its file is still there"));
            }
        }
        if let Some(verdict) = verdict
            && let Some(wrong) = self.wrong(deed, verdict)
        {
            self.find(Kind::Verdict, format!("deed {id}, {act:?}, is {verdict:?}: {wrong}"));
        }
    }

    /// Why a verdict cannot be.
    fn wrong(&self, deed: &Deed, verdict: Verdict) -> Option<&'static str> {
        let disturbed = self.after.disturbed.contains(&deed.round);
        let good = deed.act.behaviour().is_none_or(Behaviour::is_good);
        // What it brings may be an edit of the agent's, from any round.
        let disturbed =
            disturbed || (deed.act == Act::Rollback && self.deeds.values().any(|other| other.act == Act::Break));
        let invalid = deed.act.behaviour() == Some(Behaviour::Invalid);
        match verdict {
            // What the agent saves over it while it is on trial is what the gateway runs with.
            Verdict::Applied if !good && !self.edits(deed) => Some("the gateway refuses it"),
            Verdict::RolledBack if good && !disturbed => Some("the gateway would have been well"),
            // Merged with what the agent broke.
            Verdict::Invalid if !invalid && (!disturbed || deed.act.behaviour().is_some()) => Some("it is valid"),
            Verdict::Conflict if !deed.act.is_push() => Some("there was no push to be in conflict with"),
            Verdict::Conflict if !self.has_company(deed) => Some("nobody else did anything"),
            _ => None,
        }
    }

    /// Whether control has a later push of the configuration.
    fn is_superseded(&self, deed: &Deed) -> bool {
        let Told::Generation(generation) = deed.told else { return false };
        self.deeds.values().any(|other| match (other.act, other.told) {
            (Act::Set(_) | Act::Push(_), Told::Generation(later)) => later > generation,
            _ => false,
        })
    }

    /// Whether the agent edits the configuration in the same round.
    fn edits(&self, deed: &Deed) -> bool {
        self.deeds.values().any(|other| other.round == deed.round && other.act.is_agents())
    }

    /// Whether somebody changed the configuration here in the same round.
    fn has_company(&self, deed: &Deed) -> bool {
        self.deeds.values().any(|other| other.round == deed.round && !other.act.is_push())
    }

    /// What is there in the end.
    fn end(&mut self, deeds: &[Deed]) {
        let disk = &self.after.seen.disk;
        let there = disk.get(CONFIG).and_then(|content| self.known(content));
        match there {
            None => {
                let text = disk.get(CONFIG).map(|content| String::from_utf8_lossy(content).into_owned());
                self.find(Kind::Torn, format!("{CONFIG} is of nobody: {text:?}"));
            }
            Some((deed, _)) => {
                if !deed.act.behaviour().is_none_or(Behaviour::is_good) {
                    self.find(
                        Kind::Verdict,
                        format!("{CONFIG} is what the gateway refuses: {:?} of {}", deed.act, deed.id),
                    );
                }
                let marker = Deed::actor(deed.id);
                if self.after.serves.as_ref() != Some(&marker) {
                    let serves = &self.after.serves;
                    self.find(Kind::Stuck, format!("the gateway serves with {serves:?}, on disk is {marker}"));
                }
            }
        }
        let told = deeds.iter().filter_map(|deed| match deed.told {
            Told::Generation(generation) if matches!(deed.act, Act::Set(_) | Act::Push(_)) => Some((generation, deed)),
            _ => None,
        });
        if let Some((generation, newest)) = told.max_by_key(|(generation, _)| *generation)
            && !self.after.verdicts.contains_key(&generation)
        {
            self.find(
                Kind::Stuck,
                format!("deed {}, {:?}, generation {generation}, has no verdict", newest.id, newest.act),
            );
        }
        for deed in deeds.iter().filter(|deed| deed.told == Told::Saved && !self.saved.contains_key(&deed.id)) {
            // Replaced before anybody looked, by the agent itself or by the gateway that stamps its file: both past us.
            let stamps = deed.saved.as_ref().is_some_and(|saved| saved.contains("\"rewrite\""));
            let replaced = stamps
                || deeds.iter().any(|other| {
                    other.round == deed.round
                        && ((other.act.is_agents() && other.id > deed.id)
                            || other.act.behaviour() == Some(Behaviour::Rewrites))
                });
            if !replaced {
                self.findings.push(Finding {
                    kind: Kind::Lost,
                    what: format!("deed {}, {:?}, of the agent has no record", deed.id, deed.act),
                });
            }
        }
    }
}

#[cfg(test)]
#[path = "oracle_tests.rs"]
mod tests;
