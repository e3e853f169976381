//! Reading lines from some place on: from the files as far as the ring does not reach back, then from the ring.

use std::time::Duration;

use winston_wire::Timestamp;

use super::file::{self, Reader};
use super::level::Level;
use super::{LogLine, Logs};

/// Bytes of text in one page; with what waits for the client this is what a slow reader costs.
const PAGE_BYTES: usize = 64 * 1024;

/// Lines that one page looks at in files; a rare level may need several.
const LOOKED_AT: usize = 20_000;

/// Longest wait for lines that are on their way to the file.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

/// Which lines to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// The first one after a number.
    After(u64),
    /// The first one that is not older.
    Time(Timestamp),
}

/// Something that a reader has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Line(LogLine),
    /// So many lines, of any level, up to number `to` cannot be had any more.
    Missing {
        count: u64,
        to: u64,
    },
}

/// A place in the log, and what is wanted from there. Clones of the log are cheap; nobody waits for a reader.
pub(crate) struct LogReader {
    logs: Logs,
    /// Last line that was looked at.
    cursor: u64,
    /// Whether numbers that are left out are missing lines. At a time, nobody knows how many there were.
    counting: bool,
    since: Option<Timestamp>,
    least: Level,
    file: Option<Reader>,
    /// The files have nothing more for us.
    in_memory: bool,
}

impl LogReader {
    pub(super) fn new(logs: Logs, from: From, least: Level) -> Self {
        let has_file = logs.shared.settings.is_some();
        let head = logs.head();
        let (cursor, since) = match from {
            // A number that was never given out: the log went back, with the volume or with lines that never got there.
            From::After(seq) => (seq.min(head), None),
            From::Time(time) => (0, Some(time)),
        };
        Self { logs, cursor, counting: since.is_none(), since, least, file: None, in_memory: !has_file }
    }

    /// The last line that was looked at: where the next page begins.
    pub(crate) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Number of the newest line.
    pub(crate) fn head(&self) -> u64 {
        self.logs.head()
    }

    /// Whether the next page may have to be read from files, which blocks.
    pub(crate) fn blocks(&self) -> bool {
        !self.in_memory && self.cursor + 1 < self.logs.first()
    }

    /// Waits until there are lines that have not been looked at.
    pub(crate) async fn news(&self) {
        let mut head = self.logs.shared.head.subscribe();
        let cursor = self.cursor;
        if head.wait_for(|head| *head > cursor).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The next lines, at most `most`. None, and the cursor at the head: there are no more yet.
    pub(crate) fn page(&mut self, most: usize) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let (mut bytes, mut looked_at) = (0, 0);
        while self.blocks() && pieces.len() < most && bytes < PAGE_BYTES && looked_at < LOOKED_AT {
            looked_at += 1;
            match self.next_of_files() {
                Some(line) => bytes += self.take(line, &mut pieces),
                None => self.in_memory = true,
            }
        }
        if !self.blocks() {
            // From here on what falls out of the ring is missing: a slow reader wants what happens, not what happened.
            (self.in_memory, self.file) = (true, None);
            let lines = self.logs.after(self.cursor, most.saturating_sub(pieces.len()), PAGE_BYTES);
            for line in lines {
                self.take(line, &mut pieces);
            }
        }
        pieces
    }

    /// Looks at a line; bytes that it adds.
    fn take(&mut self, line: LogLine, pieces: &mut Vec<Piece>) -> usize {
        let count = line.seq.saturating_sub(self.cursor + 1);
        if count > 0 && self.counting {
            pieces.push(Piece::Missing { count, to: line.seq - 1 });
        }
        self.cursor = self.cursor.max(line.seq);
        if self.since.is_some_and(|since| line.time < since) {
            return 0;
        }
        (self.since, self.counting) = (None, true);
        let bytes = line.line.len();
        if line.level >= self.least {
            pieces.push(Piece::Line(line));
        }
        bytes
    }

    /// The next line after the cursor that the ring has not.
    fn next_of_files(&mut self) -> Option<LogLine> {
        let settings = self.logs.shared.settings.as_ref()?;
        if self.file.is_none() {
            // What has left the ring is in the file by now, or about to be.
            self.logs.drain(ON_ITS_WAY);
            let opened = match self.since {
                Some(time) => Reader::since(settings, time),
                None => Reader::after(settings, self.cursor),
            };
            self.file = opened.inspect_err(|error| tracing::warn!(%error, "gateway log files not read")).ok();
        }
        let first = self.logs.first();
        loop {
            match self.file.as_mut()?.next() {
                Ok(Some(line)) if line.seq <= self.cursor => {}
                Ok(line) => return line.filter(|line| line.seq < first),
                Err(error) => {
                    tracing::warn!(%error, "gateway log files not read any further");
                    return None;
                }
            }
        }
    }
}

/// The newest lines of at least a level, oldest first. Blocks on the disk where the ring has too few.
pub(super) fn newest(logs: &Logs, most: usize, least: Level) -> Vec<LogLine> {
    let in_memory = match logs.last_in_memory(most, least) {
        Ok(lines) => return lines,
        Err(lines) => lines,
    };
    let Some(settings) = &logs.shared.settings else { return in_memory };
    logs.drain(ON_ITS_WAY);
    // What has left the ring since then is read from the files.
    let first = in_memory.first().map_or(u64::MAX, |line| line.seq);
    let read = file::newest(settings, most - in_memory.len(), |line| line.level >= least && line.seq < first);
    match read {
        Ok(mut lines) => {
            lines.extend(in_memory);
            lines
        }
        Err(error) => {
            tracing::warn!(%error, "gateway log files not read");
            in_memory
        }
    }
}
