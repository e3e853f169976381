//! The gateway's output: read without ever making it wait, kept in a ring, passed on to our own log.
//!
//! A gateway that cannot write blocks. So the pipes are read as fast as they fill (see `output`); what is limited is what happens to a line afterwards. Lines beyond the rate are counted and dropped before
//! any work is done on them, and a note in the ring says how many.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use winston_wire::Timestamp;

use super::lines::{self, Cut, Splitter};
use super::output::Take;

/// Size of the ring in bytes, counted with [`LINE_OVERHEAD`].
const RING_BYTES: usize = 256 * 1024;

/// What a line costs beside its text.
const LINE_OVERHEAD: usize = 64;

/// Lines per second that are kept, and how many may come at once.
const RATE: u32 = 500;
const BURST: u32 = 2_000;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stream {
    /// The gateway's standard output.
    Stdout,
    /// Its standard error.
    Stderr,
    /// The supervisor: starts, ends, dropped lines.
    Winston,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Winston => "winston",
        }
    }
}

/// One kept line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LogLine {
    /// Counts kept lines since the sidecar started, without gaps.
    pub(crate) seq: u64,
    /// When it was read.
    pub(crate) time: Timestamp,
    /// Where it came from.
    pub(crate) stream: Stream,
    /// The line without its end, secrets replaced.
    pub(crate) line: String,
}

/// The ring. Clones share it.
#[derive(Clone)]
pub(super) struct Logs {
    ring: Arc<Mutex<Ring>>,
    secrets: Arc<[String]>,
}

struct Ring {
    lines: VecDeque<LogLine>,
    bytes: usize,
    next_seq: u64,
    allowance: Allowance,
    dropped: u64,
}

impl Logs {
    /// `secrets` are replaced in every line; longest first.
    pub(super) fn new(secrets: Vec<String>) -> Self {
        Self {
            ring: Arc::new(Mutex::new(Ring {
                lines: VecDeque::new(),
                bytes: 0,
                next_seq: 1,
                allowance: Allowance::full(Instant::now()),
                dropped: 0,
            })),
            secrets: secrets.into(),
        }
    }

    /// The last `limit` lines, oldest first.
    pub(super) fn tail(&self, limit: usize) -> Vec<LogLine> {
        let ring = self.lock();
        let skipped = ring.lines.len().saturating_sub(limit);
        ring.lines.iter().skip(skipped).cloned().collect()
    }

    /// Adds a line of our own. Not passed on: our own log has it in its own words.
    pub(super) fn note(&self, text: String) {
        self.lock().push(Stream::Winston, text);
    }

    /// Takes the bytes of one stream.
    pub(super) fn feed(&self, stream: Stream) -> Feed {
        let longest_secret = self.secrets.iter().map(String::len).max().unwrap_or(0);
        Feed { logs: self.clone(), stream, splitter: Splitter::new(longest_secret) }
    }

    /// Our own log is written outside the lock: whoever wants the ring must not wait for it.
    fn take(&self, stream: Stream, cut: Cut<'_>) {
        let dropped = {
            let mut ring = self.lock();
            if !ring.allowance.take(Instant::now()) {
                ring.dropped += 1;
                return;
            }
            ring.note_dropped()
        };
        report(dropped);
        let line = lines::clean(cut, &self.secrets);
        tracing::info!(target: "gateway", stream = stream.name(), "{line}");
        self.lock().push(stream, line);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ring> {
        // Nothing in here can be left half done by a panic.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream on its way into the ring.
pub(super) struct Feed {
    logs: Logs,
    stream: Stream,
    splitter: Splitter,
}

impl Take for Feed {
    fn take(&mut self, bytes: &[u8]) {
        self.splitter.push(bytes, |cut| self.logs.take(self.stream, cut));
    }

    fn finish(&mut self) {
        self.splitter.finish(|cut| self.logs.take(self.stream, cut));
        let dropped = self.logs.lock().note_dropped();
        report(dropped);
    }
}

impl Ring {
    fn push(&mut self, stream: Stream, line: String) {
        self.bytes += line.len() + LINE_OVERHEAD;
        self.lines.push_back(LogLine { seq: self.next_seq, time: Timestamp::now(), stream, line });
        self.next_seq += 1;
        while self.bytes > RING_BYTES
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.line.len() + LINE_OVERHEAD;
        }
    }

    /// Notes in the ring how many lines were dropped since the last note, and returns it.
    fn note_dropped(&mut self) -> u64 {
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            self.push(Stream::Winston, format!("{dropped} lines dropped: more than {RATE} per second"));
        }
        dropped
    }
}

fn report(dropped: u64) {
    if dropped > 0 {
        tracing::warn!(target: "gateway", dropped, "gateway writes faster than its log is kept");
    }
}

/// A token bucket that refills in whole portions, so that a flood is noted a few times a second and not per line.
struct Allowance {
    left: u32,
    refilled: Instant,
}

impl Allowance {
    const PORTION: Duration = Duration::from_millis(200);

