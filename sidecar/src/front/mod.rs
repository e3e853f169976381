//! The front door: the one public port of a tenant.
//!
//! ```text
//!                     ┌─ /healthz, /setup/… ── here
//!  platform ── $PORT ─┼─ /winston/… ────────── the sidecar's own router
//!   (TLS ends there)  ├─ Telegram's webhook ── 127.0.0.1:8787
//!                     └─ everything else ───── the gateway, 127.0.0.1:18789
//! ```
//!
//! | File | Its one job |
//! |---|---|
//! | `route`, `client`, `network`, `headers`, `view` | pure: whose a path is, who asks, what a proxy changes, what the configuration says |
//! | `strict`, `frames` | pure: where a request ends; what a WebSocket's first frames say |
//! | `settings` | what can be set |
//! | `server`, `socket`, `addresses` | connections, their limits, and who answers |
//! | `proxy`, `pool`, `upstream`, `body`, `tunnel` | passing on: requests, connections to the gateway, bodies, WebSockets |
//! | `sessions`, `attempts`, `pairing`, `setup` | operators: how they sign in, and what that opens |
//! | `waiting`, `answers`, `stats` | what is said while the gateway does not serve; figures |
//!
//! Nothing of ours goes to the gateway, and its token goes to nobody: `docs/adr/0007-front-door.md`.

mod addresses;
mod answers;
mod attempts;
mod body;
mod client;
mod frames;
mod headers;
mod network;
mod pairing;
mod pool;
mod proxy;
mod route;
mod server;
mod sessions;
mod settings;
mod setup;
mod socket;
mod stats;
mod strict;
mod tunnel;
mod upstream;
mod view;
mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

pub(crate) use self::settings::FrontSettings;
pub(crate) use self::stats::{FrontReport, Shared as FrontShared};

use self::pairing::Operator;
use self::server::Front;
use self::sessions::{Password, Sessions};
use self::stats::Known;
use self::view::View;
use crate::edits::Edits;
use crate::fs::{FsError, Root, Stat, TenantPath};
use crate::http::App;
use crate::merge;

/// Largest configuration that is looked at.
const CONFIG_BYTES: u64 = 1024 * 1024;

/// Longest time after which a configuration that was changed on disk is seen.
const LOOK_PAUSE: Duration = Duration::from_secs(2);

/// Files that are open besides connections.
const OTHER_FILES: u64 = 256;

/// Descriptors that a connection takes: itself, and its other half to the gateway.
const FILES_EACH: u64 = 2;

/// Serves until `stopped` becomes true.
pub(crate) async fn run(
    mut settings: FrontSettings,
    listener: TcpListener,
    app: Arc<App>,
    shared: Arc<FrontShared>,
    stopped: watch::Receiver<bool>,
) {
    settings.max_connections = affordable(settings.max_connections);
    let sessions = match Sessions::new() {
        Ok(sessions) => sessions,
        Err(error) => return tracing::error!(%error, "no random numbers, so no front door"),
    };
    let port = match listener.local_addr() {
        Ok(address) => {
            shared.listens(address);
            tracing::info!(%address, max_connections = settings.max_connections, "front door open");
            address.port()
        }
        Err(error) => return tracing::error!(%error, "the front door has no address"),
    };
    if settings.password.is_none() {
        tracing::info!("SETUP_PASSWORD is not set; /setup is closed");
    }
    let mut lookout = Lookout {
        edits: Arc::clone(&app.edits),
        shared: Arc::clone(&shared),
        origin: settings.origin.clone(),
        own_ports: [port, settings.sidecar_port],
        seen: Vec::new(),
        advised: Vec::new(),
    };
    // Before anybody is let in: what is taken from requests depends on it.
    lookout.look().await;
    let looking = tokio::spawn(lookout.keep_looking());
    let operator = settings.gateway_token.clone().map(|secret| Operator { port: settings.gateway_port, secret });
    let front = Front {
        password: settings.password.as_ref().map(Password::new),
        requests: addresses::Addresses::new(settings.max_per_address),
        console: Semaphore::new(1),
        gateway: app.gateway.subscribe(),
        pool: pool::Pool::default(),
        attempts: attempts::Attempts::default(),
        settings,
        app,
        shared,
        sessions,
        operator,
        stopped,
    };
    Arc::new(front).run(listener).await;
    looking.abort();
}

