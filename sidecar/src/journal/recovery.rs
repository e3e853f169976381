//! Reading the journal back after damage of every kind.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;
use winston_wire::{Action, Change, Source, Timestamp};

use super::{Content, Cursor, Journal, Limits, NewRecord, Record};
use crate::edits::hash_of;
use crate::fs::Root;

const NO_CAP: u64 = u64::MAX;

/// A journal in a directory of its own that can be closed, damaged and opened again.
pub(super) struct Bed {
    dir: TempDir,
    pub(super) limits: Limits,
}

impl Bed {
    pub(super) fn new(segment_bytes: u64, max_bytes: u64) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), limits: Limits { segment_bytes, max_bytes } }
    }

    pub(super) fn open(&self) -> Journal {
        self.open_seeing(&mut |_| {})
    }

    fn open_seeing(&self, visit: &mut dyn FnMut(&Change)) -> Journal {
        let root = Root::open(self.dir.path(), None).unwrap();
        Journal::identify(&root).unwrap().open(self.limits, visit).unwrap()
    }

    pub(super) fn internal(&self, name: &str) -> PathBuf {
        self.dir.path().join(".winston").join(name)
    }

    pub(super) fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.internal("changes")).unwrap().map(|entry| entry.unwrap().path());
        let mut segments: Vec<_> =
            entries.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")).collect();
        segments.sort();
        segments
    }

    pub(super) fn objects(&self) -> usize {
        fs::read_dir(self.internal("objects")).unwrap().count()
    }

    /// Bytes of all segments and contents, as the file system tells.
    pub(super) fn bytes(&self) -> u64 {
        let of =
            |name| fs::read_dir(self.internal(name)).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
        of("changes").chain(of("objects")).sum()
    }
}

pub(super) fn record(path: &str, content: &[u8]) -> NewRecord {
    NewRecord {
        timestamp: Timestamp::UNIX_EPOCH,
        path: path.to_owned(),
        previous_path: None,
        source: Source::Agent,
        action: Action::Update,
        actor: None,
        hash: Some(hash_of(content)),
        previous_hash: None,
        size: Some(content.len() as u64),
        generation: None,
        content_omitted: false,
        content: Content::keep(content.to_vec()),
    }
}

/// Everything behind `acked` as the sync reads it: the records and the lost numbers.
pub(super) fn all(journal: &Journal, acked: u64) -> (Vec<Record>, Vec<u64>) {
    let (mut cursor, mut records, mut lost) = (Cursor::after(acked), Vec::new(), Vec::new());
    loop {
        let batch = journal.read(&mut cursor, 3, 1 << 20).unwrap();
        if batch.records.is_empty() && batch.lost.is_empty() {
            assert_eq!(cursor.next_seq(), journal.head_seq().max(acked) + 1, "reading ends at the head");
            return (records, lost);
        }
        records.extend(batch.records);
        lost.extend(batch.lost);
    }
}

pub(super) fn seqs(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.change.seq).collect()
}

fn append(journal: &Journal, count: usize) -> Vec<Change> {
    let records = (0..count).map(|number| record(&format!("f{number}"), format!("content {number}").as_bytes()));
    journal.append(records.collect()).unwrap()
}

#[test]
fn a_tail_cut_anywhere_leaves_the_whole_lines_and_their_numbers() {
    let bed = Bed::new(1 << 20, NO_CAP);
    // Two records by themselves and three in one write.
    let journal = bed.open();
    append(&journal, 1);
    append(&journal, 1);
    append(&journal, 3);
    drop(journal);
    let segment = bed.segments().remove(0);
    let whole = fs::read(&segment).unwrap();
    for cut in 0..=whole.len() {
        fs::write(&segment, &whole[..cut]).unwrap();
        let lines = whole[..cut].iter().filter(|byte| **byte == b'\n').count() as u64;
        let mut seen = Vec::new();
        let journal = bed.open_seeing(&mut |change| seen.push(change.seq));
        assert!(seen.iter().copied().eq(1..=lines), "cut at {cut}: {seen:?}");
        assert_eq!((journal.head_seq(), journal.corrupt()), (lines, 0), "cut at {cut}");
        assert_eq!(append(&journal, 1)[0].seq, lines + 1, "cut at {cut}");
        let (records, lost) = all(&journal, 0);
        assert!(seqs(&records).into_iter().eq(1..=lines + 1) && lost.is_empty(), "cut at {cut}");
    }
}

