//! What to do with what sidecars bring: pure decisions, no SQL.

use std::collections::HashSet;

use winston_wire::{
    Action, Change, ChangeBatch, CheckIn, ContentHash, MAX_BATCH_CHANGES, MAX_CONFLICTS, MAX_PATH_BYTES, MAX_VERDICTS,
    Timestamp,
};

use crate::path;

/// Most lost sequence numbers in one batch.
pub(crate) const MAX_LOST: usize = 10_000;
/// Longest actor that is stored.
const MAX_ACTOR_BYTES: usize = 512;
/// Longest version of a sidecar.
const MAX_VERSION_BYTES: usize = 128;
/// Largest generation that a sidecar may have applied. It becomes control's own counter, so it leaves room to count
/// on; and every JSON parser reads it exactly.
const MAX_GENERATION: u64 = 1 << 53;

/// Why a batch is refused as a whole. Sending it again would not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadBatch {
    /// Over [`MAX_BATCH_CHANGES`] or [`MAX_LOST`].
    #[error("a batch carries at most {MAX_BATCH_CHANGES} changes and {MAX_LOST} lost numbers")]
    TooMany,
    /// Sequence numbers out of order, doubled, missing or out of range.
    #[error("sequence numbers must start at 1 and be consecutive, in order, together with `lost` (at {0})")]
    Sequence(u64),
    /// A path that no sidecar would send.
    #[error("change {seq}: {why}")]
    Path {
        /// Its sequence number.
        seq: u64,
        /// What is wrong with the path.
        why: path::BadPath,
    },
    /// The parts of a change contradict each other.
    #[error("change {seq}: {why}")]
    Change {
        /// Its sequence number.
        seq: u64,
        /// The contradiction.
        why: &'static str,
    },
}

/// Checks a check-in; an error completes "the check-in …".
pub(crate) fn check_in(report: &CheckIn) -> Result<(), &'static str> {
    let small = |generation| generation <= MAX_GENERATION;
    if i64::try_from(report.head_seq).is_err() || !small(report.applied_generation) {
        return Err("has a number out of range");
    }
    if report.version.len() > MAX_VERSION_BYTES || !is_storable(report.started_at) {
        return Err("has a version or a start that no sidecar has");
    }
    let fits = |number| i64::try_from(number).is_ok();
    if report.manifest.is_some_and(|manifest| !fits(manifest.seq) || !fits(manifest.files)) {
        return Err("has a manifest with a number out of range");
    }
    if report.conflicts.len() > MAX_CONFLICTS {
        return Err("has too many conflicts");
    }
    if report.verdicts.len() > MAX_VERDICTS {
        return Err("has too many verdicts");
    }
    let in_range =
        |verdict: &winston_wire::ConfigVerdict| is_storable(verdict.at) && verdict.generation.is_none_or(small);
    if !report.verdicts.iter().all(in_range) {
        return Err("has a verdict with a time or generation out of range");
    }
    let fits = |conflict: &winston_wire::Conflict| conflict.path.len() <= MAX_PATH_BYTES && small(conflict.generation);
    if report.conflicts.iter().all(fits) {
        Ok(())
    } else {
        Err("has a conflict with a path or generation out of range")
    }
}

/// Whether the time is one that PostgreSQL takes, and that a clock could have shown. Timestamps end with 9999 anyway.
fn is_storable(time: Timestamp) -> bool {
    time >= Timestamp::UNIX_EPOCH
}

/// Checks a batch without looking at what is stored.
pub(crate) fn check(batch: &ChangeBatch) -> Result<(), BadBatch> {
    if batch.changes.len() > MAX_BATCH_CHANGES || batch.lost.len() > MAX_LOST {
        return Err(BadBatch::TooMany);
    }
    let mut expected = None;
    for seq in merged(batch) {
        let in_order = expected.is_none_or(|expected| seq == expected);
        if !in_order || seq == 0 || i64::try_from(seq).is_err() {
            return Err(BadBatch::Sequence(seq));
        }
        expected = Some(seq + 1);
    }
    // `merged` sorts; the changes themselves must come in order.
    if let Some(pair) = batch.changes.windows(2).find(|pair| pair[0].seq >= pair[1].seq) {
        return Err(BadBatch::Sequence(pair[1].seq));
    }
    batch.changes.iter().try_for_each(check_change)
}

