//! Dropping contents when the journal would grow over its cap: the segment is written anew with its records and without their contents.
//!
//! The new file is complete and on disk before it takes the segment's name, so after a crash at any point there is either the old
//! segment or the new one, both whole. Contents in `.winston/objects/` are removed afterwards, by the caller. Whoever has the old file
//! open reads on in it.

use std::io::{BufReader, BufWriter, Write};

use rustix::fs::OFlags;
use winston_wire::ContentHash;

use super::lines::{self, Line};
use super::segment::{open, open_read, segment_name};
use super::{Content, Dirs, JournalError, record};
use crate::failpoint;
use crate::fs::FsError;

/// What dropping the contents of one segment did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    /// Bytes of the segment before.
    pub(super) before: u64,
    /// And now. Not always less: that a content elsewhere is gone has to be said too.
    pub(super) after: u64,
    /// Records that have lost their content, ascending.
    pub(super) records: Vec<u64>,
    /// Contents in `.winston/objects/` that no record needs any more.
    pub(super) objects: Vec<ContentHash>,
}

/// Rewrites the segment that starts with `first` without contents. It must not be the one that is being written. `is_free` tells whether no
/// record behind this segment needs a large content. Lines that cannot be read stay, so that their damage goes on being told.
/// Blocking; holds one line in memory.
pub(super) fn without_contents(
    dirs: &Dirs,
    first: u64,
    is_free: impl Fn(ContentHash) -> bool,
) -> Result<Dropped, JournalError> {
    let Some(file) = open_read(dirs, first)? else { return Ok(Dropped::default()) };
    let name = segment_name(first);
    let temporary = format!("{name}.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let out = open(&dirs.changes, &temporary, flags).map_err(FsError::from)?;
    let outcome = rewrite(&mut BufReader::new(file), &mut BufWriter::new(&out), is_free);
    let discard = || rustix::fs::unlinkat(&dirs.changes, &temporary, rustix::fs::AtFlags::empty());
    let dropped = match outcome.and_then(|dropped| {
        if !dropped.records.is_empty() {
            failpoint::fails("compact-sync")?;
            out.sync_all()?;
        }
        Ok(dropped)
    }) {
        Ok(dropped) if dropped.records.is_empty() => {
            let _ = discard();
            return Ok(dropped);
        }
        Ok(dropped) => dropped,
        Err(error) => {
            let _ = discard();
            return Err(error);
        }
    };
    failpoint::here("compact-written");
    rustix::fs::renameat(&dirs.changes, &temporary, &dirs.changes, &name).map_err(FsError::from)?;
    failpoint::here("compact-renamed");
    rustix::fs::fsync(&dirs.changes).map_err(FsError::from)?;
    Ok(dropped)
}

fn rewrite(
    reader: &mut BufReader<std::fs::File>,
    out: &mut impl Write,
    is_free: impl Fn(ContentHash) -> bool,
) -> Result<Dropped, JournalError> {
    let mut dropped = Dropped::default();
    let mut line = Vec::new();
    while let Some((kind, length)) = lines::next_outline(reader, &mut line)? {
        dropped.before += length;
        let ends = !matches!(kind, Line::Open);
        if let Line::Good(mut record) = kind {
            let object = record.object().filter(|hash| is_free(*hash));
            if record.is_inline || object.is_some() {
                record.change.content_omitted = true;
                line.clear();
                record::encode(&record.change, &Content::None, &mut line).map_err(std::io::Error::from)?;
                line.pop();
                dropped.records.push(record.change.seq);
                dropped.objects.extend(object);
            }
        }
        if ends {
            line.push(b'\n');
        }
        out.write_all(&line)?;
        dropped.after += line.len() as u64;
    }
    out.flush()?;
    dropped.objects.sort_unstable();
    dropped.objects.dedup();
    Ok(dropped)
}
