//! A short run of entries in the order of their paths. Pure.
//!
//! Everything is packed: 80 bytes per entry plus its file name; neighbours in one directory share the directory's text.

use std::cmp::Ordering;

use super::entry::{Record, flag};

/// Entries of a full leaf.
pub(super) const FULL: usize = 256;

/// One file. Offsets are into [`Leaf::text`].
#[derive(Debug, Clone, Copy)]
struct Slot {
    hash: [u8; 32],
    ino: u64,
    size: u64,
    mtime_ns: u64,
    ctime_ns: u64,
    /// Directory with its slash; empty for a file in the root.
    dir_at: u32,
    name_at: u32,
    dir_len: u16,
    name_len: u8,
    dev: u8,
    flags: u8,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Leaf {
    slots: Vec<Slot>,
    text: Vec<u8>,
    /// Bytes of `text` that no slot needs, at least.
    waste: usize,
}

/// Directory (with its slash) and name.
fn parts(path: &str) -> (&[u8], &[u8]) {
    let at = path.rfind('/').map_or(0, |slash| slash + 1);
    path.as_bytes().split_at(at)
}

/// Grows by an eighth instead of doubling: an index is mostly at rest.
fn reserve<T>(vec: &mut Vec<T>, more: usize) {
    if vec.capacity() - vec.len() < more {
        vec.reserve_exact(more.max(vec.len() / 8 + 4));
    }
}

impl Leaf {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    fn dir(&self, slot: &Slot) -> &[u8] {
        &self.text[slot.dir_at as usize..][..usize::from(slot.dir_len)]
    }

    fn name(&self, slot: &Slot) -> &[u8] {
        &self.text[slot.name_at as usize..][..usize::from(slot.name_len)]
    }

    /// Compares the entry's path with another, by bytes.
    pub(super) fn compare(&self, at: usize, path: &[u8]) -> Ordering {
        let slot = &self.slots[at];
        let dir = self.dir(slot);
        match path.split_at_checked(dir.len()) {
            Some((start, rest)) => dir.cmp(start).then_with(|| self.name(slot).cmp(rest)),
            None => dir[..path.len()].cmp(path).then(Ordering::Greater),
        }
    }

