//! Reading records for the sync.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};

use super::{Dirs, JournalError, Record, record, segment};

/// A place in the journal. Remembers where the next record starts so that reading on does not scan again.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    next_seq: u64,
    place: Option<(u64, u64)>,
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
        let (first, offset) = match cursor.place {
            Some(place) => place,
            // The last segment that starts at or before the wanted record; the first one if that was removed.
            None => {
                let position = firsts.partition_point(|first| *first <= cursor.next_seq);
                let Some(first) = firsts.get(position.saturating_sub(1)) else { break };
                (*first, 0)
            }
        };
        let next_first = firsts.iter().copied().find(|candidate| *candidate > first);
        let mut reader = BufReader::new(segment::open_read(dirs, first)?);
        reader.seek(SeekFrom::Start(offset))?;
        let scan = Scan { head, max_records, max_bytes, last: next_first.is_none() };
        let end = scan.segment(&mut reader, cursor, first, offset, &mut batch, &mut bytes)?;
        if !end {
            break;
        }
        match next_first {
            Some(next) => {
                lose_until(next, cursor, &mut batch, max_records);
                cursor.place = Some((next, 0));
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
        first: u64,
        mut offset: u64,
        batch: &mut Batch,
        bytes: &mut usize,
    ) -> Result<bool, JournalError> {
        let mut line = Vec::new();
        loop {
            if cursor.next_seq > self.head || batch.full(self.max_records) || *bytes >= self.max_bytes {
                return Ok(false);
            }
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(true);
            }
            let Some(text) = line.strip_suffix(b"\n") else {
                // Being written right now, or, in an older segment, cut off by damage.
                return Ok(!self.last);
            };
            if let Some(record) = record::decode(text)
                && record.change.seq >= cursor.next_seq
            {
                lose_until(record.change.seq, cursor, batch, self.max_records);
                if batch.full(self.max_records) {
                    return Ok(false);
                }
                *bytes += read;
                cursor.next_seq = record.change.seq + 1;
                batch.records.push(record);
            }
            offset += read as u64;
            cursor.place = Some((first, offset));
        }
    }
}
