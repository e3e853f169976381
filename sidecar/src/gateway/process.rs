//! The gateway as an operating system process: starting it, signalling it, looking for why it ended.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, getegid, geteuid, kill_process, pidfd_send_signal};
use serde::Deserialize;
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};

use super::exit::{Exit, Findings, Unreadable};
use super::{GatewayConfig, Identity, env};

/// A lock file is a few hundred bytes; it lies where the agent can write.
const LARGEST_LOCK: u64 = 16 * 1024;

/// Why there is no process. The texts name the remedy.
#[derive(Debug, Error)]
pub(super) enum SpawnError {
    #[error(
        "the program {} was not found; install OpenClaw or set WINSTON_OPENCLAW_BIN", .0.display()
    )]
    NoProgram(PathBuf),
    #[error("the gateway's HOME {} is not a directory", .0.display())]
    NoHome(PathBuf),
    #[error(
        "the program {} cannot be run (WINSTON_OPENCLAW_BIN): {source}", program.display()
    )]
    Refused {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A living gateway, or one whose end has not been looked at yet.
pub(super) struct Process {
    pub(super) pid: Pid,
    hold: Hold,
}

/// What keeps the process from being taken for another one with its id.
enum Hold {
    /// We started it; its id is its own until we have waited for it.
    Child(Child),
    /// An earlier sidecar started it, and entrypoint waits for it. Readable once it has ended (pidfd_open(2)).
    Adopted(AsyncFd<OwnedFd>),
}

/// Starts `<program> gateway run` with this output.
pub(super) fn spawn(config: &GatewayConfig, [stdout, stderr]: [Stdio; 2]) -> Result<Process, SpawnError> {
    let mut command = Command::new(&config.program);
    command
        .args(["gateway", "run"])
        .env_clear()
        .envs(env::complete(config))
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr);
    let detached = crate::sys::detach(&mut command, config.identity, &config.home);
    let child = detached.and_then(|()| command.spawn()).map_err(|source| {
        if !config.home.is_dir() {
            SpawnError::NoHome(config.home.clone())
        } else if source.kind() == io::ErrorKind::NotFound {
            SpawnError::NoProgram(config.program.clone())
        } else {
            SpawnError::Refused { program: config.program.clone(), source }
        }
    })?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw).ok_or_else(|| {
        SpawnError::Refused { program: config.program.clone(), source: io::Error::other("it has no process id") }
    })?;
    Ok(Process { pid, hold: Hold::Child(child) })
}

/// Why there is no process when there is no output for it.
pub(super) fn no_output(config: &GatewayConfig, source: io::Error) -> SpawnError {
    SpawnError::Refused { program: config.program.clone(), source }
}

impl Process {
    /// A process that an earlier sidecar started.
    pub(super) fn adopted(pid: Pid, pidfd: OwnedFd) -> io::Result<Self> {
        Ok(Self { pid, hold: Hold::Adopted(crate::sys::readable(pidfd)?) })
    }

    /// Whether an earlier sidecar started it. Its exit status is entrypoint's to tell then.
    pub(super) fn is_adopted(&self) -> bool {
        matches!(self.hold, Hold::Adopted(_))
    }

    /// Waits for its end. May be dropped and called again.
    pub(super) async fn ended(&mut self) -> Exit {
        let status = match &mut self.hold {
            Hold::Child(child) => child.wait().await.map(Exit::of),
            Hold::Adopted(pidfd) => pidfd.readable().await.map(|_| Exit::Unknown),
        };
        status.unwrap_or_else(|error| {
            tracing::warn!(%error, pid = self.id(), "gateway's exit status lost");
            Exit::Unknown
        })
    }

    /// The id as others print it.
    pub(super) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends a signal.
    pub(super) fn signal(&self, signal: Signal) {
        let sent = match &self.hold {
            Hold::Child(child) if child.id().is_none() => return,
            Hold::Child(_) => kill_process(self.pid, signal),
            Hold::Adopted(pidfd) => pidfd_send_signal(pidfd, signal),
        };
        if let Err(error) = sent {
            tracing::warn!(%error, pid = self.id(), ?signal, "gateway not signalled");
        }
    }
}

/// Where its configuration is.
fn config_file(config: &GatewayConfig) -> PathBuf {
    config.state_dir.join("openclaw.json")
}

/// Whether there is a configuration to start with.
pub(super) fn has_config(config: &GatewayConfig) -> bool {
    config_file(config).is_file()
}

