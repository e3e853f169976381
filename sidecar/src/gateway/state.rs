//! What the supervisor decides: a pure function over states and events.
//!
//! The diagram is in `docs/ARCHITECTURE.md`, "Gateway supervision". `state/tests/diagram.rs` derives it from the transition function
//! and fails when the two differ.
//!
//! `Stopping` is itself three steps, each with a limit: `Draining` (asked over the gateway's RPC), `Terminating`
//! (SIGTERM sent), `Killing` (SIGKILL sent, repeated until the kernel reports the end). A request that arrives
//! meanwhile changes only what happens [`Then`], so a late start can never overtake a stop.
//!
//! A gateway that exits with 0 unasked wants to be started again (in external supervision that is how it restarts
//! itself); the first time it is, at once. Everything else waits. Only `/healthz` and `/startupz` count: `/readyz`
//! is red for a broken chat channel, and a restart repairs none of those. What it says makes a ready gateway `degraded` for
//! others to see, and changes no decision.
//!
//! A sidecar below entrypoint that follows another one begins with [`Event::Resumed`] instead: with what the one before it
//! noted. A process that still lives is `Adopted` until its first answer, which leads to Ready, Starting or Unresponsive; its
//! end is that of a ready or a starting one.
//!
//! Times are durations since an origin that the caller chooses.

use std::time::Duration;

use winston_wire::GatewayState;

use super::Limits;
use super::backoff::Jitter;

pub(super) use self::step::step;

mod step;
#[cfg(test)]
mod tests;

/// Whole state of the supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    /// Where in the diagram.
    pub(super) phase: Phase,
    /// Whether there is a configuration, as far as we know.
    configured: bool,
    /// Ends in a row, none of which came after a good while of being ready.
    failures: u32,
}

/// The nodes of the diagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    WaitingForConfig,
    Stopped,
    Adopted { ready_since: Option<Duration>, budget_ends: Duration },
    Starting { budget_ends: Duration },
    Ready { since: Duration, degraded: bool },
    Unresponsive { ready_since: Duration, budget_ends: Duration },
    Stopping { why: Why, then: Then, step: StopStep, step_ends: Duration },
    Backoff { until: Duration },
    CrashLooping { retry_at: Duration },
    ShutDown,
}

/// Why a process is being stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Somebody asked.
    Requested,
    /// `/startupz` did not answer 200 within the start budget.
    NeverReady,
    /// `/healthz` did not answer within the liveness budget.
    Unresponsive,
}

/// What follows the end of a process that is being stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// `Stopped`.
    Stay,
    /// Start at once: a restart, or a start that arrived meanwhile.
    Start,
    /// Start after a delay: the supervisor itself gave up on this process.
    Recover,
    /// `ShutDown`.
    End,
}

/// How far a stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopStep {
    Draining,
    Terminating,
    Killing,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Requests.
    Start,
    Stop,
    Restart,
    Shutdown,
    /// Leave the process to the next sidecar.
    Release,
    /// What the sidecar before us noted; the first event, if there was one.
    Resumed(Memory),
    /// A configuration appeared or changed.
    ConfigReady,
    /// The program could not be started.
    SpawnFailed,
    /// The process ended.
    Exited(End),
    /// `/startupz` answered 200.
    Started,
    /// `/startupz` of an adopted process did not answer 200.
    NotYet,
    /// `/healthz` answered 200.
    Alive,
    /// `/healthz` did not answer 200.
    Silent,
    /// By its own account everything is well.
    Well,
    /// By its own account something is not.
    Impaired,
    /// The gateway cannot be asked to drain.
    DrainRefused,
    /// The time of [`Phase::deadline`] may have come.
    Deadline,
}

/// What one sidecar leaves to the next, as far as decisions need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// The process, if it still lives.
    pub(super) running: Option<Running>,
    /// Somebody had it stopped.
    pub(super) stopped: bool,
    /// Ends in a row.
    pub(super) failures: u32,
    /// Whether there is a configuration.
    pub(super) configured: bool,
}

/// A process that was started by an earlier sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Running {
    /// Time since its start.
    pub(super) age: Duration,
    /// Time since it became ready, if it has been.
    pub(super) ready_for: Option<Duration>,
}

/// How a process ended, as far as decisions need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Exit code 0.
    Clean,
    /// It found no configuration.
    NoConfig,
    /// It refused to start with what it found: starting again finds the same until somebody changes it.
    Refused,
    /// Anything else.
    Failed,
}

/// What the shell has to do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Start the process; answers with `SpawnFailed` or, in its time, `Exited`.
    Spawn,
    /// Ask the gateway over its RPC for a bounded drain and its end; answers with `DrainRefused` if that is impossible.
    Drain,
    /// Send SIGTERM.
    Terminate,
    /// Send SIGKILL.
    Kill,
    /// The process has ended: kill whatever it left behind.
    Sweep,
}

/// Which question the gateway is to be asked repeatedly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// `/startupz`, at once: the first question to an adopted process.
    First,
    /// `/startupz`, often.
    Startup,
    /// `/healthz`, now and then.
    Health,
    /// `/healthz` again soon, because it has just failed.
    HealthAgain,
}

/// When a step happens, and the randomness that it may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: Duration,
    pub(super) jitter: Jitter,
}

impl Phase {
    /// The state that others see.
    pub(super) fn public(self) -> GatewayState {
        match self {
            Self::WaitingForConfig => GatewayState::WaitingForConfig,
            Self::Stopped | Self::ShutDown => GatewayState::Stopped,
            Self::Adopted { .. } => GatewayState::Adopted,
            Self::Starting { .. } => GatewayState::Starting,
            Self::Ready { degraded: false, .. } => GatewayState::Ready,
            Self::Ready { degraded: true, .. } => GatewayState::Degraded,
            Self::Unresponsive { .. } => GatewayState::Unresponsive,
            Self::Stopping { .. } => GatewayState::Stopping,
            Self::Backoff { .. } => GatewayState::Backoff,
            Self::CrashLooping { .. } => GatewayState::CrashLooping,
        }
    }

    /// When to send [`Event::Deadline`].
    pub(super) fn deadline(self) -> Option<Duration> {
        match self {
            Self::WaitingForConfig | Self::Stopped | Self::Ready { .. } | Self::ShutDown => None,
            Self::Starting { budget_ends }
            | Self::Adopted { budget_ends, .. }
            | Self::Unresponsive { budget_ends, .. } => Some(budget_ends),
            Self::Stopping { step_ends, .. } => Some(step_ends),
            Self::Backoff { until } => Some(until),
            Self::CrashLooping { retry_at } => Some(retry_at),
        }
    }

    /// What to ask the gateway meanwhile.
    pub(super) fn probe(self) -> Option<Probe> {
        match self {
            Self::Adopted { .. } => Some(Probe::First),
            Self::Starting { .. } => Some(Probe::Startup),
            Self::Ready { .. } => Some(Probe::Health),
            Self::Unresponsive { .. } => Some(Probe::HealthAgain),
            _ => None,
        }
    }
}

impl State {
    /// Before anything is known.
    pub(super) fn initial() -> Self {
        Self { phase: Phase::WaitingForConfig, configured: false, failures: 0 }
    }

    /// Ends in a row so far.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}
