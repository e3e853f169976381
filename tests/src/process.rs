//! Real processes under test: where the binaries are, the entrypoint with a stand-in sidecar, bounded waiting.
//!
//! Nothing here sleeps. A test waits for a line, for the end of a process or for the end of its output, each with a
//! limit. The end of the output is a proof too: it comes when the last process that inherited the pipe is gone.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

pub use self::table::{Process, children, find_processes};

mod table;

/// Longest wait for anything in a test. Generous: two test runs may share a small machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A token that the entrypoint and the sidecar accept.
pub const TEST_TOKEN: &str = "test-token-0123456789abcdef0123456789abcdef";

/// The directory with the binaries under test: `WINSTON_BIN_DIR`, else that of the build which made this program (tests
/// are in a directory `deps` of it).
pub fn bin_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("WINSTON_BIN_DIR") {
        return Ok(dir.into());
    }
    let program = std::env::current_exe().context("where is this program?")?;
    let dir = program.parent().map(|dir| if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir });
    dir.map(Path::to_owned).ok_or_else(|| anyhow!("{} is in no directory", program.display()))
}

/// A binary under test.
pub fn bin(name: &str) -> Result<PathBuf> {
    let path = bin_dir()?.join(name);
    if !path.is_file() {
        bail!("{} is missing: run `cargo build --workspace --bins` first", path.display());
    }
    Ok(path)
}

/// Says that a test could not run here, and why. It goes around the harness, which hides the output of tests that
/// pass, and into the file `WINSTON_SKIP_LOG`, from which `./check` counts.
pub fn skip(test: &str, reason: &str) {
    let line = format!("SKIPPED {test}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("WINSTON_SKIP_LOG") {
        let log = std::fs::OpenOptions::new().append(true).create(true).open(path);
        let _ = log.and_then(|mut log| log.write_all(line.as_bytes()));
    }
}

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// The rows that a binary prints for `--variables`: name, default and meaning of each variable.
pub fn variables(name: &str) -> Result<Vec<[String; 3]>> {
    let output = Command::new(bin(name)?).arg("--variables").output()?;
    if !output.status.success() {
        bail!("{name} --variables: {}", output.status);
    }
    let text = String::from_utf8(output.stdout)?;
    text.lines()
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').splitn(3, " | ").collect();
            match cells.as_slice() {
                [name, default, meaning] => {
                    Ok([name, default, meaning].map(|cell| cell.trim().trim_matches('`').to_owned()))
                }
                _ => bail!("no row of a table: {line}"),
            }
        })
        .collect()
}

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The arguments that make `unshare` run something as PID 1 of its own namespaces, or why that is impossible here.
pub fn namespaces() -> Result<&'static [&'static str], &'static str> {
    const ROOT: &[&str] = &["--pid", "--mount", "--fork", "--mount-proc", "--kill-child"];
    const USER: &[&str] = &["--user", "--map-root-user", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child"];
    static KNOWN: OnceLock<Result<&'static [&'static str], String>> = OnceLock::new();
    let arguments = if is_root() { ROOT } else { USER };
    let known = KNOWN.get_or_init(|| {
        let tried = Command::new("unshare").args(arguments).arg("true").output();
        match tried {
            Ok(output) if output.status.success() => Ok(arguments),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(format!("unshare: {error}")),
        }
    });
    match known {
        Ok(arguments) => Ok(arguments),
        Err(reason) => Err(reason),
    }
}

/// What PID 1 of a container may at most do, as an argument of setpriv(1): what Docker and containerd leave root when nobody says otherwise.
pub const CONTAINER_CAPABILITIES: &str = "--bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,\
    +net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";

/// How the entrypoint is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As PID 1 of its own PID and mount namespaces and with no more capabilities than in a container.
    Pid1,
    /// As an ordinary process, as the `local` provider does.
    Subreaper,
}

/// Writes a program that can be run at once.
///
/// It is written by a process of its own: had this one it open, a process that another thread starts meanwhile would hold it open for a moment too,
/// and what is open for writing cannot be run ("text file busy").
pub fn write_program(path: &Path, text: &str) -> Result<()> {
    let mut writer = Command::new("/bin/sh")
        .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()?;
    writer.stdin.take().context("no pipe")?.write_all(text.as_bytes())?;
    let status = writer.wait()?;
    ensure!(status.success(), "{}: {status}", path.display());
    Ok(())
}

