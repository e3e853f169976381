//! The oracle finds what was forged. A history that keeps every promise is broken in one place each time.

use super::*;
use crate::crash::content::block;
use crate::tenant::hash;

const SHARED: &str = "workspace/a.md";

fn op(id: u64, who: Who, (begin, end): (u64, u64), outcome: Outcome, version: Option<u64>) -> Op {
    Op { id, who, begin, end, outcome, effects: vec![Effect { path: SHARED.to_owned(), version }] }
}

fn record(seq: u64, source: &str, actor: Option<u64>, version: Option<u64>, previous: Option<u64>) -> Record {
    let of = |version: u64| hash(block(version, 10));
    Record {
        seq,
        path: SHARED.to_owned(),
        source: source.to_owned(),
        actor: actor.map(Op::actor),
        hash: version.map(of),
        previous_hash: previous.map(of),
        content: version.map(|version| block(version, 10)),
        ..Record::default()
    }
}

/// A caller's file, the agent's version, a push, a caller's last word, and a write without an answer that did not happen.
fn story() -> (Vec<Op>, Seen) {
    let ops = vec![
        op(1, Who::Api, (0, 10), Outcome::Done(Some(1)), Some(1)),
        op(2, Who::Agent, (20, 30), Outcome::Done(None), Some(2)),
        op(3, Who::Api, (40, 50), Outcome::Done(Some(3)), Some(3)),
        op(4, Who::Push, (60, 70), Outcome::Done(Some(9)), Some(4)),
        op(5, Who::Api, (80, 90), Outcome::Done(Some(5)), Some(5)),
        op(6, Who::Api, (91, 92), Outcome::Unknown, Some(6)),
        op(7, Who::Api, (93, 94), Outcome::Refused, Some(7)),
    ];
    let history = vec![
        record(1, "admin", Some(1), Some(1), None),
        record(2, "agent", None, Some(2), Some(1)),
        record(3, "admin", Some(3), Some(3), Some(2)),
        Record { generation: Some(9), ..record(4, "system", Some(4), Some(4), Some(3)) },
        record(5, "admin", Some(5), Some(5), Some(4)),
    ];
    let seen = Seen {
        history,
        disk: [(SHARED.to_owned(), block(5, 10))].into(),
        listed: [(SHARED.to_owned(), hash(block(5, 10)))].into(),
        versions: [(SHARED.to_owned(), vec![Op::actor(4)])].into(),
        ..Seen::default()
    };
    (ops, seen)
}

