//! A `winston-control` of one's own: a process with a private database in a temporary directory.

#![allow(clippy::expect_used, clippy::panic, reason = "a harness that cannot work fails the test that uses it")]

mod client;
mod wait;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

pub use self::client::{Answer, Client};
use self::wait::LIMIT;
pub use self::wait::until;
use crate::process::bin;

/// A running (or killed) control.
#[derive(Debug)]
pub struct Control {
    dir: TempDir,
    env: Vec<(String, String)>,
    child: Option<Child>,
}

impl Control {
    /// Starts one; `env` comes on top of the harness's own settings.
    pub async fn start(env: &[(&str, &str)]) -> Self {
        let dir = TempDir::with_prefix("winston-test-").expect("a temporary directory");
        // Run as root, the database is another user's, who has to get through here.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).expect("permissions");
        let mut control = Self {
            dir,
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            child: None,
        };
        control.start_again().await;
        control
    }

    /// Starts the control of this directory, after [`Self::kill`] or [`Self::terminate`].
    ///
    /// # Panics
    ///
    /// When it does not answer in time.
    pub async fn start_again(&mut self) {
        if let Err(status) = self.launch().await {
            panic!("control ended at once ({status}): {}", self.log());
        }
    }

    /// Like [`Self::start_again`], as a supervisor does it: a control that ends by itself is started once more. Right after a database was
    /// killed its last processes can still be there, and then a start fails. How many starts it took.
    ///
    /// # Panics
    ///
    /// When it does not stay within a minute.
    pub async fn start_until_it_stays(&mut self) -> u64 {
        let mut starts = 0;
        until("a control that stays", async || {
            starts += 1;
            self.launch().await.ok()
        })
        .await;
        starts
    }

    async fn launch(&mut self) -> Result<(), ExitStatus> {
        let address = self.data_dir().join("address");
        let _ = fs::remove_file(&address);
        self.child = Some(self.command().spawn().expect("winston-control starts"));
        until("the address of control", async || {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                return Some(Err(status));
            }
            address.exists().then_some(Ok(()))
        })
        .await
    }

    /// The command that starts it, with the output going to the log.
    ///
    /// # Panics
    ///
    /// When the log cannot be opened.
    #[must_use]
    pub fn command(&self) -> Command {
        let log = || fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log")).expect("a log");
        let mut command = Command::new(bin("winston-control").expect("the program"));
        command
            .env_remove("DATABASE_URL")
            .env("WINSTON_CONTROL_LISTEN", "127.0.0.1:0")
            .env("WINSTON_CONTROL_DATA_DIR", self.data_dir())
            .env("WINSTON_PROVISION_WAIT_SECONDS", "0")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log());
        command
    }

    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("control")
    }

    /// The temporary directory around it, for what a test puts beside.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// Everything that it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// A client with the admin key.
    ///
    /// # Panics
    ///
    /// When control has written no key.
    #[must_use]
    pub fn admin(&self) -> Client {
        let key = fs::read_to_string(self.data_dir().join("admin-api-key")).expect("an API key");
        self.client(Some(key.trim()))
    }

    /// A client with this token.
    ///
    /// # Panics
    ///
    /// When control has written no address.
    #[must_use]
    pub fn client(&self, token: Option<&str>) -> Client {
        let address = fs::read_to_string(self.data_dir().join("address")).expect("an address");
        Client::new(&address, token)
    }

    /// Creates a tenant with a token; gives its id and a client for its sidecar's routes.
    pub async fn tenant(&self, email: &str) -> (String, Client) {
        let admin = self.admin();
        let body = json!({"name": "Test tenant", "email": email});
        let tenant = admin.post("/api/tenants", &body).await.expect(201).json();
        let id = text(&tenant["tenant"]["id"]);
        let path = format!("/api/tenants/{id}/tokens");
        let token = admin.post(&path, &json!({})).await.expect(201).json();
        (id, admin.with_token(&text(&token["token"])))
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and the wait for the end.
    ///
    /// # Panics
    ///
    /// When it does not end in time.
    pub fn terminate(&mut self) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        signal(child.id() as i32, Signal::SIGTERM);
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                let _ = child.kill();
                panic!("control does not stop: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Process id of the private database, while it runs.
    #[must_use]
    pub fn database_pid(&self) -> Option<i32> {
        let file = self.data_dir().join("postgres/data/postmaster.pid");
        fs::read_to_string(file).ok()?.lines().next()?.parse().ok()
    }

    /// Directory of the private database's socket.
    #[must_use]
    pub fn socket_dir(&self) -> PathBuf {
        self.data_dir().join("postgres/run")
    }

    /// Process ids of local tenants, as the provider noted them.
    #[must_use]
    pub fn tenant_pids(&self) -> Vec<i32> {
        let tenants = fs::read_dir(self.data_dir().join("tenants"));
        tenants
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let text = fs::read(entry.path().join("instance.json")).ok()?;
                let instance: Value = serde_json::from_slice(&text).ok()?;
                i32::try_from(instance["process"]["pid"].as_i64()?).ok()
            })
            .collect()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        for pid in self.tenant_pids() {
            signal(pid, Signal::SIGKILL);
        }
        if self.child.is_some() && !std::thread::panicking() {
            self.terminate();
        }
        self.kill();
        // A control that was killed leaves its database.
        if let Some(pid) = self.database_pid() {
            signal(pid, Signal::SIGQUIT);
            let deadline = Instant::now() + Duration::from_secs(10);
            while self.database_pid().is_some() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Sends a signal to a process that the harness knows.
pub fn signal(pid: i32, signal: Signal) {
    if pid > 1 {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// The text of a JSON string; empty for anything else.
#[must_use]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
