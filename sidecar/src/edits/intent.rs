//! Intents: what a write was about to do, so that a crash between swap and journal does not turn it into somebody else's edit.
//!
//! An intent is a symbolic link in `.winston/staging` whose *target text* is the JSON below. A link is created by one system call and is
//! metadata, so it is never torn, costs no flush, and on journalling file systems it reaches the disk no later than the rename
//! that follows it. A text that is too long for a link (1024 bytes on XFS) becomes a small file instead.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Deserializer, Serialize};
use winston_wire::{ContentHash, Source};

use crate::fs::FsError;

/// What a write is about to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Intent {
    pub(super) path: String,
    pub(super) source: Source,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) actor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) generation: Option<u64>,
    /// New content; `None` for a delete.
    pub(super) hash: Option<ContentHash>,
    /// Last record in the journal at that time. The record of this write, if it was made, is a later one.
    #[serde(default)]
    pub(super) after_seq: u64,
    /// The edit may replace this version only (`null`: no file at all). Absent when it replaces whatever is there.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "some")]
    pub(super) only_over: Option<Option<ContentHash>>,
}

/// Tells `null` from an absent member.
fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<ContentHash>>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

const SUFFIX: &str = ".intent";

/// Longest text that every file system takes as a link's target.
const LINK_BYTES: usize = 1000;

/// Longest text at all: paths are bounded, and JSON at most escapes every byte of them.
const TEXT_BYTES: u64 = 64 * 1024;

/// Writes the intent of operation `id`.
pub(super) fn write(staging: &OwnedFd, id: &str, intent: &Intent) -> Result<(), FsError> {
    let text = serde_json::to_string(intent).map_err(std::io::Error::from)?;
    let name = format!("{id}{SUFFIX}");
    if text.len() <= LINK_BYTES {
        return Ok(rustix::fs::symlinkat(text, staging, name)?);
    }
    let temporary = format!("{name}.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = File::from(rustix::fs::openat(staging, &temporary, flags, Mode::from_raw_mode(0o600))?);
    let written = file.write_all(text.as_bytes()).map_err(FsError::from);
    let named = written.and_then(|()| Ok(rustix::fs::renameat(staging, &temporary, staging, name)?));
    if named.is_err() {
        // What is left is removed at the next start at the latest.
        let _ = rustix::fs::unlinkat(staging, &temporary, AtFlags::empty());
    }
    named
}

/// Removes the intent of operation `id`.
pub(super) fn remove(staging: &OwnedFd, id: &str) -> Result<(), Errno> {
    rustix::fs::unlinkat(staging, format!("{id}{SUFFIX}"), AtFlags::empty())
}

/// Reads an intent back from a name in the staging directory; `None` when the name is not an intent or says nothing readable.
pub(super) fn read<'a>(staging: &OwnedFd, name: &'a str) -> Option<(&'a str, Intent)> {
    let id = name.strip_suffix(SUFFIX)?;
    let text = match rustix::fs::readlinkat(staging, name, Vec::new()) {
        Ok(text) => text.into_bytes(),
        Err(_) => {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = File::from(rustix::fs::openat(staging, name, flags, Mode::empty()).ok()?);
            let mut text = Vec::new();
            file.take(TEXT_BYTES).read_to_end(&mut text).ok()?;
            text
        }
    };
    Some((id, serde_json::from_slice(&text).ok()?))
}