fn check_change(change: &Change) -> Result<(), BadBatch> {
    let seq = change.seq;
    path::check(&change.path).map_err(|why| BadBatch::Path { seq, why })?;
    let contradiction = |why| Err(BadBatch::Change { seq, why });
    match (change.action, &change.previous_path) {
        (Action::Rename, Some(previous)) => {
            path::check(previous).map_err(|why| BadBatch::Path { seq, why })?;
            if *previous == change.path {
                return contradiction("a rename leads somewhere else");
            }
        }
        (Action::Rename, None) => return contradiction("a rename has a previous path"),
        (_, Some(_)) => return contradiction("only a rename has a previous path"),
        (_, None) => {}
    }
    if change.action == Action::Delete {
        if change.hash.is_some() {
            return contradiction("a delete has no hash");
        }
    } else if change.hash.is_none() && !change.content_omitted {
        return contradiction("a change with content has a hash");
    }
    if change.actor.as_ref().is_some_and(|actor| actor.len() > MAX_ACTOR_BYTES || actor.contains('\0')) {
        return contradiction("the actor is too long or has a NUL character");
    }
    if !is_storable(change.timestamp) {
        return contradiction("the timestamp must be of the years 1970 to 9999");
    }
    let fits = |value: Option<u64>| value.is_none_or(|value| i64::try_from(value).is_ok());
    if !fits(change.size) || !fits(change.generation) {
        return contradiction("size and generation must fit 63 bits");
    }
    Ok(())
}

/// Every sequence number of the batch, sorted.
fn merged(batch: &ChangeBatch) -> Vec<u64> {
    let mut all: Vec<u64> = batch.changes.iter().map(|change| change.seq).chain(batch.lost.iter().copied()).collect();
    all.sort_unstable();
    all
}

/// The content that a change needs before it can be committed.
pub(crate) fn needs(change: &Change) -> Option<ContentHash> {
    if change.content_omitted { None } else { change.hash }
}

/// What a checked batch leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan<'a> {
    /// Changes to commit now.
    pub(crate) commit: Vec<&'a Change>,
    /// Lost numbers to note now.
    pub(crate) lost: Vec<u64>,
    /// Last committed number afterwards.
    pub(crate) acked: u64,
    /// Contents still lacking, in the order of the batch, each once.
    pub(crate) wanted: Vec<ContentHash>,
}

