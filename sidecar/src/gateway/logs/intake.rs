//! What becomes of the gateway's bytes: lines, without secrets, in groups, with a level, as far as the rate allows.

use tokio::time::Instant;

use super::Stream;
use super::allowance::{Allowance, Rate};
use super::group::{self, Group};
use super::level::{self, Level};
use super::line::{self, Cut, Splitter};
use super::redact::{Pem, Redactor};

/// What is kept of a flood. Lines beyond are counted before any work is done on them.
pub(super) const LINES: Rate = Rate { per_second: 2_000, burst: 5_000 };
const BYTES: Rate = Rate { per_second: 2 * 1024 * 1024, burst: 4 * 1024 * 1024 };

/// An entry that is complete.
#[derive(Debug)]
pub(super) struct Entry {
    /// Lines that were dropped before it.
    pub(super) dropped: u64,
    pub(super) level: Level,
    pub(super) text: String,
}

/// Both streams of one gateway.
pub(super) struct Intake {
    lines: Allowance,
    bytes: Allowance,
    dropped: u64,
    stdout: Input,
    stderr: Input,
}

/// One stream.
struct Input {
    stream: Stream,
    splitter: Splitter,
    pem: Pem,
    group: Option<Group>,
    /// Of the last line that was no continuation.
    level: Level,
}

impl Intake {
    pub(super) fn new(redactor: &Redactor, now: Instant) -> Self {
        let input = |stream| Input {
            stream,
            splitter: Splitter::new(redactor.margin()),
            pem: Pem::default(),
            group: None,
            level: Level::Info,
        };
        Self {
            lines: Allowance::full(LINES, now),
            bytes: Allowance::full(BYTES, now),
            dropped: 0,
            stdout: input(Stream::Stdout),
            stderr: input(Stream::Stderr),
        }
    }

    /// Takes the next bytes of a stream and hands out every entry that they complete. A group ends with them.
    pub(super) fn feed(
        &mut self,
        stream: Stream,
        mut bytes: &[u8],
        redactor: &Redactor,
        now: Instant,
        mut each: impl FnMut(Entry),
    ) {
        let Self { lines, bytes: allowed, dropped, .. } = self;
        let input = match stream {
            Stream::Stderr => &mut self.stderr,
            Stream::Stdout | Stream::Winston => &mut self.stdout,
        };
        loop {
            if lines.is_empty(now) || allowed.is_empty(now) {
                let skipped = input.splitter.skip(bytes);
                if skipped > 0 {
                    input.end_group(dropped, &mut each);
                    input.pem.suspect();
                    *dropped += skipped;
                }
                break;
            }
            let Some((cut, rest)) = input.splitter.push(bytes) else { break };
            lines.take(1, now);
            allowed.take(cut.head.len() as u64, now);
            let line = line::clean(cut, redactor, &mut input.pem);
            input.splitter.clear();
            bytes = rest;
            if let Some(line) = line {
                input.take(line, dropped, &mut each);
            }
        }
        input.end_group(dropped, &mut each);
    }

    /// The stream has ended: hands out its last line, and forgets what it was in the middle of. What was dropped since
    /// the last entry is returned.
    pub(super) fn finish(&mut self, stream: Stream, redactor: &Redactor, mut each: impl FnMut(Entry)) -> u64 {
        let dropped = &mut self.dropped;
        let input = match stream {
            Stream::Stderr => &mut self.stderr,
            Stream::Stdout | Stream::Winston => &mut self.stdout,
        };
        let line = input.splitter.rest().and_then(|cut: Cut<'_>| line::clean(cut, redactor, &mut input.pem));
        input.splitter.clear();
        if let Some(line) = line {
            input.take(line, dropped, &mut each);
        }
        input.end_group(dropped, &mut each);
        input.pem = Pem::default();
        std::mem::take(dropped)
    }
}

impl Input {
    fn take(&mut self, line: String, dropped: &mut u64, each: &mut impl FnMut(Entry)) {
        let continues = group::continues(&line);
        if continues && self.group.as_mut().is_some_and(|group| group.take(&line)) {
            return;
        }
        self.end_group(dropped, each);
        if !continues {
            self.level = level::read(&line, self.stream).level;
        }
        self.group = Some(Group::new(self.level, line));
    }

