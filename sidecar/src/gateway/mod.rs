//! Supervision of the one `openclaw gateway` process.
//!
//! | File | Its one job |
//! |---|---|
//! | `state` | what to do next: the pure transition function and its diagram |
//! | `backoff`, `exit`, `env` | pure: delays, what an exit means, the child's environment |
//! | `owner`, `wait`, `tickets` | the task that owns the process and carries the decisions out; what it waits for; who waits for it |
//! | `process`, `descendants` | starting it, and ending everything that it started |
//! | `record`, `adopt`, `reaped` | taking over a process that an earlier sidecar started: what it noted, finding it, how it ended |
//! | `probe`, `port`, `rpc`, `drain` | talking to it, and to no other |
//! | `output`, `logs` | its output: bytes, and the lines that are kept of them |
//!
//! [`start`] spawns the owner task; everybody else has a [`GatewayHandle`]. A request through the handle is answered
//! once it has been carried out or can no longer be; dropping the future withdraws the wait, not the request.
//!
//! The sidecar's own children must stay in the sidecar's session (the default): whatever is below the sidecar in
//! another session came from the gateway and is killed with it. See `descendants`.

mod adopt;
mod backoff;
mod descendants;
mod drain;
mod env;
mod exit;
mod logs;
mod output;
mod owner;
mod port;
mod probe;
mod process;
mod reaped;
mod record;
mod rpc;
mod state;
#[cfg(test)]
mod tests;
mod tickets;
mod wait;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use winston_wire::env::Secret;
use winston_wire::{GatewayState, GatewayStatus, Timestamp};

pub(crate) use self::backoff::Backoff;
pub(crate) use self::env::inherited as inherited_environment;
pub(crate) use self::logs::{FileSettings, From as LogsFrom, Level, LogCounts, LogLine, LogReader, LogSettings, Piece};
use self::logs::{Logs, Stream};
use self::output::Output;
pub(crate) use self::output::Pipe;
use self::reaped::ReapedEnds;
use self::record::Store;
pub(crate) use self::rpc::{RpcError, call as rpc_call};

/// Longest wait at the end for the last lines to be written to the log file.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Requests that may wait for the owner task to look at them.
const INBOX: usize = 16;

/// Longest wait for the owner task to let go of the process: it may be sweeping up.
const RELEASE: Duration = Duration::from_secs(5);

/// What the supervisor has to know.
#[derive(Debug, Clone)]
pub(crate) struct GatewayConfig {
    /// The `openclaw` program; a bare name is looked up in the `PATH` of `environment`.
    pub(crate) program: PathBuf,
    /// `OPENCLAW_STATE_DIR`; holds `openclaw.json`.
    pub(crate) state_dir: PathBuf,
    /// `OPENCLAW_WORKSPACE_DIR`.
    pub(crate) workspace_dir: PathBuf,
    /// `HOME` of the gateway, and its working directory.
    pub(crate) home: PathBuf,
    /// Port on loopback.
    pub(crate) port: u16,
    /// Whom to run it as, with `no_new_privs`; `None`: as ourselves.
    pub(crate) identity: Option<Identity>,
    /// What it inherits, as [`inherited_environment`] returns it.
    pub(crate) environment: Vec<(String, String)>,
    /// `OPENCLAW_GATEWAY_TOKEN`; without it a stop cannot ask for a drain.
    pub(crate) rpc_secret: Option<Secret>,
    /// Times and counts.
    pub(crate) limits: Limits,
    /// What becomes of its output.
    pub(crate) logs: LogSettings,
}

/// What entrypoint holds for the gateway, so that it can outlive a sidecar.
pub(crate) struct Inherited {
    /// Pipes of its output.
    pub(crate) stdout: Pipe,
    /// The same for standard error.
    pub(crate) stderr: Pipe,
    /// Where entrypoint tells how the processes ended that it has reaped.
    pub(crate) reaped: OwnedFd,
    /// The file for [`record`].
    pub(crate) record: OwnedFd,
}

/// The part of [`Inherited`] that tells of earlier sidecars.
struct Heritage {
    store: Store,
    reaped: ReapedEnds,
}

/// A user and group by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// User.
    pub(crate) uid: u32,
    /// Group; there are no supplementary ones.
    pub(crate) gid: u32,
}

/// Times and counts of the supervision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Longest time from start to `/startupz` 200; migrations may take minutes.
    pub(crate) start_budget: Duration,
    /// Pause between two questions while it starts.
    pub(crate) probe_starting: Duration,
    /// Pause between two questions while it is ready.
    pub(crate) probe_ready: Duration,
    /// Pause between two questions while it does not answer.
    pub(crate) probe_unresponsive: Duration,
    /// Longest time for one answer.
    pub(crate) probe_limit: Duration,
    /// Longest time without an answer before it is restarted.
    pub(crate) liveness_budget: Duration,
    /// How long running turns may go on after a stop was asked.
    pub(crate) drain: Duration,
    /// How long it may take to end after the drain before it is told by SIGTERM.
    pub(crate) drain_margin: Duration,
    /// Longest time for one RPC.
    pub(crate) rpc_limit: Duration,
    /// From SIGTERM to SIGKILL.
    pub(crate) term_grace: Duration,
    /// From SIGKILL to the next one, or to giving up at shutdown.
    pub(crate) kill_wait: Duration,
    /// Longest time for ending what a gateway left behind.
    pub(crate) sweep: Duration,
    /// Delays before a start.
    pub(crate) backoff: Backoff,
    /// Ends in a row that make a crash loop.
    pub(crate) quick_ends: u32,
    /// Pause between two starts in a crash loop.
    pub(crate) crash_loop_retry: Duration,
    /// Time of being ready after which earlier ends are forgiven.
    pub(crate) ran_well: Duration,
}

