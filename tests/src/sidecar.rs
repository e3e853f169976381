//! A real `winston-sidecar` process on a data directory of its own.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::{Answer, Client};
use crate::process::{TEST_TOKEN, bin, is_root};
use crate::wait::eventually;

/// The sidecar as it is shipped.
const PROGRAM: &str = "winston-sidecar";

/// How a sidecar is started. Cloned settings with the same directory make a restart.
#[derive(Clone)]
pub struct Setup {
    dir: Arc<TempDir>,
    data: PathBuf,
    token: String,
    program: &'static str,
    environment: Vec<(String, String)>,
    /// Program and arguments that run before the sidecar in its place.
    wrapper: Vec<String>,
}

impl Setup {
    /// A new, empty data directory, no gateway, no control, any free port.
    pub fn new() -> Result<Self> {
        let dir = Arc::new(tempfile::tempdir()?);
        let data = dir.path().join("data");
        std::fs::create_dir(&data)?;
        let (token, program) = (TEST_TOKEN.to_owned(), PROGRAM);
        Ok(Self { dir, data, token, program, environment: Vec::new(), wrapper: Vec::new() })
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(key, _)| key != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another build of the sidecar: its file name in the directory of the binaries.
    #[must_use]
    pub fn program(mut self, name: &'static str) -> Self {
        self.program = name;
        self
    }

    /// Another token than [`TEST_TOKEN`]: one that a control has issued.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        token.clone_into(&mut self.token);
        self
    }

    /// The token that it takes.
    #[must_use]
    pub fn token_text(&self) -> &str {
        &self.token
    }

    /// The build with failpoints, and what is to fail (see `sidecar/src/failpoint.rs`); or why that cannot be done here.
    pub fn failpoints(mut self, points: &str) -> Result<Self, String> {
        self.program = "winston-sidecar-failpoints";
        bin(self.program)
            .map_err(|error| format!("{error:#}, with the feature `failpoints`, and copy it to that name"))?;
        Ok(self.env("WINSTON_FAILPOINTS", points))
    }

    /// Another data directory than the one that was made.
    #[must_use]
    pub fn data_dir(mut self, data: &Path) -> Self {
        self.data = data.to_owned();
        self
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A directory beside the data directory.
    #[must_use]
    pub fn outside(&self) -> &Path {
        self.dir.path()
    }

    /// Puts the data directory on a volume of its own of this size (`2m`, …), or says why that is impossible here. The volume is in
    /// the sidecar's mount namespace: look at it through [`Sidecar::volume`]. It is gone with the sidecar. `prepare` are shell commands
    /// that run in the empty volume before the sidecar starts.
    pub fn volume(self, size: &str, prepare: &str) -> Result<Result<Self, String>> {
        self.mounted(&format!("mount -t tmpfs -o size={size} tmpfs \"$WINSTON_DATA_DIR\""), prepare)
    }

    /// Like [`Self::volume`], with the shell commands that mount it.
    pub fn mounted(mut self, mount: &str, prepare: &str) -> Result<Result<Self, String>> {
        let script = format!("{mount} && cd \"$WINSTON_DATA_DIR\" && {{ {prepare}\n:; }} && cd / && exec \"$0\"");
        let mut wrapper: Vec<String> = vec!["unshare".to_owned(), "--mount".to_owned()];
        if !is_root() {
            wrapper.extend(["--user", "--map-root-user"].map(str::to_owned));
        }
        wrapper.extend(["sh".to_owned(), "-c".to_owned(), script]);
        let tried =
            Command::new(&wrapper[0]).args(&wrapper[1..]).arg("true").env("WINSTON_DATA_DIR", &self.data).output()?;
        if !tried.status.success() {
            return Ok(Err(String::from_utf8_lossy(&tried.stderr).trim().to_owned()));
        }
        self.wrapper = wrapper;
        Ok(Ok(self))
    }

    /// Lets a program start it: the sidecar's path becomes its last argument.
    #[must_use]
    pub fn wrapped(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|argument| (*argument).to_owned()).collect();
        self
    }

    /// The command that would start it.
    pub fn command(&self) -> Result<Command> {
        let program = bin(self.program)?;
        let mut command = match self.wrapper.split_first() {
            Some((wrapper, arguments)) => {
                let mut command = Command::new(wrapper);
                command.args(arguments).arg(program);
                command
            }
            None => Command::new(program),
        };
        command
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name == "PATH"))
            .env("WINSTON_SIDECAR_TOKEN", &self.token)
            .env("WINSTON_DATA_DIR", &self.data)
            .env("WINSTON_SIDECAR_LISTEN", "127.0.0.1:0")
            .env("WINSTON_GATEWAY", "off")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Starts it and waits until it answers and has listed its directory.
    pub fn start(&self) -> Result<Sidecar> {
        let log = self.dir.path().join("sidecar.log");
        let file = File::create(&log)?;
        let mut command = self.command()?;
        command.stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().context("winston-sidecar")?;
        let mut sidecar = Sidecar { setup: self.clone(), child, log, address: None };
        let address = eventually("the sidecar listens", || sidecar.find_address())?;
        sidecar.address = Some(address);
        let ended = eventually("the sidecar has listed its directory", || {
            let ended = sidecar.ended()?;
            let is_watching = sidecar.log_lines().any(|line| line["message"] == "watching");
            Ok((is_watching || ended.is_some()).then_some(ended))
        })?;
        match ended {
            Some(status) => bail!("the sidecar ended during its start: {status}"),
            None => Ok(sidecar),
        }
    }
}

/// A running sidecar. Killed when dropped.
pub struct Sidecar {
    setup: Setup,
    child: Child,
    log: PathBuf,
    address: Option<SocketAddr>,
}

