//! Where the figures come from, and reasons to doubt them.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, statfs,
};

use super::report::Report;
use crate::process::bin_dir;
use crate::sidecar::Setup;

/// Tells what kind of machine, disk and build this is.
pub(super) fn describe(report: &mut Report, setup: &Setup) -> Result<()> {
    report.begin("Machine")?;
    let debug = is_debug(&bin_dir()?);
    report.fact("date", jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string())?;
    report.fact("version", env!("CARGO_PKG_VERSION"))?;
    report.fact("build", if debug { "debug" } else { "release" })?;
    report.fact("processors", std::thread::available_parallelism()?.get())?;
    report.fact("kernel", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim())?;
    let load = fs::read_to_string("/proc/loadavg")?;
    report.fact("load", load.split_ascii_whitespace().take(3).collect::<Vec<_>>().join(" "))?;
    report.fact("file system", file_system(setup.outside())?)?;
    if debug {
        report.warn("this is a debug build: sizes and times mean nothing")?;
    }
    if in_memory(setup.outside())? {
        report.warn("the data directory is in memory, where flushes are free; set TMPDIR to a directory on a disk")?;
    }
    Ok(())
}

/// What the machine's processors have done so far, in ticks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticks {
    all: u64,
    stolen: u64,
}

impl Ticks {
    /// Until now.
    pub(super) fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().context("/proc/stat is empty")?;
        // user, nice, system, idle, iowait, irq, softirq, steal; what follows is in the first two already.
        let fields = line.split_ascii_whitespace().skip(1).take(8).map(|field| Ok(field.parse()?));
        let ticks = fields.collect::<Result<Vec<u64>>>()?;
        Ok(Self { all: ticks.iter().sum(), stolen: ticks.get(7).copied().unwrap_or(0) })
    }

    /// Share that the host has given to other machines since then, in percent.
    pub(super) fn stolen_percent_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        self.stolen.saturating_sub(before.stolen) as f64 / all as f64 * 100.0
    }
}

/// Whether a directory's files are in memory only.
pub(super) fn in_memory(dir: &Path) -> Result<bool> {
    Ok(statfs(dir)?.filesystem_type() == TMPFS_MAGIC)
}

/// Cargo's directory for the profile `dev`, or our own build when it is not there.
fn is_debug(dir: &Path) -> bool {
    match dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") => true,
        Some("release") => false,
        _ => cfg!(debug_assertions),
    }
}

fn file_system(dir: &Path) -> Result<String> {
    const NAMES: [(FsType, &str); 5] = [
        (BTRFS_SUPER_MAGIC, "btrfs"),
        (EXT4_SUPER_MAGIC, "ext4"),
        (OVERLAYFS_SUPER_MAGIC, "overlay"),
        (TMPFS_MAGIC, "tmpfs"),
        (XFS_SUPER_MAGIC, "xfs"),
    ];
    let kind = statfs(dir)?.filesystem_type();
    let name = NAMES.iter().find(|(known, _)| *known == kind);
    Ok(name.map_or_else(|| format!("type {:#x}", kind.0), |(_, name)| (*name).to_owned()))
}
