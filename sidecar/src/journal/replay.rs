//! Reading the journal back at start.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader};

use winston_wire::{Change, ContentHash};

use super::ledger::RECENT_CHANGES;
use super::{Dirs, JournalError, Record, record, segment};

/// What the journal held.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    /// First sequence number and length in bytes of each segment, ascending.
    pub(super) segments: Vec<(u64, u64)>,
    /// Newest changes, oldest first.
    pub(super) recent: VecDeque<Change>,
    /// Contents in `.winston/objects/` and the last record that needs each.
    pub(super) objects: HashMap<ContentHash, u64>,
    /// Lines that could not be read back, not counting a torn tail.
    pub(super) corrupt: u64,
    head: u64,
}

impl Replayed {
    /// Last readable sequence number.
    pub(crate) fn head_seq(&self) -> u64 {
        self.head
    }
}

/// Reads every segment, hands each record to `visit` and cuts what a crash left unfinished at the end of the last one.
pub(super) fn replay(dirs: &Dirs, visit: &mut dyn FnMut(&Record)) -> Result<Replayed, JournalError> {
    let mut replayed = Replayed::default();
    let firsts = segment::list(dirs)?;
    for (position, &first) in firsts.iter().enumerate() {
        let mut reader = BufReader::new(segment::open_read(dirs, first)?);
        let (mut length, mut good_length, mut bad) = (0u64, 0u64, 0u64);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            length += read as u64;
            match line.strip_suffix(b"\n").and_then(record::decode) {
                Some(record) => {
                    // Damage that good records follow is not a torn tail: it stays, counted.
                    replayed.corrupt += std::mem::take(&mut bad);
                    good_length = length;
                    replayed.take(&record);
                    visit(&record);
                }
                None => bad += 1,
            }
        }
        let last = position + 1 == firsts.len();
        if last && good_length < length {
            tracing::warn!(segment = first, bytes = length - good_length, "cut the journal's unfinished tail");
            let file = segment::open_append(dirs, first)?;
            file.set_len(good_length)?;
            file.sync_all()?;
            length = good_length;
        } else {
            replayed.corrupt += bad;
        }
        replayed.segments.push((first, length));
    }
    if replayed.corrupt > 0 {
        tracing::error!(lines = replayed.corrupt, "damaged journal records were skipped");
    }
    Ok(replayed)
}

impl Replayed {
    fn take(&mut self, record: &Record) {
        self.head = self.head.max(record.change.seq);
        if let Some(hash) = record.object() {
            self.objects.insert(hash, record.change.seq);
        }
        if self.recent.len() == RECENT_CHANGES {
            self.recent.pop_front();
        }
        self.recent.push_back(record.change.clone());
    }
}