#[test]
fn a_flipped_bit_costs_its_record_and_no_other() {
    let bed = Bed::new(1 << 20, NO_CAP);
    let journal = bed.open();
    append(&journal, 3);
    drop(journal);
    let segment = bed.segments().remove(0);
    let whole = fs::read(&segment).unwrap();
    let ends: Vec<_> = (0..whole.len()).filter(|at| whole[*at] == b'\n').collect();
    for bit in (ends[0] + 1) * 8..=ends[1] * 8 + 7 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        if damaged.eq_ignore_ascii_case(&whole) && damaged[bit / 8].is_ascii_hexdigit() && bit / 8 >= ends[1] - 10 {
            continue; // The checksum's own digits in capitals say the same.
        }
        fs::write(&segment, &damaged).unwrap();
        let journal = bed.open();
        // Without the newline behind it the record runs into the next one, which is the last.
        let merged = bit / 8 == ends[1];
        if merged {
            assert_eq!((journal.head_seq(), seqs(&all(&journal, 0).0)), (1, vec![1]));
            continue;
        }
        assert!(journal.corrupt() > 0, "bit {bit}");
        let (records, lost) = all(&journal, 0);
        assert_eq!((seqs(&records), lost), (vec![1, 3], vec![2]), "bit {bit}");
        assert_eq!((journal.change_at(2), journal.change_at(3).map(|change| change.seq)), (None, Some(3)));
    }
}

#[test]
fn numbers_that_control_has_are_not_given_out_again() {
    let bed = Bed::new(1 << 20, NO_CAP);
    let journal = bed.open();
    append(&journal, 5);
    journal.acknowledge(5, 0).unwrap();
    drop(journal);
    let segment = bed.segments().remove(0);
    let whole = fs::read(&segment).unwrap();
    fs::write(&segment, &whole[..whole.len() / 2]).unwrap();
    let journal = bed.open();
    assert_eq!((journal.head_seq(), append(&journal, 1)[0].seq), (5, 6));
    assert_eq!(seqs(&all(&journal, 5).0), [6]);
    // A control that was restored from a backup asks for what is gone.
    let (records, lost) = all(&journal, 0);
    assert_eq!(seqs(&records).len() + lost.len(), 6);
}

#[test]
fn a_lost_or_torn_acknowledgement_only_means_sending_again() {
    for damage in [None, Some(""), Some("{\"epoch\":"), Some("{}"), Some("null")] {
        let bed = Bed::new(1 << 20, NO_CAP);
        let journal = bed.open();
        append(&journal, 4);
        journal.acknowledge(3, 0).unwrap();
        drop(journal);
        match damage {
            None => fs::remove_file(bed.internal("acked")).unwrap(),
            Some(text) => fs::write(bed.internal("acked"), text).unwrap(),
        }
        let journal = bed.open();
        assert_eq!((journal.ledger().acked(), journal.head_seq()), (0, 4), "{damage:?}");
        assert_eq!(seqs(&all(&journal, 0).0), [1, 2, 3, 4]);
    }
}

#[test]
fn a_lost_epoch_starts_another_journal_with_the_same_records() {
    for damage in [None, Some(""), Some("not a uuid")] {
        let bed = Bed::new(1 << 20, NO_CAP);
        let journal = bed.open();
        let before = journal.epoch();
        append(&journal, 2);
        journal.acknowledge(2, 0).unwrap();
        drop(journal);
        match damage {
            None => fs::remove_file(bed.internal("epoch")).unwrap(),
            Some(text) => fs::write(bed.internal("epoch"), text).unwrap(),
        }
        let journal = bed.open();
        assert_ne!(journal.epoch(), before);
        // The acknowledgement was for the other one.
        assert_eq!((journal.ledger().acked(), seqs(&all(&journal, 0).0)), (0, vec![1, 2]));
    }
}

/// Ten records, two in a segment.
fn five_segments() -> Bed {
    let bed = Bed::new(300, NO_CAP);
    let journal = bed.open();
    for _ in 0..5 {
        append(&journal, 2);
    }
    assert_eq!(bed.segments().len(), 5);
    bed
}

#[test]
fn a_missing_segment_is_told_as_lost() {
    for missing in 0..5 {
        let bed = five_segments();
        fs::remove_file(&bed.segments()[missing]).unwrap();
        let journal = bed.open();
        let gone = [missing as u64 * 2 + 1, missing as u64 * 2 + 2];
        let (records, lost) = all(&journal, 0);
        // The last one leaves no trace; without acknowledgement its numbers come again.
        let head = if missing == 4 { 8 } else { 10 };
        let wanted: Vec<_> = (1..=head).filter(|seq| !gone.contains(seq)).collect();
        assert_eq!((journal.head_seq(), seqs(&records)), (head, wanted), "segment {missing}");
        assert_eq!(lost, if missing == 4 { Vec::new() } else { gone.to_vec() }, "segment {missing}");
        assert_eq!(append(&journal, 1)[0].seq, head + 1);
        assert_eq!(journal.first_seq().unwrap(), if missing == 0 { 3 } else { 1 });
    }
}

