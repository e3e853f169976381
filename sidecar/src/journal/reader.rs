//! Reading records for the sync.

use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;

use super::lines::{self, Line};
use super::{Dirs, JournalError, Record, segment};

/// Where in the files the next record starts. Rewriting a segment without its contents moves the records in it, and makes it another inode:
/// then the offset counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    first: u64,
    ino: u64,
    offset: u64,
}

/// A place in the journal. Remembers where the next record starts so that reading on does not scan again.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    next_seq: u64,
    place: Option<Place>,
}

impl Cursor {
    /// Reads on after `seq`.
    pub(crate) fn after(seq: u64) -> Self {
        Self { next_seq: seq + 1, place: None }
    }

    /// Next sequence number that will be read.
    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq
    }
}

/// Consecutive records, with the sequence numbers among them that can not be read back.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) records: Vec<Record>,
    pub(crate) lost: Vec<u64>,
}

impl Batch {
    fn full(&self, max_records: usize) -> bool {
        self.records.len() + self.lost.len() >= max_records
    }
}

/// Reads from `cursor` up to `head`, at most `max_records` records and about `max_bytes` of lines.
pub(super) fn read(
    dirs: &Dirs,
    cursor: &mut Cursor,
    head: u64,
    max_records: usize,
    max_bytes: usize,
) -> Result<Batch, JournalError> {
    let mut batch = Batch::default();
    let mut bytes = 0;
    while cursor.next_seq <= head && !batch.full(max_records) && bytes < max_bytes {
        let firsts = segment::list(dirs)?;
        let known = cursor.place.filter(|place| firsts.binary_search(&place.first).is_ok());
        // The last segment that starts at or before the wanted record; the first one if that was removed.
        let position = firsts.partition_point(|first| *first <= cursor.next_seq);
        let found = firsts.get(position.saturating_sub(1)).copied();
        let Some(first) = known.map(|place| place.first).or(found) else { break };
        let next_first = firsts.iter().copied().find(|candidate| *candidate > first);
        // Removed since the directory was listed: the next look finds where to go on.
        let Some(file) = segment::open_read(dirs, first)? else { continue };
        let ino = file.metadata()?.ino();
        let offset = known.filter(|place| place.ino == ino).map_or(0, |place| place.offset);
        let mut reader = BufReader::new(file);
        reader.seek(SeekFrom::Start(offset))?;
        let scan = Scan { head, max_records, max_bytes, last: next_first.is_none() };
        let end = scan.segment(&mut reader, cursor, Place { first, ino, offset }, &mut batch, &mut bytes)?;
        if !end {
            break;
        }
        match next_first {
            Some(next) => {
                lose_until(next, cursor, &mut batch, max_records);
                cursor.place = None;
            }
            None => {
                // The journal ends before `head`: its tail was damaged after it had been written.
                lose_until(head + 1, cursor, &mut batch, max_records);
                break;
            }
        }
    }
    Ok(batch)
}

fn lose_until(seq: u64, cursor: &mut Cursor, batch: &mut Batch, max_records: usize) {
    while cursor.next_seq < seq && !batch.full(max_records) {
        batch.lost.push(cursor.next_seq);
        cursor.next_seq += 1;
    }
}

struct Scan {
    /// The segment is the one that is being written.
    last: bool,
    head: u64,
    max_records: usize,
    max_bytes: usize,
}

impl Scan {
    /// Reads one segment on; true when it was read to its end.
    fn segment(
        &self,
        reader: &mut BufReader<File>,
        cursor: &mut Cursor,
        mut place: Place,
        batch: &mut Batch,
        bytes: &mut usize,
    ) -> Result<bool, JournalError> {
        let mut line = Vec::new();
        loop {
            if cursor.next_seq > self.head || batch.full(self.max_records) || *bytes >= self.max_bytes {
                return Ok(false);
            }
            let (kind, length) = match lines::next(reader, &mut line)? {
                None => return Ok(true),
                // Being written right now, or, in an older segment, cut off by damage.
                Some((Line::Open, _)) if self.last => return Ok(false),
                Some((Line::Open, _)) => return Ok(true),
                Some(read) => read,
            };
            if let Line::Good(record) = kind
                && record.change.seq >= cursor.next_seq
            {
                // What is behind `head` is not sure to stay; only the damage before it is for certain.
                lose_until(record.change.seq.min(self.head + 1), cursor, batch, self.max_records);
                if record.change.seq > self.head || batch.full(self.max_records) {
                    return Ok(false);
                }
                *bytes += length as usize;
                cursor.next_seq = record.change.seq + 1;
                batch.records.push(*record);
            }
            place.offset += length;
            cursor.place = Some(place);
        }
    }
}
