//! What is killed, and when. Everything follows from the seed; what the machine does in the same milliseconds does not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::content::Rng;

/// What can be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Victim {
    /// `winston-sidecar`.
    Sidecar,
    /// `winston-control`.
    Control,
    /// The postmaster of control's private database.
    Database,
}

/// One round.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The place at which the sidecar kills itself, and at which visit.
    pub(super) failpoint: Option<(String, u64)>,
    /// How long everybody works before the first kill.
    pub(super) before: Duration,
    /// Who is killed, in order, and the time between two kills.
    pub(super) victims: Vec<Victim>,
    /// See `victims`.
    pub(super) between: Duration,
    /// Whether the sidecar is back before control is.
    pub(super) sidecar_first: bool,
}

impl Plan {
    /// Draws a round. Every other one goes to a failpoint, each name in turn.
    #[must_use]
    pub(super) fn draw(rng: &mut Rng, round: u64, names: &[String]) -> Self {
        let turn = usize::try_from(round / 2).unwrap_or(0);
        let name = (round.is_multiple_of(2) && !names.is_empty()).then(|| names[turn % names.len()].clone());
        // Some places are passed once in a while only.
        let most = if rng.percent(50) { 2 } else { 8 };
        let visit = 1 + rng.below(most);
        let mut victims = match rng.below(100) {
            0..62 => vec![Victim::Sidecar],
            62..76 => vec![Victim::Control],
            // Control looks after its database every few seconds only.
            76..78 => vec![Victim::Database],
            78..90 => vec![Victim::Sidecar, Victim::Control],
            90..96 => vec![Victim::Control, Victim::Database],
            _ => vec![Victim::Sidecar, Victim::Control, Victim::Database],
        };
        if victims.len() > 1 && rng.percent(50) {
            victims.reverse();
        }
        if name.is_some() && rng.percent(80) {
            victims = Vec::new();
        }
        Self {
            failpoint: name.map(|name| (name, visit)),
            before: Duration::from_millis(20 + rng.below(250)),
            victims,
            between: Duration::from_millis(rng.below(20)),
            sidecar_first: rng.percent(50),
        }
    }
}

/// Failpoints of a gateway and its configuration: the machine for configurations dies there, the one for files has no gateway.
const OF_THE_GATEWAY: [&str; 2] = ["config-", "gateway-"];

/// The names of all failpoints that are `wanted`, from the sources: a new one is part of a machine without being listed anywhere.
pub(super) fn names(sources: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let mut found = BTreeSet::new();
    let mut directories = vec![sources.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.extend(names_in(&std::fs::read_to_string(&path)?));
            }
        }
    }
    found.retain(|name| wanted(name));
    ensure!(!found.is_empty(), "{} has no failpoint", sources.display());
    Ok(found.into_iter().collect())
}

fn names_in(source: &str) -> Vec<String> {
    let calls = ["failpoint::here(", "failpoint::fails("];
    let rests = calls.iter().flat_map(|call| source.split(call).skip(1));
    rests.filter_map(|rest| Some(rest.trim_start().strip_prefix('"')?.split_once('"')?.0.to_owned())).collect()
}

/// Whether it is a failpoint of a gateway or its configuration.
pub(super) fn is_of_the_gateway(name: &str) -> bool {
    OF_THE_GATEWAY.iter().any(|prefix| name.starts_with(prefix))
}

/// Places that the machine for files does not lead to: over the journal's cap and after a write that failed (both in `tests/journal_recovery.rs`),
/// and where a push is merged with an edit (`tests/merge.rs`).
const ELSEWHERE: &[&str] = &["compact-renamed", "compact-sync", "compact-written", "journal-mend", "merge-remembered"];

/// How often the sidecar died at each failpoint.
#[derive(Debug, Default)]
pub(super) struct Hits(pub(super) BTreeMap<String, u64>);

impl Hits {
    /// With every name, at zero.
    #[must_use]
    pub(super) fn new(names: &[String]) -> Self {
        Self(names.iter().map(|name| (name.clone(), 0)).collect())
    }

    /// One more.
    pub(super) fn add(&mut self, name: &str) {
        *self.0.entry(name.to_owned()).or_default() += 1;
    }

    /// Names at which it should have died and never did.
    #[must_use]
    pub(super) fn never(&self) -> Vec<&str> {
        let missed = self.0.iter().filter(|(name, hits)| **hits == 0 && !ELSEWHERE.contains(&name.as_str()));
        missed.map(|(name, _)| name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_sources() {
        let source = "failpoint::here(\"a\"); x = failpoint::fails(\n  \"b-c\")?; failpoint::here(name);";
        assert_eq!(names_in(source), ["a", "b-c"]);
        let names = names(&crate::process::repository().join("sidecar/src"), |_| true).unwrap();
        assert!(names.iter().any(|name| name == "swapped"), "{names:?}");
    }

    #[test]
    fn the_same_seed_plans_the_same() {
        let names = ["x".to_owned(), "y".to_owned()];
        let plan = |seed| {
            (0..20)
                .map(|round| format!("{:?}", Plan::draw(&mut Rng::new(seed).fork(round), round, &names)))
                .collect::<Vec<_>>()
        };
        assert_eq!(plan(1), plan(1));
        assert_ne!(plan(1), plan(2));
    }
}
