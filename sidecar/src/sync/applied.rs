//! How far pushes are, kept in `.winston/applied`.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use winston_wire::Conflict;

use crate::fs::replace_file;

const FILE: &str = "applied";

/// Generation of pushes that was worked through, and what could not be applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Applied {
    pub(super) generation: u64,
    pub(super) conflicts: Vec<Conflict>,
}

impl Applied {
    /// Reads the file. When it is missing or damaged, pushes are worked through from the start, which changes nothing
    /// that is in place already.
    pub(super) fn load(dir: &OwnedFd) -> Self {
        let read = || -> Option<Self> {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = File::from(rustix::fs::openat(dir, FILE, flags, Mode::empty()).ok()?);
            let mut text = Vec::new();
            file.take(16 * 1024 * 1024).read_to_end(&mut text).ok()?;
            serde_json::from_slice(&text).ok()
        };
        read().unwrap_or_default()
    }

    /// Writes the file, on disk before the call returns.
    pub(super) fn save(&self, dir: &OwnedFd) -> io::Result<()> {
        replace_file(dir, FILE, &serde_json::to_vec(self)?)
    }
}
