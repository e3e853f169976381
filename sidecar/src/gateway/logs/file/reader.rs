//! Reading lines back, in order, over as many files as there are.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use winston_wire::Timestamp;

use super::{FileSettings, LONGEST, LogLine, MOST_SEQ, list, open, open_dir};

const BUFFER: usize = 32 * 1024;

/// Reads the files from some line on. Blocks.
pub(in super::super) struct Reader {
    dir: OwnedFd,
    /// First number of the file that is read, and the file.
    present: Option<(u64, BufReader<File>)>,
    text: Vec<u8>,
}

impl Reader {
    /// Begins with the file that has the line after `seq`, or with the oldest.
    pub(in super::super) fn after(settings: &FileSettings, seq: u64) -> io::Result<Self> {
        Self::at(settings, |_, first| Ok(first <= seq.saturating_add(1)))
    }

    /// Begins with the last file whose first line is older than a time, or with the oldest.
    pub(in super::super) fn since(settings: &FileSettings, time: Timestamp) -> io::Result<Self> {
        Self::at(settings, |dir, first| {
            let mut file = BufReader::with_capacity(BUFFER, open(dir, first, OFlags::RDONLY)?);
            Ok(next(&mut file, &mut Vec::new())?.is_some_and(|line| line.time < time))
        })
    }

    fn at(
        settings: &FileSettings,
        mut begins: impl FnMut(BorrowedFd<'_>, u64) -> io::Result<bool>,
    ) -> io::Result<Self> {
        let dir = open_dir(settings)?;
        let files = list(dir.as_fd())?;
        let mut start = files.first().copied();
        for &first in files.iter().rev() {
            // A file may have been removed meanwhile.
            if begins(dir.as_fd(), first).unwrap_or(false) {
                start = Some(first);
                break;
            }
        }
        let mut reader = Self { dir, present: None, text: Vec::new() };
        if let Some(first) = start {
            reader.open(first)?;
        }
        Ok(reader)
    }

    /// The next line; `None`: there is no further one yet.
    pub(in super::super) fn next(&mut self) -> io::Result<Option<LogLine>> {
        loop {
            let Some((first, file)) = &mut self.present else { return Ok(None) };
            let first = *first;
            if let Some(line) = next(file, &mut self.text)? {
                return Ok(Some(line));
            }
            let Some(later) = list(self.dir.as_fd())?.into_iter().find(|&later| later > first) else { return Ok(None) };
            // What came between the look into the file and the one into the directory.
            if let Some(line) = next(file, &mut self.text)? {
                return Ok(Some(line));
            }
            self.open(later)?;
        }
    }

    fn open(&mut self, first: u64) -> io::Result<()> {
        let file = open(self.dir.as_fd(), first, OFlags::RDONLY)?;
        self.present = Some((first, BufReader::with_capacity(BUFFER, file)));
        Ok(())
    }
}

/// The newest lines of at least this level, oldest first, from all files.
pub(in super::super) fn newest(
    settings: &FileSettings,
    most: usize,
    wanted: impl Fn(&LogLine) -> bool,
) -> io::Result<Vec<LogLine>> {
    let dir = open_dir(settings)?;
    let mut newest = std::collections::VecDeque::new();
    for first in list(dir.as_fd())?.into_iter().rev() {
        let Ok(file) = open(dir.as_fd(), first, OFlags::RDONLY) else { continue };
        let (mut file, mut text) = (BufReader::with_capacity(BUFFER, file), Vec::new());
        let mut lines = std::collections::VecDeque::new();
        while let Some(line) = next(&mut file, &mut text)? {
            if wanted(&line) {
                lines.push_back(line);
                if lines.len() + newest.len() > most {
                    lines.pop_front();
                }
            }
        }
        lines.append(&mut newest);
        newest = lines;
        if newest.len() >= most {
            break;
        }
    }
    Ok(newest.into())
}

/// The last lines of one file, and the length of its whole lines.
pub(super) fn tail(dir: BorrowedFd<'_>, first: u64, bytes: u64) -> io::Result<(Vec<LogLine>, u64)> {
    let mut file = open(dir, first, OFlags::RDONLY)?;
    if !file.metadata()?.is_file() {
        return Ok((Vec::new(), u64::MAX));
    }
    let size = file.metadata()?.len();
    let start = size.saturating_sub(bytes.max(2 * LONGEST));
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.take(size - start).read_to_end(&mut text)?;
    let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
    let lines = text[..whole].split(|&byte| byte == b'\n').filter_map(parse).collect();
    Ok((lines, start + whole as u64))
}

/// The next line that is one of ours. Where the file ends within a line, the place stays before it.
fn next(file: &mut BufReader<File>, text: &mut Vec<u8>) -> io::Result<Option<LogLine>> {
    loop {
        text.clear();
        let read = file.by_ref().take(LONGEST).read_until(b'\n', text)?;
        if read == 0 {
            return Ok(None);
        }
        if text.last() != Some(&b'\n') && (read as u64) < LONGEST {
            file.seek_relative(-i64::try_from(read).unwrap_or(0))?;
            return Ok(None);
        }
        if let Some(line) = parse(text) {
            return Ok(Some(line));
        }
    }
}

fn parse(text: &[u8]) -> Option<LogLine> {
    serde_json::from_slice(text).ok().filter(|line: &LogLine| (1..MOST_SEQ).contains(&line.seq))
}
