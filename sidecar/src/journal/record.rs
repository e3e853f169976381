//! One line of the journal.
//!
//! A line is a JSON object: the members of [`Change`], then `content` (UTF-8) or `content_base64` when the content
//! travels with the record, then `crc` as the last member: CRC-32 (IEEE) in eight hexadecimal digits over all bytes before `,"crc":`.
//! Each line stands alone, so a reader can resynchronise after a damaged one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use winston_wire::{Action, Change, ContentHash, Source, Timestamp};

/// Where the content of a recorded version is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// A delete, or a file over the size limit.
    None,
    /// In the record.
    Inline(Vec<u8>),
    /// In `.winston/objects/`; the bytes are carried only on the way there.
    Object(Vec<u8>),
    /// In `.winston/objects/` already (see [`super::Journal::keep_object`]).
    Stored,
}

impl Content {
    /// Inline when small enough for a line.
    pub(crate) fn keep(bytes: Vec<u8>) -> Self {
        if bytes.len() <= super::INLINE_CONTENT_BYTES { Self::Inline(bytes) } else { Self::Object(bytes) }
    }
}

/// A change that has no sequence number yet.
#[derive(Debug, Clone)]
pub(crate) struct NewRecord {
    pub(crate) timestamp: Timestamp,
    pub(crate) path: String,
    /// For a rename: where the file was before.
    pub(crate) previous_path: Option<String>,
    pub(crate) source: Source,
    pub(crate) action: Action,
    pub(crate) actor: Option<String>,
    pub(crate) hash: Option<ContentHash>,
    pub(crate) previous_hash: Option<ContentHash>,
    pub(crate) size: Option<u64>,
    pub(crate) generation: Option<u64>,
    pub(crate) content_omitted: bool,
    pub(crate) content: Content,
}

impl NewRecord {
    /// Bytes of the content that are in `.winston/objects/`.
    pub(super) fn object_bytes(&self) -> u64 {
        match &self.content {
            Content::None | Content::Inline(_) => 0,
            Content::Object(bytes) => bytes.len() as u64,
            Content::Stored => self.size.unwrap_or(0),
        }
    }
}

/// A record as read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) change: Change,
    /// The content, when it is in the record.
    pub(crate) inline: Option<Vec<u8>>,
}

#[cfg(test)]
impl Record {
    /// Whether the content is a file in `.winston/objects/`.
    pub(crate) fn object(&self) -> Option<ContentHash> {
        object(&self.change, self.inline.is_some())
    }
}

/// What a record says, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outline {
    pub(super) change: Change,
    /// The content is in the record.
    pub(super) is_inline: bool,
}

impl Outline {
    /// Whether the content is a file in `.winston/objects/`.
    pub(super) fn object(&self) -> Option<ContentHash> {
        object(&self.change, self.is_inline)
    }

    /// Whether the content was here once and was dropped because the journal was over its cap. A file over the size limit has no hash.
    pub(super) fn is_dropped(&self) -> bool {
        self.change.content_omitted && self.change.hash.is_some()
    }
}

fn object(change: &Change, is_inline: bool) -> Option<ContentHash> {
    change.hash.filter(|_| !is_inline && !change.content_omitted)
}

#[derive(Serialize)]
struct LineOut<'a> {
    #[serde(flatten)]
    change: &'a Change,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_base64: Option<String>,
}

#[derive(Deserialize)]
struct LineIn {
    #[serde(flatten)]
    change: Change,
    content: Option<String>,
    content_base64: Option<String>,
}

/// Skips the content, which is most of a line, and checks nothing in it but the end.
#[derive(Deserialize)]
struct OutlineIn {
    #[serde(flatten)]
    change: Change,
    content: Option<IgnoredAny>,
    content_base64: Option<IgnoredAny>,
}

const CRC_PREFIX: &[u8] = b",\"crc\":\"";
/// `,"crc":"` + eight digits + `"}`.
const CRC_BYTES: usize = CRC_PREFIX.len() + 8 + 2;

