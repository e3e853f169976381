//! [`super::reconcile`] against a model of one path: control with its pushes, the tenant's disk with its history, and a line between
//! them that loses, repeats and delays.
//!
//! A content has two fields; every write gives a field a number that nobody used before, so it can be told whose work is where.
//! `WINSTON_LONG=1` tries a hundred times as many sequences.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use winston_wire::{Base, ContentHash};

use super::{Decision, Local, Merge, merge_base, reconcile};

type Content = [u16; 2];

fn hash(content: Content) -> ContentHash {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&content[0].to_be_bytes());
    bytes[2..4].copy_from_slice(&content[1].to_be_bytes());
    ContentHash::from_bytes(bytes)
}

/// Field by field; `None` when both sides changed one.
fn merge(base: Content, ours: Content, theirs: Content) -> Option<Content> {
    let field = |at: usize| match (base[at], ours[at], theirs[at]) {
        (_, ours, theirs) if ours == theirs => Some(ours),
        (base, ours, theirs) if ours == base => Some(theirs),
        (base, ours, theirs) if theirs == base => Some(ours),
        _ => None,
    };
    Some([field(0)?, field(1)?])
}

#[derive(Debug, Clone, Copy)]
struct Push {
    generation: u64,
    base: Base,
    desired: Option<Content>,
    /// What the pusher had before him.
    saw: Option<Content>,
}

#[derive(Debug, Default)]
struct World {
    next: u16,
    /// Values that pushers wrote: theirs to take back.
    pushers: HashSet<u16>,
    contents: HashMap<ContentHash, Content>,
    // Control.
    pushes: Vec<Push>,
    /// What control knows of the disk.
    seen: Option<Content>,
    /// What a pusher sees: the newest push, or what came up after it.
    latest: Option<Content>,
    // The tenant.
    disk: Option<Content>,
    by_control: bool,
    merged: Option<(ContentHash, ContentHash, ContentHash)>,
    last_push: Option<(ContentHash, ContentHash)>,
    applied: u64,
    conflict: Option<Push>,
    history: Vec<Option<Content>>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// The agent writes one field.
    Edit(usize),
    AgentDeletes,
    /// A person changes one field of what control shows.
    Push(usize),
    PushDelete,
    Force(usize),
    /// The newest push arrives; with `forget`, the note about it is lost in a crash.
    Deliver {
        forget: bool,
    },
    /// An older answer arrives once more.
    Replay(prop::sample::Index),
    /// The sidecar's changes arrive at control.
    Upload,
}

impl World {
    fn known(&mut self, content: Option<Content>) -> Option<Content> {
        self.contents.extend(content.map(|content| (hash(content), content)));
        content
    }

    fn with_field(&mut self, content: Option<Content>, at: usize) -> Option<Content> {
        self.next += 1;
        let mut content = content.unwrap_or_default();
        content[at] = self.next;
        self.known(Some(content))
    }

    fn write(&mut self, content: Option<Content>) {
        self.disk = content;
        self.history.push(content);
    }

    fn local(&self) -> Local {
        self.disk.map_or(Local::Absent, |content| {
            let merged = self.merged.is_some_and(|(merged, _, _)| merged == hash(content));
            Local::File { hash: hash(content), untouched: self.by_control && !merged }
        })
    }

    fn decide(&self, push: &Push) -> (Decision, Option<Content>) {
        let desired = push.desired.map(hash);
        let mut decision = reconcile(push.base, self.local(), desired, Merge::Untried);
        if let (Decision::TryMerge(_) | Decision::KeepLocal, Base::Hash(base)) = (decision, push.base) {
            let earlier = match (self.merged, self.last_push) {
                (Some((merged, made_for, pushed)), Some((_, last))) if merged == last => Some((made_for, pushed)),
                (_, last) => last,
            };
            decision = reconcile(Base::Hash(merge_base(base, earlier)), self.local(), desired, Merge::Untried);
        }
        let Decision::TryMerge(base) = decision else { return (decision, None) };
        let merged = merge(self.contents[&base], self.disk.unwrap(), push.desired.unwrap());
        let outcome = merged.map_or(Merge::Impossible, |merged| Merge::Clean(hash(merged)));
        (reconcile(Base::Hash(base), self.local(), desired, outcome), merged)
    }

