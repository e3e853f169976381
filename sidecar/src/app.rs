//! Putting the parts together, and taking them apart in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use winston_wire::Source;

use crate::candidate::{self, Configs};
use crate::edits::{EditError, Edits};
use crate::front::{self, FrontSettings, FrontShared};
use crate::fs::{Root, TenantPath};
use crate::gateway::{self, Cli, FileSettings, GatewayConfig, GatewayHandle, Inherited, Limits, LogSettings, Writer};
use crate::handover::Handover;
use crate::http::{App, BODY_BUDGET_KIB, CONCURRENT_WRITES, HttpCounters, Server, Streams, TokenDigest};
use crate::seeds;
use crate::settings::Settings;
use crate::sync::{ControlClient, Engine, SyncStatus};
use crate::upgrade::Upgrade;
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
    #[error("cannot open the front door at {address}: {error}; set WINSTON_FRONT_LISTEN to a free address, or to off")]
    Front { address: String, error: io::Error },
    #[error("cannot prepare the connection to control: {0}; check WINSTON_CONTROL_CA_FILE")]
    Control(io::Error),
    #[error("{0}")]
    Other(String),
}

/// How the run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With the gateway, as asked.
    Stopped,
    /// Without it: another sidecar takes over.
    Replaced,
}

/// Runs until somebody asks to stop or to make room for another binary.
pub(crate) async fn run(mut settings: Settings, handover: Option<Handover>) -> Result<Ending, RunError> {
    let mut signals = Signals::new().map_err(|error| RunError::Other(format!("signals: {error}")))?;
    let started = Instant::now();
    let upgrade = Arc::new(Upgrade::new(handover.is_some()));
    let (mut inherited, mut bound, mut bound_front, mut up) = (None, None, None, None);
    if let Some(handover) = handover {
        (inherited, up) = (Some(handover.gateway), Some(handover.up));
        (bound, bound_front) = (handover.listener, handover.front);
        if let Some(questions) = handover.questions {
            tokio::spawn(questions.answer());
        }
    }
    let listener = listen(&settings, bound).await?;
    let front = open_front(settings.front.take(), bound_front).await?;
    let edits = open(&settings).await?;

    make_directories(&settings, &edits).await?;
    let (gateway, configs, cli) = start_gateway(&settings, &edits, inherited).await?;
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
        upgrade: Arc::clone(&upgrade),
        configs: configs.clone(),
        cli,
        sync,
        engine: engine.clone(),
        writes: Arc::new(Semaphore::new(CONCURRENT_WRITES)),
        body_budget: Arc::new(Semaphore::new(BODY_BUDGET_KIB)),
        max_archive_bytes: settings.max_archive_bytes,
        streams: Streams::new(stopped.clone()),
        counters: HttpCounters::default(),
        front: front.as_ref().map(|_| Arc::new(FrontShared::default())),
    };
    let app = Arc::new(app);
    let front = front.zip(app.front.clone()).map(|((settings, listener), shared)| {
        tokio::spawn(front::run(settings, listener, Arc::clone(&app), shared, stopped.clone()))
    });
    let server = tokio::spawn(Server::new(listener, app).run(stopped));
    if let Some(up) = &up {
        up.tell();
    }

    let watching = settings.watch;
    let (watched, status) = (Arc::clone(&edits), watch_status);
    let work = move || Watch::start(watched, watching, status);
    let watch =
        spawned(work).await?.map_err(|error| RunError::Other(format!("cannot start the watching thread: {error}")))?;
    tracing::info!(files = edits.index().len(), elapsed_ms = started.elapsed().as_millis() as u64, "watching");

    let mut asked = Box::pin(end_asked(&mut signals, &upgrade, up.is_some()));
    let early = tokio::select! {
        booted = first_boot(&edits, engine.as_ref(), configs.as_ref(), &gateway) => booted.map(|()| None)?,
        ending = &mut asked => Some(ending),
    };
    let mut syncing = None;
    if early.is_none() {
        tokio::spawn(tell_gateway_of_config(Arc::clone(&edits), gateway.clone()));
        if engine.is_none() {
            tokio::spawn(keep_window(Arc::clone(&edits)));
        }
        syncing = engine.clone().map(|engine| tokio::spawn(async move { engine.run().await }));
    }

    let ending = match early {
        Some(ending) => ending,
        None => asked.as_mut().await,
    };
    drop(asked);
    if let Some(configs) = &configs {
        configs.halt();
    }
    if ending == Ending::Stopped {
        tracing::info!("stopping");
        tokio::select! {
            () = gateway.shutdown() => {}
            () = signals.stop() => tracing::warn!("asked to stop again; not waiting for the gateway"),
        }
    }
    stop.send_replace(true);
    if let Some(syncing) = syncing {
        syncing.abort();
    }
    if server.await.is_err() {
        tracing::error!("the server had panicked");
    }
    if let Some(front) = front
        && front.await.is_err()
    {
        tracing::error!("the front door had panicked");
    }
    spawned(move || watch.stop()).await?;
    if ending == Ending::Replaced {
        // Last, so that it was never without a supervisor for longer than the next one takes to start. Changes that control lacks
        // are in the journal.
        gateway.release().await;
        return Ok(ending);
    }
    if let Some(engine) = engine
        && tokio::time::timeout(FLUSH_TIME, engine.flush()).await.is_err()
    {
        tracing::warn!("control did not take the last changes in time; they are sent after the next start");
    }
    tracing::info!("stopped");
    Ok(ending)
}