impl Sidecar {
    fn find_address(&mut self) -> Result<Option<SocketAddr>> {
        if let Some(status) = self.child.try_wait()? {
            bail!("ended with {status}: {}", self.log_text());
        }
        let found = self.log_lines().find(|line| line["message"] == "listening");
        Ok(found.and_then(|line| line["address"].as_str()?.parse().ok()))
    }

    /// Everything that it printed.
    #[must_use]
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn log_lines(&self) -> impl Iterator<Item = Value> {
        let lines: Vec<_> = self.log_text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        lines.into_iter()
    }

    /// Waits for a log line with this message.
    pub fn wait_for_log(&self, message: &str) -> Result<()> {
        eventually(message, || Ok(self.log_lines().any(|line| line["message"] == message).then_some(())))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its end, if it has come.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        self.setup.data()
    }

    /// Its data directory as it sees it itself, in its own mount namespace.
    #[must_use]
    pub fn volume(&self) -> PathBuf {
        self.seen_by_it(self.data())
    }

    /// An absolute path in its mount namespace.
    #[must_use]
    pub fn seen_by_it(&self, path: &Path) -> PathBuf {
        Path::new("/proc").join(self.pid().to_string()).join("root").join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A request with the token.
    pub fn call(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
        self.client().call(method, target, headers, body)
    }

    /// A client with the token.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.address(), &self.setup.token)
    }

    /// `GET` with the token.
    pub fn get(&self, target: &str) -> Result<Answer> {
        self.call("GET", target, &[], b"")
    }

    /// `PUT` of text, in the old form.
    pub fn put(&self, path: &str, content: &str) -> Result<Answer> {
        self.put_with(path, content, &[])
    }

    /// `PUT` of text, with headers.
    pub fn put_with(&self, path: &str, content: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        let mut all = vec![("Content-Type", "application/json")];
        all.extend_from_slice(headers);
        self.call("PUT", &format!("/files/{path}"), &all, json!({ "content": content }).to_string().as_bytes())
    }

    /// The recorded changes, oldest first.
    pub fn changes(&self) -> Result<Vec<Value>> {
        let answer = self.get("/changes?limit=1000")?.expect(200)?.json()?;
        let mut changes = answer["changes"].as_array().cloned().context("changes")?;
        changes.reverse();
        Ok(changes)
    }

    /// The recorded changes of one path, as far as they are still on the volume, as `source action`, oldest first.
    pub fn history(&self, path: &str) -> Result<Vec<String>> {
        let word = |change: &Value, key: &str| change[key].as_str().unwrap_or("?").to_owned();
        let (mut changes, mut after) = (Vec::new(), 0);
        loop {
            let answer = self.get(&format!("/changes?after={after}&limit=1000"))?;
            if answer.status == 410 {
                after = answer.json()?["first_seq"].as_u64().context("first_seq")? - 1;
                continue;
            }
            let page = answer.expect(200)?.json()?;
            changes.extend(page["changes"].as_array().cloned().context("changes")?);
            if page["next"] == page["head"] {
                break;
            }
            after = page["next"].as_u64().context("next")?;
        }
        let changes = changes.into_iter().filter(|change| change["path"] == path);
        Ok(changes.map(|change| format!("{} {}", word(&change, "source"), word(&change, "action"))).collect())
    }

    /// Waits until the history of a path is this.
    pub fn wait_for_history(&self, path: &str, wanted: &[&str]) -> Result<()> {
        let mut last = Vec::new();
        eventually(&format!("history of {path}"), || {
            last = self.history(path)?;
            if last == wanted { Ok(Some(())) } else { bail!("is {last:?}, wanted {wanted:?}") }
        })
    }

    /// `GET /status`.
    pub fn status(&self) -> Result<Value> {
        self.get("/status")?.expect(200)?.json()
    }

    /// Waits until its relation to control is this; what it says about it.
    pub fn wait_for_sync_state(&self, state: &str) -> Result<Value> {
        eventually(&format!("sync state {state}"), || {
            let sync = self.status()?["sync"].take();
            if sync["state"] == state { Ok(Some(sync)) } else { bail!("is {sync}") }
        })
    }

    /// Writes a file as the agent would: past the API.
    pub fn agent_writes(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.data().join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        Ok(std::fs::write(path, content)?)
    }

    /// Writes a file as [`Self::agent_writes`] does, but so that nobody finds a part of it: it is moved into its place when it is whole.
    pub fn agent_saves(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.data().join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let beside = self.data().with_extension("saving");
        std::fs::write(&beside, content)?;
        Ok(std::fs::rename(beside, path)?)
    }

    /// Holds it where it is (SIGSTOP) until [`Self::resume`], so that two things can happen between two of its steps.
    pub fn pause(&self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), Signal::SIGSTOP)?;
        let stat = format!("/proc/{}/stat", self.pid());
        eventually("the sidecar stands still", || {
            let stat = std::fs::read_to_string(&stat)?;
            Ok(stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" T")).then_some(()))
        })
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.pid())?), Signal::SIGCONT)?)
    }

    /// SIGKILL, as most platforms stop a container.
    pub fn kill(mut self) -> Result<Setup> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(self.setup.clone())
    }

    /// SIGTERM; waits for the end.
    pub fn stop(mut self) -> Result<(ExitStatus, Setup)> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        let status = eventually("the sidecar ends", || Ok(self.child.try_wait()?))?;
        Ok((status, self.setup.clone()))
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of all journal segments of a data directory.
pub fn journal_lines(data: &Path) -> Result<Vec<String>> {
    let mut segments: Vec<_> = std::fs::read_dir(data.join(".winston/changes"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    segments.sort();
    let mut lines = Vec::new();
    for segment in segments {
        lines.extend(std::fs::read_to_string(segment)?.lines().map(str::to_owned));
    }
    Ok(lines)
}