// A whole stop stays below the grace that entrypoint gives us (`WINSTON_STOP_GRACE_SECONDS`, 25 s).
impl Default for Limits {
    fn default() -> Self {
        Self {
            start_budget: Duration::from_secs(300),
            probe_starting: Duration::from_millis(250),
            probe_ready: Duration::from_secs(10),
            probe_unresponsive: Duration::from_secs(1),
            probe_limit: Duration::from_secs(5),
            liveness_budget: Duration::from_secs(60),
            drain: Duration::from_secs(6),
            drain_margin: Duration::from_secs(3),
            rpc_limit: Duration::from_secs(3),
            term_grace: Duration::from_secs(6),
            kill_wait: Duration::from_secs(2),
            sweep: Duration::from_secs(2),
            backoff: Backoff::STANDARD,
            quick_ends: 5,
            crash_loop_retry: Duration::from_secs(300),
            ran_well: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// From asking for a drain to SIGTERM.
    fn drain_step(&self) -> Duration {
        self.rpc_limit + self.drain + self.drain_margin
    }

    /// Longest time that a stop or shutdown can take, unless the kernel holds the process.
    pub(crate) fn longest_stop(&self) -> Duration {
        self.drain_step() + self.term_grace + self.kill_wait + self.sweep
    }
}

/// Why a request was not carried out.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub(crate) enum GatewayError {
    /// This sidecar runs no gateway.
    #[error("this sidecar does not run a gateway")]
    Disabled,
    /// There is nothing to start it with.
    #[error("there is no openclaw.json yet; the gateway starts as soon as there is one")]
    NoConfig,
    /// It was tried.
    #[error("the gateway did not start: {0}")]
    NotStarted(String),
    /// A later request asked for the opposite.
    #[error("a later request overtook this one")]
    Overtaken,
    /// Too many requests wait already.
    #[error("too many requests to the gateway supervisor wait already")]
    Busy,
    /// The supervisor has ended or is about to.
    #[error("the gateway supervisor is shutting down")]
    ShuttingDown,
}

/// What can be asked of the owner task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Start,
    Stop,
    Restart,
    Shutdown,
    Release,
}

type Answer = Result<GatewayStatus, GatewayError>;
type AnswerSender = oneshot::Sender<Answer>;

/// A request and where its answer goes.
struct Command {
    request: Request,
    answer: AnswerSender,
}

/// What the handles and the owner task share.
struct Shared {
    status: watch::Sender<GatewayStatus>,
    /// One permit is enough: it says "look again", not how often.
    config_ready: Notify,
    logs: Logs,
}

/// The gateway, as the rest of the sidecar sees it.
#[derive(Clone)]
pub(crate) struct GatewayHandle {
    shared: Arc<Shared>,
    /// `None` when there is no gateway to run.
    inbox: Option<mpsc::Sender<Command>>,
    longest_stop: Duration,
}

/// Spawns the owner task. The gateway starts as soon as there is an `openclaw.json`; with what entrypoint hands on, one that an
/// earlier sidecar started is taken over. The error is about descriptors: there are no more.
pub(crate) fn start(config: GatewayConfig, inherited: Option<Inherited>) -> io::Result<GatewayHandle> {
    let (inbox, commands) = mpsc::channel(INBOX);
    let logs = Logs::open(config.logs.clone(), env::secrets(&config));
    let (stdout, stderr, heritage) = match inherited {
        Some(Inherited { stdout, stderr, reaped, record }) => {
            let heritage = Heritage { store: Store::new(record), reaped: ReapedEnds::new(reaped)? };
            (stdout, stderr, Some(heritage))
        }
        None => (Pipe::own()?, Pipe::own()?, None),
    };
    let streams = [(stdout, logs.stream(Stream::Stdout)), (stderr, logs.stream(Stream::Stderr))];
    let output = Output::start(streams)?;
    let shared = shared(GatewayState::WaitingForConfig, config.port, logs);
    let longest_stop = config.limits.longest_stop();
    tokio::spawn(owner::run(config, Arc::clone(&shared), commands, output, heritage));
    Ok(GatewayHandle { shared, inbox: Some(inbox), longest_stop })
}

/// A handle without a gateway: its state is `Disabled`, every request is refused.
pub(crate) fn disabled() -> GatewayHandle {
    GatewayHandle {
        shared: shared(GatewayState::Disabled, 0, Logs::open(LogSettings::default(), Vec::new())),
        inbox: None,
        longest_stop: Duration::ZERO,
    }
}

