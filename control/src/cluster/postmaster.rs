//! Whether a cluster runs, from `postmaster.pid` and `/proc`.
//!
//! The file alone says little: after a crash, and above all after a new start of a container, its pid may be that of
//! any other process. And it is in a directory of the cluster's user, so as root nothing here follows a link.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Error, Read as _, Result, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fchown, openat, renameat, unlinkat};
use rustix::io::Errno;

const NAME: &str = "postmaster.pid";
/// More than the file ever has.
const MAX_BYTES: u64 = 8 << 10;
/// The kernel's pids end before this number, so it is never anybody's.
const NOBODY: &str = "4194305";

/// A running postmaster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Postmaster {
    /// Where its socket is, if it says so.
    pub(super) socket_dir: Option<PathBuf>,
}

/// The postmaster of this data directory, if one runs.
pub(super) fn running(data: &Path) -> Result<Option<Postmaster>> {
    let Some(text) = read(data)? else {
        return Ok(None);
    };
    let mut lines = text.lines();
    // A single-user server writes its pid as a negative number.
    let pid = lines.next().and_then(|line| line.trim().parse::<i32>().ok()).map_or(0, i32::unsigned_abs);
    if pid == 0 || !is_postmaster(&Path::new("/proc").join(pid.to_string()), data) {
        return Ok(None);
    }
    let socket_dir = lines.nth(3).map(str::trim).filter(|line| !line.is_empty()).map(PathBuf::from);
    Ok(Some(Postmaster { socket_dir }))
}

/// Makes PostgreSQL start although the pid in the file is that of somebody else by now. The rest of the file stays:
/// with it PostgreSQL finds out whether backends of the dead postmaster still use its shared memory.
pub(super) fn disown(data: &Path, owner: Option<(Uid, Gid)>) -> Result<()> {
    let Some(text) = read(data)? else {
        return Ok(());
    };
    let dir = directory(data)?;
    let Some((_, rest)) = text.split_once('\n') else {
        // Not even a pid: a machine that went down at a bad moment.
        return Ok(unlinkat(&dir, NAME, AtFlags::empty())?);
    };
    let new = "postmaster.pid.new";
    match unlinkat(&dir, new, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(&dir, new, flags, Mode::from_raw_mode(0o600))?);
    if let Some((uid, gid)) = owner {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid.as_raw()), rustix::fs::Gid::from_raw(gid.as_raw()));
        fchown(&file, Some(uid), Some(gid))?;
    }
    file.write_all(format!("{NOBODY}\n{rest}").as_bytes())?;
    file.sync_all()?;
    Ok(renameat(&dir, new, &dir, NAME)?)
}

fn directory(data: &Path) -> Result<OwnedFd> {
    Ok(openat(CWD, data, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

fn read(data: &Path) -> Result<Option<String>> {
    // NONBLOCK, so that a pipe with this name does not hold us up.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match directory(data).and_then(|dir| Ok(openat(&dir, NAME, flags, Mode::empty())?)) {
        Ok(file) => File::from(file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Whether the process at `/proc/<pid>` is a PostgreSQL that serves this data directory.
fn is_postmaster(process: &Path, data: &Path) -> bool {
    let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
    let mut arguments = line.split(|byte| *byte == 0).map(OsStr::from_bytes);
    let program = match std::fs::read_link(process.join("exe")) {
        Ok(program) => program,
        // Root in a container may not look at another user's program; the command line is open to all.
        Err(error) if denied(&error) => arguments.clone().next().map(PathBuf::from).unwrap_or_default(),
        Err(_) => return false,
    };
    let name = program.file_name().and_then(OsStr::to_str).unwrap_or_default();
    // An upgrade removes the program of the server that still runs.
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    let here = || std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == data);
    matches!(name, "postgres" | "postmaster") && (arguments.any(|argument| argument == data.as_os_str()) || here())
}

fn denied(error: &Error) -> bool {
    error.kind() == std::io::ErrorKind::PermissionDenied
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_postgres_of_this_directory_is_the_postmaster() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let process = dir.path().join("process");
        let is = |program: &str, line: &str, cwd: &str| {
            let _ = std::fs::remove_dir_all(&process);
            std::fs::create_dir(&process).unwrap();
            std::os::unix::fs::symlink(program, process.join("exe")).unwrap();
            std::os::unix::fs::symlink(cwd, process.join("cwd")).unwrap();
            std::fs::write(process.join("cmdline"), line.replace(' ', "\0")).unwrap();
            is_postmaster(&process, &data)
        };
        let named = format!("postgres -D {}", data.display());
        let there = data.display().to_string();
        assert!(is("/usr/lib/postgresql/17/bin/postgres", &named, "/"));
        assert!(is("/usr/lib/postgresql/17/bin/postgres (deleted)", &named, "/"));
        assert!(is("/usr/bin/postmaster", "postmaster", &there));
        assert!(!is("/usr/bin/postgres", "postgres -D /elsewhere", "/elsewhere"));
        assert!(!is("/usr/bin/sleep", &named, &there));
        assert!(!is_postmaster(&dir.path().join("nobody"), &data));
    }

    #[test]
    fn a_file_with_somebody_elses_pid_is_disowned_and_otherwise_kept() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        assert_eq!(running(&data).unwrap(), None);
        disown(&data, None).unwrap();
        let file = data.join(NAME);
        std::fs::write(&file, format!("{}\nkept\n", std::process::id())).unwrap();
        assert_eq!(running(&data).unwrap(), None);
        disown(&data, None).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{NOBODY}\nkept\n"));
        std::fs::write(&file, "").unwrap();
        disown(&data, None).unwrap();
        assert!(!file.exists());
        // A link could lead root anywhere.
        std::fs::write(dir.path().join("other"), "1\n").unwrap();
        std::os::unix::fs::symlink(dir.path().join("other"), &file).unwrap();
        assert!(running(&data).is_err() && disown(&data, None).is_err());
    }
}
