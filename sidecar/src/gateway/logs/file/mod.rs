//! The gateway's lines on the volume: `.winston/logs/gateway-<first number>.jsonl`, one [`LogLine`] as JSON per line.
//!
//! A thread of its own writes them, so that neither the gateway nor the event loop ever waits for a disk. What waits for
//! it is bounded; what does not fit, or finds no room on the volume, is missing in the file and its numbers with it.
//! Files are never renamed: a name tells which lines are behind it, and a crash leaves nothing to settle but a torn last
//! line. Nothing is flushed: these are not the lines that anybody was promised.

mod reader;
mod writer;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::LogLine;
use crate::fs::Root;

pub(super) use self::reader::{Reader, newest};
pub(super) use self::writer::LogFile;

const DIRECTORY: &str = ".winston/logs";
const PREFIX: &str = "gateway-";
const SUFFIX: &str = ".jsonl";

/// Longest line in a file. Ours are shorter; the tenant may have written there where it can.
const LONGEST: u64 = 128 * 1024;

/// Numbers beyond what JSON readers can count are not ours.
const MOST_SEQ: u64 = 1 << 53;

/// Where the files are and how much they may take.
#[derive(Debug, Clone)]
pub(crate) struct FileSettings {
    /// The data directory.
    pub(crate) root: Arc<Root>,
    /// Largest size of one file, in bytes.
    pub(crate) file_bytes: u64,
    /// Most files. The oldest is removed.
    pub(crate) files: usize,
}

/// What earlier runs have left.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Number of the last line; 0 without one.
    pub(super) last: u64,
    /// The newest lines, oldest first.
    pub(super) lines: Vec<LogLine>,
    /// First number and length of the file to go on with.
    open: Option<(u64, u64)>,
}

/// Looks for the end of what is there, and for its newest lines: `bytes` of each of the last two files.
pub(super) fn find(settings: &FileSettings, bytes: u64) -> io::Result<Found> {
    let mut found = Found::default();
    // A directory that cannot be made is not there: a full volume, for now.
    let Ok(dir) = open_dir(settings) else { return Ok(found) };
    let files = list(dir.as_fd())?;
    for &first in files.iter().rev().take(2).rev() {
        let (lines, length) = reader::tail(dir.as_fd(), first, bytes)?;
        // Of an empty file its name tells what came before it.
        found.last = lines.last().map_or(first.saturating_sub(1), |line| line.seq).max(found.last);
        found.lines.extend(lines);
        found.open = Some((first, length));
    }
    Ok(found)
}

fn open_dir(settings: &FileSettings) -> io::Result<OwnedFd> {
    settings.root.internal_dir(DIRECTORY).map_err(io::Error::other)
}

fn name(first: u64) -> String {
    format!("{PREFIX}{first:020}{SUFFIX}")
}

/// First numbers of the files, in order.
fn list(dir: BorrowedFd<'_>) -> io::Result<Vec<u64>> {
    let mut files = Vec::new();
    // A handle on a directory has a place in it, like one on a file.
    rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0))?;
    Root::each_entry(dir, |entry| {
        let name = String::from_utf8_lossy(&entry.name);
        let first = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX)?.parse().ok());
        files.extend(first.filter(|&first| first < MOST_SEQ && self::name(first) == name));
    })
    .map_err(io::Error::other)?;
    files.sort_unstable();
    Ok(files)
}

/// Removes the oldest files but `kept`; how many.
fn prune(dir: BorrowedFd<'_>, kept: usize) -> io::Result<usize> {
    let files = list(dir)?;
    let removed = files.len().saturating_sub(kept);
    for &first in &files[..removed] {
        rustix::fs::unlinkat(dir, name(first), AtFlags::empty())?;
    }
    Ok(removed)
}

fn open(dir: BorrowedFd<'_>, first: u64, flags: OFlags) -> io::Result<std::fs::File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name(first), flags, Mode::from_raw_mode(0o600))?.into())
}
