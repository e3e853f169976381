//! What happens to a candidate: a pure function over states and events.
//!
//! ```text
//!              errors
//!  Validating ───────► Ended(Invalid)
//!      │ none                              swapped                       gateway stopped
//!      └──────────────► Swapping           ├──────────────────────────────────────────► Ended(Kept)
//!                                          ├─ takes it over while it runs ─► Watching
//!                                          └─ has to start ─► Starting ── ready ──► Watching ── long enough ──► Ended(Kept)
//!                                                                │   ◄── restarts itself ──┘  │
//!                                                                │ refused, crashed, too late │ crashed, silent, reload refused
//!                                                                └────────► Returning ◄───────┘
//!                                                                               ├─ the old set is back ─► Ended(RolledBack)
//!                                                                               └─ there was none ──────► Ended(First)
//! ```
//!
//! Whatever happened since the last look at the gateway comes as one [`Look`], so nothing depends on the order in which it was noticed.
//! Times are durations since an origin that the caller chooses.

use std::time::Duration;

use winston_wire::{ExitCause, GatewayState};

use super::effect::Effect;

/// Times of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Longest time until the gateway is ready.
    pub(super) start: Duration,
    /// How long it must go well after that.
    pub(super) probation: Duration,
    /// Longest time without an answer while it should be ready.
    pub(super) silence: Duration,
}

/// How often a gateway may end in order and be started again within one trial: it does so to take over what needs a restart.
const MOST_RESTARTS: u32 = 2;

/// Where a candidate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Validating,
    Swapping {
        effect: Effect,
    },
    Starting {
        budget_ends: Duration,
        restarts: u32,
    },
    /// `unseen_until`: as long as the gateway has not said that it saw the change, its time does not begin, but not longer than this.
    Watching {
        until: Duration,
        unseen_until: Option<Duration>,
        silent_since: Option<Duration>,
        restarts: u32,
    },
    Returning {
        failure: Failure,
    },
    Ended(Ruling),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ruling {
    /// It stays. `proved`: the gateway ran with it.
    Kept { proved: bool },
    /// Nothing was changed: it is wrong.
    Invalid,
    /// What was there before is there again.
    RolledBack(Failure),
    /// It stays although the gateway did not do well: it is the tenant's first, without it there would be no gateway, and what ended the
    /// gateway may have been something else. A configuration that the gateway itself refuses does not stay.
    First(Failure),
}

/// What the gateway did not do well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It ended; how, in one sentence.
    Ended(String),
    /// It ended because it refuses its configuration; in one sentence.
    Refused(String),
    /// It went on starting itself anew.
    Restless,
    /// It was not ready in time.
    NotReady(Duration),
    /// It stopped answering.
    Silent,
    /// It did not take the change over; its own words.
    ReloadRefused(String),
    /// What an earlier process of ours has found.
    Found(String),
}

impl Failure {
    /// In one sentence.
    pub(super) fn sentence(&self) -> String {
        match self {
            Self::Ended(meaning) | Self::Refused(meaning) => format!("the gateway ended: {meaning}"),
            Self::Restless => "the gateway went on restarting itself".into(),
            Self::NotReady(limit) => format!("the gateway was not ready within {} s", limit.as_secs()),
            Self::Silent => "the gateway stopped answering".into(),
            Self::ReloadRefused(words) => format!("the gateway refused it: {words}"),
            Self::Found(sentence) => sentence.clone(),
        }
    }

    /// Whether it is certain that the configuration is at fault.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Refused(_) | Self::ReloadRefused(_) => true,
            // Only what is to go back is written down.
            Self::Found(_) => true,
            Self::Ended(_) | Self::Restless | Self::NotReady(_) | Self::Silent => false,
        }
    }
}

/// What the supervisor was doing when the set was swapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The gateway is ready.
    Ready,
    /// There is a process, which has read the old set.
    Running,
    /// There is none, and there will be one as soon as somebody says so.
    Waiting,
    /// It is being stopped, or has ended and nobody was told yet; perhaps to be started again.
    Ending,
    /// Somebody wants it to be off.
    Off,
}

