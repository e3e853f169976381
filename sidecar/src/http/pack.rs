//! Packing a part of the tree into a tar stream.
//!
//! An archive says what is not in it: when something was left out that a reader could expect, or a file changed while it was read, the
//! last entry is [`NOTES`], a JSON object `{"notes": [{"path", "reason"}], "more": <notes that are not listed>}`.

use std::io::{self, Read, Write};
use std::ops::ControlFlow;

use serde::Serialize;
use tar::{Builder, EntryType, Header};

use crate::edits::Edits;
use crate::fs::{Class, EntryKind, Found, FsError, MAX_LEVELS, Stat, TenantPath, Walk};

/// Name of the entry with the notes.
pub(super) const NOTES: &str = ".winston-archive.json";

/// Owner's name in the header of that entry, which tells it from a tenant's file of that name.
pub(super) const NOTES_OWNER: &str = "winston-archive-notes";

/// Notes that are listed; the rest is counted.
const MOST_NOTES: usize = 1000;

#[derive(Serialize)]
struct Note {
    path: String,
    reason: Reason,
}

/// What a note says about its path.
#[derive(Serialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Reason {
    /// Left out: links are not followed, and one that leads somewhere else is no use.
    Link,
    /// Left out: FIFO, socket or device.
    Special,
    /// Left out: credentials or a live database.
    Secret,
    /// Left out: could not be opened.
    Unreadable,
    /// Left out: not UTF-8, or too long for a path.
    Name,
    /// Left out: more than [`MAX_LEVELS`] directories down.
    TooDeep,
    /// In the archive, but it changed while it was read: cut or filled with zeros to the size that its entry announced.
    Changed,
}

#[derive(Serialize, Default)]
struct Notes {
    notes: Vec<Note>,
    more: usize,
}

/// Packs what is below `directory`: what has a history, with `all` also what has none. Secrets and our own files never.
pub(super) fn pack<W: Write>(edits: &Edits, directory: &TenantPath, all: bool, out: W) -> io::Result<W> {
    let mut packer = Packer { edits, all, tar: Builder::new(out), notes: Notes::default(), failed: None };
    let descends = |path: &TenantPath, _| packs_directory(edits, path, all);
    let mut visit = |found: &Found<'_>| match packer.entry(found) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            packer.failed = Some(error);
            ControlFlow::Break(())
        }
    };
    Walk { root: edits.root(), wanted: usize::MAX, descends: &descends, visit: &mut visit }
        .run(directory, b"")
        .map_err(io::Error::other)?;
    packer.finish()
}

fn packs_directory(edits: &Edits, path: &TenantPath, all: bool) -> bool {
    match edits.layout().class(path) {
        Class::Internal | Class::Secret => false,
        Class::Tracked | Class::Untracked => all || edits.layout().descends(path),
    }
}

struct Packer<'a, W: Write> {
    edits: &'a Edits,
    all: bool,
    tar: Builder<W>,
    notes: Notes,
    failed: Option<io::Error>,
}

impl<W: Write> Packer<'_, W> {
    /// Packs one entry. Fails only when the archive cannot be written any more.
    fn entry(&mut self, found: &Found<'_>) -> io::Result<()> {
        let below = String::from_utf8_lossy(found.below);
        let Some(path) = found.path else {
            self.note(&below, Reason::Name);
            return Ok(());
        };
        match self.edits.layout().class(path) {
            Class::Internal => return Ok(()),
            Class::Secret => {
                self.note(&below, Reason::Secret);
                return Ok(());
            }
            Class::Untracked if !self.all && found.stat.kind != EntryKind::Directory => return Ok(()),
            Class::Tracked | Class::Untracked => {}
        }
        match found.stat.kind {
            EntryKind::Directory if !packs_directory(self.edits, path, self.all) => {}
            EntryKind::Directory => {
                if found.below.split(|byte| *byte == b'/').count() >= MAX_LEVELS {
                    self.note(&below, Reason::TooDeep);
                }
                let mut header = header(&found.stat, EntryType::Directory, 0);
                self.tar.append_data(&mut header, format!("{below}/"), io::empty())?;
            }
            EntryKind::File => self.file(path, &below)?,
            EntryKind::Symlink => self.note(&below, Reason::Link),
            EntryKind::Special => self.note(&below, Reason::Special),
        }
        Ok(())
    }

    /// Packs a file: from memory when it is small enough, so that its entry is one version as far as a read can be, otherwise as it is read.
    fn file(&mut self, path: &TenantPath, below: &str) -> io::Result<()> {
        let mut opened = match self.edits.root().open_file(path) {
            Ok(opened) => opened,
            Err(FsError::NotFound) => return Ok(()),
            Err(_) => {
                self.note(below, Reason::Unreadable);
                return Ok(());
            }
        };
        let is_whole = match opened.read(self.edits.max_file_bytes()) {
            Err(_) => {
                self.note(below, Reason::Unreadable);
                return Ok(());
            }
            Ok(Some(content)) => {
                let mut header = header(&opened.stat, EntryType::Regular, content.len() as u64);
                self.tar.append_data(&mut header, below, content.as_slice())?;
                true
            }
            Ok(None) => {
                io::Seek::rewind(&mut opened.file)?;
                let size = opened.stat.size;
                let mut header = header(&opened.stat, EntryType::Regular, size);
                let mut exactly = Exactly { file: &mut opened.file, left: size, ended: false };
                self.tar.append_data(&mut header, below, &mut exactly)?;
                !exactly.ended
            }
        };
        if !is_whole || Stat::of(&opened.file).ok() != Some(opened.stat) {
            self.note(below, Reason::Changed);
        }
        Ok(())
    }

    fn note(&mut self, below: &str, reason: Reason) {
        if self.notes.notes.len() < MOST_NOTES {
            self.notes.notes.push(Note { path: below.to_owned(), reason });
        } else {
            self.notes.more += 1;
        }
    }

    fn finish(mut self) -> io::Result<W> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if !self.notes.notes.is_empty() {
            let text = serde_json::to_vec(&self.notes)?;
            let mut header = Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            header.set_username(NOTES_OWNER)?;
            self.tar.append_data(&mut header, NOTES, text.as_slice())?;
        }
        self.tar.into_inner()
    }
}

/// Owner and group mean nothing elsewhere, and a set-user-id bit should mean nothing there.
fn header(stat: &Stat, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(stat.mode & 0o777);
    header.set_mtime(u64::try_from(stat.mtime_ns / 1_000_000_000).unwrap_or(0));
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Exactly as many bytes as an entry has announced: a file that turns out shorter, or cannot be read on, is filled with zeros.
struct Exactly<R> {
    file: R,
    left: u64,
    ended: bool,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..most];
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut read = 0;
        if !self.ended {
            read = match self.file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                result => result.unwrap_or(0),
            };
            self.ended = read == 0;
        }
        if self.ended {
            buffer.fill(0);
            read = most;
        }
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_entry_has_the_announced_size(content in proptest::collection::vec(1u8.., 0..2000), size in 0u64..2000) {
            let mut exactly = Exactly { file: content.as_slice(), left: size, ended: false };
            let mut read = Vec::new();
            exactly.read_to_end(&mut read).unwrap();
            prop_assert_eq!(read.len() as u64, size);
            let kept = content.len().min(read.len());
            prop_assert_eq!(&read[..kept], &content[..kept]);
            prop_assert!(read[kept..].iter().all(|byte| *byte == 0));
            prop_assert_eq!(exactly.ended, (content.len() as u64) < size);
        }
    }
}
