//! The journal against a simple model: whatever is done to it, in any order, with crashes in between.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};

use proptest::prelude::*;

use super::recovery::{Bed, all, record};
use super::{INLINE_CONTENT_BYTES, Journal};

#[derive(Debug, Clone)]
enum Step {
    /// Records of these sizes, in one append.
    Append(Vec<usize>),
    /// Control has so many hundredths of what it lacked, and the index on disk has as many of that.
    Acknowledge(u64, u64),
    Window,
    /// Closed and opened again. So many bytes of a further write had reached the disk.
    Crash(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![6 => 0usize..3000, 1 => Just(INLINE_CONTENT_BYTES), 1 => Just(INLINE_CONTENT_BYTES + 1)];
    prop_oneof![
        8 => proptest::collection::vec(size, 1..5).prop_map(Step::Append),
        2 => (0u64..=100, 0u64..=100).prop_map(|(acked, saved)| Step::Acknowledge(acked, saved)),
        1 => Just(Step::Window),
        3 => (0usize..600).prop_map(Step::Crash),
    ]
}

/// What must be in the journal.
#[derive(Default)]
struct Model {
    /// Contents of the records that control does not have.
    unsent: BTreeMap<u64, Vec<u8>>,
    acked: u64,
    head: u64,
}

impl Model {
    /// `counter` makes every content another one.
    fn append(&mut self, journal: &Journal, sizes: &[usize], counter: &mut u64) {
        let mut contents = Vec::new();
        for size in sizes {
            *counter += 1;
            let mut content = vec![b'x'; *size];
            content.extend_from_slice(counter.to_string().as_bytes());
            contents.push(content);
        }
        let changes = journal.append(contents.iter().map(|content| record("file", content)).collect()).unwrap();
        for (change, content) in changes.iter().zip(contents) {
            self.head += 1;
            assert_eq!(change.seq, self.head);
            self.unsent.insert(change.seq, content);
        }
    }

    fn check(&self, bed: &Bed, journal: &Journal) {
        assert_eq!((journal.head_seq(), journal.corrupt()), (self.head, 0));
        assert_eq!(journal.bytes(), bed.bytes());
        let (records, lost) = all(journal, self.acked);
        assert_eq!(lost, Vec::<u64>::new());
        assert_eq!(records.len(), self.unsent.len());
        let mut has_content = false;
        for (record, (seq, content)) in records.iter().zip(&self.unsent) {
            let change = &record.change;
            assert_eq!((change.seq, change.size), (*seq, Some(content.len() as u64)));
            assert_eq!(journal.change_at(*seq).as_ref(), Some(change));
            // The oldest contents go first, and only they.
            assert!(!(has_content && change.content_omitted), "{seq} has lost its content, an older one has not");
            has_content |= !change.content_omitted;
            if change.content_omitted {
                continue;
            }
            match (&record.inline, record.object()) {
                (Some(inline), _) => assert_eq!(inline, content),
                (None, Some(hash)) => {
                    assert_eq!(&fs::read(bed.internal("objects").join(hash.to_string())).unwrap(), content);
                }
                (None, None) => panic!("{seq} has no content"),
            }
        }
        let omitted = records.iter().filter(|record| record.change.content_omitted).count() as u64;
        assert!(omitted <= journal.contents_dropped());
        if bed.bytes() > bed.limits.max_bytes {
            // The segment that is written keeps what it has.
            let last = bed.segments().pop().unwrap();
            let last: u64 = last.file_stem().unwrap().to_str().unwrap().parse().unwrap();
            let kept = records.iter().find(|record| !record.change.content_omitted);
            assert!(kept.is_none_or(|record| record.change.seq >= last), "over the cap with contents to drop");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if std::env::var_os("WINSTON_LONG").is_some() { 2000 } else { 32 }, ..ProptestConfig::default() })]

    /// A longer form runs with `WINSTON_LONG=1`.
    #[test]
    fn the_journal_does_what_the_model_does(steps in proptest::collection::vec(step(), 1..40)) {
        let bed = Bed::new(20_000, 160_000);
        let mut journal = bed.open();
        let (mut model, mut counter) = (Model::default(), 0);
        let mut saved = 0;
        for step in steps {
            match step {
                Step::Append(sizes) => model.append(&journal, &sizes, &mut counter),
                Step::Acknowledge(acked, index) => {
                    model.acked += (model.head - model.acked) * acked / 100;
                    saved = saved.max(model.acked * index / 100);
                    journal.acknowledge(model.acked, saved).unwrap();
                }
                Step::Window => {
                    saved = model.head;
                    // Never goes back behind what control has: there is none then.
                    let before = journal.ledger().acked();
                    journal.keep_window(saved).unwrap();
                    prop_assert!(journal.ledger().acked() >= before);
                    model.acked = journal.ledger().acked();
                }
                Step::Crash(torn) => {
                    drop(journal);
                    if let Some(segment) = bed.segments().last() {
                        // A line that never got its newline, of which this much is there.
                        let line = fs::read(segment).unwrap().into_iter().filter(|byte| *byte != b'\n').take(torn);
                        let line: Vec<_> = line.collect();
                        std::io::Write::write_all(&mut OpenOptions::new().append(true).open(segment).unwrap(), &line).unwrap();
                    }
                    journal = bed.open();
                }
            }
            let acked = model.acked;
            model.unsent.retain(|seq, _| *seq > acked);
            model.check(&bed, &journal);
        }
    }
}