impl Standing {
    pub(super) fn of(state: GatewayState) -> Self {
        match state {
            GatewayState::Ready | GatewayState::Degraded => Self::Ready,
            GatewayState::Adopted | GatewayState::Starting | GatewayState::Unresponsive => Self::Running,
            GatewayState::WaitingForConfig | GatewayState::Backoff | GatewayState::CrashLooping => Self::Waiting,
            GatewayState::Stopping => Self::Ending,
            GatewayState::Stopped | GatewayState::Disabled | GatewayState::Unknown => Self::Off,
        }
    }
}

/// What the gateway wrote about its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reload {
    /// It took it over.
    Applied,
    /// It goes on with the old one; why.
    Refused(String),
    /// It can take this over only by starting anew.
    NeedsRestart,
}

/// Everything about the gateway since the last look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) state: GatewayState,
    /// A process ended that may have read the candidate.
    pub(super) ended: Option<(ExitCause, String)>,
    /// The process ended that was at its end when the set was swapped in: it never read it. Once at most.
    pub(super) earlier_ended: bool,
    /// It answered just now.
    pub(super) answers: bool,
    pub(super) reloads: Vec<Reload>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// The checks are through.
    Validated(Option<Effect>),
    /// The whole set is in place.
    Swapped(Standing),
    /// See [`Look`].
    Looked(Look),
    /// The old set is in place again.
    Returned,
    /// There is no old set, and the new one was not refused: it stays.
    NothingToReturn,
}

/// What the shell has to do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Put the set in place; answers with `Swapped`. Without it, because somebody edited a file meanwhile, there was no trial.
    Swap,
    /// Ask the supervisor for a new process.
    Restart,
    /// Tell the supervisor that there is something new to start with.
    Wake,
    /// Look at the gateway soon; answers with `Looked`.
    Look,
    /// Put the old set in place; answers with `Returned` or `NothingToReturn`.
    Return,
    /// Bring the gateway up on the old set.
    Revive,
    /// It is over.
    Report,
}

/// The transition function. An event that does not belong to the state changes nothing.
pub(super) fn step(limits: &Limits, state: State, event: Event, now: Duration) -> (State, Vec<Action>) {
    match (state, event) {
        (State::Validating, Event::Validated(None)) => ended(Ruling::Invalid),
        (State::Validating, Event::Validated(Some(effect))) => (State::Swapping { effect }, vec![Action::Swap]),
        (State::Swapping { effect }, Event::Swapped(standing)) => swapped(limits, effect, standing, now),
        (state @ (State::Starting { .. } | State::Watching { .. }), Event::Looked(look)) => {
            looked(limits, state, look, now)
        }
        (State::Returning { failure }, Event::Returned) => {
            (State::Ended(Ruling::RolledBack(failure)), vec![Action::Revive, Action::Report])
        }
        (State::Returning { failure }, Event::NothingToReturn) => ended(Ruling::First(failure)),
        (state, _) => (state, Vec::new()),
    }
}

/// The state of a trial that an earlier process began: the set is in place. `met`: what the gateway was doing then, if it runs still; another one
/// has read the set.
pub(super) fn resumed(limits: &Limits, met: Option<Standing>, effect: Effect, now: Duration) -> (State, Vec<Action>) {
    match met {
        Some(standing) => swapped(limits, effect, standing, now),
        None => {
            let starting = State::Starting { budget_ends: now + limits.start, restarts: 0 };
            (starting, vec![Action::Wake, Action::Look])
        }
    }
}

fn ended(ruling: Ruling) -> (State, Vec<Action>) {
    (State::Ended(ruling), vec![Action::Report])
}

fn swapped(limits: &Limits, effect: Effect, standing: Standing, now: Duration) -> (State, Vec<Action>) {
    let starting = State::Starting { budget_ends: now + limits.start, restarts: 0 };
    match (standing, effect) {
        (Standing::Off, _) => ended(Ruling::Kept { proved: false }),
        (Standing::Ready, Effect::None | Effect::Hot) => {
            let unseen_until = (effect == Effect::Hot).then(|| now + limits.start);
            let until = now + limits.probation;
            (State::Watching { until, unseen_until, silent_since: None, restarts: 0 }, vec![Action::Look])
        }
        (Standing::Ready, Effect::Restart) | (Standing::Running, _) => (starting, vec![Action::Restart, Action::Look]),
        // Under a process that is given up on, the next one does not wait as long as its end would make it wait.
        (Standing::Waiting | Standing::Ending, _) => (starting, vec![Action::Wake, Action::Look]),
    }
}

