//! The thread that writes, and the queue before it.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::OFlags;

use super::{FileSettings, Found, LogLine, open, open_dir, prune};

/// How much may wait for a slow disk, in bytes; the writing thread has as much in hand.
const WAITING: usize = 1024 * 1024;
/// A buffer that grew beyond this is given back after use.
const KEPT: usize = 64 * 1024;
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);
const STACK_BYTES: usize = 128 * 1024;

/// Takes lines without ever waiting. The thread ends when this is dropped and everything is written.
pub(in super::super) struct LogFile(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// Something came, or everything is written.
    changed: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Queue {
    /// Whole lines.
    waiting: Vec<u8>,
    /// Number and length of each.
    lines: Vec<(u64, usize)>,
    /// The thread has taken lines and not written them yet.
    writing: bool,
    closed: bool,
}

impl LogFile {
    /// Goes on behind what was found.
    pub(in super::super) fn start(settings: FileSettings, found: &Found) -> io::Result<Self> {
        let shared = Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new(), dropped: AtomicU64::new(0) });
        let mut writer = Writer { settings, dir: None, resume: found.open, file: None, broken: false, lost: 0 };
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("gateway-log".into()).stack_size(STACK_BYTES);
        thread.spawn(move || own.run(&mut writer))?;
        Ok(Self(shared))
    }

    /// Queues a line.
    pub(in super::super) fn offer(&self, line: &LogLine) {
        let Ok(mut json) = serde_json::to_vec(line) else { return };
        json.push(b'\n');
        let mut queue = self.0.lock();
        if queue.waiting.len() + json.len() > WAITING {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.waiting.extend_from_slice(&json);
        queue.lines.push((line.seq, json.len()));
        drop(queue);
        self.0.changed.notify_all();
    }

    /// Lines that are not in the files since the start, for want of room or speed.
    pub(in super::super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything is written, for at most `limit`; whether it is. Blocks.
    pub(in super::super) fn drain(&self, limit: Duration) -> bool {
        let busy = |queue: &mut Queue| queue.writing || !queue.lines.is_empty();
        let waited = self.0.changed.wait_timeout_while(self.0.lock(), limit, busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here can be left half done by a panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, writer: &mut Writer) {
        let (mut bytes, mut lines) = (Vec::new(), Vec::new());
        loop {
            let idle = |queue: &mut Queue| queue.lines.is_empty() && !queue.closed;
            let mut queue = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
            if queue.lines.is_empty() {
                return;
            }
            std::mem::swap(&mut queue.waiting, &mut bytes);
            std::mem::swap(&mut queue.lines, &mut lines);
            queue.writing = true;
            let closed = queue.closed;
            drop(queue);
            let lost = writer.write(&bytes, &lines);
            self.dropped.fetch_add(lost, Ordering::Relaxed);
            bytes.clear();
            bytes.shrink_to(KEPT);
            lines.clear();
            lines.shrink_to(KEPT / 64);
            self.lock().writing = false;
            self.changed.notify_all();
            if lost > 0 && !closed {
                std::thread::park_timeout(RETRY);
            }
        }
    }
}

/// The file that is written.
struct Active {
    file: File,
    /// Bytes of whole lines.
    length: u64,
}

struct Writer {
    settings: FileSettings,
    dir: Option<OwnedFd>,
    /// First number and length of the file of an earlier run.
    resume: Option<(u64, u64)>,
    file: Option<Active>,
    /// The last attempt failed, and somebody was told.
    broken: bool,
    lost: u64,
}

impl Writer {
    /// Writes lines to as many files as they need; how many could not be written.
    fn write(&mut self, bytes: &[u8], lines: &[(u64, usize)]) -> u64 {
        let (mut at, mut done) = (0, 0);
        while done < lines.len() {
            match self.write_some(&bytes[at..], &lines[done..]) {
                Ok(written) => {
                    at += lines[done..done + written].iter().map(|(_, length)| length).sum::<usize>();
                    done += written;
                }
                Err(error) => {
                    let lost = (lines.len() - done) as u64;
                    self.lost += lost;
                    if !self.broken {
                        tracing::warn!(%error, "gateway log file cannot be written; its lines are still in memory");
                    }
                    self.broken = true;
                    return lost;
                }
            }
        }
        if self.broken {
            tracing::info!(lost = self.lost, "gateway log file can be written again");
            (self.broken, self.lost) = (false, 0);
        }
        0
    }

    /// Writes the lines that fit into the present file; how many. At least one, or there is an error.
    fn write_some(&mut self, bytes: &[u8], lines: &[(u64, usize)]) -> io::Result<usize> {
        let limit = self.settings.file_bytes;
        if self.file.as_ref().is_some_and(|active| active.length > 0 && active.length + lines[0].1 as u64 > limit) {
            self.file = None;
        }
        if self.file.is_none() {
            self.file = Some(self.next_file(lines[0].0)?);
        }
        let Some(active) = &mut self.file else { return Err(ErrorKind::NotFound.into()) };
        let (mut length, mut count) = (0, 0);
        for (_, line) in lines {
            if count > 0 && active.length + (length + line) as u64 > limit {
                break;
            }
            length += line;
            count += 1;
        }
        match write_all(&mut active.file, &bytes[..length]) {
            Ok(()) => {
                active.length += length as u64;
                Ok(count)
            }
            Err(error) => {
                // What is there of the lines is torn.
                let length = active.length;
                if active.file.set_len(length).is_err() {
                    self.file = None;
                }
                // The log gives way to the tenant's data, and goes on with what its own past leaves free.
                let is_full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
                if is_full && self.make_room().unwrap_or(false) {
                    return self.write_some(bytes, lines);
                }
                Err(error)
            }
        }
    }

    /// Removes the oldest file but the present one; whether there was one.
    fn make_room(&mut self) -> io::Result<bool> {
        let dir = self.dir()?;
        let files = super::list(dir)?.len();
        Ok(files > 1 && prune(dir, files - 1)? > 0)
    }

    fn dir(&mut self) -> io::Result<std::os::fd::BorrowedFd<'_>> {
        if self.dir.is_none() {
            self.dir = Some(open_dir(&self.settings)?);
        }
        self.dir.as_ref().map(AsFd::as_fd).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// The file of an earlier run if it has room, else a new one that begins with `seq`.
    fn next_file(&mut self, seq: u64) -> io::Result<Active> {
        let (limit, kept) = (self.settings.file_bytes, self.settings.files);
        let resume = self.resume.take().filter(|(_, length)| *length < limit);
        // The directory may have been removed and made again.
        self.dir = None;
        let dir = self.dir()?;
        let write = OFlags::WRONLY | OFlags::APPEND;
        if let Some((first, length)) = resume
            && let Ok(file) = open(dir, first, write)
            && file.metadata().is_ok_and(|metadata| metadata.is_file())
            && file.set_len(length).is_ok()
        {
            return Ok(Active { file, length });
        }
        prune(dir, kept.saturating_sub(1))?;
        let file = open(dir, seq, write | OFlags::CREATE | OFlags::TRUNC)?;
        Ok(Active { file, length: 0 })
    }
}

fn write_all(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    crate::failpoint::fails("gateway-log.write")?;
    file.write_all(bytes)
}
