//! The gateway's output: read without ever making it wait, kept without its secrets, passed on to our own log.
//!
//! | File | Its one job |
//! |---|---|
//! | `line`, `redact`, `group`, `level` | pure: from bytes to lines, without secrets, in groups, with a level |
//! | `allowance`, `intake` | pure: how much of a flood is kept, and the way of the bytes through the above |
//! | `ring`, `file` | the newest lines in memory; more of them on the volume |
//! | `page` | reading them from some place on |
//!
//! A gateway that cannot write blocks. So its streams are read as fast as they fill (see `output`); what is limited is what happens to a line afterwards. Lines beyond the rate are counted and dropped before any
//! work is done on them, and a note in the log says how many. Whatever leaves here (memory, files, answers, our own log)
//! has been through the redactor.

mod allowance;
mod file;
mod group;
mod intake;
mod level;
mod line;
mod page;
mod redact;
mod ring;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use winston_wire::Timestamp;
use winston_wire::env::Secret;

use self::allowance::{Allowance, Rate};
pub(crate) use self::file::FileSettings;
use self::file::{Found, LogFile};
use self::intake::{Entry, Intake};
pub(crate) use self::level::Level;
pub(super) use self::line::LONGEST_LINE;
pub(crate) use self::page::{From, LogReader, Piece};
pub(super) use self::redact::Redactor;
use self::ring::Ring;
use super::output::Take;

/// Longest wait for lines to be in the file before their bytes leave the pipe.
const WRITTEN: Duration = Duration::from_millis(20);

/// How long nobody waits for a disk that has not answered in that time.
const IMPATIENCE: Duration = Duration::from_secs(5);

/// A wait that nobody notices. After a longer one, nobody waits for as many times its length: the event loop has more to do.
const UNNOTICED: Duration = Duration::from_millis(1);
const REST: u32 = 19;

/// For how long nobody waits for the disk after a wait that took so long, and for what: the lines being there, or the end of patience.
fn rest(written: bool, took: Duration) -> Duration {
    match written {
        true if took <= UNNOTICED => Duration::ZERO,
        true => took * REST,
        false => IMPATIENCE,
    }
}

/// What goes to our own log: platforms take some 500 lines per second from a container and drop what is beyond, ours too.
const SHOWN: Rate = Rate { per_second: 400, burst: 400 };

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogLine {
    /// Counts kept lines of this tenant, over restarts of the sidecar too.
    pub(crate) seq: u64,
    /// When it was read.
    pub(crate) time: Timestamp,
    /// Where it came from.
    pub(crate) stream: Stream,
    /// What it says of itself, or what its stream makes likely.
    pub(crate) level: Level,
    /// The line without its end, secrets replaced. With what is indented below it, as in a stack trace: several lines.
    pub(crate) line: String,
}

/// How much is kept, where, and what must not be in it.
#[derive(Debug, Clone)]
pub(crate) struct LogSettings {
    /// Size of the newest lines in memory, in bytes.
    pub(crate) ring_bytes: usize,
    /// `None`: in memory only.
    pub(crate) file: Option<FileSettings>,
    /// What is secret beside the gateway's own environment.
    pub(crate) secrets: Vec<Secret>,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { ring_bytes: 256 * 1024, file: None, secrets: Vec::new() }
    }
}

/// Lines since the start of the sidecar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LogCounts {
    pub(crate) kept: u64,
    /// Beyond the rate: nowhere.
    pub(crate) dropped: u64,
    /// Not in the files.
    pub(crate) file_dropped: u64,
}

/// Of something that the gateway says about itself, the bytes that are kept.
pub(super) const LONGEST_WORDS: usize = 400;

/// The log. Clones share it.
#[derive(Clone)]
pub(super) struct Logs {
    shared: Arc<Shared>,
}

struct Shared {
    redactor: Redactor,
    intake: Mutex<Intake>,
    ring: Mutex<Ring>,
    /// Number of the newest line.
    head: watch::Sender<u64>,
    shown: Mutex<(Allowance, u64)>,
    file: Option<LogFile>,
    settings: Option<FileSettings>,
    kept: AtomicU64,
    dropped: AtomicU64,
}