fn shared(state: GatewayState, port: u16, logs: Logs) -> Arc<Shared> {
    let status = GatewayStatus {
        state,
        since: Timestamp::now(),
        reason: String::new(),
        pid: None,
        port,
        restarts: 0,
        adopted: false,
        ready_after_ms: None,
        last_exit: None,
    };
    Arc::new(Shared { status: watch::Sender::new(status), config_ready: Notify::new(), logs })
}

impl GatewayHandle {
    /// The present state. What it says in words has no secrets in it.
    pub(crate) fn status(&self) -> GatewayStatus {
        let mut status = self.shared.status.borrow().clone();
        status.reason = self.redact(&status.reason);
        if let Some(exit) = &mut status.last_exit {
            exit.meaning = self.redact(&exit.meaning);
        }
        status
    }

    /// The present state and every later one; fast changes may be skipped.
    pub(crate) fn subscribe(&self) -> watch::Receiver<GatewayStatus> {
        self.shared.status.subscribe()
    }

    /// Starts it unless it runs; a crash loop is forgiven. Answers when the process exists, not when it is ready.
    pub(crate) async fn start(&self) -> Answer {
        self.ask(Request::Start).await
    }

    /// Stops it and keeps it stopped. Answers when the process and everything that it started are gone.
    pub(crate) async fn stop(&self) -> Answer {
        self.ask(Request::Stop).await
    }

    /// Stops it if it runs, then starts it. Answers when the new process exists.
    pub(crate) async fn restart(&self) -> Answer {
        self.ask(Request::Restart).await
    }

    /// Says that `openclaw.json` appeared or changed. Ends the wait for it and the wait of a backoff or crash loop;
    /// a running gateway notices by itself. To be called too often does no harm.
    pub(crate) fn config_ready(&self) {
        self.shared.config_ready.notify_one();
    }

    /// The last `limit` lines of the gateway's output that are in memory, oldest first. Never blocks.
    #[allow(dead_code, reason = "for the verdicts and the old `logs tail`; the endpoint asks by level")]
    pub(crate) fn logs(&self, limit: usize) -> Vec<LogLine> {
        self.shared.logs.tail(limit)
    }

    /// The last `limit` lines of at least a level, oldest first, from the log files too. Blocks on the disk.
    pub(crate) fn last_logs(&self, limit: usize, least: Level) -> Vec<LogLine> {
        self.shared.logs.last(limit, least)
    }

    /// The same from memory; an error with what there is where the log files may have more.
    pub(crate) fn last_logs_in_memory(&self, limit: usize, least: Level) -> Result<Vec<LogLine>, Vec<LogLine>> {
        self.shared.logs.last_in_memory(limit, least)
    }

    /// Reads the gateway's output from a place on.
    pub(crate) fn read_logs(&self, from: LogsFrom, least: Level) -> LogReader {
        self.shared.logs.reader(from, least)
    }

    /// Number of the newest line.
    pub(crate) fn logs_head(&self) -> u64 {
        self.shared.logs.head()
    }

    /// What was kept and what was not.
    pub(crate) fn logs_counts(&self) -> LogCounts {
        self.shared.logs.counts()
    }

    /// Something that OpenClaw wrote, without secrets: for whoever shows it elsewhere than in the log.
    pub(crate) fn redact(&self, text: &str) -> String {
        self.shared.logs.redact(text)
    }

    /// Stops the gateway for good and ends the owner task. Returns within the limits of a stop, come what may.
    pub(crate) async fn shutdown(&self) {
        let ended = tokio::time::timeout(
            // The limits of each step are the owner's; this one only guards against the owner.
            self.longest_stop + Duration::from_secs(5),
            self.ask(Request::Shutdown),
        );
        match ended.await {
            Ok(Ok(_) | Err(GatewayError::Disabled | GatewayError::ShuttingDown)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "gateway not shut down"),
            Err(_) => tracing::warn!("gateway not shut down in time"),
        }
        let logs = self.shared.logs.clone();
        // Without it the last lines may be missing in the file, no more.
        let _ = tokio::task::spawn_blocking(move || logs.drain(LAST_LINES)).await;
    }

    /// Leaves the gateway running for the next sidecar and ends the owner task. Only below entrypoint: alone it would be
    /// nobody's.
    pub(crate) async fn release(&self) {
        match tokio::time::timeout(RELEASE, self.ask(Request::Release)).await {
            Ok(Ok(_) | Err(GatewayError::Disabled | GatewayError::ShuttingDown)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "gateway not released"),
            // What was noted last has to do.
            Err(_) => tracing::warn!("gateway not released in time"),
        }
    }

    async fn ask(&self, request: Request) -> Answer {
        let inbox = self.inbox.as_ref().ok_or(GatewayError::Disabled)?;
        let (answer, answered) = oneshot::channel();
        inbox.send(Command { request, answer }).await.map_err(|_| GatewayError::ShuttingDown)?;
        answered.await.unwrap_or(Err(GatewayError::ShuttingDown))
    }
}
