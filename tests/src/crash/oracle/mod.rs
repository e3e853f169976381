//! What must be true after a round, given everything that was done. Pure: no clock, no file, no process.
//!
//! Every request carries an actor of its own and every content a block of its own, so each record of the history points at exactly one
//! operation, and "exactly once, with the right author" needs no guessing.

use std::collections::{BTreeMap, HashMap, HashSet};

use judge::Judge;

pub(super) mod chain;
mod judge;

#[cfg(test)]
mod tests;

/// Who did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A caller of the sidecar's file API.
    Api,
    /// The agent, past the API.
    Agent,
    /// Like [`Who::Agent`], through a handle on the file itself: half of it can be seen, and it may write to a file that was replaced.
    AgentInPlace,
    /// A push from control.
    Push,
}

impl Who {
    const fn is_agent(self) -> bool {
        matches!(self, Self::Agent | Self::AgentInPlace)
    }

    const fn source(self) -> &'static str {
        match self {
            Self::Api => "admin",
            Self::Agent | Self::AgentInPlace => "agent",
            Self::Push => "system",
        }
    }
}

/// What the caller was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is done. The number is the journal's for [`Who::Api`], the generation for [`Who::Push`].
    Done(Option<u64>),
    /// It was refused, so nothing happened.
    Refused,
    /// No answer: it happened wholly or not at all.
    Unknown,
}

/// A path after an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// Which path.
    pub path: String,
    /// The last block of its content; `None`: there is no file.
    pub version: Option<u64>,
}

/// One operation.
#[derive(Debug, Clone)]
pub struct Op {
    /// Unlike every other's; the actor is made from it.
    pub id: u64,
    /// Whose it is.
    pub who: Who,
    /// Nanoseconds on the driver's clock before it began.
    pub begin: u64,
    /// The same after its end; meaningless unless it is done.
    pub end: u64,
    /// What came back.
    pub outcome: Outcome,
    /// What it does.
    pub effects: Vec<Effect>,
}

impl Op {
    /// `X-Winston-Actor` of an operation.
    #[must_use]
    pub fn actor(id: u64) -> String {
        format!("op-{id}")
    }

    fn is_done(&self) -> bool {
        matches!(self.outcome, Outcome::Done(_))
    }

    /// When it had certainly happened on disk.
    fn certain(&self) -> Option<u64> {
        (self.is_done() && self.who != Who::Push).then_some(self.end)
    }

    fn touches(&self, path: &str) -> bool {
        self.effects.iter().any(|effect| effect.path == path)
    }
}

/// One record of control's history.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Position in the journal.
    pub seq: u64,
    /// The path, and for a rename the one before.
    pub path: String,
    /// See `path`.
    pub previous_path: Option<String>,
    /// `admin`, `agent` or `system`.
    pub source: String,
    /// `X-Winston-Actor`.
    pub actor: Option<String>,
    /// Of the content; `None` for a delete.
    pub hash: Option<String>,
    /// Of the version before.
    pub previous_hash: Option<String>,
    /// Of the push.
    pub generation: Option<u64>,
    /// The content, as control gives it.
    pub content: Option<Vec<u8>>,
}

/// What was found when everything was quiet.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Control's history, in order.
    pub history: Vec<Record>,
    /// Files on disk with their bytes.
    pub disk: BTreeMap<String, Vec<u8>>,
    /// Control's list of files with their hashes.
    pub listed: BTreeMap<String, String>,
    /// What is left in `.winston/staging` and beside it.
    pub left: Vec<String>,
    /// Actors of all versions that control keeps of each pushed path.
    pub versions: HashMap<String, Vec<String>>,
    /// Path and generation of each push that met a local edit.
    pub conflicts: HashSet<(String, u64)>,
}

/// What kind of promise is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Something that was acknowledged, or that the agent left, is not there.
    Lost,
    /// A content, or an operation, is there in part.
    Torn,
    /// One edit has two records.
    Duplicated,
    /// A record names another author than the one who did it, or nobody did it.
    Misattributed,
    /// A file that nobody wants.
    Leftover,
    /// Disk, history and control's list are not the same.
    Differs,
    /// A verdict about a configuration that is not what happened.
    Verdict,
    /// Something that does not come to an end.
    Stuck,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub kind: Kind,
    /// Paths and numbers.
    pub what: String,
}

/// Judges what was seen by what was done. No finding means that every promise was kept.
#[must_use]
pub fn judge(ops: &[Op], seen: &Seen) -> Vec<Finding> {
    let mut judge = Judge::new(ops, seen);
    judge.records();
    judge.operations();
    judge.order();
    judge.now();
    judge.findings
}
