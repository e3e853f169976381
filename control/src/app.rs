//! Start and end of a control: lock → database → schema → first key → providers → HTTP, and the way back.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::cluster::Cluster;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::db::{Db, api_keys, migrate};
use crate::http::{self, App, Budget, Limits};
use crate::lifecycle::Lifecycle;
use crate::notify::{self, Hub};
use crate::provision::local::Local;
use crate::token::{TokenHash, new_api_key};

/// Longest wait for running requests at the end.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a database that does not answer is waited for at the start.
const DATABASE_WAIT: Duration = Duration::from_secs(30);
/// Pause between two attempts.
const DATABASE_RETRY: Duration = Duration::from_millis(500);
/// Longest wait for a connection to the database.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Name of the first API key.
const ADMIN: &str = "admin";

/// Counts the signals that ask for an end: the first stops, the second hurries.
#[derive(Clone)]
struct Signals(watch::Receiver<u8>);

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let (count, receiver) = watch::channel(0u8);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                count.send_modify(|count| *count = count.saturating_add(1));
            }
        });
        Ok(Self(receiver))
    }

    async fn reached(mut self, number: u8) {
        // The sender lives as long as the runtime.
        let _ = self.0.wait_for(|count| *count >= number).await;
    }
}

/// Runs a control until it is asked to stop.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let signals = Signals::listen()?;
    let data_dir = DataDir::open(&config.data_dir)?;
    let cluster = match &config.database_url {
        Some(_) => None,
        None => Some(tokio::select! {
            cluster = Cluster::start(
                data_dir.path(),
                config.postgres_bin.as_deref(),
                config.postgres_user.as_deref(),
            ) => cluster?,
            // A database that was just started is found again by the next control.
            () = signals.clone().reached(1) => return Ok(()),
        }),
    };
    let watcher = cluster.clone().map(|cluster| tokio::spawn(cluster.watch()));
    let served = tokio::select! {
        served = serve(&config, &data_dir, cluster.as_ref(), signals.clone()) => served,
        () = signals.clone().reached(3) => Ok(()),
    };
    if let Some(watcher) = watcher {
        watcher.abort();
    }
    if let Some(cluster) = cluster {
        tracing::info!("stopping the private database");
        let stopped = cluster.stop().await;
        served?;
        stopped?;
    } else {
        served?;
    }
    tracing::info!("stopped");
    Ok(())
}

async fn serve(config: &Config, data_dir: &DataDir, cluster: Option<&Cluster>, signals: Signals) -> anyhow::Result<()> {
    let mut connection = match (&config.database_url, cluster) {
        (Some(url), _) => url.0.clone(),
        (None, Some(cluster)) => cluster.connection(),
        (None, None) => anyhow::bail!("there is no database"),
    };
    connection.connect_timeout(CONNECT_TIMEOUT).application_name("winston-control");
    tokio::select! {
        migrated = migrate_when_up(&connection) => migrated?,
        () = signals.clone().reached(1) => return Ok(()),
    }
    let db = Db::new(connection)?;
    ensure_admin_key(&db, data_dir).await?;

    let listener =
        TcpListener::bind(config.listen).await.with_context(|| format!("cannot listen on {}", config.listen))?;
    let address = listener.local_addr().context("cannot read the address")?;
    let address = format!("http://{address}");
    let public_url = config.public_url.clone().unwrap_or_else(|| address.clone());

    let (ended, ends) = mpsc::unbounded_channel();
    let local = Local::new(data_dir.path(), config.local.clone(), public_url, ended)?;
    let lifecycle = Lifecycle::new(db.clone(), vec![Box::new(local)], config.provision_wait);
    lifecycle.reconcile().await.context("cannot look at the instances")?;

    let hub = Hub::default();
    let listening = tokio::spawn(notify::listen(db.config().clone(), hub.clone()));
    let watching = tokio::spawn(lifecycle.clone().watch(ends));
    let (stop, stopping) = watch::channel(false);
    let router = http::router(App {
        db: db.clone(),
        hub,
        lifecycle,
        budget: Budget::new(config.max_file_bytes),
        limits: Arc::new(Limits { max_file_bytes: config.max_file_bytes, heartbeat_seconds: config.heartbeat_seconds }),
        stopping,
    });
    data_dir.write_address(&address)?;
    tracing::info!(address, "listening");

    let first = signals.clone();
    let asked = async move {
        first.reached(1).await;
        tracing::info!("stopping");
        // Ends the long polls, which would otherwise use up the drain.
        let _ = stop.send(true);
        stop.closed().await;
    };
    let asked = async {
        // `asked` lives on in a task of its own, because its sender must outlive the accept loop.
        tokio::spawn(asked);
        signals.clone().reached(1).await;
    };
    let hurry = async {
        tokio::select! {
            () = tokio::time::sleep(DRAIN) => {}
            () = signals.clone().reached(2) => {}
        }
    };
    http::serve(listener, router, config.max_connections, asked, hurry).await;
    listening.abort();
    watching.abort();
    db.close();
    Ok(())
}

/// Migrates; a database that does not answer yet gets some time.
async fn migrate_when_up(connection: &tokio_postgres::Config) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + DATABASE_WAIT;
    loop {
        match migrate::run(connection).await {
            Err(migrate::MigrateError::Database(error)) if tokio::time::Instant::now() < deadline => {
                tracing::info!(%error, "waiting for the database");
                tokio::time::sleep(DATABASE_RETRY).await;
            }
            result => return Ok(result?),
        }
    }
}

/// Makes the first API key, and another one when that in the file is not valid any more: it was revoked, the database
/// is another one, or a start died between file and row. A file that somebody removed stays away while there are
/// other keys.
async fn ensure_admin_key(db: &Db, data_dir: &DataDir) -> anyhow::Result<()> {
    let any = api_keys::any(db).await?;
    let old = match data_dir.read_admin_key() {
        Err(error) if any => {
            tracing::warn!(error = format!("{error:#}"), "the admin API key cannot be read");
            return Ok(());
        }
        old => old?,
    };
    let valid = match &old {
        Some(key) => api_keys::is_valid(db, TokenHash::of(key.expose())).await?,
        None => any,
    };
    if valid {
        return Ok(());
    }
    let key = new_api_key()?;
    data_dir.write_admin_key(&key, old.as_ref())?;
    api_keys::add(&db.client().await?, ADMIN, TokenHash::of(key.expose())).await?;
    let path = data_dir.admin_key_path();
    if std::io::stderr().is_terminal() {
        // Past the log, so that no log file ever has it.
        eprintln!("\n  Admin API key: {}\n  It is stored in {} and not shown again.\n", key.expose(), path.display());
    } else {
        tracing::info!(path = %path.display(), "the admin API key is in this file");
    }
    Ok(())
}
