//! Tenants as process trees on this machine.
//!
//! Below `<data dir>/tenants/<tenant id>/`:
//!
//! | Path | What |
//! |---|---|
//! | `data/` | the tenant's data directory |
//! | `instance.json` | ports and, while it runs, pid and start time of the entrypoint |
//! | `environment` | `KEY=VALUE` lines with the tenant's secrets, mode 0600; the only place where control keeps them |
//! | `log`, `log.1` | output of the tenant, since the last start over 10 MiB and before it |
//!
//! The entrypoint leads a process group of its own, so neither a terminal's Ctrl-C nor the end of control reaches
//! it.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::sync::mpsc::UnboundedSender;
use uuid::Uuid;
use winston_wire::env::Secret;

use super::process::ProcessId;
use super::{Held, Observed, Place, Provider, ProviderError, Secrets, Stopped};
use crate::config::LocalConfig;
use crate::configgen::{KIMI_KEY_VARIABLE, Layout};
use crate::data_dir::private_dir;

/// Names of the secrets in a tenant's environment.
const SIDECAR_TOKEN: &str = "WINSTON_SIDECAR_TOKEN";
const GATEWAY_TOKEN: &str = "OPENCLAW_GATEWAY_TOKEN";
const TELEGRAM_TOKEN: &str = "TELEGRAM_BOT_TOKEN";
/// Longest wait for a tenant that was asked to stop: the gateway drains its runs first.
const STOP_LIMIT: Duration = Duration::from_secs(40);
/// Longest wait for the end of a killed process.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// A tenant whose process ends within this time after its start did not start.
const START_LOOK: Duration = Duration::from_millis(300);
/// A log over this size makes room at the next start.
const MAX_LOG_BYTES: u64 = 10 << 20;
/// How much of the log goes into an error.
const TAIL_BYTES: u64 = 600;

/// `instance.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Instance {
    sidecar_port: u16,
    gateway_port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    process: Option<ProcessId>,
}

/// The provider.
pub(crate) struct Local {
    tenants: PathBuf,
    config: LocalConfig,
    entrypoint: PathBuf,
    sidecar: PathBuf,
    control_url: String,
    /// Told about every tenant whose process has ended.
    ended: UnboundedSender<Uuid>,
    /// Held while ports are chosen.
    ports: Mutex<()>,
}

impl Local {
    /// `control_url` is where the sidecars reach this control; `ended` gets the tenants whose processes end.
    pub(crate) fn new(
        data_dir: &Path,
        config: LocalConfig,
        control_url: String,
        ended: UnboundedSender<Uuid>,
    ) -> Result<Self, ProviderError> {
        let tenants = data_dir.join("tenants");
        private_dir(&tenants).map_err(io("cannot create", &tenants))?;
        let sibling = |name: &str| {
            let own = std::env::current_exe().unwrap_or_default();
            own.with_file_name(name)
        };
        Ok(Self {
            entrypoint: config.entrypoint.clone().unwrap_or_else(|| sibling("winston-entrypoint")),
            sidecar: config.sidecar.clone().unwrap_or_else(|| sibling("winston-sidecar")),
            tenants,
            config,
            control_url,
            ended,
            ports: Mutex::new(()),
        })
    }

    fn dir(&self, tenant: Uuid) -> PathBuf {
        self.tenants.join(tenant.to_string())
    }

    fn load(&self, tenant: Uuid) -> Result<Option<Instance>, ProviderError> {
        load(&self.dir(tenant).join("instance.json"))
    }

    fn save(&self, tenant: Uuid, instance: &Instance) -> Result<(), ProviderError> {
        let path = self.dir(tenant).join("instance.json");
        let mut text = serde_json::to_vec_pretty(instance).map_err(|error| damaged(&path, &error))?;
        text.push(b'\n');
        write_private(&path, &text)
    }

    async fn place_now(&self, tenant: Uuid) -> Result<Place, ProviderError> {
        let data = self.dir(tenant).join("data");
        let instance = match self.load(tenant)? {
            Some(instance) => instance,
            None => {
                let _held = self.ports.lock().await;
                private_dir(&data).map_err(io("cannot create", &data))?;
                let [sidecar_port, gateway_port] = self.free_ports()?;
                let instance = Instance { sidecar_port, gateway_port, process: None };
                self.save(tenant, &instance)?;
                instance
            }
        };
        let local = |port: u16| format!("http://127.0.0.1:{port}");
        Ok(Place {
            layout: Layout {
                workspace: data.join("workspace").to_string_lossy().into_owned(),
                gateway_port: instance.gateway_port,
                public_origin: None,
            },
            url: Some(local(instance.gateway_port)),
            sidecar_url: Some(local(instance.sidecar_port)),
        })
    }

