//! Supervision of the one `openclaw gateway` process.
//!
//! | File | Its one job |
//! |---|---|
//! | `state` | what to do next: the pure transition function and its diagram |
//! | `backoff`, `exit`, `env` | pure: delays, what an exit means, the child's environment |
//! | `owner`, `wait`, `tickets` | the task that owns the process and carries the decisions out; what it waits for; who waits for it |
//! | `process`, `descendants` | starting it, and ending everything that it started |
//! | `record`, `adopt`, `reaped` | taking over a process that an earlier sidecar started: what it noted, finding it, how it ended |
//! | `settings` | what the supervisor is told once: what to run, times and counts |
//! | `probe`, `port`, `rpc`, `drain` | talking to it, and to no other |
//! | `condition`, `channels` | what it says of itself; starting the channels again that it keeps silent |
//! | `memory`, `weight` | how much memory it takes; pure: whether that is too much |
//! | `suspend` | having it take no work for a while |
//! | `likely` | pure: what probably made it end |
//! | `output`, `logs` | its output: bytes, and the lines that are kept of them |
//! | `probation` | what a trial of a configuration sees of it |
//!
//! [`start`] spawns the owner task; everybody else has a [`GatewayHandle`]. A request through the handle is answered
//! once it has been carried out or can no longer be; dropping the future withdraws the wait, not the request.
//!
//! The sidecar's own children must stay in the sidecar's session (the default): whatever is below the sidecar in
//! another session came from the gateway and is killed with it. See `descendants`.

mod adopt;
mod backoff;
mod channels;
mod condition;
mod descendants;
mod drain;
mod env;
mod exit;
mod likely;
mod logs;
mod memory;
mod output;
mod owner;
mod port;
mod probation;
mod probe;
mod process;
mod reaped;
mod record;
mod rpc;
mod settings;
mod state;
mod suspend;
#[cfg(test)]
mod tests;
mod tickets;
mod wait;
mod weight;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use winston_wire::{GatewayState, GatewayStatus, Timestamp};

pub(crate) use self::backoff::Backoff;
use self::descendants::Realm;
pub(crate) use self::env::inherited as inherited_environment;
use self::logs::Logs;
pub(crate) use self::logs::{
    FileSettings, From as LogsFrom, Level, LogCounts, LogLine, LogReader, LogSettings, Piece, Stream,
};
pub(crate) use self::memory::Memory;
use self::output::Output;
pub(crate) use self::output::Pipe;
pub(crate) use self::probation::Cli;
use self::reaped::ReapedEnds;
use self::record::Store;
pub(crate) use self::rpc::{RpcError, call as rpc_call};
pub(crate) use self::settings::{GatewayConfig, Identity, Limits};
use self::suspend::Suspender;

/// Longest wait at the end for the last lines to be written to the log file.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Requests that may wait for the owner task to look at them.
const INBOX: usize = 16;

/// Longest wait for the owner task to let go of the process: it may be sweeping up.
const RELEASE: Duration = Duration::from_secs(5);

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
    /// It starts, stops or does not answer.
    #[error("the gateway is not ready")]
    NotReady,
    /// It can be asked for nothing.
    #[error("OPENCLAW_GATEWAY_TOKEN is not known, so the gateway cannot be asked")]
    NoSecret,
    /// It has work that did not end in time, or something else that it does first.
    #[error("the gateway is busy: {0}")]
    Occupied(String),
    /// It did not do as asked.
    #[error("the gateway did not do it: {0}")]
    Refused(String),
    /// There is nothing to resume.
    #[error("the gateway was not suspended by this sidecar; a suspension by another one ends within two minutes")]
    NotSuspended,
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
    realm: Realm,
    memory: memory::Recent,
    /// `None` without a gateway.
    suspender: Option<Suspender>,
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
    let realm = Realm::here(heritage.is_some(), config.identity.map(|identity| identity.uid));
    let suspender = Suspender::of(&config);
    let shared = shared(GatewayState::WaitingForConfig, config.port, realm, Some(suspender), logs);
    let longest_stop = config.limits.longest_stop();
    tokio::spawn(owner::run(config, Arc::clone(&shared), commands, output, heritage));
    Ok(GatewayHandle { shared, inbox: Some(inbox), longest_stop })
}

/// A handle without a gateway: its state is `Disabled`, every request is refused.
pub(crate) fn disabled() -> GatewayHandle {
    GatewayHandle {
        shared: shared(GatewayState::Disabled, 0, Realm::Alone, None, Logs::open(LogSettings::default(), Vec::new())),
        inbox: None,
        longest_stop: Duration::ZERO,
    }
}

fn shared(state: GatewayState, port: u16, realm: Realm, suspender: Option<Suspender>, logs: Logs) -> Arc<Shared> {
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
        suppressed: Vec::new(),
        channel_starts: 0,
        suspension: None,
    };
    Arc::new(Shared {
        status: watch::Sender::new(status),
        realm,
        memory: memory::Recent::default(),
        suspender,
        config_ready: Notify::new(),
        logs,
    })
}

impl GatewayHandle {
    /// The present state. What it says in words has no secrets in it.
    pub(crate) fn status(&self) -> GatewayStatus {
        let mut status = self.shared.status.borrow().clone();
        status.reason = self.redact(&status.reason);
        if let Some(exit) = &mut status.last_exit {
            exit.meaning = self.redact(&exit.meaning);
            exit.evidence = exit.evidence.as_deref().map(|line| self.redact(line));
        }
        status
    }

    /// What it takes of the machine's memory, at most a second ago. May read `/proc`, which takes some milliseconds; `None` without a
    /// gateway to run.
    pub(crate) fn memory(&self) -> Option<Memory> {
        self.inbox.as_ref()?;
        let pid = self.shared.status.borrow().pid;
        Some(self.shared.memory.get(pid, || descendants::tree(self.shared.realm)))
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

    /// Has it finish what it does, for at most `wait`, and take nothing new until it is resumed; for half an hour at most. Goes on when the
    /// future is dropped.
    pub(crate) async fn suspend(&self, wait: Duration) -> Answer {
        let suspending = tokio::spawn(suspend::suspend(Arc::clone(&self.shared), wait));
        suspending.await.unwrap_or(Err(GatewayError::ShuttingDown))
    }

    /// Ends that.
    pub(crate) async fn resume(&self) -> Answer {
        let resuming = tokio::spawn(suspend::resume(Arc::clone(&self.shared)));
        resuming.await.unwrap_or(Err(GatewayError::ShuttingDown))
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