impl Logs {
    /// Goes on behind the lines that are on the volume. `secrets` are those of the gateway's environment. Reads a few
    /// hundred KiB from the disk.
    pub(super) fn open(settings: LogSettings, secrets: Vec<String>) -> Self {
        let LogSettings { ring_bytes, file: settings, secrets: further } = settings;
        let redactor =
            Redactor::new(secrets.into_iter().chain(further.iter().map(|secret| secret.expose().to_owned())));
        let failed = |error: &std::io::Error| tracing::warn!(%error, "gateway log is kept in memory only");
        let found = settings.as_ref().map(|settings| file::find(settings, ring_bytes as u64).inspect_err(failed));
        // Without a readable end there is no number to go on with, and writing on could give one out twice.
        let (found, file) = match (found, &settings) {
            (Some(Ok(found)), Some(settings)) => {
                let file = LogFile::start(settings.clone(), &found).inspect_err(failed).ok();
                (found, file)
            }
            _ => (Found::default(), None),
        };
        let (last, now) = (found.last, Instant::now());
        Self {
            shared: Arc::new(Shared {
                intake: Mutex::new(Intake::new(&redactor, now)),
                redactor,
                ring: Mutex::new(Ring::new(ring_bytes, last + 1, found.lines)),
                head: watch::Sender::new(last),
                shown: Mutex::new((Allowance::full(SHOWN, now), 0)),
                settings: settings.filter(|_| file.is_some()),
                file,
                kept: AtomicU64::new(0),
                dropped: AtomicU64::new(0),
            }),
        }
    }

    /// Takes the next bytes of a stream. Never waits for anything.
    pub(super) fn feed(&self, stream: Stream, bytes: &[u8]) {
        let redactor = &self.shared.redactor;
        lock(&self.shared.intake).feed(stream, bytes, redactor, Instant::now(), |entry| self.keep(stream, entry));
    }

    /// A stream has ended; what it was in the middle of is its last line.
    pub(super) fn finish(&self, stream: Stream) {
        let redactor = &self.shared.redactor;
        let dropped = lock(&self.shared.intake).finish(stream, redactor, |entry| self.keep(stream, entry));
        self.note_dropped(dropped);
    }

    /// Takes the bytes of one stream as they come out of its pipe.
    pub(super) fn stream(&self, stream: Stream) -> Feed {
        Feed { logs: self.clone(), stream, impatient_until: Instant::now() }
    }

    /// Adds a line of our own. Not passed on: our own log has it in its own words.
    pub(super) fn note(&self, text: String) {
        self.push(Stream::Winston, Level::Info, self.redact(&text));
    }

    /// A text of the gateway's without secrets, for whoever shows it elsewhere.
    pub(super) fn redact(&self, text: &str) -> String {
        self.shared.redactor.text(text)
    }

    /// The same of the beginning of something that the gateway said, which may have no end.
    pub(super) fn excerpt(&self, text: &str) -> String {
        self.shared.redactor.excerpt(text, LONGEST_WORDS)
    }

    /// The last `limit` lines in memory, oldest first.
    pub(super) fn tail(&self, limit: usize) -> Vec<LogLine> {
        self.newest(limit, Level::Debug)
    }

    /// The last `limit` lines of at least a level, oldest first, from the files too. Blocks.
    pub(super) fn last(&self, limit: usize, least: Level) -> Vec<LogLine> {
        page::newest(self, limit, least)
    }

    /// The same, if the ring alone knows them.
    pub(super) fn last_in_memory(&self, limit: usize, least: Level) -> Result<Vec<LogLine>, Vec<LogLine>> {
        let lines = self.newest(limit, least);
        if lines.len() < limit && self.shared.settings.is_some() && self.first() > 1 { Err(lines) } else { Ok(lines) }
    }

    /// Reads from a place on.
    pub(super) fn reader(&self, from: From, least: Level) -> LogReader {
        LogReader::new(self.clone(), from, least)
    }