    /// Position of a path, or where it would be.
    pub(super) fn find(&self, path: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.slots.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.compare(middle, path) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Whether the entry's directory, with its slash, begins with `prefix`, which is empty or ends with one.
    pub(super) fn is_below(&self, at: usize, prefix: &[u8]) -> bool {
        // Comparing with nothing is not free: the processor looks at an address that is none.
        prefix.is_empty() || self.dir(&self.slots[at]).starts_with(prefix)
    }

    /// Writes the entry's path to `path`.
    pub(super) fn path(&self, at: usize, path: &mut String) {
        let slot = &self.slots[at];
        path.clear();
        for part in [self.dir(slot), self.name(slot)] {
            // It was a `str` when it came in, cut at a slash.
            path.push_str(std::str::from_utf8(part).unwrap_or_default());
        }
    }

    pub(super) fn record(&self, at: usize) -> Option<Record> {
        let slot = self.slots.get(at)?;
        let numbers = [slot.ino, slot.size, slot.mtime_ns, slot.ctime_ns];
        Record::from_parts(slot.hash, numbers, slot.dev, slot.flags & flag::KNOWN)
    }

    /// Replaces what is known about an entry. Whoever does it has seen the file, so it counts as present.
    pub(super) fn set(&mut self, at: usize, record: &Record) {
        let slot = &mut self.slots[at];
        slot.hash = record.version.hash.map_or([0; 32], |hash| *hash.as_bytes());
        slot.ino = record.ino;
        slot.size = record.size;
        slot.mtime_ns = record.mtime_ns.cast_unsigned();
        slot.ctime_ns = record.ctime_ns.cast_unsigned();
        slot.dev = record.dev;
        slot.flags = record.flags() | flag::PRESENT;
    }

    pub(super) fn is_present(&self, at: usize) -> bool {
        self.slots[at].flags & flag::PRESENT != 0
    }

    pub(super) fn set_present(&mut self, at: usize, present: bool) {
        let flags = &mut self.slots[at].flags;
        *flags = if present { *flags | flag::PRESENT } else { *flags & !flag::PRESENT };
    }

    fn push_text(&mut self, text: &[u8]) -> u32 {
        let at = self.text.len();
        self.text.extend_from_slice(text);
        // A leaf holds at most FULL paths of a few KiB and as much waste, so offsets fit.
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    /// Puts a path in at a position that [`Leaf::find`] gave. Names are at most 255 bytes and paths a few KiB: [`crate::fs::TenantPath`]s.
    pub(super) fn insert(&mut self, at: usize, path: &str, record: &Record) {
        let (dir, name) = parts(path);
        let neighbours = [at.checked_sub(1), Some(at)].into_iter().flatten();
        let shared =
            neighbours.filter_map(|at| self.slots.get(at)).find(|slot| self.dir(slot) == dir).map(|slot| slot.dir_at);
        reserve(&mut self.text, name.len() + if shared.is_some() { 0 } else { dir.len() });
        let dir_at = shared.unwrap_or_else(|| self.push_text(dir));
        let name_at = self.push_text(name);
        reserve(&mut self.slots, 1);
        let slot = Slot {
            hash: [0; 32],
            ino: 0,
            size: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            dir_at,
            name_at,
            dir_len: u16::try_from(dir.len()).unwrap_or(u16::MAX),
            name_len: u8::try_from(name.len()).unwrap_or(u8::MAX),
            dev: 0,
            flags: 0,
        };
        self.slots.insert(at, slot);
        self.set(at, record);
    }

    pub(super) fn remove(&mut self, at: usize) {
        let slot = self.slots.remove(at);
        self.waste += usize::from(slot.name_len);
        if self.waste > 1024.max(self.text.len() / 3) || self.slots.len() * 2 < self.slots.capacity() {
            *self = self.rebuilt(0..self.len());
        }
    }

    /// An empty leaf with room for a full one; `like` is one with paths of about the same lengths.
    pub(super) fn with_room(like: Option<&Self>) -> Self {
        let text = like.map_or(0, |leaf| leaf.text.len() + leaf.text.len() / 8);
        Self { slots: Vec::with_capacity(FULL), text: Vec::with_capacity(text), waste: 0 }
    }

    /// Gives back room that is not needed.
    pub(super) fn shrink(&mut self) {
        self.slots.shrink_to_fit();
        self.text.shrink_to_fit();
    }

    /// A copy of some entries without waste.
    fn rebuilt(&self, range: std::ops::Range<usize>) -> Self {
        let slots = &self.slots[range];
        let mut new = Self { slots: Vec::with_capacity(slots.len()), text: Vec::new(), waste: 0 };
        new.append(self, slots);
        new.text.shrink_to_fit();
        new
    }

    fn append(&mut self, from: &Self, slots: &[Slot]) {
        for slot in slots {
            let last = self.slots.last().filter(|last| self.dir(last) == from.dir(slot));
            let dir_at = last.map(|last| last.dir_at);
            let dir_at = dir_at.unwrap_or_else(|| self.push_text(from.dir(slot)));
            let name_at = self.push_text(from.name(slot));
            self.slots.push(Slot { dir_at, name_at, ..*slot });
        }
    }

    /// Cuts the leaf in two at a position; returns the second part.
    pub(super) fn split(&mut self, at: usize) -> Self {
        let second = self.rebuilt(at..self.len());
        *self = self.rebuilt(0..at);
        second
    }

    /// Takes over everything of the leaf behind this one.
    pub(super) fn join(&mut self, next: &Self) {
        self.append(next, &next.slots);
    }
}
