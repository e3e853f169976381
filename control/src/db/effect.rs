//! What consecutive changes do to a journal's current files: pure, no SQL.

use std::collections::HashMap;

use winston_wire::{Action, Change, ContentHash, ManifestDigest, Source};

use crate::manifest::member;

/// State of one path after some changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct PathState<'a> {
    /// The path.
    pub(super) path: &'a str,
    /// Its newest change; for a path that was renamed away, the rename.
    pub(super) change: &'a Change,
    /// Whether there is a file afterwards.
    pub(super) present: bool,
    /// Newest push that arrived here with these changes.
    pub(super) generation: Option<u64>,
}

impl PathState<'_> {
    /// Content afterwards.
    pub(super) fn hash(&self) -> Option<ContentHash> {
        self.change.hash.filter(|_| self.present)
    }
}

/// State of every path that the changes touch, each once.
pub(super) fn fold<'a>(changes: &[&'a Change]) -> Vec<PathState<'a>> {
    let mut states: HashMap<&str, PathState<'_>> = HashMap::with_capacity(changes.len());
    for change in changes {
        let arrived = change.generation.filter(|_| change.source == Source::System);
        let touched = [
            // Away from there first: `path` and `previous_path` differ, but the order shows what a rename is.
            change.previous_path.as_deref().map(|path| PathState { path, change, present: false, generation: None }),
            Some(PathState {
                path: &change.path,
                change,
                present: change.action != Action::Delete,
                generation: arrived,
            }),
        ];
        for mut state in touched.into_iter().flatten() {
            let before = states.get(state.path).and_then(|before| before.generation);
            state.generation = state.generation.max(before);
            states.insert(state.path, state);
        }
    }
    states.into_values().collect()
}

/// Number and digest of a set of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    /// Number.
    pub(crate) files: u64,
    /// Digest.
    pub(crate) digest: ManifestDigest,
}

impl Totals {
    /// Puts a file in.
    pub(super) fn add(&mut self, path: &str, hash: Option<&ContentHash>) {
        self.digest.add(member(path, hash));
        self.files = self.files.saturating_add(1);
    }

    /// Takes a file out.
    pub(super) fn remove(&mut self, path: &str, hash: Option<&ContentHash>) {
        self.digest.remove(member(path, hash));
        self.files = self.files.saturating_sub(1);
    }

    /// Follows the states. `before` has the files that were present at their paths.
    pub(super) fn follow(&mut self, states: &[PathState<'_>], before: &HashMap<String, Option<ContentHash>>) {
        for (path, hash) in before {
            self.remove(path, hash.as_ref());
        }
        for state in states.iter().filter(|state| state.present) {
            self.add(state.path, state.hash().as_ref());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use winston_wire::Timestamp;

    use super::*;

    /// Applies one change to a plain map: what the fold has to agree with.
    fn apply(files: &mut BTreeMap<String, Option<ContentHash>>, change: &Change) {
        if let Some(previous) = &change.previous_path {
            files.remove(previous);
        }
        if change.action == Action::Delete {
            files.remove(&change.path);
        } else {
            files.insert(change.path.clone(), change.hash);
        }
    }

    fn change(seq: u64, kind: u8, path: u8, other: u8, content: u8) -> Change {
        let name = |number: u8| format!("f{number}");
        let action = [Action::Create, Action::Update, Action::Delete, Action::Rename][usize::from(kind)];
        Change {
            seq,
            timestamp: Timestamp::UNIX_EPOCH,
            path: name(path),
            source: Source::System,
            previous_path: (action == Action::Rename).then(|| name(other)),
            action,
            actor: None,
            hash: (action != Action::Delete && content > 0).then(|| ContentHash::from_bytes([content; 32])),
            previous_hash: None,
            size: None,
            generation: Some(u64::from(content)),
            content_omitted: content == 0,
        }
    }

    proptest! {
        #[test]
        fn batches_of_any_size_lead_to_the_same_files_and_digest(
            kinds in prop::collection::vec((0u8..4, 0u8..6, 1u8..6, 0u8..4), 0..60),
            size in 1usize..20,
        ) {
            let changes: Vec<Change> = kinds.into_iter().zip(1..)
                .map(|((kind, path, step, content), seq)| change(seq, kind, path, (path + step) % 6, content))
                .filter(|change| change.previous_path.as_ref() != Some(&change.path))
                .collect();
            let mut model = BTreeMap::new();
            let mut stored: BTreeMap<String, Option<ContentHash>> = BTreeMap::new();
            let mut totals = Totals::default();
            for batch in changes.chunks(size) {
                batch.iter().for_each(|change| apply(&mut model, change));
                let states = fold(&batch.iter().collect::<Vec<_>>());
                let before = states.iter()
                    .filter_map(|state| Some((state.path.to_owned(), *stored.get(state.path)?))).collect();
                totals.follow(&states, &before);
                for state in &states {
                    stored.remove(state.path);
                    if state.present {
                        stored.insert(state.path.to_owned(), state.hash());
                    }
                }
                prop_assert_eq!(&stored, &model);
                let mut whole = Totals::default();
                model.iter().for_each(|(path, hash)| whole.add(path, hash.as_ref()));
                prop_assert_eq!(totals, whole);
            }
        }
    }

    #[test]
    fn a_rename_leaves_nothing_behind_and_a_push_remains_known() {
        let (mut write, mut rename, mut edit) = (change(1, 1, 1, 0, 3), change(2, 3, 2, 1, 3), change(3, 1, 2, 0, 1));
        (write.generation, rename.generation, edit.generation) = (Some(7), None, Some(9));
        edit.source = Source::Agent;
        let states = fold(&[&write, &rename, &edit]);
        let of = |path| states.iter().find(|state| state.path == path).unwrap();
        assert_eq!(states.len(), 2);
        assert_eq!((of("f1").present, of("f1").hash(), of("f1").generation), (false, None, Some(7)));
        assert_eq!((of("f2").present, of("f2").generation), (true, None));
    }
}
