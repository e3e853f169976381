//! What the machine for configurations says.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::crash::faults::Hits;
use crate::crash::oracle::{Finding, Kind};

/// Everything that was counted.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) rounds: u64,
    /// Verdicts that were judged, by what was done and what became of it.
    pub(super) verdicts: BTreeMap<String, u64>,
    /// Records of the history that were judged.
    pub(super) records: u64,
    /// Kills, by victim, without those at failpoints.
    pub(super) kills: BTreeMap<String, u64>,
    /// Deaths at failpoints.
    pub(super) hits: Hits,
    /// Broken promises.
    pub(super) findings: Vec<Finding>,
}

impl Report {
    fn count(&self, kinds: &[Kind]) -> usize {
        self.findings.iter().filter(|finding| kinds.contains(&finding.kind)).count()
    }

    fn transactions(&self) -> u64 {
        self.verdicts.values().sum()
    }

    fn deaths(&self) -> u64 {
        self.kills.values().chain(self.hits.0.values()).sum()
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "seed": self.seed, "rounds": self.rounds, "transactions": self.transactions(), "records": self.records, "verdicts": self.verdicts,
            "kills": self.kills, "failpoints": self.hits.0,
            "torn": self.count(&[Kind::Torn]), "lost": self.count(&[Kind::Lost]),
            "wrong_verdicts": self.count(&[Kind::Verdict]), "stuck": self.count(&[Kind::Stuck]),
            "duplicated": self.count(&[Kind::Duplicated]), "misattributed": self.count(&[Kind::Misattributed]),
            "leftover": self.count(&[Kind::Leftover]), "differs": self.count(&[Kind::Differs]),
            "findings": self.findings.iter().map(|f| json!({"kind": format!("{:?}", f.kind), "what": f.what})).collect::<Vec<_>>(),
        })
    }

    /// For people; the last line has the figures.
    pub(super) fn text(&self) -> String {
        let pairs = |counts: &BTreeMap<String, u64>| {
            counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        };
        let mut lines = vec![
            format!("killed: {}", pairs(&self.kills)),
            format!("died at failpoints: {}", pairs(&self.hits.0)),
            format!("verdicts: {}; {} records of history judged", pairs(&self.verdicts), self.records),
        ];
        lines.extend(self.findings.iter().take(50).map(|finding| format!("{:?}: {}", finding.kind, finding.what)));
        let mut last = format!(
            "{} rounds, {} transactions, {} kills, {} torn, {} lost, {} wrong verdicts, {} stuck",
            self.rounds,
            self.transactions(),
            self.deaths(),
            self.count(&[Kind::Torn]),
            self.count(&[Kind::Lost]),
            self.count(&[Kind::Verdict]),
            self.count(&[Kind::Stuck]),
        );
        if !self.findings.is_empty() {
            last.push_str(&format!(
                ", {} twice or of another author, {} left over, {} different; seed {}",
                self.count(&[Kind::Duplicated, Kind::Misattributed]),
                self.count(&[Kind::Leftover]),
                self.count(&[Kind::Differs]),
                self.seed
            ));
        }
        lines.push(last);
        lines.join("\n")
    }
}
