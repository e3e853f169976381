//! Fuzz targets of the journal's lines (see [`crate::fuzz`]).

use std::sync::LazyLock;

use super::record::{self, Content, Record};
use crate::fuzz::fuzz;

const WORDS: &[&str] = &[
    "\"content\":",
    "\"content_base64\":\"AAAA\"",
    "\"crc\":\"",
    ",\"crc\":\"00000000\"}",
    "\"seq\":",
    "\"path\":\"",
    "null",
    "18446744073709551616",
    "-1",
    "1e9",
    "\\u0000",
    "\\ud800",
    "\"action\":\"rename\"",
    "\"previous_path\":\"a\"",
    "{",
    "}",
    "[[",
    "\"",
    "\n",
];

/// The same line again, from what was understood of it.
fn written(record: &Record) -> Vec<u8> {
    let content = record.inline.clone().map_or(Content::None, Content::Inline);
    let mut line = Vec::new();
    record::encode(&record.change, &content, &mut line).unwrap();
    assert_eq!(line.pop(), Some(b'\n'));
    assert!(!line.contains(&b'\n'));
    line
}

/// A line with this body and the checksum that belongs to it.
fn sealed(body: &[u8]) -> Vec<u8> {
    let mut line = body.to_vec();
    line.extend_from_slice(format!(",\"crc\":\"{:08x}\"}}", crc32fast::hash(body)).as_bytes());
    line
}

/// Damage is never taken for another record. (One in four thousand million would be, by chance; see the checksum.)
#[test]
fn damaged_lines() {
    static KNOWN: LazyLock<Vec<Record>> = LazyLock::new(|| {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus/journal-line");
        let files = std::fs::read_dir(dir).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
        files.filter_map(|line| record::decode(&line)).collect()
    });
    assert!(KNOWN.len() >= 4, "the kept lines are readable");
    fuzz("journal-line", WORDS, |line| {
        let Some(record) = record::decode(line) else { return };
        assert!(KNOWN.contains(&record), "{record:?}");
        assert_eq!(record::decode(&written(&record)), Some(record));
    });
}

/// Whatever is in a line whose checksum is right: it is read as one thing or not at all.
#[test]
fn lines_with_a_right_checksum() {
    fuzz("journal-record", WORDS, |body| {
        let Some(record) = record::decode(&sealed(body)) else { return };
        assert_eq!(record::decode(&written(&record)), Some(record));
    });
}
