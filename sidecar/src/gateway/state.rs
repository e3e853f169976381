//! What the supervisor decides: a pure function over states and events.
//!
//! ```text
//!   config appeared or changed                 /startupz 200           no /healthz
//!  WaitingForConfig ─────────────► Starting ─────────────────► Ready ◄────────────► Unresponsive
//!      ▲                            ▲  │ │                      │ │                   │    │
//!      │ ended, no config           │  │ │ ended                │ │ ended             │    │
//!      └────────────────────────────┼──┘ └────────┬─────────────┼─┘───────────────────┘    │
//!                                   │             ▼             │                          │
//!              delay over, request, │   Backoff, or CrashLooping after too many            │
//!              config changed       └── quick ends in a row ◄─┐ │                          │
//!                                                             │ │                          │
//!            start budget over, stop, restart, shutdown       │ ▼                          │
//!  Starting ─────────────────────────────────────────────► Stopping ◄── liveness budget over
//!                                                          │  │  │
//!                       Stopped ◄── ended, stop asked ─────┘  │  └──── ended, start queued ──► Starting
//!                          │                                  ▼
//!                          └───────────── shutdown ───────► ShutDown (final)
//! ```
//!
//! `Stopping` is itself three steps, each with a limit: `Draining` (asked over the gateway's RPC), `Terminating`
//! (SIGTERM sent), `Killing` (SIGKILL sent, repeated until the kernel reports the end). A request that arrives
//! meanwhile changes only what happens [`Then`], so a late start can never overtake a stop.
//!
//! A gateway that exits with 0 unasked wants to be started again (in external supervision that is how it restarts
//! itself); the first time it is, at once. Everything else waits. Only `/healthz` and `/startupz` count: `/readyz`
//! is red for a broken chat channel, and a restart repairs none of those.
//!
//! Times are durations since an origin that the caller chooses.

use std::time::Duration;

use winston_wire::GatewayState;

use super::Limits;
use super::backoff::Jitter;

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
    Starting {
        budget_ends: Duration,
    },
    Ready {
        since: Duration,
    },
    Unresponsive {
        ready_since: Duration,
        budget_ends: Duration,
    },
    Stopping {
        why: Why,
        then: Then,
        step: StopStep,
        step_ends: Duration,
    },
    Backoff {
        until: Duration,
    },
    CrashLooping {
        retry_at: Duration,
    },
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
    /// A configuration appeared or changed.
    ConfigReady,
    /// The program could not be started.
    SpawnFailed,
    /// The process ended.
    Exited(End),
    /// `/startupz` answered 200.
    Started,
    /// `/healthz` answered 200.
    Alive,
    /// `/healthz` did not answer 200.
    Silent,
    /// The gateway cannot be asked to drain.
    DrainRefused,
    /// The time of [`Phase::deadline`] may have come.
    Deadline,
}

/// How a process ended, as far as decisions need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Exit code 0.
    Clean,
    /// It found no configuration.
    NoConfig,
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
            Self::Starting { .. } => GatewayState::Starting,
            Self::Ready { .. } => GatewayState::Ready,
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
            Self::Starting { budget_ends } | Self::Unresponsive { budget_ends, .. } => {
                Some(budget_ends)
            }
            Self::Stopping { step_ends, .. } => Some(step_ends),
            Self::Backoff { until } => Some(until),
            Self::CrashLooping { retry_at } => Some(retry_at),
        }
    }

    /// What to ask the gateway meanwhile.
    pub(super) fn probe(self) -> Option<Probe> {
        match self {
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
        Self {
            phase: Phase::WaitingForConfig,
            configured: false,
            failures: 0,
        }
    }
}

/// The transition function.
pub(super) fn step(
    limits: &Limits,
    state: &State,
    event: Event,
    moment: Moment,
) -> (State, Vec<Action>) {
    let mut step = Step {
        limits,
        moment,
        state: state.clone(),
        actions: Vec::new(),
    };
    if state.phase != Phase::ShutDown {
        step.take(event);
    }
    (step.state, step.actions)
}

/// One transition in the making.
struct Step<'a> {
    limits: &'a Limits,
    moment: Moment,
    state: State,
    actions: Vec<Action>,
}