#[test]
fn an_empty_segment_file_keeps_the_numbers_before_it() {
    // As a crash right after starting a segment leaves it, and as damage does.
    for emptied in 0..5 {
        let bed = five_segments();
        fs::write(&bed.segments()[emptied], "").unwrap();
        let journal = bed.open();
        let head = if emptied == 4 { 8 } else { 10 };
        assert_eq!(journal.head_seq(), head, "segment {emptied}");
        assert_eq!(append(&journal, 1)[0].seq, head + 1);
        let (records, lost) = all(&journal, 0);
        assert_eq!(records.len() + lost.len(), head as usize + 1);
    }
    // Everything but the empty last segment is gone: its name still tells how far the numbers had come.
    let bed = five_segments();
    bed.segments()[..4].iter().for_each(|segment| fs::remove_file(segment).unwrap());
    fs::write(&bed.segments()[0], "").unwrap();
    let journal = bed.open();
    assert_eq!((journal.head_seq(), append(&journal, 1)[0].seq), (8, 9));
    assert_eq!(all(&journal, 0).1, (1..=8).collect::<Vec<_>>());
}

#[test]
fn an_older_segment_with_a_torn_end_loses_what_it_lacks() {
    let bed = five_segments();
    let segment = &bed.segments()[1];
    let whole = fs::read(segment).unwrap();
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for cut in first + 1..whole.len() {
        fs::write(segment, &whole[..cut]).unwrap();
        let journal = bed.open();
        let (records, lost) = all(&journal, 0);
        assert_eq!((records.len(), lost, journal.corrupt()), (9, vec![4], 1), "cut at {cut}");
    }
}

#[test]
fn what_else_lies_in_the_directories_is_left_out() {
    let bed = five_segments();
    let changes = bed.internal("changes");
    for name in [
        "200.jsonl",
        "notes",
        "00000000000000000000.jsonl",
        "99999999999999999999.jsonl",
        "x.jsonl",
        "+0000000000000000007.jsonl",
    ] {
        fs::write(changes.join(name), "garbage\n").unwrap();
    }
    fs::create_dir(changes.join("00000000000000000099.jsonl")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", changes.join("00000000000000000098.jsonl")).unwrap();
    fs::write(changes.join("00000000000000000003.jsonl.new"), "half a segment").unwrap();
    fs::write(bed.internal("objects").join("garbage"), "x").unwrap();
    fs::create_dir(bed.internal("objects").join("directory")).unwrap();
    let journal = bed.open();
    assert_eq!((journal.head_seq(), journal.corrupt()), (10, 0));
    assert_eq!(all(&journal, 0).0.len(), 10);
    assert!(!changes.join("00000000000000000003.jsonl.new").exists() && changes.join("notes").exists());
    assert_eq!(append(&journal, 1)[0].seq, 11);
}

#[test]
fn a_zeroed_stretch_is_damage_like_any_other() {
    let bed = five_segments();
    let segments = bed.segments();
    let mut last = fs::read(&segments[4]).unwrap();
    last.extend_from_slice(&[0; 9000]);
    fs::write(&segments[4], last).unwrap();
    fs::write(&segments[2], vec![0; 3_000_000]).unwrap();
    let journal = bed.open();
    assert_eq!((journal.head_seq(), journal.corrupt(), all(&journal, 0).1), (10, 1, vec![5, 6]));
}

#[test]
fn a_clock_that_goes_back_changes_nothing() {
    let bed = Bed::new(300, NO_CAP);
    let journal = bed.open();
    for seconds in [5_000_000_000i64, 10, 4_000_000_000, 0] {
        let timestamp = Timestamp::from_second(seconds).unwrap();
        journal.append(vec![NewRecord { timestamp, ..record("a", &seconds.to_le_bytes()) }; 2]).unwrap();
    }
    journal.acknowledge(3, 0).unwrap();
    drop(journal);
    let journal = bed.open();
    assert_eq!(seqs(&all(&journal, 0).0), (1..=8).collect::<Vec<_>>());
    assert_eq!(journal.ledger().newest(1)[0].seq, 8);
    assert_eq!(journal.change_at(5).unwrap().timestamp.as_second(), 4_000_000_000);
}

#[test]
fn contents_that_are_missing_or_damaged_are_noticed() {
    let bed = Bed::new(1 << 20, NO_CAP);
    let large = |byte: u8| vec![byte; super::INLINE_CONTENT_BYTES + 1];
    let journal = bed.open();
    journal.append(vec![record("a", &large(1)), record("b", &large(2))]).unwrap();
    // Two contents share the flush of their directory: two of files, one of the directory, one of the segment.
    assert_eq!(journal.flushes(), 4);
    let name = |byte| bed.internal("objects").join(hash_of(&large(byte)).to_string());
    fs::remove_file(name(1)).unwrap();
    drop(journal);
    let journal = bed.open();
    assert!(journal.object(hash_of(&large(1))).unwrap().is_none());
    assert!(journal.object(hash_of(&large(2))).unwrap().is_some());
    // Of another size than it should be: recorded again, it is written again.
    fs::write(name(2), "short").unwrap();
    journal.append(vec![record("b", &large(2))]).unwrap();
    assert_eq!(fs::read(name(2)).unwrap(), large(2));
    journal.acknowledge(2, 0).unwrap();
    assert_eq!(bed.objects(), 1, "the third record still needs it");
    journal.acknowledge(3, 0).unwrap();
    assert_eq!(bed.objects(), 0);
}