    /// Two ports that nobody listens on now and no other tenant was given.
    fn free_ports(&self) -> Result<[u16; 2], ProviderError> {
        let mut taken = HashSet::new();
        let entries = std::fs::read_dir(&self.tenants).map_err(io("cannot list", &self.tenants))?;
        for entry in entries {
            let entry = entry.map_err(io("cannot list", &self.tenants))?;
            match load(&entry.path().join("instance.json")) {
                Ok(Some(other)) => taken.extend([other.sidecar_port, other.gateway_port]),
                Ok(None) => {}
                // Its ports are not known; while it runs, the system knows.
                Err(error) => tracing::warn!(error = format!("{error:#}"), "an instance was skipped"),
            }
        }
        let mut found = Vec::new();
        // Listeners are held until both ports are found, so that the system does not offer one twice.
        let mut listeners = Vec::new();
        while let [] | [_] = found[..] {
            let any = Path::new("127.0.0.1:0");
            let listener = TcpListener::bind("127.0.0.1:0").map_err(io("cannot bind", any))?;
            let port = listener.local_addr().map_err(io("cannot read the address of", any))?.port();
            listeners.push(listener);
            if taken.insert(port) {
                found.push(port);
            }
        }
        Ok([found[0], found[1]])
    }

    async fn ensure_now(&self, tenant: Uuid, secrets: Secrets) -> Result<(), ProviderError> {
        self.place_now(tenant).await?;
        let dir = self.dir(tenant);
        let path = dir.join("environment");
        let mut environment = read_environment(&path)?;
        let new = [
            (SIDECAR_TOKEN, secrets.sidecar_token),
            (GATEWAY_TOKEN, secrets.gateway_token),
            (TELEGRAM_TOKEN, secrets.telegram_bot_token),
        ];
        let mut changed = false;
        for (name, secret) in new {
            if let Some(secret) = secret {
                environment.insert(name.to_owned(), secret);
                changed = true;
            }
        }
        if changed {
            write_private(&path, &environment_text(&environment))?;
        }
        if !held(&environment).tokens {
            return Err(ProviderError::NotProvisioned(tenant));
        }
        let Some(mut instance) = self.load(tenant)? else {
            return Err(ProviderError::NotProvisioned(tenant));
        };
        if instance.process.is_some_and(ProcessId::is_running) {
            return Ok(());
        }
        let mut child = self
            .command(tenant, &dir, &instance, &environment)?
            .spawn()
            .map_err(io("cannot start", &self.entrypoint))?;
        // Nothing can be killed in between without leaving a tenant that nobody knows; the pid goes to disk at once.
        instance.process = child.id().and_then(|pid| ProcessId::of(pid as i32));
        self.save(tenant, &instance)?;
        if let Ok(ended) = tokio::time::timeout(START_LOOK, child.wait()).await {
            let status = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            let tail = tail(&dir.join("log"));
            return Err(ProviderError::EndedAtOnce { status, tail });
        }
        // Collects the exit status, so that no zombie stays; the tenant itself does not depend on this task.
        let ended = self.ended.clone();
        tokio::spawn(async move {
            match child.wait().await {
                Ok(status) => {
                    tracing::info!(tenant.id = %tenant, %status, "local tenant ended");
                }
                Err(error) => {
                    tracing::warn!(tenant.id = %tenant, %error, "cannot wait for local tenant");
                }
            }
            // Nobody listens any more when control stops.
            let _ = ended.send(tenant);
        });
        Ok(())
    }

    fn command(
        &self,
        tenant: Uuid,
        dir: &Path,
        instance: &Instance,
        environment: &BTreeMap<String, Secret>,
    ) -> Result<Command, ProviderError> {
        let data = dir.join("data");
        let home = data.join(".home");
        private_dir(&home).map_err(io("cannot create", &home))?;
        let log = open_log(dir)?;
        let errors = log.try_clone().map_err(io("cannot share", &dir.join("log")))?;
        let mut command = Command::new(&self.entrypoint);
        command
            .env_clear()
            .envs(self.config.keys.iter().map(|(name, key)| (tenant_name(name), key.expose())))
            .env("PATH", &self.config.path)
            .env("HOME", &home)
            .env("LANG", "C.UTF-8")
            .env("WINSTON_TENANT_ID", tenant.to_string())
            .env("WINSTON_CONTROL_URL", &self.control_url)
            .env("WINSTON_DATA_DIR", &data)
            .env("WINSTON_SIDECAR_LISTEN", format!("127.0.0.1:{}", instance.sidecar_port))
            .env("OPENCLAW_GATEWAY_PORT", instance.gateway_port.to_string())
            .env("WINSTON_OPENCLAW_BIN", &self.config.openclaw)
            .env("WINSTON_SIDECAR_BIN", &self.sidecar)
            .envs(environment.iter().map(|(name, value)| (name, value.expose())))
            .current_dir(&data)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        Ok(command)
    }

