//! The newest lines, in memory, bounded in bytes. Pure.

use std::collections::VecDeque;

use winston_wire::Timestamp;

use super::level::Level;
use super::{LogLine, Stream};

/// What a line costs beside its text.
const LINE_OVERHEAD: usize = 64;

pub(super) struct Ring {
    lines: VecDeque<LogLine>,
    bytes: usize,
    most_bytes: usize,
    next_seq: u64,
}

impl Ring {
    /// Goes on after the lines of an earlier run, of which the newest are kept. `next_seq` is the first new number.
    pub(super) fn new(most_bytes: usize, next_seq: u64, earlier: Vec<LogLine>) -> Self {
        let mut ring = Self { lines: VecDeque::new(), bytes: 0, most_bytes, next_seq };
        earlier.into_iter().for_each(|line| ring.append(line));
        ring
    }

    /// Numbers a line and keeps it.
    pub(super) fn push(&mut self, stream: Stream, level: Level, line: String) -> LogLine {
        let line = LogLine { seq: self.next_seq, time: Timestamp::now(), stream, level, line };
        self.next_seq += 1;
        self.append(line.clone());
        line
    }

    fn append(&mut self, line: LogLine) {
        self.bytes += line.line.len() + LINE_OVERHEAD;
        self.lines.push_back(line);
        while self.bytes > self.most_bytes
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.line.len() + LINE_OVERHEAD;
        }
    }

    /// Number of the last line; 0 before the first.
    pub(super) fn head(&self) -> u64 {
        self.next_seq - 1
    }

    /// Number of the oldest line that is here, or would be the next one.
    pub(super) fn first(&self) -> u64 {
        self.lines.front().map_or(self.next_seq, |line| line.seq)
    }

    /// The newest lines of at least this level, oldest first.
    pub(super) fn newest(&self, most: usize, least: Level) -> Vec<LogLine> {
        let newest = self.lines.iter().rev().filter(|line| line.level >= least).take(most);
        let mut lines: Vec<_> = newest.cloned().collect();
        lines.reverse();
        lines
    }

    /// The lines after a number: as many of them as stay within both limits, but at least one if there is one.
    pub(super) fn after(&self, seq: u64, most: usize, most_bytes: usize) -> Vec<LogLine> {
        let start = self.lines.partition_point(|line| line.seq <= seq);
        let mut bytes = 0;
        let fits = |line: &&LogLine| {
            bytes += line.line.len();
            bytes == line.line.len() || bytes <= most_bytes
        };
        self.lines.range(start..).take(most).take_while(fits).cloned().collect()
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seqs(lines: &[LogLine]) -> Vec<u64> {
        lines.iter().map(|line| line.seq).collect()
    }

    #[test]
    fn it_is_bounded_in_bytes_and_goes_on_counting() {
        let mut ring = Ring::new(10_000, 1, Vec::new());
        assert_eq!((ring.head(), ring.first()), (0, 1));
        for number in 1..=200 {
            let level = if number % 10 == 0 { Level::Error } else { Level::Info };
            ring.push(Stream::Stdout, level, "x".repeat(936));
            assert!(ring.bytes() <= 10_000);
        }
        assert_eq!((ring.head(), ring.first()), (200, 191));
        assert_eq!(seqs(&ring.newest(2, Level::Debug)), [199, 200]);
        assert_eq!(seqs(&ring.newest(5, Level::Warn)), [200]);
        assert_eq!(seqs(&ring.after(5, 3, usize::MAX)), [191, 192, 193]);
        assert_eq!(seqs(&ring.after(198, 9, 1)), [199], "one in any case");
        assert!(ring.after(200, 9, 9).is_empty() && ring.after(u64::MAX, 9, 9).is_empty());
    }
}
