//! Takes secrets out of text. Pure.
//!
//! In this order, so that no step takes from another what it recognises a secret by: private keys, which go over
//! several lines; the values that we know, in every form in which the gateway may write them; and what looks like a
//! secret (`pattern`). Each step goes over a line once, looking at a bounded number of bytes from each place.

mod named;
mod pattern;
mod pem;
#[cfg(test)]
mod tests;

use std::ops::Range;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use self::pem::Key;
pub(in super::super) use self::pem::Pem;

/// What stands in place of a secret.
pub(super) const MARK: &str = "[redacted]";

/// Shorter values are no secrets, and replacing them would only make the log unreadable.
const SHORTEST: usize = 4;

/// How often a line is gone over again after something was found in it.
const MOST_ROUNDS: usize = 4;

/// How many bytes from its first one a pattern needs to recognise a secret.
const MARGIN: usize = 384;

/// Knows the secrets. There is no `Debug`: it would show them.
pub(in super::super) struct Redactor {
    /// Longest first.
    known: Vec<String>,
    /// Which bytes they begin with.
    first: [bool; 256],
}

impl Redactor {
    /// `secrets` are values as their users have them. Of one with several lines each line is a secret.
    pub(in super::super) fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut known: Vec<String> = secrets.into_iter().flat_map(|secret| forms(&secret)).collect();
        known.retain(|secret| secret.len() >= SHORTEST && !MARK.contains(secret.as_str()));
        known.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        known.dedup();
        let mut first = [false; 256];
        for secret in &known {
            if let Some(byte) = secret.bytes().next() {
                first[usize::from(byte)] = true;
            }
        }
        Self { known, first }
    }

    /// How many bytes after a place may be needed to recognise a secret that begins there.
    pub(in super::super) fn margin(&self) -> usize {
        self.known.first().map_or(0, String::len).max(MARGIN)
    }

    /// A text of any number of lines that stands for itself.
    pub(in super::super) fn text(&self, text: &str) -> String {
        let mut pem = Pem::default();
        let lines: Vec<String> = text.split('\n').filter_map(|line| self.line(line, line.len(), &mut pem)).collect();
        lines.join("\n")
    }

    /// The beginning of a text, of about `most` bytes. A secret that crosses its end is replaced as a whole.
    pub(in super::super) fn excerpt(&self, text: &str, most: usize) -> String {
        let stop = text.floor_char_boundary(most);
        // Looking at more of it would take time and change nothing.
        let seen = &text[..text.floor_char_boundary(stop + self.margin())];
        let (mut pem, mut lines, mut at) = (Pem::default(), Vec::new(), 0);
        for line in seen.split('\n') {
            if at > stop {
                break;
            }
            lines.extend(self.line(line, line.len().min(stop - at), &mut pem));
            at += line.len() + 1;
        }
        let more = if stop < text.len() { "…" } else { "" };
        format!("{}{more}", lines.join("\n"))
    }

    /// The first `stop` bytes of a line; a secret that crosses the end is replaced as a whole. `None`: the line is a
    /// further part of a key.
    pub(super) fn line(&self, line: &str, stop: usize, pem: &mut Pem) -> Option<String> {
        let (text, stop) = match pem.line(line) {
            Key::None => replace(line, stop, |_, _| None),
            Key::Within(ranges) => {
                replace(line, stop, |_, from| ranges.iter().find(|range| range.start >= from).cloned())
            }
            Key::Part => return None,
        };
        let (mut text, mut stop) = replace(&text, stop, |text, from| self.known(text, from));
        // What is left may look like a secret only now that it is shorter.
        for _ in 0..MOST_ROUNDS {
            let (next, next_stop) = replace(&text, stop, pattern::find);
            let changed = next != text;
            (text, stop) = (next, next_stop);
            if !changed {
                break;
            }
        }
        text.truncate(stop);
        Some(text)
    }

    fn known(&self, text: &str, from: usize) -> Option<Range<usize>> {
        let bytes = text.as_bytes();
        (from..bytes.len()).filter(|&at| self.first[usize::from(bytes[at])]).find_map(|at| {
            let found = self.known.iter().find(|secret| bytes[at..].starts_with(secret.as_bytes()))?;
            Some(at..at + found.len())
        })
    }
}

/// The lines of a secret, as they are, as they are within a JSON string, and as they are within a URL.
fn forms(secret: &str) -> Vec<String> {
    let mut forms = Vec::new();
    for line in secret.lines().map(str::trim) {
        if let Ok(json) = serde_json::to_string(line) {
            forms.push(json[1..json.len() - 1].to_owned());
        }
        forms.push(utf8_percent_encode(line, NON_ALPHANUMERIC).to_string());
        forms.push(line.to_owned());
    }
    forms
}

/// Puts a mark in place of each range that `find` finds from a place on, in order. Also where `stop` has come to lie:
/// behind the mark, if it was within a range.
fn replace(text: &str, stop: usize, find: impl Fn(&str, usize) -> Option<Range<usize>>) -> (String, usize) {
    let mut replaced = String::with_capacity(text.len());
    let (mut at, mut new_stop) = (0, None);
    while let Some(Range { start, end }) = find(text, at) {
        if new_stop.is_none() && stop <= start {
            new_stop = Some(replaced.len() + (stop - at));
        }
        replaced.push_str(&text[at..start]);
        replaced.push_str(MARK);
        at = end;
        if new_stop.is_none() && stop <= end {
            new_stop = Some(replaced.len());
        }
    }
    let new_stop = new_stop.unwrap_or_else(|| replaced.len() + (stop - at));
    replaced.push_str(&text[at..]);
    (replaced, new_stop)
}
