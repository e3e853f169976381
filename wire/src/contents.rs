//! Many contents in the body of one request.
//!
//! The body of `POST /api/sidecar/contents` is a row of frames with nothing before, between or behind them. Its type is
//! [`CONTENTS_TYPE`].
//!
//! | Bytes | What |
//! |---|---|
//! | 4 | length of the content, big-endian |
//! | 32 | SHA-256 of the content |
//! | length | the content |
//!
//! A body that ends within a frame is refused as a whole. One that ends between two frames is what it says: fewer
//! contents. The hash of each is checked by whoever stores it; this crate owns no SHA-256.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ContentHash;

/// Content type of such a body.
pub const CONTENTS_TYPE: &str = "application/vnd.winston.contents";

/// Most contents in one body.
pub const MAX_CONTENTS: usize = 500;

/// Most bytes of one body, frame heads included.
pub const MAX_CONTENTS_BYTES: usize = 4 << 20;

/// Bytes of a frame before its content.
pub const FRAME_HEAD_BYTES: usize = 36;

/// What goes before a content of this length.
#[must_use]
pub fn frame_head(hash: &ContentHash, length: u32) -> [u8; FRAME_HEAD_BYTES] {
    let mut head = [0; FRAME_HEAD_BYTES];
    head[..4].copy_from_slice(&length.to_be_bytes());
    head[4..].copy_from_slice(hash.as_bytes());
    head
}

/// Why a body is not a row of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadFrames {
    /// There is none.
    Empty,
    /// Over [`MAX_CONTENTS`].
    TooMany,
    /// The body ends within the frame that starts at this byte.
    Cut(usize),
}

impl fmt::Display for BadFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the body has no frame"),
            Self::TooMany => write!(f, "the body has more than {MAX_CONTENTS} frames"),
            Self::Cut(at) => write!(f, "the body ends within the frame that starts at byte {at}"),
        }
    }
}

impl std::error::Error for BadFrames {}

/// Takes a body apart: what each content claims to be, and its bytes.
pub fn frames(body: &[u8]) -> Result<Vec<(ContentHash, &[u8])>, BadFrames> {
    let (mut found, mut rest) = (Vec::new(), body);
    while !rest.is_empty() {
        if found.len() == MAX_CONTENTS {
            return Err(BadFrames::TooMany);
        }
        let cut = BadFrames::Cut(body.len() - rest.len());
        let (length, after) = rest.split_first_chunk::<4>().ok_or(cut)?;
        let (hash, after) = after.split_first_chunk::<32>().ok_or(cut)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| cut)?;
        let (content, after) = after.split_at_checked(length).ok_or(cut)?;
        found.push((ContentHash::from_bytes(*hash), content));
        rest = after;
    }
    if found.is_empty() { Err(BadFrames::Empty) } else { Ok(found) }
}

/// Answer to such a body: every hash that was sent is in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentsAnswer {
    /// Control has these now, or had them before.
    pub stored: Vec<ContentHash>,
    /// Control does not take these, and would not the next time.
    #[serde(default)]
    pub refused: Vec<RefusedContent>,
}

/// A content that was not stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedContent {
    /// The hash that it claimed to have.
    pub hash: ContentHash,
    /// `hash_mismatch` or `too_large`, as for a content that comes alone.
    pub code: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(contents: &[&[u8]]) -> Vec<u8> {
        let numbered = contents.iter().zip(0u8..);
        numbered
            .flat_map(|(content, number)| {
                let head = frame_head(&ContentHash::from_bytes([number; 32]), content.len() as u32);
                [&head, *content].concat()
            })
            .collect()
    }

    #[test]
    fn every_cut_is_noticed_or_is_between_two_frames() {
        let contents: &[&[u8]] = &[b"one", b"", &[7; 300]];
        let whole = body(contents);
        let found = frames(&whole).unwrap();
        assert_eq!(found.iter().map(|(_, content)| *content).collect::<Vec<_>>(), contents);
        assert_eq!(found[2].0, ContentHash::from_bytes([2; 32]));
        let starts = [0, FRAME_HEAD_BYTES + 3, 2 * FRAME_HEAD_BYTES + 3];
        for length in 0..whole.len() {
            let start = starts.iter().rposition(|start| *start <= length).unwrap();
            let expected = match length - starts[start] {
                0 if start == 0 => Err(BadFrames::Empty),
                0 => Ok(start),
                _ => Err(BadFrames::Cut(starts[start])),
            };
            assert_eq!(frames(&whole[..length]).map(|found| found.len()), expected, "cut at {length}");
        }
    }

    #[test]
    fn the_number_of_frames_is_bounded_and_lengths_are_not_believed() {
        let most = body(&[b"".as_slice(); MAX_CONTENTS][..250]).repeat(2);
        assert_eq!(frames(&most).map(|found| found.len()), Ok(MAX_CONTENTS));
        let more = [most, body(&[b""])].concat();
        assert_eq!(frames(&more), Err(BadFrames::TooMany));
        let head = frame_head(&ContentHash::from_bytes([0; 32]), u32::MAX);
        assert_eq!(frames(&[&head[..], b"x"].concat()), Err(BadFrames::Cut(0)));
    }
}
