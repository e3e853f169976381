//! The intent of a transaction: a file in `.winston/staging` that says what is about to happen, on disk before any of it does.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use winston_wire::Source;

use super::super::Author;
use super::steps::Step;
use crate::fs::{FsError, TenantPath, replace_file};

/// A transaction as its intent tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Set {
    pub(in super::super) source: Source,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in super::super) actor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in super::super) generation: Option<u64>,
    /// Last record in the journal at that time: the set's own records are later ones.
    pub(in super::super) after_seq: u64,
    /// Directories that did not exist, outermost first. They go again if everything goes back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in super::super) directories: Vec<TenantPath>,
    pub(in super::super) steps: Vec<Step>,
}

const SUFFIX: &str = ".set";

/// Longest text: [`super::MAX_OPERATIONS`] steps with [`super::MAX_PATHS_BYTES`] of paths, every byte of them escaped.
const TEXT_BYTES: u64 = 64 * 1024 * 1024;

impl Set {
    pub(in super::super) fn author(&self) -> Author {
        Author { source: self.source, actor: self.actor.clone(), generation: self.generation }
    }
}

/// Writes the intent of transaction `id`; on disk when this returns.
pub(in super::super) fn write(staging: &OwnedFd, id: &str, set: &Set) -> Result<(), FsError> {
    let text = serde_json::to_vec(set).map_err(std::io::Error::from)?;
    Ok(replace_file(staging, &format!("{id}{SUFFIX}"), &text)?)
}

/// Removes the intent of transaction `id`.
pub(in super::super) fn remove(staging: &OwnedFd, id: &str) {
    match rustix::fs::unlinkat(staging, format!("{id}{SUFFIX}"), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => tracing::warn!(%errno, id, "could not clear an intent"),
    }
}

/// Reads an intent back from a name in the staging directory; `None` when the name is not one or says nothing readable.
pub(in super::super) fn read<'a>(staging: &OwnedFd, name: &'a str) -> Option<(&'a str, Set)> {
    let id = name.strip_suffix(SUFFIX)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = File::from(rustix::fs::openat(staging, name, flags, Mode::empty()).ok()?);
    let mut text = Vec::new();
    file.take(TEXT_BYTES).read_to_end(&mut text).ok()?;
    Some((id, serde_json::from_slice(&text).ok()?))
}