    /// What `Round::attempt` does.
    fn apply(&mut self, push: Push, forget: bool) {
        if push.generation <= self.applied {
            return;
        }
        let (before, edited) = (
            self.disk,
            !self.by_control || self.merged.is_some_and(|(merged, _, _)| self.disk.map(hash) == Some(merged)),
        );
        let (decision, merged) = self.decide(&push);
        let previous = self.disk.map(hash);
        let mut conflict = None;
        match decision {
            Decision::InPlace | Decision::KeepLocal => {}
            Decision::TakeDesired => {
                self.write(push.desired);
                (self.by_control, self.merged) = (true, None);
                self.last_push = previous.zip(push.desired.map(hash));
            }
            Decision::TakeMerged(_) => {
                let merged = self.known(merged);
                self.write(merged);
                let Base::Hash(base) = push.base else { panic!("merged without a base") };
                self.merged = Some((hash(merged.unwrap()), base, hash(push.desired.unwrap())));
                self.by_control = true;
                self.last_push = previous.zip(merged.map(hash));
            }
            Decision::Conflict => conflict = Some(push),
            Decision::TryMerge(_) => panic!("undecided"),
        }
        // Nobody's edit is overwritten unseen: it was named, or it does not matter to the pusher, or it is in what is there now.
        let named =
            push.base == Base::Any || before.map_or(Base::Absent, |before| Base::Hash(hash(before))) == push.base;
        if self.disk != before && edited && !named && before != push.desired {
            let (Some(before), Some(after), Base::Hash(base)) = (before, self.disk, push.base) else {
                panic!("{push:?} replaced {before:?}");
            };
            let base = self.contents[&base];
            for at in 0..2 {
                // Zero is what nobody wrote.
                let kept = before[at] == 0
                    || push.saw.is_some_and(|saw| saw[at] == before[at])
                    || after[at] == before[at]
                    || before[at] == base[at]
                    || self.pushers.contains(&before[at]);
                assert!(kept, "{push:?} lost field {at} of {before:?}: {after:?}");
            }
        }
        // Idempotent: the same push again finds nothing to do.
        match self.decide(&push).0 {
            Decision::InPlace | Decision::KeepLocal => assert!(conflict.is_none()),
            Decision::Conflict => assert!(conflict.is_some(), "{push:?} became a conflict"),
            other => panic!("{push:?} again: {other:?}"),
        }
        if !forget {
            (self.applied, self.conflict) = (push.generation, conflict);
        }
    }

    fn push(&mut self, desired: Option<Content>, force: bool) {
        let base = match (force, self.seen) {
            (true, _) => Base::Any,
            (false, None) => Base::Absent,
            (false, Some(seen)) => Base::Hash(hash(seen)),
        };
        let saw = std::mem::replace(&mut self.latest, desired);
        self.pushes.push(Push { generation: self.pushes.len() as u64 + 1, base, desired, saw });
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Edit(at) => {
                let content = self.with_field(self.disk, at);
                self.write(content);
                self.by_control = false;
            }
            Step::AgentDeletes if self.disk.is_some() => {
                self.write(None);
                self.by_control = false;
            }
            Step::AgentDeletes => {}
            Step::Push(at) | Step::Force(at) => {
                let content = self.with_field(self.latest, at);
                self.pushers.insert(self.next);
                self.push(content, matches!(step, Step::Force(_)));
            }
            Step::PushDelete => self.push(None, false),
            Step::Deliver { forget } => {
                if let Some(push) = self.pushes.last().copied() {
                    self.apply(push, forget);
                }
            }
            Step::Replay(index) => {
                if !self.pushes.is_empty() {
                    let push = *index.get(&self.pushes);
                    // Whatever was applied since makes it old; what was not, is no more than an early answer.
                    self.apply(push, false);
                }
            }
            Step::Upload => {
                // Control's newest version is the disk's, unless a push is still on its way.
                self.seen = self.disk;
                // `Engine::settle_conflicts`: somebody made the file what was pushed.
                self.conflict = self.conflict.filter(|push| push.desired != self.disk);
                if self.applied == self.pushes.len() as u64 {
                    self.latest = self.disk;
                }
            }
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0usize..2).prop_map(Step::Edit),
        1 => Just(Step::AgentDeletes),
        4 => (0usize..2).prop_map(Step::Push),
        1 => Just(Step::PushDelete),
        1 => (0usize..2).prop_map(Step::Force),
        4 => any::<bool>().prop_map(|forget| Step::Deliver { forget }),
        1 => any::<prop::sample::Index>().prop_map(Step::Replay),
        3 => Just(Step::Upload),
    ]
}