    /// Number of the newest line.
    pub(super) fn head(&self) -> u64 {
        lock(&self.shared.ring).head()
    }

    pub(super) fn counts(&self) -> LogCounts {
        LogCounts {
            kept: self.shared.kept.load(Ordering::Relaxed),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
            file_dropped: self.shared.file.as_ref().map_or(0, LogFile::dropped),
        }
    }

    /// Waits until the files have everything, for at most `limit`; whether they do. Blocks.
    pub(super) fn drain(&self, limit: Duration) -> bool {
        self.shared.file.as_ref().is_none_or(|file| file.drain(limit))
    }

    fn newest(&self, most: usize, least: Level) -> Vec<LogLine> {
        lock(&self.shared.ring).newest(most, least)
    }

    fn first(&self) -> u64 {
        lock(&self.shared.ring).first()
    }

    fn after(&self, seq: u64, most: usize, most_bytes: usize) -> Vec<LogLine> {
        lock(&self.shared.ring).after(seq, most, most_bytes)
    }

    fn keep(&self, stream: Stream, Entry { dropped, level, text }: Entry) {
        self.note_dropped(dropped);
        self.show(stream, &text, level);
        self.shared.kept.fetch_add(1, Ordering::Relaxed);
        self.push(stream, level, text);
    }

    /// The file gets lines in the order of their numbers, so it is offered them under the ring's lock; that is a copy in memory.
    fn push(&self, stream: Stream, level: Level, text: String) {
        let mut ring = lock(&self.shared.ring);
        let line = ring.push(stream, level, text);
        if let Some(file) = &self.shared.file {
            file.offer(&line);
        }
        drop(ring);
        self.shared.head.send_replace(line.seq);
    }

    fn note_dropped(&self, dropped: u64) {
        if dropped > 0 {
            self.shared.dropped.fetch_add(dropped, Ordering::Relaxed);
            let note = format!("{dropped} lines dropped: the gateway writes faster than its log is kept");
            self.push(Stream::Winston, Level::Warn, note);
            tracing::warn!(target: "gateway", dropped, "gateway writes faster than its log is kept");
        }
    }

    /// Passes a line on to our own log, in which a line in JSON has its own message and level.
    fn show(&self, stream: Stream, text: &str, level: Level) {
        let mut shown = lock(&self.shared.shown);
        if !shown.0.take(1, Instant::now()) {
            shown.1 += 1;
            return;
        }
        let left_out = std::mem::take(&mut shown.1);
        drop(shown);
        if left_out > 0 {
            tracing::warn!(target: "gateway", left_out, "gateway lines not shown here; GET /gateway/logs has them");
        }
        let said = level::read(text, stream);
        let (subsystem, stream) = (said.subsystem.as_deref(), stream.name());
        // Of a line in JSON the message is shown, and beside it the line for what else is in it.
        let (message, json) = match &said.message {
            Some(message) => (message.as_str(), Some(text)),
            None => (text, None),
        };
        match level {
            Level::Debug => {
                tracing::debug!(target: "gateway", source = "gateway", stream, subsystem, json, "{message}")
            }
            Level::Info => tracing::info!(target: "gateway", source = "gateway", stream, subsystem, json, "{message}"),
            Level::Warn => tracing::warn!(target: "gateway", source = "gateway", stream, subsystem, json, "{message}"),
            Level::Error => {
                tracing::error!(target: "gateway", source = "gateway", stream, subsystem, json, "{message}")
            }
        }
    }
}

/// One stream on its way into the log.
pub(super) struct Feed {
    logs: Logs,
    stream: Stream,
    /// The disk was slow; until then nobody waits for it.
    impatient_until: Instant,
}

impl Take for Feed {
    fn take(&mut self, bytes: &[u8]) {
        self.logs.feed(self.stream, bytes);
        // Only what is in the file is there after a kill.
        let began = Instant::now();
        if began >= self.impatient_until {
            let written = self.logs.drain(WRITTEN);
            let now = Instant::now();
            self.impatient_until = now + rest(written, now - began);
        }
    }

    fn finish(&mut self) {
        self.logs.finish(self.stream);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here can be left half done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
