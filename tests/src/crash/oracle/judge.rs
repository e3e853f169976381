//! The promises, one method for each kind of evidence.

use std::collections::{HashMap, HashSet};

use super::chain::{agree, chain};
use super::{Effect, Finding, Kind, Op, Outcome, Record, Seen, Who};
use crate::crash::content::{Tail, parse};

/// A path of a record, and what the record says about it.
type Said<'a> = (&'a str, Option<&'a [u8]>);

/// See [`super::judge`].
pub(super) struct Judge<'a> {
    ops: &'a [Op],
    seen: &'a Seen,
    by_actor: HashMap<String, usize>,
    /// The agent's operation that made a version of a path.
    by_version: HashMap<(&'a str, u64), usize>,
    /// Numbers of the records that belong to an effect of an operation.
    claims: HashMap<(usize, usize), Vec<u64>>,
    pub(super) findings: Vec<Finding>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(ops: &'a [Op], seen: &'a Seen) -> Self {
        let mut by_version = HashMap::new();
        let mut by_actor = HashMap::new();
        for (index, op) in ops.iter().enumerate() {
            if op.who.is_agent() {
                let made =
                    op.effects.iter().filter_map(|effect| Some(((effect.path.as_str(), effect.version?), index)));
                by_version.extend(made);
            } else {
                by_actor.insert(Op::actor(op.id), index);
            }
        }
        Self { ops, seen, by_actor, by_version, claims: HashMap::new(), findings: Vec::new() }
    }

    fn find(&mut self, kind: Kind, what: String) {
        self.findings.push(Finding { kind, what });
    }

    /// Every record belongs to an operation, and the records of a path are a chain.
    pub(super) fn records(&mut self) {
        let seen = self.seen;
        self.findings.extend(chain(&seen.history));
        let mut agent_deletes: HashMap<&str, usize> = HashMap::new();
        for record in &seen.history {
            let from = record.previous_path.as_deref();
            let path = &record.path;
            let content = record.hash.is_some().then(|| record.content.as_deref().unwrap_or_default());
            let said: Vec<Said<'_>> =
                from.map(|from| (from, None)).into_iter().chain([(path.as_str(), content)]).collect();
            for said in said {
                if record.source == "agent" {
                    self.agent_record(record, said, &mut agent_deletes);
                } else {
                    self.request_record(record, said);
                }
            }
        }
    }

    fn agent_record(&mut self, record: &Record, (path, content): Said<'a>, deletes: &mut HashMap<&'a str, usize>) {
        let seq = record.seq;
        let Some(content) = content else {
            let count = deletes.entry(path).or_default();
            *count += 1;
            let gone = |op: &&Op| op.who.is_agent() && op.effects.iter().any(|e| e.path == path && e.version.is_none());
            if *count > self.ops.iter().filter(gone).count() {
                self.find(Kind::Misattributed, format!("{path}: record {seq} is a delete that the agent did not do"));
            }
            return;
        };
        let parsed = parse(content);
        match (parsed.tail, parsed.version()) {
            (Tail::Nothing, Some(version)) => match self.by_version.get(&(path, version)) {
                Some(op) => self.claim(*op, path, seq),
                None => self.find(Kind::Misattributed, format!("{path}: record {seq} gives op-{version} to the agent")),
            },
            // A moment of an edit in place.
            (Tail::Begun(id), _) => {
                let is_moment = |op: &Op| op.who == Who::AgentInPlace && op.touches(path);
                let known = match id {
                    Some(id) => self.by_version.get(&(path, id)).is_some_and(|op| is_moment(&self.ops[*op])),
                    None => self.ops.iter().any(is_moment),
                };
                if !known {
                    self.find(Kind::Torn, format!("{path}: record {seq} has a part of a content ({id:?})"));
                }
            }
            _ => self.find(Kind::Torn, format!("{path}: record {seq} has a content that nobody wrote")),
        }
    }

    fn request_record(&mut self, record: &Record, (path, content): Said<'_>) {
        let Record { seq, source, actor, .. } = record;
        let Some(index) = actor.as_ref().and_then(|actor| self.by_actor.get(actor)).copied() else {
            return self.find(
                Kind::Misattributed,
                format!("{path}: record {seq} is of {source} {actor:?}, whom nobody knows"),
            );
        };
        let op = &self.ops[index];
        if op.who.source() != source {
            self.find(
                Kind::Misattributed,
                format!("{path}: record {seq} is of {source}, but op-{} is of {:?}", op.id, op.who),
            );
        }
        if op.outcome == Outcome::Refused {
            self.find(Kind::Misattributed, format!("{path}: record {seq}: op-{} was refused", op.id));
        }
        if let (Who::Push, Outcome::Done(generation)) = (op.who, op.outcome)
            && generation != record.generation
        {
            self.find(
                Kind::Misattributed,
                format!("{path}: record {seq} has generation {:?}, not {generation:?}", record.generation),
            );
        }
        let Some(effect) = op.effects.iter().find(|effect| effect.path == path) else {
            return self
                .find(Kind::Misattributed, format!("{path}: record {seq}: op-{} was about something else", op.id));
        };
        let said = content.map(parse);
        match (effect.version, said) {
            (None, None) => {}
            (Some(version), Some(parsed)) if parsed.version() == Some(version) => {}
            (wanted, said) => {
                self.find(Kind::Torn, format!("{path}: record {seq} of op-{} has {said:?}, not {wanted:?}", op.id))
            }
        }
        self.claim(index, path, *seq);
    }

    fn claim(&mut self, op: usize, path: &str, seq: u64) {
        if let Some(effect) = self.ops[op].effects.iter().position(|effect| effect.path == path) {
            self.claims.entry((op, effect)).or_default().push(seq);
        }
    }

    /// Every operation has the records that it must have.
    pub(super) fn operations(&mut self) {
        for (index, op) in self.ops.iter().enumerate() {
            let claims: Vec<Vec<u64>> = (0..op.effects.len())
                .map(|effect| self.claims.get(&(index, effect)).cloned().unwrap_or_default())
                .collect();
            for (effect, seqs) in op.effects.iter().zip(&claims) {
                let path = &effect.path;
                if seqs.len() > 1 {
                    self.find(Kind::Duplicated, format!("{path}: op-{} has records {seqs:?}", op.id));
                }
                let lost = match op.who {
                    Who::Api => op.is_done() && seqs.is_empty(),
                    Who::Agent | Who::AgentInPlace => {
                        effect.version.is_some() && seqs.is_empty() && self.agent_must_be_recorded(index, path)
                    }
                    Who::Push => op.is_done() && seqs.is_empty() && self.push_is_lost(op, effect),
                };
                if lost {
                    self.find(Kind::Lost, format!("{path}: {:?} op-{} has no record", op.who, op.id));
                }
            }
            if op.outcome == Outcome::Unknown && claims.iter().any(Vec::is_empty) && !claims.iter().all(Vec::is_empty) {
                self.find(Kind::Torn, format!("op-{} happened in part: {claims:?} of {:?}", op.id, op.effects));
            }
            if let (Who::Api, Outcome::Done(Some(seq))) = (op.who, op.outcome)
                && !claims.iter().any(|seqs| seqs.is_empty() || seqs.contains(&seq))
            {
                self.find(Kind::Lost, format!("op-{} was told record {seq}, but has {claims:?}", op.id));
            }
        }
    }

    /// A version of the agent's may be missing when the agent itself replaced it before anybody looked; and when it was written in place
    /// to a file that was being replaced. An edit through the API is a look.
    fn agent_must_be_recorded(&self, index: usize, path: &str) -> bool {
        let op = &self.ops[index];
        let others = || self.ops.iter().filter(|other| other.id != op.id && other.touches(path));
        let meets = |other: &Op| other.begin <= op.end && other.certain().is_none_or(|end| end >= op.begin);
        if op.who == Who::AgentInPlace && others().any(|other| !other.who.is_agent() && meets(other)) {
            return false;
        }
        let next =
            others().filter(|other| other.who.is_agent() && other.begin >= op.end).map(|other| other.begin).min();
        let Some(next) = next else { return true };
        let looks = |other: &Op| other.who == Who::Api && other.is_done() && other.begin > op.end && other.end < next;
        others().any(looks)
    }

    /// A push that was taken is recorded, was replaced by a later one, or is a conflict. Control keeps its version in any case.
    fn push_is_lost(&self, op: &Op, effect: &Effect) -> bool {
        let Outcome::Done(Some(generation)) = op.outcome else { return true };
        let later = |other: &Op| match other.outcome {
            Outcome::Done(Some(number)) => number > generation,
            Outcome::Done(None) | Outcome::Unknown => true,
            Outcome::Refused => false,
        };
        let replaced = self
            .ops
            .iter()
            .any(|other| other.who == Who::Push && other.id != op.id && other.touches(&effect.path) && later(other));
        // The absence of a file that is absent needs no record.
        !replaced && effect.version.is_some() && !self.seen.conflicts.contains(&(effect.path.clone(), generation))
    }

    /// What had ended before something else began comes before it in the history.
    pub(super) fn order(&mut self) {
        let mut by_path: HashMap<&str, Vec<(u64, usize)>> = HashMap::new();
        for ((op, effect), seqs) in &self.claims {
            let path = self.ops[*op].effects[*effect].path.as_str();
            by_path.entry(path).or_default().extend(seqs.iter().map(|seq| (*seq, *op)));
        }
        for (path, mut records) in by_path {
            records.sort_unstable();
            let mut latest: Option<&Op> = None;
            for (seq, op) in records {
                let op = &self.ops[op];
                if let (Some(latest), Some(end)) = (latest, op.certain())
                    && latest.begin > end
                {
                    self.find(
                        Kind::Lost,
                        format!("{path}: record {seq} of op-{} comes after the later op-{}", op.id, latest.id),
                    );
                }
                if latest.is_none_or(|latest| op.begin > latest.begin) {
                    latest = Some(op);
                }
            }
        }
    }

    /// Disk, history and control's list are the same, every file is whole, and nothing is left over.
    pub(super) fn now(&mut self) {
        let seen = self.seen;
        self.findings.extend(agree(seen));
        let known: HashSet<&str> =
            self.ops.iter().flat_map(|op| &op.effects).map(|effect| effect.path.as_str()).collect();
        let recorded = seen.history.iter().filter(|record| record.hash.is_some()).map(|record| &record.path);
        let paths: HashSet<&String> = recorded.chain(seen.disk.keys()).chain(seen.listed.keys()).collect();
        for path in paths.into_iter().filter(|path| !known.contains(path.as_str())) {
            self.find(Kind::Leftover, format!("{path}: nobody made this file"));
        }
        for (path, bytes) in &seen.disk {
            let parsed = parse(bytes);
            if parsed.version().is_none() {
                self.find(Kind::Torn, format!("{path}: {} bytes on disk that nobody wrote: {parsed:?}", bytes.len()));
            }
        }
        for op in self.ops.iter().filter(|op| op.who == Who::Push && op.is_done()) {
            for effect in op.effects.iter().filter(|effect| effect.version.is_some()) {
                let kept = seen.versions.get(&effect.path);
                let here = kept.is_some_and(|kept| kept.iter().any(|kept| *kept == Op::actor(op.id)));
                if !here {
                    self.find(Kind::Lost, format!("{}: control has no version of the push op-{}", effect.path, op.id));
                }
            }
        }
    }
}
