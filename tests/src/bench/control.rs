//! A control with a private database. Unlike the tests' harness it fails with errors: a panic ends a release build at
//! once, and the database would stay behind.

use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::{self, Answer};
use crate::process::bin;
use crate::wait::{eventually, within};

/// Time for control to stop its database and itself.
const STOPPING: Duration = Duration::from_secs(30);

/// A running control. Stopped when dropped.
pub(super) struct Control {
    dir: TempDir,
    child: Child,
    address: Option<SocketAddr>,
    key: String,
}

/// A tenant that nothing runs for yet.
pub(super) struct Tenant {
    pub(super) id: String,
    /// The sidecar's.
    pub(super) token: String,
}

impl Control {
    /// Starts one and waits until it answers.
    pub(super) fn start() -> Result<Self> {
        let dir = TempDir::with_prefix("winston-bench-")?;
        // As root, the database is another user's, who has to get through here.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711))?;
        let log = File::create(dir.path().join("log"))?;
        let child = Command::new(bin("winston-control")?)
            .env_remove("DATABASE_URL")
            .env("WINSTON_CONTROL_LISTEN", "127.0.0.1:0")
            .env("WINSTON_CONTROL_DATA_DIR", dir.path().join("control"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("winston-control")?;
        let mut control = Self { dir, child, address: None, key: String::new() };
        control.address = Some(control.wait_for_address()?);
        control.key = fs::read_to_string(control.data_dir().join("admin-api-key"))?.trim().to_owned();
        eventually("control answers", || {
            control.call("GET", "/api/health", &[], b"").map(|answer| (answer.status == 200).then_some(()))
        })?;
        Ok(control)
    }

    /// The address that it wrote to its data directory; its log if it ended instead.
    fn wait_for_address(&mut self) -> Result<SocketAddr> {
        let file = self.data_dir().join("address");
        let found = eventually("control listens", || match self.child.try_wait()? {
            Some(status) => Ok(Some(Err(status))),
            None => Ok(fs::read_to_string(&file)?.trim().trim_start_matches("http://").parse().ok().map(Ok)),
        })?;
        found.or_else(|status| {
            let log = fs::read_to_string(self.dir.path().join("log"))?;
            bail!("winston-control ended with {status}: {log}")
        })
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("control")
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A call with the admin's key.
    pub(super) fn call(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
        let bearer = format!("Bearer {}", self.key);
        let mut all = vec![("Authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        http::request(self.address(), method, target, &all, body)
    }

    /// How to reach its database.
    pub(super) fn database(&self) -> String {
        format!("host={} user=winston dbname=postgres", self.data_dir().join("postgres/run").display())
    }

    /// Creates a tenant and a token for its sidecar.
    pub(super) fn tenant(&self) -> Result<Tenant> {
        self.another("bench")
    }

    /// The same, when there is one already.
    pub(super) fn another(&self, name: &str) -> Result<Tenant> {
        let created = self.post("/api/tenants", &json!({ "name": name, "email": format!("{name}@test.example") }))?;
        let id = text(&created["tenant"]["id"])?;
        let token = self.post(&format!("/api/tenants/{id}/tokens"), &json!({}))?;
        Ok(Tenant { id, token: text(&token["token"])? })
    }

    fn post(&self, target: &str, body: &Value) -> Result<Value> {
        let headers = [("Content-Type", "application/json")];
        self.call("POST", target, &headers, body.to_string().as_bytes())?.expect(201)?.json()
    }

    fn stop(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
            within(STOPPING, "control stops", || Ok(self.child.try_wait()?))?;
        }
        Ok(())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("winston-bench: {error:#}");
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("expected a text, got {value}"))
}
