//! The task that owns the gateway process: turns what happens into events, and decisions into deeds.
//!
//! Nothing here decides anything; `state` does. Probes and the drain run as futures inside this task's own loop, so
//! that nothing can answer a question whose asker is gone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc;
use tokio::time::Instant;
use winston_wire::GatewayExit;

use super::backoff::Jitter;
use super::channels::Revival;
use super::condition::Condition;
use super::descendants::Realm;
use super::drain::{self, DrainError};
use super::exit::Exit;
use super::memory::OomWatch;
use super::output::Output;
use super::process::{self, Process};
use super::record::Known;
use super::state::{Action, Event, Moment, Phase, Probe, State, Then, step};
use super::tickets::Tickets;
use super::wait::{answer, child_ended, ended, probed, reached, told};
use super::weight::Weight;
use super::{AnswerSender, Command, GatewayConfig, Heritage, Request, Shared, descendants};
use ends::Ended;
pub(super) use look::Look;
use look::{Asked, Errand};

mod ends;
mod look;
mod resume;
mod show;

/// Orphans are reaped together, this long after the first has ended.
const REAP_PAUSE: Duration = Duration::from_millis(100);

/// Longest wait for entrypoint to tell how a process ended; it tells at once or never.
const STATUS_LIMIT: Duration = Duration::from_millis(500);

/// How long ago times begin, so that an adopted process can have been ready before this sidecar started.
const PAST: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs until shutdown or release, or until every handle is gone.
pub(super) async fn run(
    config: GatewayConfig,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Command>,
    output: Output,
    heritage: Option<Heritage>,
) {
    let realm = shared.realm;
    let children = if realm == Realm::Alone { adopt_orphans() } else { None };
    let now = Instant::now();
    let mut owner = Owner {
        state: State::initial(),
        origin: now.checked_sub(PAST).unwrap_or(now),
        realm,
        output,
        heritage,
        process: None,
        known: None,
        ended: None,
        last_exit: None,
        spawned_at: Instant::now(),
        starts: 0,
        trouble: String::new(),
        probe: None,
        drain: None,
        errand: None,
        condition: Condition::default(),
        revival: Revival::default(),
        revival_trouble: String::new(),
        channel_starts: 0,
        weight: Weight::default(),
        asked_anew: None,
        oom: OomWatch::begin(),
        first_line: 0,
        tickets: Tickets::default(),
        reap_at: None,
        children,
        inbox,
        alone: false,
        config,
        shared,
    };
    owner.resume().await;
    while owner.state.phase != Phase::ShutDown {
        let input = owner.next().await;
        owner.handle(input).await;
    }
}

/// Without entrypoint the orphans of the gateway are ours to reap.
fn adopt_orphans() -> Option<unix::Signal> {
    descendants::adopt_orphans();
    unix::signal(SignalKind::child())
        .inspect_err(|error| tracing::warn!(%error, "orphans are reaped only after each end"))
        .ok()
}

/// Something that the loop woke up for.
enum Input {
    Command(Command),
    HandlesGone,
    ConfigReady,
    Exited(Exit),
    Probed(Probe, Look),
    Asked(Asked),
    Drained(Result<(), DrainError>),
    Deadline,
    ChildEnded,
    Reap,
    Told,
}

struct Owner {
    config: GatewayConfig,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Command>,
    /// Every handle is gone, so that the inbox has nothing to wait for any more.
    alone: bool,
    tickets: Tickets,
    state: State,
    /// Zero of the times in `state`.
    origin: Instant,
    realm: Realm,
    output: Output,
    /// Below entrypoint only.
    heritage: Option<Heritage>,
    process: Option<Process>,
    /// How the next sidecar can recognise the process.
    known: Option<Known>,
    /// A process that has ended, until it has been swept up after.
    ended: Option<Ended>,
    last_exit: Option<GatewayExit>,
    spawned_at: Instant,
    starts: u64,
    /// What was wrong last: the meaning of an exit, or why there was no start.
    trouble: String,
    probe: Option<(Probe, BoxFuture<'static, Look>)>,
    drain: Option<BoxFuture<'static, Result<(), DrainError>>>,
    /// What a ready gateway is asked for beside that, one thing at a time.
    errand: Option<Errand>,
    /// What the gateway says of itself.
    condition: Condition,
    revival: Revival,
    /// What came of the last try to start silent channels, in a sentence, if it failed.
    revival_trouble: String,
    channel_starts: u64,
    weight: Weight,
    /// Why it was asked to start anew, until it has.
    asked_anew: Option<String>,
    oom: OomWatch,
    /// The last line before those of this process.
    first_line: u64,
    children: Option<unix::Signal>,
    reap_at: Option<Instant>,
}

impl Owner {
    /// Waits for whatever comes first. The end of the process comes first of all, so that no request acts on a dead one.
    async fn next(&mut self) -> Input {
        let deadline = self.state.phase.deadline().map(|at| self.origin + at);
        tokio::select! {
            biased;
            exit = ended(&mut self.process) => Input::Exited(exit),
            command = self.inbox.recv(), if !self.alone => command.map_or(Input::HandlesGone, Input::Command),
            () = self.shared.config_ready.notified() => Input::ConfigReady,
            result = answer(&mut self.drain) => Input::Drained(result),
            (probe, look) = probed(&mut self.probe) => Input::Probed(probe, look),
            asked = answer(&mut self.errand) => Input::Asked(asked),
            () = reached(deadline) => Input::Deadline,
            () = reached(self.reap_at) => Input::Reap,
            () = child_ended(&mut self.children) => Input::ChildEnded,
            () = told(self.heritage.as_mut().map(|heritage| &mut heritage.reaped)) => Input::Told,
        }
    }

