//! The processes of this machine, as `/proc` shows them.

use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::unistd::Pid;

/// The direct children of a process.
pub fn children(parent: Pid) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let field = after.split_ascii_whitespace().nth(1);
        if field == Some(parent.to_string().as_str()) {
            found.push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}

/// A process as `/proc` shows it.
#[derive(Debug)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its command line, with spaces between the arguments.
    pub command: String,
    /// The environment that it was started with, `NAME=value` each.
    pub environment: Vec<String>,
    /// Its working directory; empty when that is not to be known.
    pub directory: PathBuf,
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.pid, self.command)
    }
}

impl Process {
    /// Reads what is to be read; of a zombie, and of another user's process, that is little.
    #[must_use]
    pub fn of(pid: i32) -> Self {
        let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let parts = |bytes: Vec<u8>| -> Vec<String> {
            let parts = bytes.split(|byte| *byte == 0).filter(|part| !part.is_empty());
            parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect()
        };
        Self {
            pid,
            command: parts(read("cmdline")).join(" "),
            environment: parts(read("environ")),
            directory: std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default(),
        }
    }

    /// Whether command line, environment or working directory point into this directory.
    #[must_use]
    pub fn belongs_to(&self, dir: &Path) -> bool {
        let needle = dir.to_string_lossy();
        self.directory.starts_with(dir)
            || self.command.contains(&*needle)
            || self.environment.iter().any(|variable| variable.contains(&*needle))
    }
}

/// The processes of this machine for which `wanted` holds, without this one.
pub fn find_processes(wanted: impl Fn(&Process) -> bool) -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let process = Process::of(pid);
        if u32::try_from(pid).is_ok_and(|pid| pid != std::process::id()) && wanted(&process) {
            found.push(process);
        }
    }
    Ok(found)
}