/// As many connections as there are descriptors for. The soft limit is raised first; Node does the same at its start.
fn affordable(wanted: usize) -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return wanted };
    let needed = (wanted as u64).saturating_mul(FILES_EACH).saturating_add(OTHER_FILES);
    let raised = needed.min(hard);
    let available =
        if raised > soft && setrlimit(Resource::RLIMIT_NOFILE, raised, hard).is_ok() { raised } else { soft };
    let possible = usize::try_from(available.saturating_sub(OTHER_FILES) / FILES_EACH).unwrap_or(usize::MAX).max(16);
    if possible < wanted {
        tracing::warn!(wanted, possible, "fewer connections than set: raise the limit of open files");
    }
    possible.min(wanted)
}

/// Keeps what is known of the configuration up to date.
struct Lookout {
    edits: Arc<Edits>,
    shared: Arc<FrontShared>,
    origin: Option<String>,
    own_ports: [u16; 2],
    /// The files that were looked at last, as they were.
    seen: Vec<Seen>,
    advised: Vec<String>,
}

/// A file of the configuration, and its stat when it was looked at.
type Seen = (TenantPath, Option<Stat>);

/// A configuration on disk.
struct Sight {
    seen: Vec<Seen>,
    /// With what it includes; `None` when it cannot be read.
    config: Option<Value>,
    /// What it includes, each for itself.
    included: Vec<Value>,
}

impl Lookout {
    /// Looks again and again.
    async fn keep_looking(mut self) {
        let mut pause = tokio::time::interval(LOOK_PAUSE);
        loop {
            pause.tick().await;
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let Some(path) = self.edits.layout().config_file() else { return };
        let (edits, before) = (Arc::clone(&self.edits), self.seen.clone());
        let looked = tokio::task::spawn_blocking(move || sight(edits.root(), &path, &before)).await;
        let Ok(Some(Sight { seen, config, included })) = looked else { return };
        let configured = seen.iter().any(|(_, stat)| stat.is_some());
        let view = match &config {
            Some(config) => View::of(config, &included, self.origin.as_deref(), &self.own_ports),
            None if !configured => View::default(),
            // The running gateway goes on with what it has read, and the supervisor says what is wrong with the file.
            None => self.shared.known().view.clone(),
        };
        self.seen = seen;
        for line in view.advice.iter().filter(|line| !self.advised.contains(*line)) {
            tracing::warn!("{line}");
        }
        self.advised.clone_from(&view.advice);
        self.shared.learn(Known { configured, view });
    }
}

/// The configuration at `path`, unless every file of it is as it was `before`, or it cannot be looked at now. Blocking.
fn sight(root: &Root, path: &TenantPath, before: &[Seen]) -> Option<Sight> {
    let stat = |path: &TenantPath| root.stat(path).unwrap_or(None);
    if !before.is_empty() && before.iter().all(|(path, seen)| stat(path) == *seen) {
        return None;
    }
    // Each before it is read: what changes meanwhile is seen the next time.
    let mut seen = vec![(path.clone(), root.stat(path).ok()?)];
    let read = |path: &TenantPath| root.open_file(path)?.read(CONFIG_BYTES);
    let text = match (&seen[0].1, read(path)) {
        (None, _) => None,
        (Some(_), Err(FsError::Io(_))) => return None,
        (Some(_), text) => text.ok().flatten(),
    };
    let value = |text: Vec<u8>| merge::value(std::str::from_utf8(&text).ok()?).ok();
    let Some(config) = text.and_then(value) else { return Some(Sight { seen, config: None, included: Vec::new() }) };
    let directory = path.split().and_then(|(directory, _)| TenantPath::parse(directory).ok()).unwrap_or_default();
    let files = merge::included(&directory, &config, |path| {
        seen.push((path.clone(), stat(path)));
        read(path).ok().flatten()
    });
    let files: BTreeMap<_, _> = files.into_iter().filter_map(|(name, text)| Some((name, value(text)?))).collect();
    // Too much of it: then what the file itself says has to do.
    let config = merge::resolved(&config, &files).unwrap_or(config);
    Some(Sight { seen, config: Some(config), included: files.into_values().collect() })
}
