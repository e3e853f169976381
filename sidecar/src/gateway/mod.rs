//! Supervision of the one `openclaw gateway` process.
//!
//! | File | Its one job |
//! |---|---|
//! | `state` | what to do next: the pure transition function and its diagram |
//! | `backoff`, `exit`, `env` | pure: delays, what an exit means, the child's environment |
//! | `handle` | what the rest of the sidecar has of it |
//! | `owner`, `wait`, `tickets` | the task that owns the process and carries the decisions out; what it waits for; who waits for it |
//! | `process`, `descendants` | starting it, and ending everything that it started |
//! | `record`, `adopt`, `reaped` | taking over a process that an earlier sidecar started: what it noted, finding it, how it ended |
//! | `settings` | what the supervisor is told once: what to run, times and counts |
//! | `probe`, `port`, `rpc`, `drain` | talking to it, and to no other |
//! | `condition`, `channels` | what it says of itself; starting the channels again that it keeps silent |
//! | `memory`, `weight` | how much memory it takes; pure: whether that is too much |
//! | `suspend` | having it take no work for a while |
//! | `likely` | pure: what probably made it end |
//! | `news` | pure: whether a new configuration ends a pause |
//! | `output`, `logs` | its output: bytes, and the lines that are kept of them |
//! | `cli`, `helper` | asking its own program something, running a command beside it |
//! | `probation` | what a trial of a configuration sees of it |
//!
//! [`start`] spawns the owner task; everybody else has a [`GatewayHandle`]. A request through the handle is answered
//! once it has been carried out or can no longer be; dropping the future withdraws the wait, not the request.
//!
//! The sidecar's own children must stay in the sidecar's session (the default), or be a [`helper::Helper`]: whatever else is below the sidecar in
//! another session came from the gateway and is killed with it. See `descendants`.

mod adopt;
mod backoff;
mod channels;
mod cli;
mod condition;
mod descendants;
mod drain;
mod env;
mod exit;
mod handle;
mod helper;
mod likely;
mod logs;
mod memory;
mod news;
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
pub(crate) use self::cli::{Cli, Said, Unsaid};
use self::descendants::Realm;
pub(crate) use self::env::inherited as inherited_environment;
pub(crate) use self::exit::CONFIG as CONFIG_EXIT;
pub(crate) use self::handle::GatewayHandle;
use self::logs::Logs;
pub(crate) use self::logs::{
    FileSettings, From as LogsFrom, Level, LogCounts, LogLine, LogReader, LogSettings, Piece, Stream,
};
pub(crate) use self::memory::Memory;
pub(crate) use self::news::Writer;
use self::output::Output;
pub(crate) use self::output::Pipe;
use self::reaped::ReapedEnds;
use self::record::Store;
pub(crate) use self::rpc::{RpcError, call as rpc_call};
pub(crate) use self::settings::{GatewayConfig, Identity, Limits};
use self::suspend::Suspender;

/// Requests that may wait for the owner task to look at them.
const INBOX: usize = 16;

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

impl Shared {
    /// Whether the gateway takes no work, or is about to: it is suspended, or somebody waits until it is idle.
    fn is_fenced(&self) -> bool {
        // In this order: what has begun is public before it counts as done.
        self.suspender.as_ref().is_some_and(Suspender::has_begun) || self.status.borrow().suspension.is_some()
    }
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