fn kinds(ops: &[Op], seen: &Seen) -> Vec<Kind> {
    let mut kinds: Vec<_> = judge(ops, seen).iter().map(|finding| finding.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

/// What a change of the story leads to.
#[track_caller]
fn finds(wanted: Kind, forge: impl FnOnce(&mut Vec<Op>, &mut Seen)) {
    let (mut ops, mut seen) = story();
    forge(&mut ops, &mut seen);
    let found = judge(&ops, &seen);
    assert!(found.iter().any(|finding| finding.kind == wanted), "{wanted:?} is not in {found:?}");
}

/// Takes a record out and closes the gap, as if it had never been.
fn forget(seen: &mut Seen, seq: u64) {
    seen.history.retain(|record| record.seq != seq);
    let mut before = None;
    for (index, record) in seen.history.iter_mut().enumerate() {
        record.seq = index as u64 + 1;
        record.previous_hash = before;
        before = record.hash.clone();
    }
}

#[test]
fn a_true_story_is_believed() {
    let (ops, seen) = story();
    assert_eq!(judge(&ops, &seen), []);
}

#[test]
fn what_is_missing_is_lost() {
    for seq in 1..=5 {
        finds(Kind::Lost, |_, seen| forget(seen, seq));
    }
    finds(Kind::Lost, |_, seen| seen.history[1].content = None);
    finds(Kind::Lost, |_, seen| seen.versions.clear());
    // A gap in the numbers.
    finds(Kind::Lost, |_, seen| seen.history[4].seq = 6);
    // An older word after a newer one: the newer one is gone from the disk.
    finds(Kind::Lost, |ops, _| (ops[0].begin, ops[0].end) = (200, 210));
}

#[test]
fn a_part_is_torn() {
    finds(Kind::Torn, |_, seen| {
        seen.disk.insert(SHARED.to_owned(), block(5, 10)[..20].to_vec());
    });
    finds(Kind::Torn, |_, seen| {
        seen.disk.insert(SHARED.to_owned(), Vec::new());
    });
    finds(Kind::Torn, |_, seen| seen.history[4].content = Some([&block(5, 10)[..20], b"?"].concat()));
    finds(Kind::Torn, |_, seen| {
        let part = block(2, 10)[..25].to_vec();
        (seen.history[1].hash, seen.history[1].content) = (Some(hash(&part)), Some(part));
    });
    // Half of a request without an answer.
    finds(Kind::Torn, |ops, seen| {
        ops[5].effects.push(Effect { path: "workspace/b.md".to_owned(), version: Some(60) });
        seen.history.push(record(6, "admin", Some(6), Some(6), Some(5)));
    });
}

#[test]
fn the_same_edit_twice_is_duplicated() {
    finds(Kind::Duplicated, |_, seen| seen.history.push(record(6, "admin", Some(5), Some(5), Some(5))));
    finds(Kind::Duplicated, |_, seen| seen.history.insert(2, record(3, "agent", None, Some(2), Some(2))));
}

#[test]
fn another_author_is_misattributed() {
    // A caller's edit as the agent's, the agent's as a caller's, nobody's, and one that was refused.
    finds(Kind::Misattributed, |_, seen| (seen.history[4].source, seen.history[4].actor) = ("agent".to_owned(), None));
    finds(Kind::Misattributed, |_, seen| seen.history[1].source = "admin".to_owned());
    finds(Kind::Misattributed, |_, seen| seen.history[4].actor = Some("somebody".to_owned()));
    finds(Kind::Misattributed, |_, seen| seen.history[3].source = "admin".to_owned());
    finds(Kind::Misattributed, |_, seen| seen.history[3].generation = Some(8));
    finds(Kind::Misattributed, |_, seen| seen.history.push(record(6, "admin", Some(7), Some(7), Some(5))));
    finds(Kind::Misattributed, |_, seen| seen.history.push(record(6, "agent", None, None, Some(5))));
}

#[test]
fn leftovers_and_differences_are_found() {
    finds(Kind::Leftover, |_, seen| seen.left.push(".winston/staging/1".to_owned()));
    finds(Kind::Leftover, |_, seen| {
        seen.disk.insert("workspace/strange.md".to_owned(), block(5, 10));
    });
    finds(Kind::Differs, |_, seen| seen.disk.clear());
    finds(Kind::Differs, |_, seen| seen.listed.clear());
    finds(Kind::Differs, |_, seen| seen.history[3].previous_hash = None);
}

/// What may happen without being a fault.
#[test]
fn what_is_allowed_is_not_found() {
    // The write without an answer happened after all.
    let (ops, mut seen) = story();
    seen.history.push(record(6, "admin", Some(6), Some(6), Some(5)));
    seen.disk.insert(SHARED.to_owned(), block(6, 10));
    seen.listed.insert(SHARED.to_owned(), hash(block(6, 10)));
    assert_eq!(judge(&ops, &seen), []);

    // The agent replaced its own version before anybody looked.
    let (mut ops, seen) = story();
    ops.push(op(8, Who::Agent, (15, 19), Outcome::Done(None), Some(8)));
    assert_eq!(judge(&ops, &seen), []);
    // With a look in between it must be there.
    ops.push(Op { effects: ops[7].effects.clone(), ..op(9, Who::Api, (16, 17), Outcome::Done(None), None) });
    (ops[7].begin, ops[7].end) = (13, 15);
    assert_eq!(kinds(&ops, &seen), [Kind::Lost]);

    // A push that met a local edit: no record, but a conflict and a version.
    let (ops, mut seen) = story();
    forget(&mut seen, 4);
    let mut ops: Vec<_> = ops;
    ops[4].outcome = Outcome::Done(Some(4));
    assert_eq!(kinds(&ops, &seen), [Kind::Lost]);
    seen.conflicts.insert((SHARED.to_owned(), 9));
    assert_eq!(judge(&ops, &seen), []);
}

/// An edit in place shows its parts, and only its own.
#[test]
fn moments_of_an_edit_in_place_are_the_agents() {
    let (mut ops, mut seen) = story();
    let part = block(2, 10)[..25].to_vec();
    let moment = Record { hash: Some(hash(&part)), content: Some(part), ..record(2, "agent", None, None, Some(1)) };
    let whole = Record { previous_hash: moment.hash.clone(), ..record(3, "agent", None, Some(2), None) };
    seen.history.splice(1..2, [moment, whole]);
    for (index, record) in seen.history.iter_mut().enumerate() {
        record.seq = index as u64 + 1;
    }
    (ops[2].outcome, ops[4].outcome) = (Outcome::Done(Some(4)), Outcome::Done(Some(6)));
    assert_eq!(kinds(&ops, &seen), [Kind::Torn], "a rename is never seen in part");
    ops[1].who = Who::AgentInPlace;
    assert_eq!(judge(&ops, &seen), []);
}
