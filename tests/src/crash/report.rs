//! What the machine says.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::faults::Hits;
use super::oracle::{Finding, Kind};

/// Everything that was counted.
#[derive(Debug, Default)]
pub struct Report {
    /// What the run follows from.
    pub seed: u64,
    /// Rounds that were judged.
    pub rounds: u64,
    /// Requests that were answered with "done".
    pub acked: u64,
    /// Edits of the agent.
    pub agent: u64,
    /// Records of the history that were judged.
    pub records: u64,
    /// Kills, by victim, without those at failpoints.
    pub kills: BTreeMap<String, u64>,
    /// Starts of control that failed and were repeated, as a supervisor does.
    pub control_starts: u64,
    /// Deaths at failpoints.
    pub(super) hits: Hits,
    /// Kinds of requests that this sidecar does not have.
    pub unused: Vec<String>,
    /// Broken promises.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Findings of a kind.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.findings.iter().filter(|finding| finding.kind == kind).count()
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "seed": self.seed, "rounds": self.rounds, "acked": self.acked, "agent": self.agent, "records": self.records,
            "kills": self.kills, "repeated_starts_of_control": self.control_starts, "failpoints": self.hits.0, "unused": self.unused,
            "lost": self.count(Kind::Lost), "torn": self.count(Kind::Torn), "duplicated": self.count(Kind::Duplicated),
            "misattributed": self.count(Kind::Misattributed), "leftover": self.count(Kind::Leftover), "differs": self.count(Kind::Differs),
            "findings": self.findings.iter().map(|f| json!({"kind": format!("{:?}", f.kind), "what": f.what})).collect::<Vec<_>>(),
        })
    }

    /// For people; the last line has the figures.
    #[must_use]
    pub fn text(&self) -> String {
        let pairs = |counts: &BTreeMap<String, u64>| {
            counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        };
        let mut lines = vec![
            format!("killed: {}", pairs(&self.kills)),
            format!("died at failpoints: {}", pairs(&self.hits.0)),
            format!(
                "{} edits of the agent, {} records of history judged, {} starts of control repeated",
                self.agent, self.records, self.control_starts
            ),
        ];
        for finding in self.findings.iter().take(50) {
            lines.push(format!("{:?}: {}", finding.kind, finding.what));
        }
        let mut last = format!(
            "{} rounds, {} acked operations, {} lost, {} torn, {} duplicated, {} misattributed",
            self.rounds,
            self.acked,
            self.count(Kind::Lost),
            self.count(Kind::Torn),
            self.count(Kind::Duplicated),
            self.count(Kind::Misattributed)
        );
        if !self.findings.is_empty() {
            let (leftover, differs) = (self.count(Kind::Leftover), self.count(Kind::Differs));
            last.push_str(&format!(", {leftover} left over, {differs} different; seed {}", self.seed));
        }
        lines.push(last);
        lines.join("\n")
    }
}