/// An entrypoint to be started, with a data directory and a stand-in sidecar of its own.
pub struct Entrypoint {
    mode: Mode,
    dir: Arc<TempDir>,
    program: PathBuf,
    prelude: String,
    ignored: Option<String>,
    environment: Vec<(String, String)>,
    user: Option<u32>,
    /// Of [`Mode::Pid1`]: an argument of setpriv(1).
    capabilities: Option<&'static str>,
}

impl Entrypoint {
    /// With everything that is required. `sidecar` is the body of a shell script that plays the sidecar.
    pub fn new(mode: Mode, sidecar: &str) -> Result<Self> {
        let dir = Arc::new(tempfile::tempdir()?);
        // Other users must be able to enter: some tests run as one.
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755))?;
        let script = dir.path().join("sidecar.sh");
        write_program(&script, &format!("#!/bin/sh\n{sidecar}\n"))?;
        // The tenant's directory for temporary files goes with the test.
        let temporary = dir.path().join("tmp");
        std::fs::create_dir(&temporary)?;
        std::fs::set_permissions(&temporary, PermissionsExt::from_mode(0o1777))?;
        let data = dir.path().join("data");
        let made = Self {
            mode,
            program: bin("winston-entrypoint")?,
            prelude: String::new(),
            ignored: None,
            environment: Vec::new(),
            user: None,
            capabilities: Some(CONTAINER_CAPABILITIES),
            dir,
        };
        Ok(made
            .env("WINSTON_TENANT_ID", "test-tenant")
            .env("WINSTON_SIDECAR_TOKEN", TEST_TOKEN)
            .env("WINSTON_DATA_DIR", &data.to_string_lossy())
            .env("TMPDIR", &temporary.to_string_lossy())
            // Not the port of whatever else runs on this machine.
            .env("WINSTON_SIDECAR_LISTEN", "127.0.0.1:0")
            .env("WINSTON_SIDECAR_BIN", &script.to_string_lossy()))
    }

    /// Sets a variable; an empty value counts as unset.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Shell commands that run in the new namespaces before the entrypoint takes the shell's place.
    #[must_use]
    pub fn prelude(mut self, commands: &str) -> Self {
        self.prelude = commands.to_owned();
        self
    }

    /// Takes no capability away from [`Mode::Pid1`]: a privileged container.
    #[must_use]
    pub fn privileged(mut self) -> Self {
        self.capabilities = None;
        self
    }

    /// Starts it with these signals ignored, as `nohup` and background jobs of shells do.
    #[must_use]
    pub fn ignoring(mut self, signals: &str) -> Self {
        self.ignored = Some(signals.to_owned());
        self
    }

    /// Runs as this user; only as root. The program is copied to where that user can reach it.
    pub fn user(mut self, uid: u32) -> Result<Self> {
        let reachable = self.dir.path().join("winston-entrypoint");
        std::fs::copy(&self.program, &reachable)?;
        self.program = reachable;
        self.user = Some(uid);
        Ok(self)
    }

    /// The directory around the data directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts it. Its environment is `PATH` and what was set, nothing else. It may be started again later.
    pub fn start(&self) -> Result<Running> {
        let mut command = match self.mode {
            Mode::Subreaper => match &self.ignored {
                None => Command::new(&self.program),
                Some(signals) => {
                    let mut command = Command::new("sh");
                    command.args(["-c", &format!("trap '' {signals}; exec \"$0\"")]).arg(&self.program);
                    command
                }
            },
            Mode::Pid1 => {
                let arguments = namespaces().map_err(|reason| anyhow!("{reason}"))?;
                let mut command = Command::new("unshare");
                let ignore = self.ignored.as_ref().map(|signals| format!("trap '' {signals}")).unwrap_or_default();
                let script = format!("set -e; {}\n{ignore}\nexec \"$@\" \"$0\"", self.prelude);
                command.args(arguments).args(["sh", "-c", &script]);
                command.arg(&self.program);
                if let Some(capabilities) = self.capabilities {
                    command.args(["setpriv", capabilities]);
                }
                command
            }
        };
        command.env_clear().envs(std::env::vars_os().filter(|(name, _)| name == "PATH"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(uid) = self.user {
            std::os::unix::process::CommandExt::uid(&mut command, uid);
            std::os::unix::process::CommandExt::gid(&mut command, uid);
        }
        Running::spawn(command, self.mode, Arc::clone(&self.dir))
    }
}

/// A running process with its output.
pub struct Running {
    mode: Mode,
    pid: Pid,
    lines: Receiver<String>,
    errors: Arc<Mutex<String>>,
    error_lines: Receiver<String>,
    end: Receiver<std::io::Result<std::process::ExitStatus>>,
    ended: bool,
    _dir: Arc<TempDir>,
}

impl Running {
    /// Starts a command and follows its output. In [`Mode::Pid1`] the command is an `unshare`, whose only child is the
    /// entrypoint. The directory is kept for as long.
    pub fn spawn(mut command: Command, mode: Mode, dir: Arc<TempDir>) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        let errors = Arc::new(Mutex::new(String::new()));
        let lines = follow(child.stdout.take(), None);
        let error_lines = follow(child.stderr.take(), Some(Arc::clone(&errors)));
        Ok(Self { mode, pid, lines, errors, error_lines, end: wait_in_background(child), ended: false, _dir: dir })
    }

    /// The next line of the sidecar's output.
    pub fn line(&self) -> Result<String> {
        self.lines.recv_timeout(PATIENCE).with_context(|| format!("no further line; stderr:\n{}", self.stderr()))
    }

    /// Waits until the next line of output is this one.
    pub fn expect(&self, line: &str) -> Result<()> {
        let found = self.line().with_context(|| format!("waiting for {line:?}"))?;
        if found != line {
            bail!("expected {line:?}, found {found:?}");
        }
        Ok(())
    }

    /// Waits for a line on stderr that contains this.
    pub fn expect_log(&self, part: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.error_lines.recv_timeout(left);
            let line = line.with_context(|| format!("no {part:?} in:\n{}", self.stderr()))?;
            if line.contains(part) {
                return Ok(());
            }
        }
    }

    /// Every line of output until the last process that could write one is gone.
    pub fn rest(&self) -> Result<Vec<String>> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => return Ok(lines),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("some process still holds the output; so far {lines:?}")
                }
            }
        }
    }

    /// Every line of output that nobody has taken yet.
    #[must_use]
    pub fn untaken(&self) -> String {
        self.lines.try_iter().map(|line| line + "\n").collect()
    }

    /// Everything on stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        match self.errors.lock() {
            Ok(text) => text.clone(),
            Err(poisoned) => poisoned.into_inner().clone(),
        }
    }

    /// The entrypoint's pid, seen from outside its namespace.
    pub fn entrypoint(&self) -> Result<Pid> {
        match self.mode {
            Mode::Subreaper => Ok(self.pid),
            Mode::Pid1 => children(self.pid)?.first().copied().ok_or_else(|| anyhow!("unshare has no child")),
        }
    }

    /// Signals the entrypoint.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.entrypoint()?, signal).with_context(|| format!("{signal} to the entrypoint"))
    }

    /// Waits for its end; 128 + signal where a signal ended it.
    pub fn wait(&mut self) -> Result<i32> {
        let status = self
            .end
            .recv_timeout(PATIENCE)
            .with_context(|| format!("it did not end; stderr:\n{}", self.stderr()))??;
        self.ended = true;
        status.code().or_else(|| status.signal().map(|signal| 128 + signal)).ok_or_else(|| anyhow!("{status}"))
    }

    /// Waits for its end and that of everything it started; the code, the remaining output and the log.
    pub fn finish(&mut self) -> Result<(i32, Vec<String>, String)> {
        let code = self.wait()?;
        let lines = self.rest()?;
        while self.error_lines.recv_timeout(PATIENCE).is_ok() {}
        Ok((code, lines, self.stderr()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // A failed test must not leave processes behind: twice asked means hurry.
        for _ in 0..2 {
            let _ = self.signal(Signal::SIGTERM);
            if self.end.recv_timeout(Duration::from_secs(2)).is_ok() {
                return;
            }
        }
        let _ = kill(self.pid, Signal::SIGKILL);
    }
}

fn follow(stream: Option<impl Read + Send + 'static>, copy: Option<Arc<Mutex<String>>>) -> Receiver<String> {
    let (sender, receiver) = channel();
    if let Some(stream) = stream {
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines() {
                let Ok(line) = line else { return };
                if let Some(Ok(mut copy)) = copy.as_ref().map(|copy| copy.lock()) {
                    copy.push_str(&line);
                    copy.push('\n');
                }
                // Read on even when nobody listens any more: the writer must not block.
                let _ = sender.send(line);
            }
        });
    }
    receiver
}

fn wait_in_background(mut child: Child) -> Receiver<std::io::Result<std::process::ExitStatus>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(child.wait()));
    receiver
}
