//! The whole log, in memory and with files.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::fs::Root;

struct Rig {
    dir: TempDir,
    settings: LogSettings,
}

impl Rig {
    fn new(ring_bytes: usize, file_bytes: u64, files: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(dir.path(), None).unwrap());
        let file = Some(FileSettings { root, file_bytes, files });
        Self { dir, settings: LogSettings { ring_bytes, file, secrets: vec![Secret::new("hunter2-test-value")] } }
    }

    fn open(&self) -> Logs {
        Logs::open(self.settings.clone(), Vec::new())
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.path().join(".winston/logs")).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

fn size(file: &Path) -> u64 {
    std::fs::metadata(file).unwrap().size()
}

/// Lines numbered in their text, each a little more than 1000 bytes.
fn fill(logs: &Logs, numbers: std::ops::Range<u64>) {
    for number in numbers {
        logs.push(
            Stream::Stdout,
            if number % 10 == 0 { Level::Error } else { Level::Info },
            format!("{number} {}", "x".repeat(1000)),
        );
        if number % 100 == 0 {
            logs.drain(Duration::from_secs(60));
        }
    }
    logs.drain(Duration::from_secs(60));
}

fn seqs(lines: &[LogLine]) -> Vec<u64> {
    lines.iter().map(|line| line.seq).collect()
}

/// Reads to the head; numbers of the lines, and how many were missing.
fn read(logs: &Logs, from: From, least: Level) -> (Vec<u64>, u64) {
    let mut reader = logs.reader(from, least);
    let (mut lines, mut missing) = (Vec::new(), 0);
    while reader.cursor() < reader.head() {
        for piece in reader.page(7) {
            match piece {
                Piece::Line(line) => lines.push(line.seq),
                Piece::Missing { count, .. } => missing += count,
            }
        }
    }
    (lines, missing)
}

#[test]
fn lines_are_numbered_and_the_last_ones_returned() {
    let logs = Logs::open(LogSettings::default(), vec!["hunter2-test-value".to_owned()]);
    let mut feed = logs.stream(Stream::Stdout);
    feed.take(b"one\ntwo\nthe token is hunter2-test-value");
    feed.finish();
    logs.note("ended".to_owned());
    let tail: Vec<_> = logs.tail(2).into_iter().map(|line| (line.seq, line.stream, line.line)).collect();
    assert_eq!(
        tail,
        [(3, Stream::Stdout, "the token is [redacted]".to_owned()), (4, Stream::Winston, "ended".to_owned())]
    );
    assert_eq!(logs.tail(usize::MAX).len(), 4);
    assert_eq!(read(&logs, From::After(1), Level::Debug), (vec![2, 3, 4], 0));
}

#[test]
fn a_secret_in_two_pieces_and_two_streams_is_found() {
    let rig = Rig::new(1 << 16, 1 << 20, 2);
    let logs = rig.open();
    for cut in 0..18 {
        let (first, second) = "hunter2-test-value".split_at(cut);
        logs.feed(Stream::Stdout, first.as_bytes());
        logs.feed(Stream::Stderr, b"between\n");
        logs.feed(Stream::Stdout, format!("{second}\n").as_bytes());
    }
    logs.note("the token is hunter2-test-value".to_owned());
    logs.drain(Duration::from_secs(60));
    let kept: Vec<_> = logs.tail(usize::MAX).into_iter().map(|line| line.line).collect();
    assert_eq!(kept.iter().filter(|line| line.contains("[redacted]")).count(), 19, "{kept:?}");
    let file = std::fs::read_to_string(&rig.files()[0]).unwrap();
    assert!(!file.contains("hunter2") && file.lines().count() == kept.len());
}

#[test]
fn files_are_bounded_and_reach_further_back_than_the_ring() {
    let rig = Rig::new(20_000, 100_000, 3);
    let logs = rig.open();
    fill(&logs, 1..1001);
    let files = rig.files();
    assert_eq!(files.len(), 3);
    assert!(files.iter().all(|file| size(file) <= 100_000), "{files:?}");
    let oldest = std::fs::read_to_string(&files[0]).unwrap();
    let first = serde_json::from_str::<LogLine>(oldest.lines().next().unwrap()).unwrap().seq;
    assert!(logs.first() > 900 && first < logs.first() - 100);
    // What is still there, what is not, and each line once.
    assert_eq!(read(&logs, From::After(0), Level::Debug), ((first..=1000).collect(), first - 1));
    assert_eq!(read(&logs, From::After(900), Level::Debug), ((901..=1000).collect(), 0));
    assert_eq!(read(&logs, From::After(5000), Level::Debug), (vec![], 0));
    let errors: Vec<u64> = (first..=1000).filter(|seq| seq % 10 == 0).collect();
    assert_eq!(read(&logs, From::After(0), Level::Warn).0, errors);
    assert_eq!(seqs(&logs.last(5, Level::Error)), [960, 970, 980, 990, 1000]);
    assert_eq!(seqs(&logs.last(150, Level::Debug)), (851..=1000).collect::<Vec<_>>());
    assert_eq!(seqs(&logs.last(100_000, Level::Error)), errors);
    // By time.
    let (_, line) = oldest.lines().enumerate().nth(30).unwrap();
    let line: LogLine = serde_json::from_str(line).unwrap();
    let (by_time, missing) = read(&logs, From::Time(line.time), Level::Debug);
    assert!(by_time[0] <= line.seq && by_time.ends_with(&[1000]) && missing == 0, "{:?}", by_time.first());
    assert_eq!(read(&logs, From::Time(Timestamp::MAX), Level::Debug).0, [0; 0]);
}