/// Waits until somebody asks for the end.
async fn end_asked(signals: &mut Signals, upgrade: &Upgrade, below_entrypoint: bool) -> Ending {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ending::Stopped,
            _ = signals.interrupt.recv() => return Ending::Stopped,
            _ = signals.hangup.recv() => {}
            () = upgrade.asked() => return Ending::Replaced,
        }
        if !below_entrypoint {
            // The terminal is gone.
            return Ending::Stopped;
        }
        if let Err(error) = upgrade.request().await {
            tracing::error!(%error, "no upgrade");
        }
    }
}

async fn spawned<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RunError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| RunError::Other(error.to_string()))
}

/// `bound` is entrypoint's socket, on which callers may be waiting already.
async fn listen(settings: &Settings, bound: Option<std::net::TcpListener>) -> Result<TcpListener, RunError> {
    let failed = |error| RunError::Listen { address: settings.listen.to_string(), error };
    let listener = taken_over_or_bound(bound, settings.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
    Ok(listener)
}

async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        // A machine without IPv6 has no `[::]`; everything on IPv4 is what was meant.
        Err(error) if address.ip().is_unspecified() && error.kind() == io::ErrorKind::Unsupported => {
            TcpListener::bind(("0.0.0.0", address.port())).await
        }
        bound => bound,
    }
}

/// The listener of the front door, if there is to be one. `bound` is entrypoint's socket.
async fn open_front(
    settings: Option<FrontSettings>,
    bound: Option<std::net::TcpListener>,
) -> Result<Option<(FrontSettings, TcpListener)>, RunError> {
    let Some(settings) = settings else { return Ok(None) };
    let failed = |error| RunError::Front { address: settings.listen.to_string(), error };
    let listener = taken_over_or_bound(bound, settings.listen).await.map_err(failed)?;
    Ok(Some((settings, listener)))
}