/// Looks for what can make a start fail. Blocks on the disk.
pub(super) fn investigate(config: &GatewayConfig, pid: u32) -> Findings {
    let unwritable =
        [&config.state_dir, &config.home].into_iter().find(|directory| !writable(directory, config.identity)).cloned();
    let other_owner = read_lock(config)
        .map(|lock| lock.pid)
        .filter(|&owner| owner != pid && Path::new("/proc").join(owner.to_string()).exists());
    let unreadable = unreadable(config_file(config), config.identity);
    Findings { no_config: !has_config(config), unwritable, unreadable, other_owner, ..Findings::default() }
}

/// Whether the configuration is a plain file that the gateway cannot read. One of several names, or a link, may lead to what is none of the tenant's:
/// that is as good as a bad one.
fn unreadable(path: PathBuf, identity: Option<Identity>) -> Option<Unreadable> {
    let metadata = std::fs::symlink_metadata(&path).ok().filter(|meta| meta.is_file() && meta.nlink() == 1)?;
    let readable = match identity {
        Some(identity) => granted(&metadata, identity) & 0o4 != 0,
        None => rustix::fs::accessat(CWD, &path, Access::READ_OK, AtFlags::EACCESS) != Err(Errno::ACCESS),
    };
    let ours = || Identity { uid: geteuid().as_raw(), gid: getegid().as_raw() };
    (!readable).then(|| Unreadable { path, user: identity.unwrap_or_else(ours) })
}

/// What the mode of a file lets somebody do. As root the kernel would say yes for ourselves, so for another identity the mode is read as the
/// kernel would for it.
fn granted(metadata: &Metadata, Identity { uid, gid }: Identity) -> u32 {
    crate::fs::granted(metadata.mode(), (metadata.uid(), metadata.gid()), (uid, gid))
}

/// Whether the gateway can create files in a directory.
fn writable(directory: &Path, identity: Option<Identity>) -> bool {
    let Some(identity) = identity else {
        let wanted = Access::WRITE_OK | Access::EXEC_OK;
        return rustix::fs::accessat(CWD, directory, wanted, AtFlags::EACCESS).is_ok();
    };
    let Ok(metadata) = std::fs::metadata(directory) else {
        return false;
    };
    granted(&metadata, identity) & 0o3 == 0o3
}

/// Who holds the state directory, as the gateway's lock file says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Lock {
    pub(super) pid: u32,
    pub(super) owner_id: String,
    pub(super) port: u16,
}

/// Reads the lock file. Blocks on the disk; it lies where the agent can write, so it and the directories above it may be anything.
pub(super) fn read_lock(config: &GatewayConfig) -> Option<Lock> {
    let uid = match config.identity {
        Some(identity) => identity.uid,
        None => rustix::process::geteuid().as_raw(),
    };
    let path = format!("tmp/openclaw-{uid}/gateway.state.lock");
    let below = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let state_dir =
        rustix::fs::open(&config.state_dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat2(state_dir, path, flags, Mode::empty(), below).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(LARGEST_LOCK).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn only_a_plain_file_is_unreadable() {
        let dir = tempfile::tempdir().unwrap();
        let (file, other, link) = (dir.path().join("file"), dir.path().join("other"), dir.path().join("link"));
        let ours = Identity { uid: geteuid().as_raw(), gid: getegid().as_raw() };
        // Somebody else than the file's owner, and than root.
        let theirs = Identity { uid: ours.uid + 1, gid: ours.gid + 1 };
        std::fs::write(&file, "{}").unwrap();
        let mode = |mode| std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        mode(0o600);
        assert_eq!(unreadable(file.clone(), Some(theirs)), Some(Unreadable { path: file.clone(), user: theirs }));
        assert_eq!(unreadable(file.clone(), Some(ours)), None);
        assert_eq!(unreadable(file.clone(), None), None);
        symlink("file", &link).unwrap();
        assert_eq!(unreadable(link, Some(theirs)), None);
        assert_eq!(unreadable(other.clone(), Some(theirs)), None);
        assert_eq!(unreadable(dir.path().to_owned(), Some(theirs)), None);
        mode(0o604);
        assert_eq!(unreadable(file.clone(), Some(theirs)), None);
        mode(0);
        if !geteuid().is_root() {
            assert_eq!(unreadable(file.clone(), None).map(|found| found.user), Some(ours));
        }
        std::fs::hard_link(&file, &other).unwrap();
        assert_eq!(unreadable(file, Some(theirs)), None);
    }
}
