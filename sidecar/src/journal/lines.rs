//! Reading a segment line by line in bounded memory, whatever is in it.

use std::io::{self, BufRead};

use super::record::Outline;
use super::{Record, record};

/// Longest line that is kept: several times what the largest inline content can become in JSON. More without a newline is damage.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// What stands between two newlines.
#[derive(Debug)]
pub(super) enum Line<T = Record> {
    /// A whole record.
    Good(Box<T>),
    /// Something else that ends with a newline.
    Damaged,
    /// The segment ends without a newline: torn, or being written right now.
    Open,
}

/// Reads the next line into `line` (without its newline; of an overlong one only the beginning) and says what it is and how many
/// bytes of the segment it takes. `None` at the end.
pub(super) fn next(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<(Line, u64)>> {
    next_as(reader, line, record::decode)
}

/// Like [`next`], for whom the contents are of no interest.
pub(super) fn next_outline(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<(Line<Outline>, u64)>> {
    next_as(reader, line, record::decode_outline)
}

fn next_as<T>(
    reader: &mut impl BufRead,
    line: &mut Vec<u8>,
    decode: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<Option<(Line<T>, u64)>> {
    line.clear();
    let mut length = 0;
    let ended = loop {
        let available = match reader.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if available.is_empty() {
            break false;
        }
        let newline = available.iter().position(|byte| *byte == b'\n');
        let (part, used) = newline.map_or((available, available.len()), |at| (&available[..at], at + 1));
        line.extend_from_slice(&part[..part.len().min(MAX_LINE_BYTES.saturating_sub(line.len()))]);
        length += used as u64;
        reader.consume(used);
        if newline.is_some() {
            break true;
        }
    };
    if length == 0 {
        return Ok(None);
    }
    let kind = match decode(line) {
        _ if !ended => Line::Open,
        // A line that was cut short here has no checksum at its end, or a wrong one.
        Some(record) => Line::Good(Box::new(record)),
        None => Line::Damaged,
    };
    Ok(Some((kind, length)))
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    #[test]
    fn a_stretch_without_newline_takes_bounded_memory() {
        let mut text = vec![0u8; 5 * MAX_LINE_BYTES];
        text.extend_from_slice(b"\nx");
        let mut reader = BufReader::new(text.as_slice());
        let mut line = Vec::new();
        let (kind, length) = next(&mut reader, &mut line).unwrap().unwrap();
        assert!(matches!(kind, Line::Damaged), "{kind:?}");
        assert_eq!((length, line.len()), (5 * MAX_LINE_BYTES as u64 + 1, MAX_LINE_BYTES));
        assert!(matches!(next(&mut reader, &mut line).unwrap(), Some((Line::Open, 1))));
        assert!(next(&mut reader, &mut line).unwrap().is_none());
    }
}