/// Appends one line, newline included.
pub(crate) fn encode(change: &Change, content: &Content, line: &mut Vec<u8>) -> serde_json::Result<()> {
    let (text, binary) = match content {
        Content::Inline(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => (Some(text), None),
            Err(_) => (None, Some(BASE64.encode(bytes))),
        },
        Content::None | Content::Object(_) | Content::Stored => (None, None),
    };
    let start = line.len();
    serde_json::to_writer(&mut *line, &LineOut { change, content: text, content_base64: binary })?;
    line.pop(); // The closing brace comes back after the checksum.
    let crc = crc32fast::hash(&line[start..]);
    line.extend_from_slice(CRC_PREFIX);
    line.extend_from_slice(format!("{crc:08x}\"}}\n").as_bytes());
    Ok(())
}

/// Like [`decode`], but leaves the content where it is.
pub(super) fn decode_outline(line: &[u8]) -> Option<Outline> {
    if !is_whole(line) {
        return None;
    }
    let OutlineIn { change, content, content_base64 } = serde_json::from_slice(line).ok()?;
    Some(Outline { change, is_inline: content.is_some() || content_base64.is_some() })
}

/// Whether the line is as it was written.
fn is_whole(line: &[u8]) -> bool {
    let checked = || {
        let (body, end) = line.split_at_checked(line.len().checked_sub(CRC_BYTES)?)?;
        let digits = end.strip_prefix(CRC_PREFIX)?.strip_suffix(b"\"}")?;
        let crc = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        Some(crc32fast::hash(body) == crc)
    };
    checked() == Some(true)
}

/// Reads one line without its newline; `None` when it is damaged in any way.
pub(crate) fn decode(line: &[u8]) -> Option<Record> {
    if !is_whole(line) {
        return None;
    }
    let LineIn { change, content, content_base64 } = serde_json::from_slice(line).ok()?;
    let inline = match (content, content_base64) {
        (Some(text), _) => Some(text.into_bytes()),
        (None, Some(text)) => Some(BASE64.decode(text).ok()?),
        (None, None) => None,
    };
    Some(Record { change, inline })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn change(seq: u64) -> Change {
        Change {
            seq,
            timestamp: Timestamp::UNIX_EPOCH,
            path: "workspace/SOUL \"é\"\n.md".to_owned(),
            previous_path: None,
            source: Source::Admin,
            action: Action::Update,
            actor: Some("ops".to_owned()),
            hash: Some(ContentHash::from_bytes([1; 32])),
            previous_hash: None,
            size: Some(3),
            generation: None,
            content_omitted: false,
        }
    }

    fn line(change: &Change, content: &Content) -> Vec<u8> {
        let mut line = Vec::new();
        encode(change, content, &mut line).unwrap();
        assert_eq!(line.pop(), Some(b'\n'));
        line
    }

    #[test]
    fn a_line_is_one_json_object() {
        let line = line(&change(7), &Content::Inline(b"a\nb".to_vec()));
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["seq"], 7);
        assert_eq!(value["content"], "a\nb");
        assert_eq!(value["crc"].as_str().map(str::len), Some(8));
        assert!(!line.contains(&b'\n'));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let line = line(&change(7), &Content::Inline(b"abc".to_vec()));
        assert!(decode(&line).is_some());
        for length in 0..line.len() {
            assert_eq!(decode(&line[..length]), None, "cut at {length}");
        }
        for bit in 0..line.len() * 8 {
            let mut damaged = line.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // Flipping the case of the checksum's own digits says the same thing.
            let same_checksum = damaged.eq_ignore_ascii_case(&line) && bit / 8 >= line.len() - CRC_BYTES + 8;
            assert!(same_checksum || decode(&damaged).is_none(), "bit {bit}");
            assert_eq!(decode_outline(&damaged).is_some(), same_checksum, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn records_round_trip(seq in 1u64.., bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let written = line(&change(seq), &Content::Inline(bytes.clone()));
            let outline = decode_outline(&written).unwrap();
            prop_assert_eq!(outline, Outline { change: change(seq), is_inline: true });
            let record = decode(&written).unwrap();
            prop_assert_eq!(record.change, change(seq));
            prop_assert_eq!(record.inline, Some(bytes));
            let outline = decode_outline(&line(&change(seq), &Content::None)).unwrap();
            prop_assert_eq!(outline, Outline { change: change(seq), is_inline: false });
        }
    }
}