    async fn stop_now(&self, tenant: Uuid) -> Result<Stopped, ProviderError> {
        let Some(mut instance) = self.load(tenant)? else {
            return Ok(Stopped::WasNotRunning);
        };
        let path = self.dir(tenant);
        let signal =
            |process: ProcessId, signal| process.signal(signal).map_err(io("cannot signal the process of", &path));
        let mut stopped = Stopped::WasNotRunning;
        if let Some(process) = instance.process
            && signal(process, Signal::TERM)?
        {
            stopped = Stopped::Gracefully;
            if !process.ended_within(STOP_LIMIT).await {
                stopped = Stopped::Killed;
                signal(process, Signal::KILL)?;
                if !process.ended_within(KILL_LIMIT).await {
                    return Err(ProviderError::Unstoppable(process.pid));
                }
                tracing::warn!(
                    tenant.id = %tenant,
                    limit_seconds = STOP_LIMIT.as_secs(),
                    "local tenant did not stop in time and was killed"
                );
            }
        }
        if instance.process.take().is_some() {
            self.save(tenant, &instance)?;
        }
        Ok(stopped)
    }

    async fn destroy_now(&self, tenant: Uuid, purge: bool) -> Result<(), ProviderError> {
        match self.stop_now(tenant).await {
            // What was noted cannot be read, and is about to go anyway.
            Err(error @ ProviderError::Damaged { .. }) => {
                tracing::warn!(tenant.id = %tenant, %error, "removed without looking for its process");
            }
            stopped => drop(stopped?),
        }
        let dir = self.dir(tenant);
        let gone = |result: std::io::Result<()>, path: &Path| match result {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("cannot remove", path)(error)),
            _ => Ok(()),
        };
        if purge {
            let doomed = dir.clone();
            let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(doomed)).await;
            return gone(removed.unwrap_or_else(|error| Err(error.into())), &dir);
        }
        // Secrets of a tenant that is gone are of no use to anybody good.
        let environment = dir.join("environment");
        gone(std::fs::remove_file(&environment), &environment)
    }
}

impl Provider for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn place(&self, tenant: Uuid) -> BoxFuture<'_, Result<Place, ProviderError>> {
        Box::pin(self.place_now(tenant))
    }

    fn held(&self, tenant: Uuid) -> BoxFuture<'_, Result<Held, ProviderError>> {
        Box::pin(async move { Ok(held(&read_environment(&self.dir(tenant).join("environment"))?)) })
    }

    fn ensure(&self, tenant: Uuid, secrets: Secrets) -> BoxFuture<'_, Result<(), ProviderError>> {
        Box::pin(self.ensure_now(tenant, secrets))
    }

    fn stop(&self, tenant: Uuid) -> BoxFuture<'_, Result<Stopped, ProviderError>> {
        Box::pin(self.stop_now(tenant))
    }

    fn observe(&self, tenant: Uuid) -> BoxFuture<'_, Result<Observed, ProviderError>> {
        Box::pin(async move {
            Ok(match self.load(tenant)? {
                None => Observed::Absent,
                Some(instance) if instance.process.is_some_and(ProcessId::is_running) => Observed::Running,
                Some(_) => Observed::Stopped,
            })
        })
    }

    fn destroy(&self, tenant: Uuid, purge: bool) -> BoxFuture<'_, Result<(), ProviderError>> {
        Box::pin(self.destroy_now(tenant, purge))
    }
}

/// Under which name a tenant gets the key that control has under `name`.
fn tenant_name(name: &'static str) -> &'static str {
    if name == "MOONSHOT_API_KEY" { KIMI_KEY_VARIABLE } else { name }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ProviderError {
    let path = path.display().to_string();
    move |source| ProviderError::Io { action, path, source }
}

fn damaged(path: &Path, reason: &dyn std::fmt::Display) -> ProviderError {
    ProviderError::Damaged { path: path.display().to_string(), reason: reason.to_string() }
}

fn load(path: &Path) -> Result<Option<Instance>, ProviderError> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| damaged(path, &error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("cannot read", path)(error)),
    }
}

/// Replaces a file as a whole; only we can read it.
fn write_private(path: &Path, content: &[u8]) -> Result<(), ProviderError> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(io("cannot write", path))
}

fn read_environment(path: &Path) -> Result<BTreeMap<String, Secret>, ProviderError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), Secret::new(value)))
            .collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(io("cannot read", path)(error)),
    }
}

fn held(environment: &BTreeMap<String, Secret>) -> Held {
    Held {
        tokens: environment.contains_key(SIDECAR_TOKEN) && environment.contains_key(GATEWAY_TOKEN),
        telegram_bot_token: environment.contains_key(TELEGRAM_TOKEN),
    }
}

fn environment_text(environment: &BTreeMap<String, Secret>) -> Vec<u8> {
    environment.iter().flat_map(|(name, value)| format!("{name}={}\n", value.expose()).into_bytes()).collect()
}

fn open_log(dir: &Path) -> Result<File, ProviderError> {
    let path = dir.join("log");
    if std::fs::metadata(&path).is_ok_and(|meta| meta.len() > MAX_LOG_BYTES) {
        std::fs::rename(&path, dir.join("log.1")).map_err(io("cannot rename", &path))?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(io("cannot open", &path))
}

/// The last lines of a log, in one line; empty when it cannot be read, because it only explains another error.
fn tail(path: &Path) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let end = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(end.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = read().unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim().replace('\n', " | ")
}
