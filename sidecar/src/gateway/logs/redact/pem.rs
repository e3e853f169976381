//! Private keys in PEM (RFC 7468), over several lines or, with `\n` in place of line ends, within one. Pure.
//!
//! The lines that begin and end a key stay; what is between them is the secret. A line that only speaks of such a
//! beginning takes nothing with it: what follows is a key only where it looks like one.

use std::ops::Range;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const LABEL_END: &str = "PRIVATE KEY-----";

/// Longest label, as in `OPENSSH PRIVATE KEY`.
const LONGEST_LABEL: usize = 48;

/// The lines of a key have 64 characters, or 70 or 76; only the last one may have fewer.
const LINE: usize = 60;
/// A key that a line goes over to in the middle.
const SHORTEST_KEY: usize = 40;

/// Where a stream is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in super::super::super) enum Pem {
    #[default]
    Outside,
    /// A key may begin here.
    Begun,
    /// In a key whose mark is written.
    Inside,
    /// After a short line of a key, which is its last.
    Last,
}

/// What a line has of keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Key {
    None,
    Within(Vec<Range<usize>>),
    /// Nothing but a part of one whose mark is written.
    Part,
}

impl Pem {
    /// Lines are missing, and nobody knows whether a key began in them.
    pub(in super::super::super) fn suspect(&mut self) {
        if *self == Self::Outside {
            *self = Self::Begun;
        }
    }

    /// Judges the next line.
    pub(super) fn line(&mut self, line: &str) -> Key {
        if *self != Self::Outside
            && line.find(BEGIN).is_none_or(|begin| line.find(END).is_some_and(|end| end < begin))
            && let Some(key) = self.within(line)
        {
            return key;
        }
        *self = Self::Outside;
        self.begins(line)
    }

    /// Judges a line that may be within a key; `None`: it is not.
    fn within(&mut self, line: &str) -> Option<Key> {
        let part = |started: bool, range: Range<usize>| if started { Key::Part } else { Key::Within(vec![range]) };
        let started = *self != Self::Begun;
        if let Some(end) = line.find(END) {
            let body = trim(line, 0..end);
            let is_key = !body.is_empty() && is_body(&line[body.clone()]);
            *self = Self::Outside;
            // Another one may begin behind it.
            let next = self.begins(line);
            let mut ranges = if is_key { vec![body] } else { Vec::new() };
            if let Key::Within(next) = next {
                ranges.extend(next);
            }
            return Some(if ranges.is_empty() { Key::None } else { Key::Within(ranges) });
        }
        let body = trim(line, 0..line.len());
        let text = &line[body.clone()];
        if *self == Self::Last {
            return None;
        }
        if text.is_empty() || text.starts_with("Proc-Type:") || text.starts_with("DEK-Info:") {
            return Some(Key::None);
        }
        if !is_body(text) || (text.len() < LINE && !started) {
            return None;
        }
        *self = if text.len() < LINE { Self::Last } else { Self::Inside };
        Some(part(started, body))
    }

    /// Looks for beginnings of keys in a line.
    fn begins(&mut self, line: &str) -> Key {
        let (mut ranges, mut at) = (Vec::new(), 0);
        while let Some(start) = begin(line, at) {
            at = match line[start..].find(END) {
                // Whatever is between the two, headers included.
                Some(length) if unmarked(&line[start..start + length]) >= SHORTEST_KEY => {
                    let body = trim(line, start..start + length);
                    ranges.extend((!body.is_empty()).then_some(body));
                    start + length
                }
                Some(length) => start + length,
                None => {
                    let body = trim(line, start..line.len());
                    let rest = body.end - body.start;
                    let run = line[body.clone()].bytes().take_while(|&byte| in_body(byte) || byte == b'\\').count();
                    if run >= SHORTEST_KEY {
                        ranges.push(body.start..body.start + run);
                    }
                    if run == rest {
                        *self = if run >= SHORTEST_KEY { Self::Inside } else { Self::Begun };
                    }
                    body.start + run
                }
            };
        }
        if ranges.is_empty() { Key::None } else { Key::Within(ranges) }
    }
}

/// Where the first key after a place has its body: behind the line that begins it.
fn begin(line: &str, from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let label = at + line[at..].find(BEGIN)? + BEGIN.len();
        let longest = line.floor_char_boundary(label + LONGEST_LABEL);
        let is_label =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b' ' | b'0'..=b'9'));
        if let Some(end) = line[label..longest].find(LABEL_END).filter(|&end| is_label(&line[label..label + end])) {
            return Some(label + end + LABEL_END.len());
        }
        at = label;
    }
}

/// The length without what stands for secrets already: that must not make a key of what was none.
fn unmarked(text: &str) -> usize {
    text.len() - text.matches(super::MARK).count() * super::MARK.len()
}

fn in_body(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

fn is_body(text: &str) -> bool {
    // Within a JSON string, several lines are one with `\n` between them.
    text.split("\\n").all(|line| line.bytes().all(in_body))
}

/// Leaves out what surrounds a line of a key in YAML, JSON or code.
fn trim(line: &str, range: Range<usize>) -> Range<usize> {
    let around = |character: char| matches!(character, ' ' | '\t' | '"' | '\'' | ',' | '|' | '>' | '`');
    let (mut start, mut end) = (range.start, range.end);
    loop {
        let text = &line[start..end];
        let head = text.trim_start_matches(around);
        let head = head.strip_prefix("\\n").or_else(|| head.strip_prefix("\\r")).unwrap_or(head);
        let tail = head.trim_end_matches(around);
        let tail = tail.strip_suffix("\\n").or_else(|| tail.strip_suffix("\\r")).unwrap_or(tail);
        if tail.len() == text.len() {
            return start..end;
        }
        start += text.len() - head.len();
        end = start + tail.len();
    }
}
