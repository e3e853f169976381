//! All entries by path, in the order of the paths' bytes. Pure.
//!
//! A sorted list of short packed runs ([`Leaf`]): a look-up is two binary searches, an insertion moves at most one leaf, and a file costs about
//! a hundred bytes. A map of boxed paths would cost three times as much.

use std::ops::ControlFlow;

use super::entry::Record;
use super::leaf::{FULL, Leaf};
use crate::fs::Stat;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Table {
    leaves: Vec<Leaf>,
    len: usize,
    /// Device numbers; entries name them by position.
    devices: Vec<u64>,
}

/// Position of an entry; valid until the table changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    leaf: usize,
    slot: usize,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Number of a device; `None` when no entry has it.
    pub(super) fn device(&self, dev: u64) -> Option<u8> {
        self.devices.iter().position(|known| *known == dev).and_then(|at| u8::try_from(at).ok())
    }

    /// Number of a device, a new one if needed; `None` when there are none left.
    pub(super) fn intern(&mut self, dev: u64) -> Option<u8> {
        self.device(dev).or_else(|| {
            let number = u8::try_from(self.devices.len()).ok()?;
            self.devices.push(dev);
            Some(number)
        })
    }

    pub(super) fn devices(&self) -> &[u64] {
        &self.devices
    }

    pub(super) fn set_devices(&mut self, devices: Vec<u64>) {
        self.devices = devices;
    }

    /// The leaf that has the path, or would have it.
    fn leaf(&self, path: &[u8]) -> usize {
        self.leaves.partition_point(|leaf| leaf.compare(0, path).is_le()).saturating_sub(1)
    }

    fn find(&self, path: &str) -> Result<At, At> {
        let leaf = self.leaf(path.as_bytes());
        let Some(found) = self.leaves.get(leaf) else { return Err(At { leaf, slot: 0 }) };
        found.find(path.as_bytes()).map(|slot| At { leaf, slot }).map_err(|slot| At { leaf, slot })
    }

    pub(super) fn get(&self, path: &str) -> Option<Record> {
        let at = self.find(path).ok()?;
        self.leaves[at.leaf].record(at.slot)
    }

    /// The entry of a path, looked for behind `hint` first: a listing in order finds each file behind the one before.
    pub(super) fn find_after(&self, hint: Option<At>, path: &str) -> Option<At> {
        let next = hint.and_then(|At { leaf, slot }| {
            let within = slot + 1 < self.leaves[leaf].len();
            let next = if within { At { leaf, slot: slot + 1 } } else { At { leaf: leaf + 1, slot: 0 } };
            let leaf = self.leaves.get(next.leaf)?;
            leaf.compare(next.slot, path.as_bytes()).is_eq().then_some(next)
        });
        next.or_else(|| self.find(path).ok())
    }

    /// Notes that a listing has shown the entry; whether the file is certainly still the one that was seen.
    pub(super) fn confirm(&mut self, at: At, dev: Option<u8>, stat: &Stat) -> bool {
        let leaf = &mut self.leaves[at.leaf];
        leaf.set_present(at.slot, true);
        leaf.record(at.slot).is_some_and(|record| record.matches(dev, stat))
    }

    /// Sets what is known about a path; returns what was known before.
    pub(super) fn insert(&mut self, path: &str, record: &Record) -> Option<Record> {
        match self.find(path) {
            Ok(at) => {
                let leaf = &mut self.leaves[at.leaf];
                let before = leaf.record(at.slot);
                leaf.set(at.slot, record);
                before
            }
            Err(at) => {
                self.insert_at(at, path, record);
                None
            }
        }
    }

    fn insert_at(&mut self, mut at: At, path: &str, record: &Record) {
        if self.leaves.is_empty() {
            self.leaves.push(Leaf::default());
        }
        self.len += 1;
        if self.leaves[at.leaf].len() >= FULL {
            // Paths that come in order fill their leaves; others get halves with room.
            let appended = at.slot == FULL && at.leaf + 1 == self.leaves.len();
            let cut = if appended { FULL } else { FULL / 2 };
            let second = self.leaves[at.leaf].split(cut);
            self.leaves.insert(at.leaf + 1, second);
            if at.slot > cut || appended {
                at = At { leaf: at.leaf + 1, slot: at.slot - cut };
            }
        }
        self.leaves[at.leaf].insert(at.slot, path, record);
    }

    /// Adds a path behind all others; `false` when it does not belong there. [`Table::pushed`] ends a series of these.
    pub(super) fn push(&mut self, path: &str, record: &Record) -> bool {
        if self.leaves.last().is_some_and(|last| last.compare(last.len() - 1, path.as_bytes()).is_ge()) {
            return false;
        }
        if self.leaves.last().is_none_or(|last| last.len() >= FULL) {
            self.pushed();
            self.leaves.push(Leaf::with_room(self.leaves.last()));
        }
        if let Some(last) = self.leaves.last_mut() {
            last.insert(last.len(), path, record);
            self.len += 1;
        }
        true
    }

    /// Gives back the room that was kept for more paths.
    pub(super) fn pushed(&mut self) {
        if let Some(last) = self.leaves.last_mut() {
            last.shrink();
        }
    }

    pub(super) fn remove(&mut self, path: &str) -> Option<Record> {
        let at = self.find(path).ok()?;
        let leaf = &mut self.leaves[at.leaf];
        let record = leaf.record(at.slot);
        leaf.remove(at.slot);
        self.len -= 1;
        if leaf.len() == 0 {
            self.leaves.remove(at.leaf);
        } else if leaf.len() < FULL / 8 {
            // What is left of a leaf joins the one before it, so that many removals do not leave many small leaves.
            let room = |before: &Leaf| before.len() + self.leaves[at.leaf].len() <= FULL * 3 / 4;
            if let Some(before) = at.leaf.checked_sub(1)
                && room(&self.leaves[before])
            {
                let small = self.leaves.remove(at.leaf);
                self.leaves[before].join(&small);
            }
        }
        record
    }

    /// Visits entries in order: those behind `after`, or all. The visitor gets each path and its place.
    pub(super) fn visit(&mut self, after: Option<&str>, mut visitor: impl FnMut(&str, Entry<'_>) -> ControlFlow<()>) {
        let start = match after {
            None => At { leaf: 0, slot: 0 },
            Some(path) => match self.find(path) {
                Ok(at) => At { slot: at.slot + 1, ..at },
                Err(at) => at,
            },
        };
        let mut path = String::new();
        let mut first = start.slot;
        for leaf in self.leaves.iter_mut().skip(start.leaf) {
            for at in first..leaf.len() {
                leaf.path(at, &mut path);
                if visitor(&path, Entry { leaf, at }).is_break() {
                    return;
                }
            }
            first = 0;
        }
    }

    /// Visits everything below a directory (`""` for all), in order.
    pub(super) fn each_below(&mut self, directory: &str, mut visitor: impl FnMut(Entry<'_>)) {
        let prefix = if directory.is_empty() { String::new() } else { format!("{directory}/") };
        // No path ends with a slash, so this one is before everything that starts with it.
        let (Ok(start) | Err(start)) = self.find(&prefix);
        let mut first = start.slot;
        for leaf in self.leaves.iter_mut().skip(start.leaf) {
            for at in first..leaf.len() {
                if !leaf.is_below(at, prefix.as_bytes()) {
                    return;
                }
                visitor(Entry { leaf, at });
            }
            first = 0;
        }
    }
}

/// An entry that is visited.
pub(super) struct Entry<'a> {
    leaf: &'a mut Leaf,
    at: usize,
}