fn cases() -> u32 {
    if std::env::var_os("WINSTON_LONG").is_some() { 200_000 } else { 2_000 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// Whatever happens in whatever order, no edit is overwritten unseen, and in the end both sides have the same or there is a conflict.
    #[test]
    fn the_two_sides_converge_and_nothing_is_lost(steps in proptest::collection::vec(step(), 1..24)) {
        let mut world = World::default();
        for step in steps {
            world.step(step);
        }
        // The line works again and everybody rests.
        world.step(Step::Deliver { forget: false });
        let (disk, records) = (world.disk, world.history.len());
        world.step(Step::Deliver { forget: false });
        world.step(Step::Upload);
        prop_assert_eq!((world.disk, world.history.len()), (disk, records));
        prop_assert_eq!(world.applied, world.pushes.len() as u64);
        prop_assert_eq!(world.seen, world.disk);
        let pushed = world.pushes.last().and_then(|push| push.desired);
        if let Some(conflict) = world.conflict {
            // Both versions are there: one on disk, one in control.
            prop_assert_ne!(conflict.desired, world.disk);
        } else if let (Some(pushed), Some(disk), true) = (pushed, disk, world.merged.is_some()) {
            prop_assert!(pushed.iter().zip(disk).any(|(pushed, disk)| *pushed == disk) || world.history.contains(&Some(disk)));
        }
        // Every version that was ever on the disk is in history.
        prop_assert!(world.disk.is_none() || world.history.contains(&world.disk));
    }

    /// A delete that was pushed never removes an edited file.
    #[test]
    fn an_edit_beats_a_delete(base in 0u8..3, disk in 1u8..3) {
        let hash = |byte| ContentHash::from_bytes([byte; 32]);
        let local = Local::File { hash: hash(disk), untouched: false };
        let named = if base == 0 { Base::Absent } else { Base::Hash(hash(base)) };
        let decision = reconcile(named, local, None, Merge::Untried);
        prop_assert_eq!(decision, if base == disk { Decision::TakeDesired } else { Decision::Conflict });
        // And an edit that was pushed does not bring back a deleted file by itself.
        prop_assert_eq!(reconcile(Base::Hash(hash(1)), Local::Absent, Some(hash(2)), Merge::Untried), Decision::Conflict);
    }
}

/// A push that takes an earlier one back is about that one, although control does not know yet that it has arrived.
#[test]
fn taking_a_push_back_is_not_the_same_as_changing_nothing() {
    let hash = |byte| ContentHash::from_bytes([byte; 32]);
    let (before, pushed, edited) = (hash(1), hash(2), hash(3));
    let local = Local::File { hash: edited, untouched: false };
    // Not delivered: the pusher wants what was there, and somebody has edited that.
    assert_eq!(merge_base(before, None), before);
    assert_eq!(reconcile(Base::Hash(before), local, Some(before), Merge::Untried), Decision::KeepLocal);
    // Delivered, then edited.
    let base = merge_base(before, Some((before, pushed)));
    assert_eq!(base, pushed);
    assert_eq!(reconcile(Base::Hash(base), local, Some(before), Merge::Untried), Decision::TryMerge(pushed));
    // Control knows a newer version of the disk, so the pusher did too.
    assert_eq!(merge_base(hash(4), Some((before, pushed))), hash(4));
}
