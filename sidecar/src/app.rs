//! Putting the parts together, and taking them apart in order.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};

use crate::candidate::{self, Configs};
use crate::config::Settings;
use crate::edits::{EditError, Edits};
use crate::fs::{Root, TenantPath};
use crate::gateway::{self, Cli, GatewayConfig, GatewayHandle, Limits};
use crate::http::{App, BODY_BUDGET_KIB, CONCURRENT_WRITES, HttpCounters, Server, Streams, TokenDigest};
use crate::seeds;
use crate::sync::{ControlClient, Engine, SyncStatus};
use crate::watch::{Watch, WatchStatus};

/// How long the first boot waits for files from control before it falls back to the seeds.
const FIRST_FILES_TIME: Duration = Duration::from_secs(20);

/// How often old segments are looked for when there is no control.
const WINDOW_PAUSE: Duration = Duration::from_secs(60);

/// How long the end waits for the last changes to reach control. They are in the journal anyway.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// Why the sidecar could not run. The text names the remedy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("cannot open the data directory {path}: {error}; mount a writable volume there or set WINSTON_DATA_DIR")]
    DataDir { path: String, error: EditError },
    #[error("cannot listen on {address}: {error}; set WINSTON_SIDECAR_LISTEN to a free address")]
    Listen { address: String, error: io::Error },
    #[error("cannot prepare the connection to control: {0}; check WINSTON_CONTROL_CA_FILE")]
    Control(io::Error),
    #[error("{0}")]
    Other(String),
}

/// Runs until a signal asks to stop.
pub(crate) async fn run(settings: Settings) -> Result<(), RunError> {
    let mut stop_signals = StopSignals::new().map_err(|error| RunError::Other(format!("signals: {error}")))?;
    let started = Instant::now();
    let listener = listen(&settings).await?;
    let edits = open(&settings).await?;

    make_directories(&settings, &edits).await?;
    let (gateway, configs) = start_gateway(&settings, &edits).await?;
    let sync = Arc::new(SyncStatus::default());
    let engine = start_engine(&settings, &edits, &gateway, &configs, &sync)?;
    let watch_status = Arc::new(WatchStatus::default());
    let (stop, stopped) = watch::channel(false);
    let app = App {
        token: TokenDigest::of(&settings.token),
        tenant_id: settings.tenant_id,
        started,
        edits: Arc::clone(&edits),
        watch: Arc::clone(&watch_status),
        gateway: gateway.clone(),
        configs: configs.clone(),
        sync,
        engine: engine.clone(),
        writes: Arc::new(Semaphore::new(CONCURRENT_WRITES)),
        body_budget: Arc::new(Semaphore::new(BODY_BUDGET_KIB)),
        max_archive_bytes: settings.max_archive_bytes,
        streams: Streams::new(stopped.clone()),
        counters: HttpCounters::default(),
    };
    let server = tokio::spawn(Server::new(listener, Arc::new(app)).run(stopped));

    let watching = settings.watch;
    let (watched, status) = (Arc::clone(&edits), watch_status);
    let work = move || Watch::start(watched, watching, status);
    let watch =
        spawned(work).await?.map_err(|error| RunError::Other(format!("cannot start the watching thread: {error}")))?;
    tracing::info!(files = edits.index().len(), elapsed_ms = started.elapsed().as_millis() as u64, "watching");

    first_boot(&edits, engine.as_ref(), configs.as_ref(), &gateway).await?;
    tokio::spawn(tell_gateway_of_config(Arc::clone(&edits), gateway.clone()));
    if engine.is_none() {
        tokio::spawn(keep_window(Arc::clone(&edits)));
    }
    let syncing = engine.clone().map(|engine| tokio::spawn(async move { engine.run().await }));

    stop_signals.next().await;
    tracing::info!("stopping");
    if let Some(configs) = &configs {
        configs.halt();
    }
    tokio::select! {
        () = gateway.shutdown() => {}
        () = stop_signals.next() => tracing::warn!("asked to stop again; not waiting for the gateway"),
    }
    stop.send_replace(true);
    if let Some(syncing) = syncing {
        syncing.abort();
    }
    if server.await.is_err() {
        tracing::error!("the server had panicked");
    }
    spawned(move || watch.stop()).await?;
    if let Some(engine) = engine
        && tokio::time::timeout(FLUSH_TIME, engine.flush()).await.is_err()
    {
        tracing::warn!("control did not take the last changes in time; they are sent after the next start");
    }
    tracing::info!("stopped");
    Ok(())
}

async fn spawned<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RunError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| RunError::Other(error.to_string()))
}

async fn listen(settings: &Settings) -> Result<TcpListener, RunError> {
    let failed = |error| RunError::Listen { address: settings.listen.to_string(), error };
    let listener = match TcpListener::bind(settings.listen).await {
        // A machine without IPv6 has no `[::]`; everything on IPv4 is what was meant.
        Err(error) if settings.listen.ip().is_unspecified() && error.kind() == io::ErrorKind::Unsupported => {
            TcpListener::bind(("0.0.0.0", settings.listen.port())).await
        }
        bound => bound,
    }
    .map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
    Ok(listener)
}

async fn open(settings: &Settings) -> Result<Arc<Edits>, RunError> {
    let path = settings.data_dir.clone();
    let owner = settings.identity.map(|identity| (identity.uid, identity.gid));
    let (layout, max_file_bytes, limits) = (settings.layout.clone(), settings.max_file_bytes, settings.journal);
    let work = move || {
        let failed = |error| RunError::DataDir { path: path.display().to_string(), error };
        let root = Root::open(&path, owner).map_err(|error| failed(error.into()))?;
        Edits::open(Arc::new(root), layout, max_file_bytes, limits).map_err(failed)
    };
    spawned(work).await?.map(Arc::new)
}