impl Entry<'_> {
    pub(super) fn record(&self) -> Option<Record> {
        self.leaf.record(self.at)
    }

    /// Writes the path to `path`.
    pub(super) fn path(&self, path: &mut String) {
        self.leaf.path(self.at, path);
    }

    pub(super) fn is_present(&self) -> bool {
        self.leaf.is_present(self.at)
    }

    pub(super) fn set_absent(&mut self) {
        self.leaf.set_present(self.at, false);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use winston_wire::{ContentHash, Source};

    use super::*;
    use crate::index::Version;

    fn record(number: u64) -> Record {
        Record {
            version: Version { hash: Some(ContentHash::from_bytes([number as u8; 32])), source: Source::Agent },
            dev: 0,
            ino: number,
            size: number,
            mtime_ns: -1,
            ctime_ns: 1,
            settled: true,
            told: false,
        }
    }

    fn all(table: &mut Table, after: Option<&str>) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        table.visit(after, |path, entry| {
            found.push((path.to_owned(), entry.record().map_or(0, |record| record.ino)));
            ControlFlow::Continue(())
        });
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against a map: whatever is done, the same paths are there, in the same order, with the same records.
        #[test]
        fn a_table_is_a_sorted_map(steps in proptest::collection::vec(
            (any::<bool>(), "[a-c]{1,2}(/[a-d.-]{1,2}){0,2}", 1u64..99), 0..2500), probe in "[a-c]{1,2}(/[a-d]{1,2})?") {
            let (mut table, mut model) = (Table::default(), BTreeMap::new());
            for (add, path, number) in steps {
                if add || number % 3 != 0 {
                    let before = table.insert(&path, &record(number)).map(|record| record.ino);
                    prop_assert_eq!(before, model.insert(path, number));
                } else {
                    let before = table.remove(&path).map(|record| record.ino);
                    prop_assert_eq!(before, model.remove(&path));
                }
                prop_assert_eq!(table.len(), model.len());
            }
            let expected: Vec<_> = model.iter().map(|(path, number)| (path.clone(), *number)).collect();
            prop_assert_eq!(all(&mut table, None), expected.clone());
            let behind: Vec<_> = expected.iter().filter(|(path, _)| *path > probe).cloned().collect();
            prop_assert_eq!(all(&mut table, Some(&probe)), behind);
            let (mut below, mut path) = (Vec::new(), String::new());
            table.each_below(&probe, |entry| {
                entry.path(&mut path);
                below.push(path.clone());
            });
            let mut count = 0;
            table.each_below("", |_| count += 1);
            prop_assert_eq!(count, model.len());
            let prefix = format!("{probe}/");
            let wanted: Vec<_> = model.keys().filter(|path| path.starts_with(&prefix)).cloned().collect();
            prop_assert_eq!(below, wanted);
            let mut hint = None;
            for path in model.keys() {
                hint = table.find_after(hint, path);
                prop_assert!(hint.is_some());
            }
        }
    }

    #[test]
    fn thousands_of_paths_in_and_out_of_order() {
        let mut table = Table::default();
        let path = |number: u64| format!("d{:03}/e/file{:05}.md", number % 97, number);
        for number in 1..20_000 {
            table.insert(&path(number * 7919 % 20_000), &record(number));
        }
        assert_eq!(table.len(), 19_999);
        for number in 1..20_000 {
            assert!(table.remove(&path(number)).is_some(), "{number}");
            assert!(table.get(&path(number)).is_none());
        }
        assert_eq!((table.len(), table.leaves.len()), (0, 0));
        for number in 1..1000 {
            assert!(table.push(&format!("{number:04}"), &record(number)));
        }
        assert!(!table.push("0999", &record(1)));
        assert_eq!(table.leaves.len(), 999usize.div_ceil(FULL));
    }
}
