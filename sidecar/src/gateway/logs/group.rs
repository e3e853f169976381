//! Lines that belong together: the head of a stack trace and what is indented below it. Pure.
//!
//! A platform that gets them singly shows them as so many messages, mixed with others of the same millisecond. Nothing
//! waits for a continuation: what a program writes at once arrives at once, and a group ends with the bytes that are there.

use super::level::Level;
use super::line::LONGEST_LINE;

/// Most lines and bytes of a group.
const MOST_LINES: usize = 64;
const MOST_BYTES: usize = 2 * LONGEST_LINE;

/// An entry that may still grow.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) level: Level,
    pub(super) text: String,
    lines: usize,
}

impl Group {
    pub(super) fn new(level: Level, text: String) -> Self {
        Self { level, text, lines: 1 }
    }

    /// Appends a continuation; false: there is no room.
    pub(super) fn take(&mut self, line: &str) -> bool {
        let fits = self.lines < MOST_LINES && self.text.len() + 1 + line.len() <= MOST_BYTES;
        if fits {
            self.text.push('\n');
            self.text.push_str(line);
            self.lines += 1;
        }
        fits
    }
}

/// Whether a line goes on with the one before it: it is indented, closes a bracket that an indented one opened, or
/// names a cause.
pub(super) fn continues(line: &str) -> bool {
    let Some(first) = line.bytes().next() else { return false };
    match first {
        b' ' | b'\t' => line.bytes().any(|byte| !byte.is_ascii_whitespace()),
        b'}' | b']' | b')' => line.len() <= 3,
        _ => line.starts_with("Caused by:") || line.starts_with("[cause]:"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_trace_is_one_group() {
        let trace = "Error: boom\n    at run (file:///app/index.js:10:5) {\n  code: 'E_BOOM',\n  [cause]: Error: fuse\n\
                     \tat below (file:///app/fuse.js:1:1)\n}\nCaused by: damp";
        let mut lines = trace.split('\n');
        let mut group = Group::new(Level::Error, lines.next().unwrap_or_default().to_owned());
        for line in lines {
            assert!(continues(line) && group.take(line), "{line}");
        }
        assert_eq!(group.text, trace);
        for line in ["", "   ", "next", "}, then more", "[gateway] ready"] {
            assert!(!continues(line), "{line}");
        }
    }

    #[test]
    fn a_group_is_bounded() {
        let mut group = Group::new(Level::Info, String::new());
        assert_eq!((0..1000).filter(|_| group.take(" x")).count(), MOST_LINES - 1);
        let mut group = Group::new(Level::Info, "x".repeat(LONGEST_LINE));
        assert!(group.take(&" ".repeat(LONGEST_LINE / 2)) && !group.take(&" ".repeat(LONGEST_LINE)));
        assert!(group.text.len() <= MOST_BYTES);
    }
}