/// Makes the directories that the gateway needs, where entrypoint has not done so.
async fn make_directories(settings: &Settings, edits: &Arc<Edits>) -> Result<(), RunError> {
    let Some(gateway) = &settings.gateway else { return Ok(()) };
    let home = gateway.home.strip_prefix(&settings.data_dir).ok();
    let home = home.and_then(|path| TenantPath::parse(path.to_str()?).ok());
    let layout = &settings.layout;
    let directories: Vec<_> = home.into_iter().chain([layout.state.clone(), layout.workspace.clone()]).collect();
    let edits = Arc::clone(edits);
    let work = move || {
        for directory in directories.iter().filter_map(|directory| directory.child("file")) {
            // On a full volume what is there has to do.
            if let Err(error) = edits.root().parent_created(&directory) {
                tracing::warn!(path = %directory, %error, "could not make a directory");
            }
        }
    };
    spawned(work).await
}

async fn start_gateway(settings: &Settings, edits: &Arc<Edits>) -> Result<(GatewayHandle, Option<Configs>), RunError> {
    let Some(gateway) = &settings.gateway else { return Ok((gateway::disabled(), None)) };
    if settings.identity.is_none() && rustix::process::geteuid().is_root() {
        tracing::warn!("the gateway runs as root, like this process; set WINSTON_GATEWAY_UID to separate them");
    }
    let config = GatewayConfig {
        program: gateway.program.clone(),
        state_dir: settings.data_dir.join(settings.layout.state.as_str()),
        workspace_dir: settings.data_dir.join(settings.layout.workspace.as_str()),
        home: gateway.home.clone(),
        port: gateway.port,
        identity: settings.identity,
        environment: gateway.environment.clone(),
        rpc_secret: gateway.token.clone(),
        limits: Limits::default(),
    };
    let cli = Cli::of(&config);
    let handle = gateway::start(config);
    // What an earlier process began goes on beside the start of the gateway.
    let configs = candidate::start(Arc::clone(edits), handle.clone(), cli, settings.trials).await;
    let configs = configs.map_err(|error| RunError::Other(format!("cannot open .winston/config: {error}")))?;
    Ok((handle, Some(configs)))
}

fn start_engine(
    settings: &Settings,
    edits: &Arc<Edits>,
    gateway: &GatewayHandle,
    configs: &Option<Configs>,
    sync: &Arc<SyncStatus>,
) -> Result<Option<Arc<Engine>>, RunError> {
    let Some(url) = &settings.control_url else {
        tracing::info!("WINSTON_CONTROL_URL is not set; changes stay in the local journal");
        return Ok(None);
    };
    let ca_file = settings.control_ca_file.as_deref();
    let client =
        ControlClient::new(url, &settings.token, ca_file, settings.max_file_bytes).map_err(RunError::Control)?;
    let engine = Engine::new(Arc::clone(edits), client, gateway.clone(), configs.clone(), Arc::clone(sync))
        .map_err(|error| RunError::Other(error.to_string()))?;
    Ok(Some(Arc::new(engine)))
}

/// Without a configuration this is the first boot: files come from control or, when it does not answer, from the last set that was known to be
/// good, or from the seeds.
async fn first_boot(
    edits: &Arc<Edits>,
    engine: Option<&Arc<Engine>>,
    configs: Option<&Configs>,
    gateway: &GatewayHandle,
) -> Result<(), RunError> {
    let first = !has_config(edits);
    if first && let Some(engine) = engine {
        // A task of its own: a trial of the configuration goes on when nobody waits for it any more.
        let fetching = Arc::clone(engine);
        let mut fetched = tokio::spawn(async move { fetching.first_files().await });
        let there = async {
            let mut head = edits.journal().head();
            while !has_config(edits) {
                if head.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            _ = &mut fetched => {}
            () = there => {}
            () = tokio::time::sleep(FIRST_FILES_TIME) => {
                tracing::warn!("control did not answer in time; using what is here");
            }
        }
    }
    if !has_config(edits)
        && let Some(configs) = configs
    {
        configs.bootstrap().await;
    }
    let seeded = Arc::clone(edits);
    let work = move || if first { seeds::apply(&seeded) } else { seeds::discard(&seeded) };
    if let Err(error) = spawned(work).await? {
        tracing::error!(%error, "could not write the first-boot files");
    }
    if first && has_config(edits) {
        gateway.config_ready();
    }
    Ok(())
}

fn has_config(edits: &Edits) -> bool {
    edits.layout().config_file().is_some_and(|path| matches!(edits.root().stat(&path), Ok(Some(_))))
}

/// SIGTERM and SIGINT.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A new configuration, from whomever, ends a gateway's wait for one and its pause after a bad one.
async fn tell_gateway_of_config(edits: Arc<Edits>, gateway: GatewayHandle) {
    let Some(path) = edits.layout().config_file() else { return };
    let mut head = edits.journal().head();
    let mut told = edits.index().version(path.as_str());
    while head.changed().await.is_ok() {
        // The index follows the journal within the edit that made the record; what is missed now is seen with the next record or start.
        let Ok(version) = spawned({
            let (edits, path) = (Arc::clone(&edits), path.clone());
            move || edits.recorded(&path)
        })
        .await
        else {
            return;
        };
        if version != told {
            told = version;
            gateway.config_ready();
        }
    }
}

/// Without control nobody takes the journal off the volume: only the local history window is kept.
async fn keep_window(edits: Arc<Edits>) {
    let mut pause = tokio::time::interval(WINDOW_PAUSE);
    loop {
        pause.tick().await;
        let edits = Arc::clone(&edits);
        match spawned(move || edits.journal().keep_window(edits.index().saved_seq())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not remove old segments of the journal"),
            Err(_) => return,
        }
    }
}