    fn end_group(&mut self, dropped: &mut u64, each: &mut impl FnMut(Entry)) {
        if let Some(Group { level, text, .. }) = self.group.take() {
            each(Entry { dropped: std::mem::take(dropped), level, text });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(intake: &mut Intake, stream: Stream, bytes: &[u8], now: Instant) -> Vec<(u64, Level, String)> {
        let mut entries = Vec::new();
        let redactor = Redactor::new([]);
        intake.feed(stream, bytes, &redactor, now, |entry| entries.push((entry.dropped, entry.level, entry.text)));
        entries
    }

    fn intake() -> (Intake, Instant) {
        let now = Instant::now();
        (Intake::new(&Redactor::new([]), now), now)
    }

    #[test]
    fn a_trace_is_one_entry_and_a_torn_one_keeps_its_level() {
        let (mut intake, now) = intake();
        let entries = feed(&mut intake, Stream::Stderr, b"warning: slow\n    at a\n    at b\nnext\n    at", now);
        assert_eq!(
            entries,
            [(0, Level::Warn, "warning: slow\n    at a\n    at b".to_owned()), (0, Level::Error, "next".to_owned())]
        );
        // The other stream comes between.
        assert_eq!(feed(&mut intake, Stream::Stdout, b"{\n", now).len(), 1);
        let entries = feed(&mut intake, Stream::Stderr, b" c\n    at d\n", now);
        assert_eq!(entries, [(0, Level::Error, "    at c\n    at d".to_owned())]);
    }

    #[test]
    fn every_line_of_a_flood_is_kept_or_counted() {
        let (mut intake, now) = intake();
        let burst = LINES.burst as usize;
        let kept = feed(&mut intake, Stream::Stdout, &b"x\n".repeat(burst + 100), now).len();
        assert_eq!(kept, burst);
        assert!(feed(&mut intake, Stream::Stdout, &b"x\n".repeat(50), now).is_empty());
        let later = now + std::time::Duration::from_secs(1);
        assert_eq!(feed(&mut intake, Stream::Stderr, b"y\n", later)[0].0, 150);
        assert_eq!(feed(&mut intake, Stream::Stderr, b"y\n", later)[0].0, 0, "said once");
        assert_eq!(intake.finish(Stream::Stdout, &Redactor::new([]), |_| ()), 0);
    }

    #[test]
    fn long_lines_use_up_the_allowance_too() {
        let (mut intake, now) = intake();
        let line = [vec![b'x'; 8_000], vec![b'\n']].concat();
        let kept = feed(&mut intake, Stream::Stdout, &line.repeat(2_000), now).len() as u64;
        assert_eq!(kept, BYTES.burst.div_ceil(8_000));
        assert_eq!(intake.dropped + kept, 2_000);
    }

    #[test]
    fn the_rest_of_a_key_whose_beginning_was_dropped_is_not_shown() {
        let (mut intake, now) = intake();
        feed(&mut intake, Stream::Stdout, &b"x\n".repeat(LINES.burst as usize + 1), now);
        feed(&mut intake, Stream::Stdout, b"-----BEGIN PRIVATE KEY-----\n", now);
        let body = "FAKE".repeat(16);
        let later = now + std::time::Duration::from_secs(1);
        let shown = feed(
            &mut intake,
            Stream::Stdout,
            format!("{body}\n{body}\nFAKE=\n-----END PRIVATE KEY-----\n").as_bytes(),
            later,
        );
        let shown: Vec<_> = shown.into_iter().map(|(_, _, text)| text).collect();
        assert_eq!(shown, ["[redacted]", "-----END PRIVATE KEY-----"]);
    }
}