    fn full(now: Instant) -> Self {
        Self { left: BURST, refilled: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let portions = now.saturating_duration_since(self.refilled).as_millis() / Self::PORTION.as_millis();
        if let Ok(portions) = u32::try_from(portions)
            && portions > 0
        {
            let more = portions.saturating_mul(RATE / 5);
            self.left = self.left.saturating_add(more).min(BURST);
            self.refilled = now;
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(logs: &Logs, bytes: &[u8]) {
        let mut feed = logs.feed(Stream::Stdout);
        bytes.chunks(1000).for_each(|bytes| feed.take(bytes));
        feed.finish();
    }

    #[tokio::test]
    async fn lines_are_numbered_and_the_last_ones_returned() {
        let logs = Logs::new(vec!["hunter2-test-value".to_owned()]);
        read_all(&logs, b"one\ntwo\nthe token is hunter2-test-value").await;
        logs.note("ended".to_owned());
        let tail: Vec<(u64, Stream, String)> =
            logs.tail(2).into_iter().map(|line| (line.seq, line.stream, line.line)).collect();
        assert_eq!(
            tail,
            [(3, Stream::Stdout, "the token is [redacted]".to_owned()), (4, Stream::Winston, "ended".to_owned()),]
        );
        assert_eq!(logs.tail(usize::MAX).len(), 4);
    }

    #[tokio::test]
    async fn the_ring_is_bounded_in_bytes() {
        let logs = Logs::new(Vec::new());
        let line = [vec![b'x'; 5_000], vec![b'\n']].concat();
        read_all(&logs, &line.repeat(200)).await;
        let ring = logs.lock();
        assert!(ring.bytes <= RING_BYTES);
        assert_eq!(ring.lines.back().map(|line| line.seq), Some(200));
    }

    #[tokio::test]
    async fn every_line_of_a_flood_is_kept_or_counted() {
        const LINES: usize = 3_000;
        let logs = Logs::new(Vec::new());
        read_all(&logs, &b"x\n".repeat(LINES)).await;
        let (notes, kept): (Vec<LogLine>, Vec<LogLine>) =
            logs.tail(usize::MAX).into_iter().partition(|line| line.stream == Stream::Winston);
        let dropped: usize = notes.iter().filter_map(|note| note.line.split(' ').next()?.parse::<usize>().ok()).sum();
        assert_eq!(kept.len() + dropped, LINES);
    }

    #[test]
    fn the_allowance_refills_with_time() {
        let start = Instant::now();
        let mut allowance = Allowance::full(start);
        let mut take = |at: u64, times: u32| -> usize {
            let at = start + Duration::from_millis(at);
            (0..times).filter(|_| allowance.take(at)).count()
        };
        assert_eq!(take(0, BURST + 10), BURST as usize);
        assert_eq!(take(199, 10), 0);
        assert_eq!(take(200, 1_000), RATE as usize / 5);
        assert_eq!(take(1_200, 1_000), RATE as usize);
        assert_eq!(take(100_000, 2 * BURST), BURST as usize);
    }
}