/// Finds the longest prefix that can be committed. `acked` is what is committed already, `stored` the contents
/// that are there. A batch that starts behind a gap commits nothing and wants nothing: the sender is told where to
/// start.
pub(crate) fn plan<'a>(batch: &'a ChangeBatch, acked: u64, stored: &HashSet<ContentHash>) -> Plan<'a> {
    let mut plan = Plan { commit: Vec::new(), lost: Vec::new(), acked, wanted: Vec::new() };
    let all = merged(batch);
    if all.first().is_none_or(|first| *first > acked + 1) {
        return plan;
    }
    let mut changes = batch.changes.iter().peekable();
    let mut asked = HashSet::new();
    for seq in all {
        let change = changes.next_if(|change| change.seq == seq);
        if seq <= acked {
            continue;
        }
        let missing = change.and_then(needs).filter(|hash| !stored.contains(hash));
        if let Some(hash) = missing
            && asked.insert(hash)
        {
            plan.wanted.push(hash);
        }
        if !plan.wanted.is_empty() {
            continue;
        }
        match change {
            Some(change) => plan.commit.push(change),
            None => plan.lost.push(seq),
        }
        plan.acked = seq;
    }
    plan
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;
    use winston_wire::{Source, Timestamp};

    use super::*;

    fn hash(byte: u8) -> ContentHash {
        ContentHash::from_bytes([byte; 32])
    }

    fn change(seq: u64, content: Option<u8>) -> Change {
        Change {
            seq,
            timestamp: Timestamp::UNIX_EPOCH,
            path: "workspace/SOUL.md".into(),
            previous_path: None,
            source: Source::Agent,
            action: content.map_or(Action::Delete, |_| Action::Update),
            actor: None,
            hash: content.map(hash),
            previous_hash: None,
            size: content.map(|_| 1),
            generation: None,
            content_omitted: false,
        }
    }

    fn batch(changes: Vec<Change>, lost: Vec<u64>) -> ChangeBatch {
        ChangeBatch { epoch: Uuid::nil(), changes, lost }
    }

    #[test]
    fn numbers_must_be_consecutive_together_with_lost_ones() {
        let ok = batch(vec![change(3, None), change(6, None)], vec![5, 4]);
        assert_eq!(check(&ok), Ok(()));
        for (changes, lost, at) in [
            (vec![3, 5], vec![], 5),
            (vec![3, 3], vec![], 3),
            (vec![4, 3], vec![], 3),
            (vec![0], vec![], 0),
            (vec![3], vec![3], 3),
            (vec![u64::MAX], vec![], u64::MAX),
        ] {
            let bad = batch(changes.into_iter().map(|seq| change(seq, None)).collect(), lost);
            assert_eq!(check(&bad), Err(BadBatch::Sequence(at)));
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let mut without_hash = change(1, None);
        without_hash.action = Action::Create;
        assert!(check(&batch(vec![without_hash.clone()], vec![])).is_err());
        without_hash.content_omitted = true;
        assert_eq!(check(&batch(vec![without_hash], vec![])), Ok(()));
        let mut elsewhere = change(1, None);
        elsewhere.path = "../x".into();
        assert!(check(&batch(vec![elsewhere], vec![])).is_err());
        let mut early = change(1, None);
        early.timestamp = Timestamp::MIN;
        assert!(matches!(check(&batch(vec![early.clone()], vec![])), Err(BadBatch::Change { .. })));
        early.timestamp = Timestamp::MAX;
        assert_eq!(check(&batch(vec![early], vec![])), Ok(()));
        let many = (1..=MAX_BATCH_CHANGES as u64 + 1).map(|seq| change(seq, None)).collect();
        assert_eq!(check(&batch(many, vec![])), Err(BadBatch::TooMany));
    }

    #[test]
    fn a_rename_and_only_a_rename_comes_from_another_path() {
        let moved = |action, previous: Option<&str>| {
            let mut moved = change(1, (action != Action::Delete).then_some(1));
            moved.action = action;
            moved.previous_path = previous.map(Into::into);
            check(&batch(vec![moved], vec![]))
        };
        assert_eq!(moved(Action::Rename, Some("workspace/OLD.md")), Ok(()));
        for (action, previous) in [
            (Action::Rename, None),
            (Action::Rename, Some("workspace/SOUL.md")),
            (Action::Rename, Some("../OLD.md")),
            (Action::Rename, Some(".winston/epoch")),
            (Action::Update, Some("workspace/OLD.md")),
            (Action::Delete, Some("workspace/OLD.md")),
        ] {
            assert!(moved(action, previous).is_err(), "{action:?} {previous:?}");
        }
        let mut without_hash = change(1, None);
        without_hash.action = Action::Rename;
        without_hash.previous_path = Some("workspace/OLD.md".into());
        assert!(check(&batch(vec![without_hash.clone()], vec![])).is_err());
        without_hash.content_omitted = true;
        assert_eq!(check(&batch(vec![without_hash], vec![])), Ok(()));
    }

    #[test]
    fn the_first_missing_content_stops_the_commit_and_all_missing_ones_are_wanted() {
        let batch = batch(
            vec![change(1, Some(1)), change(2, Some(2)), change(3, None), change(4, Some(3)), change(5, Some(2))],
            vec![],
        );
        let plan = plan(&batch, 0, &HashSet::from([hash(1)]));
        assert_eq!(plan.acked, 1);
        assert_eq!(plan.commit.len(), 1);
        assert_eq!(plan.wanted, [hash(2), hash(3)]);
    }

    #[test]
    fn a_gap_commits_nothing_and_names_the_place_to_start() {
        let batch = batch(vec![change(5, Some(1))], vec![]);
        let plan = plan(&batch, 3, &HashSet::new());
        assert_eq!((plan.acked, plan.commit.len()), (3, 0));
        assert!(plan.wanted.is_empty());
    }

    proptest! {
        #[test]
        fn the_plan_is_a_prefix_and_repeating_it_commits_nothing(
            kinds in prop::collection::vec(0u8..6, 1..40),
            start in 1u64..5,
            acked in 0u64..50,
            stored in prop::collection::hash_set(0u8..4, 0..4),
        ) {
            // Kinds 0 to 3 need that content, 4 is a delete, 5 is lost.
            let numbered = || kinds.iter().copied().zip(start..);
            let batch = batch(
                numbered()
                    .filter(|(kind, _)| *kind < 5)
                    .map(|(kind, seq)| change(seq, (kind < 4).then_some(kind)))
                    .collect(),
                numbered().filter(|(kind, _)| *kind == 5).map(|(_, seq)| seq).collect(),
            );
            prop_assert_eq!(check(&batch), Ok(()));
            let stored: HashSet<_> = stored.into_iter().map(hash).collect();
            let first = plan(&batch, acked, &stored);
            prop_assert!(first.acked >= acked);
            prop_assert_eq!(first.acked - acked, (first.commit.len() + first.lost.len()) as u64);
            prop_assert!(first.commit.iter().all(|c| needs(c).is_none_or(|h| stored.contains(&h))));
            let again = plan(&batch, first.acked, &stored);
            prop_assert!(again.commit.is_empty() && again.lost.is_empty());
            prop_assert_eq!(again.acked, first.acked);
            // Once everything wanted is there, the rest goes through, unless there is a gap.
            let all: HashSet<_> = (0..4).map(hash).collect();
            let last = plan(&batch, first.acked, &all);
            let end = start + kinds.len() as u64 - 1;
            if start <= acked + 1 {
                prop_assert_eq!(last.acked, end.max(acked));
            } else {
                prop_assert_eq!(last.acked, acked);
            }
        }
    }
}
