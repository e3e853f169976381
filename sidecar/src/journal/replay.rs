//! Reading the journal back at start.

use std::collections::{HashMap, VecDeque};
use std::io::BufReader;

use winston_wire::{Change, ContentHash};

use super::ledger::RECENT_CHANGES;
use super::lines::{self, Line};
use super::record::Outline;
use super::{Dirs, JournalError, segment};

/// Bytes that are read at a time.
const READ_BYTES: usize = 32 * 1024;

/// The segment that is written on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Active {
    /// Sequence number in its name.
    pub(super) first: u64,
    /// Bytes of whole records in it.
    pub(super) length: u64,
    /// Bytes of the contents in `.winston/objects/` that its records brought.
    pub(super) objects: u64,
}

/// What the journal held.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    /// The last segment, if there is one.
    pub(super) active: Option<Active>,
    /// Bytes of all segments.
    pub(super) bytes: u64,
    /// Newest changes, oldest first.
    pub(super) recent: VecDeque<Change>,
    /// Contents in `.winston/objects/` and the last record that needs each.
    pub(super) objects: HashMap<ContentHash, u64>,
    /// Lines that could not be read back, not counting a torn tail.
    pub(super) corrupt: u64,
    /// Records after `acked` whose content was dropped, and the last of them.
    pub(super) dropped: u64,
    pub(super) dropped_to: u64,
    /// First segment that has contents; the last one when none has.
    pub(super) clean_to: u64,
    head: u64,
}

impl Replayed {
    /// Last sequence number that was given out, as far as the files tell: a segment gets its name when everything before it has been written.
    pub(crate) fn head_seq(&self) -> u64 {
        self.head.max(self.active.map_or(0, |active| active.first - 1))
    }
}

/// Reads every segment, hands each record to `visit` and cuts what a crash left unfinished at the end of the last one.
pub(super) fn replay(dirs: &Dirs, acked: u64, visit: &mut dyn FnMut(&Change)) -> Result<Replayed, JournalError> {
    segment::remove_unfinished(dirs)?;
    let mut replayed = Replayed::default();
    let firsts = segment::list(dirs)?;
    let mut clean = true;
    for (position, &first) in firsts.iter().enumerate() {
        let Some(file) = segment::open_read(dirs, first)? else { continue };
        let mut reader = BufReader::with_capacity(READ_BYTES, file);
        let mut active = Active { first, length: 0, objects: 0 };
        let (mut length, mut bad, mut contents) = (0u64, 0u64, false);
        let mut line = Vec::new();
        while let Some((kind, read)) = lines::next_outline(&mut reader, &mut line)? {
            length += read;
            match kind {
                Line::Good(record) => {
                    // Damage that good records follow is not a torn tail: it stays, counted.
                    replayed.corrupt += std::mem::take(&mut bad);
                    active.length = length;
                    active.objects += record.object().and(record.change.size).unwrap_or(0);
                    contents |= record.is_inline || record.object().is_some();
                    replayed.take(&record, acked);
                    visit(&record.change);
                }
                Line::Damaged | Line::Open => bad += 1,
            }
        }
        let last = position + 1 == firsts.len();
        if last && active.length < length {
            tracing::warn!(segment = first, bytes = length - active.length, "cut the journal's unfinished tail");
            let file = segment::open_repair(dirs, first)?;
            file.set_len(active.length)?;
            file.sync_all()?;
        } else {
            replayed.corrupt += bad;
            active.length = length;
        }
        if clean {
            replayed.clean_to = first;
            clean = !contents;
        }
        replayed.bytes += active.length;
        replayed.active = Some(active);
    }
    if replayed.corrupt > 0 {
        tracing::error!(lines = replayed.corrupt, "damaged journal records were skipped");
    }
    Ok(replayed)
}

impl Replayed {
    fn take(&mut self, record: &Outline, acked: u64) {
        let change = &record.change;
        self.head = self.head.max(change.seq);
        if let Some(hash) = record.object() {
            let needed_by = self.objects.entry(hash).or_default();
            *needed_by = change.seq.max(*needed_by);
        }
        if change.seq > acked && record.is_dropped() {
            self.dropped += 1;
            self.dropped_to = change.seq;
        }
        if self.recent.len() == RECENT_CHANGES {
            self.recent.pop_front();
        }
        self.recent.push_back(change.clone());
    }
}
