//! Intents: what a write was about to do, so that a crash between swap and journal does not turn it into somebody else's edit.
//!
//! An intent is a symbolic link in `.winston/staging` whose *target text* is the JSON below. A link is created by one system call and is
//! metadata, so it is never torn, costs no flush, and on journalling file systems it reaches the disk no later than the rename
//! that follows it.

use std::os::fd::OwnedFd;

use rustix::fs::AtFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
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
}

const SUFFIX: &str = ".intent";

/// Writes the intent of operation `id`.
pub(super) fn write(staging: &OwnedFd, id: &str, intent: &Intent) -> Result<(), FsError> {
    let text = serde_json::to_string(intent).map_err(std::io::Error::from)?;
    Ok(rustix::fs::symlinkat(text, staging, format!("{id}{SUFFIX}"))?)
}

/// Removes the intent of operation `id`.
pub(super) fn remove(staging: &OwnedFd, id: &str) -> Result<(), Errno> {
    rustix::fs::unlinkat(staging, format!("{id}{SUFFIX}"), AtFlags::empty())
}

/// Reads an intent back from a name in the staging directory; `None` when the name is not an intent or says nothing readable.
pub(super) fn read<'a>(staging: &OwnedFd, name: &'a str) -> Option<(&'a str, Intent)> {
    let id = name.strip_suffix(SUFFIX)?;
    let text = rustix::fs::readlinkat(staging, name, Vec::new()).ok()?;
    Some((id, serde_json::from_slice(text.to_bytes()).ok()?))
}