    async fn handle(&mut self, input: Input) {
        match input {
            Input::Command(Command { request, answer }) => self.request(request, answer).await,
            Input::HandlesGone => {
                self.alone = true;
                self.apply(Event::Shutdown).await;
            }
            Input::ConfigReady => self.apply(Event::ConfigReady).await,
            Input::Exited(exit) => {
                if let Some(process) = self.process.take() {
                    let exit = self.status_of(&process, exit).await;
                    self.exited(process.id(), exit).await;
                }
            }
            Input::Probed(kind, look) => {
                self.probe = None;
                self.probed(kind, look).await;
            }
            Input::Asked(asked) => {
                self.errand = None;
                self.asked(asked);
            }
            Input::Drained(result) => {
                self.drain = None;
                if let Err(error) = result {
                    let error = self.shared.logs.excerpt(&error.to_string());
                    tracing::info!(error, "gateway cannot be asked to drain, sending SIGTERM");
                    self.apply(Event::DrainRefused).await;
                }
            }
            Input::Deadline => self.apply(Event::Deadline).await,
            Input::ChildEnded => {
                self.reap_at.get_or_insert_with(|| Instant::now() + REAP_PAUSE);
            }
            Input::Reap => {
                self.reap_at = None;
                descendants::reap(self.process.as_ref().map(|process| process.pid));
            }
            Input::Told => {}
        }
        self.ask_next();
        self.tickets.settle(self.state.phase, &self.shared);
    }

    async fn request(&mut self, request: Request, answer: AnswerSender) {
        if !self.tickets.admit(request, answer) {
            return;
        }
        let wants_start = matches!(request, Request::Start | Request::Restart);
        let waiting = self.state.phase == Phase::WaitingForConfig;
        if wants_start && (waiting || self.state.phase == Phase::Stopped) && process::has_config(&self.config) {
            // Nobody has told us yet; the disk is as good a witness as the watcher.
            self.apply(Event::ConfigReady).await;
            if waiting {
                return;
            }
        }
        self.apply(match request {
            Request::Start => Event::Start,
            Request::Stop => Event::Stop,
            Request::Restart => Event::Restart,
            Request::Shutdown => Event::Shutdown,
            Request::Release => Event::Release,
        })
        .await;
    }

    /// Feeds the transition function and carries out what it says, until it has nothing more to say.
    async fn apply(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let moment = Moment { now: self.origin.elapsed(), jitter: jitter() };
            let (next, actions) = step(&self.config.limits, &self.state, event, moment);
            for action in actions {
                events.extend(self.carry_out(action, next.phase).await);
            }
            self.set_state(next);
        }
    }

    /// `next`: the phase that the action belongs to.
    async fn carry_out(&mut self, action: Action, next: Phase) -> Option<Event> {
        match (action, &self.process) {
            (Action::Spawn, _) => return self.spawn(),
            (Action::Sweep, _) => self.sweep().await,
            (Action::Drain, Some(process)) => {
                let last = matches!(next, Phase::Stopping { then: Then::End, .. });
                let budget = self.config.limits.stop(last).drain;
                self.drain = Some(Box::pin(drain::ask(self.config.clone(), process.id(), budget)));
            }
            (Action::Terminate, Some(process)) => process.signal(Signal::TERM),
            (Action::Kill, Some(process)) => process.signal(Signal::KILL),
            (Action::Drain | Action::Terminate | Action::Kill, None) => {}
        }
        None
    }

    fn spawn(&mut self) -> Option<Event> {
        let stdio = self.output.stdio().map_err(|source| process::no_output(&self.config, source));
        match stdio.and_then(|stdio| process::spawn(&self.config, stdio)) {
            Ok(process) => {
                crate::failpoint::here("gateway-spawned");
                let pid = process.id();
                tracing::info!(pid, "gateway process started");
                self.begin_life();
                self.shared.logs.note(format!("gateway started (pid {pid})"));
                self.known = resume::known(&process, &self.config);
                self.process = Some(process);
                self.spawned_at = Instant::now();
                self.starts += 1;
                None
            }
            Err(error) => {
                tracing::warn!(%error, "gateway not started");
                self.trouble = error.to_string();
                Some(Event::SpawnFailed)
            }
        }
    }
}

/// Without randomness the longest delay is the safe one.
fn jitter() -> Jitter {
    let mut bytes = [u8::MAX; 2];
    if let Err(error) = getrandom::fill(&mut bytes) {
        tracing::debug!(%error, "no randomness for the backoff");
    }
    Jitter(u16::from_le_bytes(bytes))
}