impl Step<'_> {
    fn take(&mut self, event: Event) {
        match event {
            Event::Start => self.start(),
            Event::Stop => self.stop(Why::Requested, Then::Stay),
            Event::Restart => self.restart(),
            Event::Shutdown => self.stop(Why::Requested, Then::End),
            Event::ConfigReady => self.config_ready(),
            Event::SpawnFailed => self.failed(),
            Event::Exited(end) => self.exited(end),
            Event::Started | Event::Alive | Event::Silent => self.probed(event),
            Event::DrainRefused => self.drain_refused(),
            Event::Deadline if self.state.phase.deadline() <= Some(self.moment.now) => {
                self.deadline();
            }
            Event::Deadline => {}
        }
    }

    fn start(&mut self) {
        self.state.failures = 0;
        match &mut self.state.phase {
            Phase::Starting { .. } | Phase::Ready { .. } | Phase::Unresponsive { .. } => {}
            Phase::Stopping { then, .. } => queue(then, Then::Start),
            _ => self.launch(),
        }
    }

    fn restart(&mut self) {
        match self.state.phase {
            Phase::Starting { .. } | Phase::Ready { .. } | Phase::Unresponsive { .. } => {
                self.state.failures = 0;
                self.stop(Why::Requested, Then::Start);
            }
            _ => self.start(),
        }
    }

    fn stop(&mut self, why: Why, after: Then) {
        let now = self.moment.now;
        let (step, step_ends) = match &mut self.state.phase {
            Phase::Stopping { then, .. } => return queue(then, after),
            Phase::Ready { .. } if why == Why::Requested => {
                self.actions.push(Action::Drain);
                (StopStep::Draining, now + self.limits.drain_step())
            }
            // Too early or too late for the RPC: its listener is not up yet, or does not answer.
            Phase::Starting { .. } | Phase::Ready { .. } | Phase::Unresponsive { .. } => {
                self.actions.push(Action::Terminate);
                (StopStep::Terminating, now + self.limits.term_grace)
            }
            _ => {
                self.state.phase = if after == Then::End {
                    Phase::ShutDown
                } else {
                    Phase::Stopped
                };
                return;
            }
        };
        self.forgive_if_it_ran_well();
        self.state.phase = Phase::Stopping {
            why,
            then: after,
            step,
            step_ends,
        };
    }

    /// A new configuration deserves a fresh count, whatever the old one did.
    fn config_ready(&mut self) {
        self.state.configured = true;
        self.state.failures = 0;
        if matches!(
            self.state.phase,
            Phase::WaitingForConfig | Phase::Backoff { .. } | Phase::CrashLooping { .. }
        ) {
            self.launch();
        }
    }

    fn probed(&mut self, event: Event) {
        let now = self.moment.now;
        self.state.phase = match (self.state.phase, event) {
            (Phase::Starting { .. }, Event::Started) => Phase::Ready { since: now },
            (Phase::Ready { since }, Event::Silent) => Phase::Unresponsive {
                ready_since: since,
                budget_ends: now + self.limits.liveness_budget,
            },
            (Phase::Unresponsive { ready_since, .. }, Event::Alive) => {
                Phase::Ready { since: ready_since }
            }
            // The answer to a question from an earlier phase.
            (phase, _) => phase,
        };
    }

    fn drain_refused(&mut self) {
        if let Phase::Stopping { step, .. } = self.state.phase
            && step == StopStep::Draining
        {
            self.escalate();
        }
    }

    fn deadline(&mut self) {
        match self.state.phase {
            Phase::Starting { .. } => self.stop(Why::NeverReady, Then::Recover),
            Phase::Unresponsive { .. } => self.stop(Why::Unresponsive, Then::Recover),
            Phase::Stopping { .. } => self.escalate(),
            Phase::Backoff { .. } | Phase::CrashLooping { .. } => self.launch(),
            _ => {}
        }
    }

    /// The next step of a stop.
    fn escalate(&mut self) {
        let now = self.moment.now;
        let Phase::Stopping {
            then,
            step,
            step_ends,
            ..
        } = &mut self.state.phase
        else {
            return;
        };
        match step {
            StopStep::Draining => {
                (*step, *step_ends) = (StopStep::Terminating, now + self.limits.term_grace);
                self.actions.push(Action::Terminate);
            }
            // Not even SIGKILL ended it, so it hangs in the kernel. We may leave; the kernel finishes the job.
            StopStep::Killing if *then == Then::End => {
                self.state.phase = Phase::ShutDown;
                self.actions.push(Action::Sweep);
            }
            StopStep::Terminating | StopStep::Killing => {
                (*step, *step_ends) = (StopStep::Killing, now + self.limits.kill_wait);
                self.actions.push(Action::Kill);
            }
        }
    }

    fn exited(&mut self, end: End) {
        self.actions.push(Action::Sweep);
        if end == End::NoConfig {
            self.state.configured = false;
        }
        match self.state.phase {
            Phase::Stopping { then, .. } => match then {
                Then::Stay => self.state.phase = Phase::Stopped,
                Then::Start => self.launch(),
                Then::Recover => self.failed(),
                Then::End => self.state.phase = Phase::ShutDown,
            },
            Phase::Ready { .. } | Phase::Unresponsive { .. } => {
                self.forgive_if_it_ran_well();
                if end == End::Clean && self.state.failures == 0 {
                    self.state.failures = 1;
                    self.launch();
                } else {
                    self.failed();
                }
            }
            _ if end == End::NoConfig => self.state.phase = Phase::WaitingForConfig,
            _ => self.failed(),
        }
    }

    /// The count of failures starts anew once a process has been ready for a good while.
    fn forgive_if_it_ran_well(&mut self) {
        let ready_since = match self.state.phase {
            Phase::Ready { since } => since,
            Phase::Unresponsive { ready_since, .. } => ready_since,
            _ => return,
        };
        if self.moment.now.saturating_sub(ready_since) >= self.limits.ran_well {
            self.state.failures = 0;
        }
    }

    fn failed(&mut self) {
        let now = self.moment.now;
        let earlier = self.state.failures;
        self.state.failures = earlier.saturating_add(1);
        self.state.phase = if self.state.failures >= self.limits.quick_ends {
            Phase::CrashLooping {
                retry_at: now + self.limits.crash_loop_retry,
            }
        } else {
            Phase::Backoff {
                until: now + self.limits.backoff.delay(earlier, self.moment.jitter),
            }
        };
    }

    fn launch(&mut self) {
        if self.state.configured {
            self.actions.push(Action::Spawn);
            self.state.phase = Phase::Starting {
                budget_ends: self.moment.now + self.limits.start_budget,
            };
        } else {
            self.state.phase = Phase::WaitingForConfig;
        }
    }
}

/// Changes what follows a stop; nothing follows a shutdown.
fn queue(then: &mut Then, next: Then) {
    if *then != Then::End {
        *then = next;
    }
}
