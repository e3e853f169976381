//! Dropping contents when the journal is over its cap.

use std::fs;

use winston_wire::ContentHash;

use super::recovery::{Bed, all, record, seqs};
use super::{Cursor, Journal};
use crate::edits::hash_of;

#[test]
fn over_the_cap_the_oldest_contents_go_and_every_record_stays() {
    const CAP: u64 = 400_000;
    let bed = Bed::new(50_000, CAP);
    let journal = bed.open();
    // A reader that is in the middle of the first segment when it is rewritten.
    let mut cursor = Cursor::after(0);
    for round in 0u64..100 {
        // Small ones, one too large for a line, and one that comes again and again.
        let small: Vec<u8> = round.to_le_bytes().repeat(500);
        let large = round.to_le_bytes().repeat(9000);
        let records = vec![record("small", &small), record("large", &large), record("same", b"same")];
        journal.append(records).unwrap();
        assert!(journal.bytes() <= CAP, "{} bytes in round {round}", journal.bytes());
        assert_eq!(journal.bytes(), bed.bytes(), "round {round}");
        if round == 0 {
            assert_eq!(seqs(&journal.read(&mut cursor, 2, 1 << 20).unwrap().records), [1, 2]);
        }
    }
    assert_eq!(journal.read(&mut cursor, 1, 1 << 20).unwrap().records[0].change.seq, 3);
    let dropped = journal.contents_dropped();
    assert!(dropped > 100, "{dropped}");
    let check = |journal: &Journal| {
        let (records, lost) = all(journal, 0);
        assert_eq!((records.len(), lost), (300, Vec::new()));
        let kept: Vec<_> = records.iter().filter(|record| !record.change.content_omitted).collect();
        assert_eq!(kept.len() as u64, 300 - dropped);
        assert!(kept.windows(2).all(|pair| pair[1].change.seq == pair[0].change.seq + 1), "only the oldest ones go");
        for record in kept {
            let there = record.inline.is_some() || journal.object(record.object().unwrap()).unwrap().is_some();
            assert!(there, "{:?}", record.change);
        }
        let told: Vec<_> = journal.ledger().newest(1000).into_iter().rev().collect();
        assert!(told.iter().eq(records.iter().map(|record| &record.change)));
    };
    check(&journal);
    drop(journal);
    let journal = bed.open();
    assert_eq!((journal.contents_dropped(), journal.bytes()), (dropped, bed.bytes()));
    check(&journal);
    journal.acknowledge(300, 300).unwrap();
    assert_eq!((bed.segments().len(), bed.objects(), journal.bytes()), (2, 0, bed.bytes()));
}

#[test]
fn a_content_that_a_later_record_needs_stays_for_both() {
    let bed = Bed::new(50_000, 200_000);
    let journal = bed.open();
    let shared: Vec<u8> = b"shared".repeat(12_000);
    journal.append(vec![record("old", &shared)]).unwrap();
    journal.append(vec![record("between", &b"between".repeat(12_000))]).unwrap();
    journal.append(vec![record("new", &shared)]).unwrap();
    // Over the cap: the oldest segment gives nothing, the one behind it does.
    journal.append(vec![record("last", &b"last".repeat(18_000))]).unwrap();
    let (records, _) = all(&journal, 0);
    assert_eq!(
        records.iter().map(|record| record.change.content_omitted).collect::<Vec<_>>(),
        [false, true, false, false]
    );
    assert!(journal.object(hash_of(&shared)).unwrap().is_some());
    assert_eq!((bed.objects(), journal.bytes()), (2, bed.bytes()));
}

#[test]
fn what_a_crash_leaves_of_a_rewriting_is_one_of_both_segments() {
    let bed = Bed::new(50_000, u64::MAX);
    let journal = bed.open();
    let large: Vec<u8> = b"large".repeat(20_000);
    journal.append(vec![record("a", b"a"), record("b", &large)]).unwrap();
    journal.append(vec![record("c", b"c")]).unwrap();
    drop(journal);
    let segment = bed.segments().remove(0);
    let before = fs::read(&segment).unwrap();
    // Before the rename: the new file lies beside the old one.
    fs::write(segment.with_extension("jsonl.new"), &before[..40]).unwrap();
    let journal = bed.open();
    assert_eq!((all(&journal, 0).0.len(), bed.objects(), journal.bytes()), (3, 1, bed.bytes()));
    // After it: the contents are not removed yet.
    let dropped = super::compact::without_contents(&journal.dirs, 1, |_| true).unwrap();
    assert_eq!((dropped.records, dropped.objects), (vec![1, 2], vec![hash_of(&large)]));
    drop(journal);
    let journal = bed.open();
    let (records, lost) = all(&journal, 0);
    assert_eq!((records.len(), lost.len(), bed.objects()), (3, 0, 0));
    assert_eq!(records.iter().map(|record| record.change.content_omitted).collect::<Vec<_>>(), [true, true, false]);
    let again = super::compact::without_contents(&journal.dirs, 1, |_: ContentHash| true).unwrap();
    assert_eq!((again.records, again.before), (Vec::new(), again.after));
}
