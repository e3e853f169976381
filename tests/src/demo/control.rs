//! Control as a process of the demo. However the demo ends, nothing of it stays: neither control, nor its database, nor
//! a tenant.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::bin;
use crate::wait::within;

/// Control ends its database within this.
const STOP: Duration = Duration::from_secs(60);
/// What control left running ends within this; a tenant may take its grace of 25 s.
const CLEAR: Duration = Duration::from_secs(60);
/// After this a database that was asked to end is told to.
const HURRY: Duration = Duration::from_secs(20);
/// Control's exit code when another control holds its directory.
const LOCKED: i32 = 73;

/// The process. Stopped when dropped.
pub(super) struct Control {
    child: Child,
    data: PathBuf,
    log: PathBuf,
    ended: bool,
}

impl Control {
    /// Starts it on `<dir>/control`.
    pub(super) fn start(dir: &Path) -> Result<Self> {
        let data = dir.join("control");
        // The same port as last time, so that URLs go on working; another one if somebody has taken it.
        let remembered = dir.join("port");
        let port: u16 = fs::read_to_string(&remembered).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let listener = TcpListener::bind(("127.0.0.1", port)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        drop(listener);
        fs::write(&remembered, format!("{}\n", address.port()))?;
        match fs::remove_file(data.join("address")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let path = dir.join("control.log");
        let mut log = File::options().create(true).append(true).mode(0o600).open(&path)?;
        writeln!(log, "---")?;
        let mut command = Command::new(bin("winston-control")?);
        command
            .env("WINSTON_CONTROL_LISTEN", address.to_string())
            .env("WINSTON_CONTROL_DATA_DIR", &data)
            .env_remove("DATABASE_URL")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C at the terminal is for the demo, which stops things in order.
            .process_group(0);
        if let Some(openclaw) = std::env::var_os("WINSTON_OPENCLAW_BIN") {
            command.env("WINSTON_LOCAL_OPENCLAW", openclaw);
        }
        let child = command.spawn().context("winston-control")?;
        Ok(Self { child, data, log: path, ended: false })
    }

    /// Why it has ended, if so.
    pub(super) fn end(&mut self) -> Result<Option<String>> {
        let Some(status) = self.child.try_wait()? else { return Ok(None) };
        Ok(Some(self.reason(status)))
    }

    fn reason(&mut self, status: ExitStatus) -> String {
        if status.code() == Some(LOCKED) {
            // Everything in there is the other one's.
            self.ended = true;
            return in_use(&self.data).unwrap_or_else(|| "another demo has just ended there: start again".to_owned());
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<_> = log.lines().rev().take(5).collect();
        format!("control ended ({status}): {}", last.join(" | "))
    }

    /// SIGTERM, upon which it stops its database; and whatever of its own is still there after that.
    pub(super) fn stop(&mut self) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        self.ended = true;
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        if self.child.try_wait()?.is_none() {
            kill(pid, Signal::SIGTERM)?;
            if within(STOP, "control ends", || Ok(self.child.try_wait()?)).is_err() {
                self.child.kill()?;
                self.child.wait()?;
            }
        }
        // Control leaves the database running when it is stopped while it starts it.
        clear(&self.data)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            let _ = writeln!(std::io::stderr(), "winston-demo: {error:#}");
        }
    }
}

/// Who uses control's directory and how to stop it; nothing when nobody does.
pub(super) fn in_use(data: &Path) -> Option<String> {
    let path = data.join("control.lock");
    let lock = File::options().write(true).open(&path).ok()?;
    let inode = lock.metadata().ok()?.ino();
    let Err((_, Errno::EWOULDBLOCK)) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else { return None };
    let dir = data.parent().unwrap_or(data).display();
    let Some(holder) = holder(inode) else {
        return Some(format!("another demo runs in {dir}: stop it with Ctrl-C where it was started"));
    };
    // Control's parent is the demo, unless that one was killed.
    let pid = parent(holder).filter(|&pid| name(pid).starts_with("winston-demo")).unwrap_or(holder);
    Some(format!("another demo runs in {dir}: stop it with Ctrl-C where it was started, or with `kill {pid}`"))
}

/// The process with a `flock` on this file. Its pid is 0 or less when it is in another container.
fn holder(inode: u64) -> Option<i32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let held = locks.lines().find_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let file = fields.get(5)?.rsplit(':').next()?.parse::<u64>().ok()?;
        (fields[1] == "FLOCK" && file == inode).then(|| fields[4].parse::<i32>().ok())?
    });
    held.filter(|&pid| pid > 0)
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn name(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// Ends the database and the tenants that a control left running in its directory. It must have ended itself.
pub(super) fn clear(data: &Path) -> Result<()> {
    // Control resolves the path, and its children show it so.
    let Ok(data) = data.canonicalize() else { return Ok(()) };
    let started = Instant::now();
    let mut asked = Vec::new();
    within(CLEAR, "what control started ends", || {
        let left = left(&data)?;
        if left.is_empty() {
            return Ok(Some(()));
        }
        let postmaster = postmaster(&data);
        for &(pid, tenant) in &left {
            let hurry = started.elapsed() > HURRY;
            // SIGINT is PostgreSQL's fast shutdown, SIGQUIT the immediate one; its other processes follow it. What
            // makes or starts a database ends by itself, and is followed by one that can be asked.
            let signal = match (tenant, postmaster == Some(pid)) {
                (true, _) => Signal::SIGTERM,
                (false, true) if hurry => Signal::SIGQUIT,
                (false, true) => Signal::SIGINT,
                (false, false) => continue,
            };
            if !asked.contains(&(pid, signal)) {
                asked.push((pid, signal));
                let _ = kill(Pid::from_raw(pid), signal); // it may have ended by itself
            }
        }
        bail!("still there: {left:?}")
    })
}

/// The first line of `postmaster.pid`, which may be left from long ago: only believed together with [`left`].
fn postmaster(data: &Path) -> Option<i32> {
    let text = fs::read_to_string(data.join("postgres/data/postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok()
}

/// Processes of the database, and entrypoints of tenants (`true`).
fn left(data: &Path) -> Result<Vec<(i32, bool)>> {
    let database = data.join("postgres");
    let tenants = data.join("tenants");
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok()) else { continue };
        let command = fs::read(path.join("cmdline")).unwrap_or_default();
        let named =
            command.split(|&byte| byte == 0).any(|word| Path::new(OsStr::from_bytes(word)).starts_with(&database));
        let inside = fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&database));
        if named || inside {
            left.push((pid, false));
        } else if name(pid).starts_with("winston-entrypo") {
            let environment = fs::read(path.join("environ")).unwrap_or_default();
            let root = environment.split(|&byte| byte == 0).find_map(|pair| pair.strip_prefix(b"WINSTON_DATA_DIR="));
            if root.is_some_and(|root| Path::new(OsStr::from_bytes(root)).starts_with(&tenants)) {
                left.push((pid, true));
            }
        }
    }
    Ok(left)
}