async fn taken_over_or_bound(bound: Option<std::net::TcpListener>, address: SocketAddr) -> io::Result<TcpListener> {
    match bound {
        Some(bound) => bound.set_nonblocking(true).and_then(|()| TcpListener::from_std(bound)),
        None => bind(address).await,
    }
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

async fn start_gateway(
    settings: &Settings,
    edits: &Arc<Edits>,
    inherited: Option<Inherited>,
) -> Result<(GatewayHandle, Option<Configs>, Option<Cli>), RunError> {
    let Some(gateway) = &settings.gateway else { return Ok((gateway::disabled(), None, None)) };
    let ours = rustix::process::geteuid();
    if settings.identity.is_none() {
        let remedy = if ours.is_root() { "set" } else { "start as root with" };
        tracing::warn!(
            uid = ours.as_raw(),
            "the gateway runs as the same user as this process, so the agent can stop it and rewrite history; {remedy} \
             WINSTON_GATEWAY_UID to separate them"
        );
    }
    let logs = gateway.logs;
    let file = (logs.files > 0).then(|| FileSettings {
        root: Arc::clone(edits.root()),
        file_bytes: logs.file_bytes,
        files: logs.files,
    });
    let config = GatewayConfig {
        program: gateway.program.clone(),
        state_dir: settings.data_dir.join(settings.layout.state.as_str()),
        workspace_dir: settings.data_dir.join(settings.layout.workspace.as_str()),
        home: gateway.home.clone(),
        port: gateway.port,
        identity: settings.identity,
        environment: gateway.environment.clone(),
        rpc_secret: gateway.token.clone(),
        memory_limit: gateway.memory_limit,
        limits: Limits::default().within(settings.stop_grace),
        // The gateway does not know our token; a shell that runs as the same user may.
        logs: LogSettings { ring_bytes: logs.ring_bytes, file, secrets: vec![settings.token.clone()] },
    };
    let mending = Arc::clone(edits);
    if let Err(error) = spawned(move || mending.mend_config()).await? {
        tracing::warn!(%error, "could not make the configuration readable for the user of the gateway");
    }
    let cli = Cli::of(&config);
    let handle = gateway::start(config, inherited)
        .map_err(|error| RunError::Other(format!("cannot open the pipes of the gateway's output: {error}")))?;
    // What an earlier process began goes on beside the start of the gateway.
    let configs = candidate::start(Arc::clone(edits), handle.clone(), cli.clone(), settings.trials).await;
    let configs = configs.map_err(|error| RunError::Other(format!("cannot open .winston/config: {error}")))?;
    Ok((handle, Some(configs), Some(cli)))
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
    // A directory is no better than nothing.
    let missing = !is_startable(edits);
    if missing && let Some(configs) = configs {
        configs.bootstrap().await;
    }
    let seeded = Arc::clone(edits);
    let work = move || if first { seeds::apply(&seeded) } else { seeds::discard(&seeded) };
    if let Err(error) = spawned(work).await? {
        tracing::error!(%error, "could not write the first-boot files");
    }
    if (first || missing) && is_startable(edits) {
        gateway.config_ready();
    }
    Ok(())
}

fn has_config(edits: &Edits) -> bool {
    edits.layout().config_file().is_some_and(|path| matches!(edits.root().stat(&path), Ok(Some(_))))
}

/// Whether the gateway takes what is there for a configuration.
fn is_startable(edits: &Edits) -> bool {
    edits.layout().config_file().is_some_and(|path| edits.root().path().join(path.as_str()).is_file())
}

/// SIGTERM, SIGINT and SIGHUP.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A new configuration ends a gateway's wait for one, and its pause after a bad one unless the gateway wrote it.
async fn tell_gateway_of_config(edits: Arc<Edits>, gateway: GatewayHandle) {
    let Some(path) = edits.layout().config_file() else { return };
    let mut head = edits.journal().head();
    let mut told = edits.index().version(path.as_str());
    while head.changed().await.is_ok() {
        // The index follows the journal within the edit that made the record; what is missed now is seen with the next record or start.
        let Ok(record) = spawned({
            let (edits, path) = (Arc::clone(&edits), path.clone());
            move || edits.recorded(&path)
        })
        .await
        else {
            return;
        };
        let version = record.map(|record| record.version);
        if version != told {
            told = version;
            gateway.config_changed(match record {
                Some(record) if record.version.source == Source::Agent => Writer::Tenant(record.changed_at()),
                // That there is none any more is known at the next start, and no gateway lives from that.
                _ => Writer::Other,
            });
        }
    }
}

/// Without control nobody takes the journal off the volume: only the local history window is kept. While nothing is recorded, nothing wakes up.
async fn keep_window(edits: Arc<Edits>) {
    let mut head = edits.journal().head();
    loop {
        let newest = *head.borrow_and_update();
        let kept = spawned({
            let edits = Arc::clone(&edits);
            move || {
                let saved = edits.index().saved_seq();
                edits.journal().keep_window(saved).map(|()| saved)
            }
        });
        let done = match kept.await {
            // What the index on disk lacks could not be removed yet.
            Ok(Ok(saved)) => saved >= newest,
            Ok(Err(error)) => {
                tracing::warn!(%error, "could not remove old segments of the journal");
                false
            }
            Err(_) => return,
        };
        if done && head.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(WINDOW_PAUSE).await;
    }
}
