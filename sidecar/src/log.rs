//! Where log lines go: people get text, platforms get one JSON object per line with `level` and `message` at the top.
//!
//! Lines reach standard output through a thread of their own. Whoever reads our output may stop reading it (a log
//! driver that hangs, a terminal in which somebody selects text), and then a write blocks: on the one thread of the
//! event loop that would stop everything, SIGTERM included. What waits is bounded; what does not fit is counted, and
//! one line says so in its place.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use winston_wire::Timestamp;

/// How much may wait for a slow reader, in bytes; the writing thread has as much in hand.
const WAITING: usize = 256 * 1024;
/// A buffer that grew beyond this is given back after use.
const KEPT: usize = 16 * 1024;
/// The thread only writes.
const STACK_BYTES: usize = 64 * 1024;
/// Pause before the next attempt at an output that somebody set to non-blocking.
const RETRY: Duration = Duration::from_millis(20);

/// Starts logging to standard output.
pub(crate) fn start(filter: Targets) -> io::Result<Outlet> {
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer();
    let outlet;
    if io::stdout().is_terminal() {
        outlet = Outlet::start(output, text_note)?;
        let writer = outlet.clone();
        registry.with(layer.with_target(false).with_writer(move || writer.clone())).init();
    } else {
        outlet = Outlet::start(output, json_note)?;
        let writer = outlet.clone();
        let layer = layer.json().flatten_event(true).with_current_span(false);
        registry.with(layer.with_writer(move || writer.clone())).init();
    }
    Ok(outlet)
}

const NOTE: &str = "log lines dropped: standard output was not read";

fn text_note(dropped: u64) -> String {
    format!("{}  WARN {NOTE} dropped={dropped}\n", Timestamp::now())
}

fn json_note(dropped: u64) -> String {
    let line = serde_json::json!({
        "timestamp": Timestamp::now(), "level": "WARN", "message": NOTE, "dropped": dropped, "target": "winston_sidecar::log"
    });
    format!("{line}\n")
}

/// Takes lines without ever waiting. Clones share it.
#[derive(Clone)]
pub(crate) struct Outlet(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// Something came, or everything is written.
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Whole lines.
    waiting: Vec<u8>,
    /// Lines that came after `waiting` and did not fit.
    dropped: u64,
    /// The thread has taken lines and not written them yet.
    writing: bool,
}

impl Outlet {
    /// `note` is the line for so many dropped ones.
    fn start(output: impl Write + Send + 'static, note: fn(u64) -> String) -> io::Result<Self> {
        let outlet = Self(Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new() }));
        let own = outlet.clone();
        let thread = std::thread::Builder::new().name("log".into()).stack_size(STACK_BYTES);
        thread.spawn(move || own.write_out(output, note))?;
        Ok(outlet)
    }

    /// Waits until everything is written, for at most `limit`: a reader that hangs must not keep us from ending.
    pub(crate) fn drain(&self, limit: Duration) {
        let busy = |queue: &mut Queue| queue.writing || queue.has_some();
        let waited = self.0.changed.wait_timeout_while(self.lock(), limit, busy);
        drop(waited);
    }

    fn offer(&self, line: &[u8]) {
        let mut queue = self.lock();
        // Once one is dropped all are until there is room, so that the note stands where they are missing.
        if queue.dropped > 0 || queue.waiting.len() + line.len() > WAITING {
            queue.dropped += 1;
            return;
        }
        queue.waiting.extend_from_slice(line);
        drop(queue);
        self.0.changed.notify_all();
    }

    fn write_out(&self, mut output: impl Write, note: fn(u64) -> String) {
        let mut batch = Vec::new();
        loop {
            let waited = self.0.changed.wait_while(self.lock(), |queue| !queue.has_some());
            let mut queue = waited.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut queue.waiting, &mut batch);
            let dropped = std::mem::take(&mut queue.dropped);
            queue.writing = true;
            drop(queue);
            if dropped > 0 {
                batch.extend_from_slice(note(dropped).as_bytes());
            }
            write_all(&mut output, &batch);
            batch.clear();
            batch.shrink_to(KEPT);
            self.lock().writing = false;
            self.0.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here can be left half done by a panic.
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn has_some(&self) -> bool {
        !self.waiting.is_empty() || self.dropped > 0
    }
}

/// Each event is formatted as a whole and comes in one call.
impl Write for Outlet {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.offer(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(output: &mut impl Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return,
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::park_timeout(RETRY),
            // A log that nobody can read any more is no reason to end.
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, Read};

    fn outlet() -> (Outlet, PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        (Outlet::start(writer, |dropped| format!("dropped {dropped}\n")).unwrap(), reader)
    }

    #[test]
    fn every_line_is_written_or_counted() {
        const LINES: u64 = 200_000;
        let (outlet, reader) = outlet();
        for _ in 0..LINES {
            outlet.offer(b"one line\n"); // nobody reads: this must come back
        }
        outlet.drain(Duration::from_millis(1)); // this too
        let reading = std::thread::spawn(move || {
            let mut reader = reader;
            let (mut text, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
            while !text.ends_with(b"the end\n") {
                let read = reader.read(&mut buffer).unwrap();
                text.extend_from_slice(&buffer[..read]);
            }
            String::from_utf8(text).unwrap()
        });
        outlet.drain(Duration::from_secs(60));
        outlet.offer(b"the end\n");
        let text = reading.join().unwrap();
        let kept = text.lines().filter(|line| *line == "one line").count() as u64;
        let dropped: Vec<u64> = text.lines().filter_map(|line| line.strip_prefix("dropped ")?.parse().ok()).collect();
        assert!(kept < LINES, "bounded");
        assert_eq!(kept + dropped.iter().sum::<u64>(), LINES);
        assert_eq!(text.lines().count() as u64, kept + dropped.len() as u64 + 1, "nothing is torn");
    }

    #[test]
    fn a_drained_outlet_has_written_everything() {
        let (outlet, mut reader) = outlet();
        outlet.offer(b"last words\n");
        outlet.drain(Duration::from_secs(60));
        let mut text = [0; 11];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"last words\n");
    }

    #[test]
    fn an_output_that_is_gone_stops_nobody() {
        let (outlet, reader) = outlet();
        drop(reader);
        for _ in 0..100_000 {
            outlet.offer(b"one line\n");
        }
        outlet.drain(Duration::from_secs(60));
        assert!(!outlet.lock().has_some());
    }
}