fn looked(limits: &Limits, state: State, look: Look, now: Duration) -> (State, Vec<Action>) {
    let restarts = match &state {
        State::Starting { restarts, .. } | State::Watching { restarts, .. } => *restarts,
        _ => 0,
    };
    let again = |restart: bool| {
        if restarts >= MOST_RESTARTS {
            return returning(Failure::Restless);
        }
        let state = State::Starting { budget_ends: now + limits.start, restarts: restarts + 1 };
        (state, if restart { vec![Action::Restart, Action::Look] } else { vec![Action::Look] })
    };
    match look.ended {
        Some((ExitCause::Asked, _)) => {
            // Somebody wanted that, and not the gateway.
            let state = State::Starting { budget_ends: now + limits.start, restarts };
            return (state, vec![Action::Look]);
        }
        Some((ExitCause::Clean, _)) => return again(false),
        Some((ExitCause::Hung, _)) if matches!(state, State::Starting { .. }) => {
            return returning(Failure::NotReady(limits.start));
        }
        Some((ExitCause::BadConfig | ExitCause::NoConfig, meaning)) => return returning(Failure::Refused(meaning)),
        Some((_, meaning)) => return returning(Failure::Ended(meaning)),
        None => {}
    }
    if look.state == GatewayState::Stopped {
        // Somebody else's decision, and the next start decides the rest.
        return ended(Ruling::Kept { proved: false });
    }
    if look.earlier_ended {
        // Only now is there somebody to read the set.
        let state = State::Starting { budget_ends: now + limits.start, restarts };
        return (state, vec![Action::Wake, Action::Look]);
    }
    let mut applied = false;
    for reload in look.reloads {
        match reload {
            Reload::Applied => applied = true,
            Reload::Refused(words) => return returning(Failure::ReloadRefused(words)),
            // Its own way to restart waits for whatever it is doing, without a limit that we know.
            Reload::NeedsRestart if matches!(state, State::Watching { .. }) => return again(true),
            Reload::NeedsRestart => {}
        }
    }
    let serves = look.state.is_up() && look.answers;
    let fresh = now + limits.probation;
    match state {
        State::Starting { .. } if serves => {
            (State::Watching { until: fresh, unseen_until: None, silent_since: None, restarts }, vec![Action::Look])
        }
        State::Starting { budget_ends, .. } if now >= budget_ends => returning(Failure::NotReady(limits.start)),
        State::Watching { until, unseen_until, silent_since, .. } => {
            let until = if applied && unseen_until.is_some() { fresh } else { until };
            let unseen_until = unseen_until.filter(|end| !applied && now < *end);
            if serves && unseen_until.is_none() && now >= until {
                return ended(Ruling::Kept { proved: true });
            }
            let silent_since = if serves { None } else { silent_since.or(Some(now)) };
            if silent_since.is_some_and(|since| now.saturating_sub(since) >= limits.silence) {
                return returning(Failure::Silent);
            }
            (State::Watching { until, unseen_until, silent_since, restarts }, vec![Action::Look])
        }
        state => (state, vec![Action::Look]),
    }
}

fn returning(failure: Failure) -> (State, Vec<Action>) {
    (State::Returning { failure }, vec![Action::Return])
}

/// What a line of the gateway's log says about its configuration.
pub(super) fn reload_in(line: &str) -> Option<Reload> {
    // Behind whatever the log puts before a message, and never in the middle of one: the tenant's agent can make the gateway log its words.
    let at = match line.find('[') {
        Some(at) if line[at..].starts_with("[reload]") => &line[at + "[reload]".len()..],
        _ => line,
    };
    let at = at.trim_start();
    let refused = ["config reload skipped (", "config reload failed", "config hot reload failed"];
    if refused.iter().any(|words| at.starts_with(words)) {
        return Some(Reload::Refused(at.trim_end().to_owned()));
    }
    if at.starts_with("config hot reload applied") {
        return Some(Reload::Applied);
    }
    at.starts_with("config change requires gateway restart").then_some(Reload::NeedsRestart)
}

#[cfg(test)]
#[path = "trial_tests.rs"]
mod tests;