#[test]
fn a_reader_in_memory_that_falls_behind_is_told_how_many_lines_it_misses() {
    let rig = Rig::new(20_000, 1 << 30, 3);
    let logs = rig.open();
    let mut reader = logs.reader(From::After(0), Level::Debug);
    fill(&logs, 1..11);
    assert_eq!(reader.page(100).len(), 10);
    fill(&logs, 11..201);
    assert!(!reader.blocks(), "it does not turn to the files");
    let pieces = reader.page(100);
    let Some(Piece::Missing { count, to }) = pieces.first() else { panic!("{pieces:?}") };
    assert_eq!((*to, count + 10), (logs.first() - 1, *to));
    assert_eq!(pieces.len() as u64 - 1, 200 - to);
}

#[test]
fn the_next_run_goes_on_with_file_and_numbers() {
    let rig = Rig::new(20_000, 50_000, 3);
    let logs = rig.open();
    fill(&logs, 1..101);
    drop(logs);
    // As a kill leaves it: the last line is torn.
    let files = rig.files();
    let last = files.last().unwrap();
    let whole = size(last);
    let mut text = std::fs::read(last).unwrap();
    text.extend_from_slice(b"{\"seq\":101,\"time\":\"20");
    std::fs::write(last, text).unwrap();

    let logs = rig.open();
    assert_eq!(logs.head(), 100);
    assert_eq!(logs.tail(1)[0].seq, 100, "the newest lines are in memory again");
    fill(&logs, 101..103);
    assert_eq!(rig.files(), files);
    assert!(size(last) > whole);
    assert_eq!(read(&logs, From::After(60), Level::Debug), ((61..=102).collect(), 0));

    // A file that is empty, one that is damaged, and things that are none of ours.
    drop(logs);
    let logs_dir = rig.dir.path().join(".winston/logs");
    std::fs::write(logs_dir.join("gateway-00000000000000000103.jsonl"), b"").unwrap();
    std::fs::write(logs_dir.join("gateway-99999999999999999999.jsonl"), b"").unwrap();
    std::fs::write(logs_dir.join("notes"), b"x").unwrap();
    let logs = rig.open();
    assert_eq!(logs.head(), 102);
    fill(&logs, 103..104);
    drop(logs);
    std::fs::write(
        logs_dir.join("gateway-00000000000000000103.jsonl"),
        b"\xff\n{}\n[]\n{\"seq\":18446744073709551615}\n",
    )
    .unwrap();
    let logs = rig.open();
    fill(&logs, 103..105);
    assert_eq!(read(&logs, From::After(100), Level::Debug), (vec![101, 102, 103, 104], 0));
}

#[test]
fn a_directory_that_cannot_be_written_costs_the_file_only() {
    let rig = Rig::new(20_000, 50_000, 3);
    std::fs::create_dir(rig.dir.path().join(".winston")).unwrap();
    std::fs::write(rig.dir.path().join(".winston/logs"), b"a file").unwrap();
    let logs = rig.open();
    logs.push(Stream::Stdout, Level::Info, "one".to_owned());
    logs.drain(Duration::from_secs(60));
    assert_eq!(logs.tail(9).len(), 1);
    assert_eq!(logs.last(9, Level::Debug).len(), 1);
    std::fs::remove_file(rig.dir.path().join(".winston/logs")).unwrap();
    let mut number = 2;
    while rig.dir.path().join(".winston/logs").read_dir().map_or(0, Iterator::count) == 0 {
        assert!(number < 1_000_000, "the file is written again");
        logs.push(Stream::Stdout, Level::Info, format!("{number}"));
        logs.drain(Duration::from_secs(5));
        number += 1;
    }
    assert!(logs.counts().file_dropped >= 1);
}

#[test]
fn a_slow_disk_takes_a_twentieth_of_the_event_loop() {
    let millis = Duration::from_millis;
    assert_eq!(rest(true, millis(1)), Duration::ZERO);
    for took in [2_u32, 5, 19] {
        let share = f64::from(took) / (millis(took.into()) + rest(true, millis(took.into()))).as_secs_f64() / 1000.0;
        assert!(share <= 0.0501, "{took} ms: {share}");
    }
    assert_eq!(rest(false, WRITTEN), IMPATIENCE);
}
