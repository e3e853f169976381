//! Walking the transition function.

use super::*;

pub(super) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What a sidecar leaves that had nothing to leave.
pub(super) const NOTHING: Memory = Memory { running: None, stopped: false, failures: 0, configured: true };

/// Walks the transition function; jitter is at its maximum, so that delays are known.
pub(super) struct Walk {
    pub(super) limits: Limits,
    pub(super) state: State,
    pub(super) now: Duration,
}

impl Walk {
    /// From the beginning, with a configuration: `Starting`.
    pub(super) fn starting() -> Self {
        let mut walk = Self { limits: Limits::default(), state: State::initial(), now: secs(1000) };
        assert_eq!(walk.take(Event::ConfigReady), [Action::Spawn]);
        walk
    }

    pub(super) fn ready() -> Self {
        let mut walk = Self::starting();
        assert_eq!(walk.take(Event::Started), []);
        walk.expect(GatewayState::Ready);
        walk
    }

    pub(super) fn unresponsive() -> Self {
        let mut walk = Self::ready();
        walk.take(Event::Silent);
        walk.expect(GatewayState::Unresponsive);
        walk
    }

    pub(super) fn stopping() -> Self {
        let mut walk = Self::ready();
        assert_eq!(walk.take(Event::Stop), [Action::Drain]);
        walk
    }

    pub(super) fn backoff() -> Self {
        let mut walk = Self::starting();
        assert_eq!(walk.exit(End::Failed), [Action::Sweep]);
        walk.expect(GatewayState::Backoff);
        walk
    }

    pub(super) fn crash_looping() -> Self {
        let mut walk = Self::starting();
        for _ in 1..walk.limits.quick_ends {
            walk.exit(End::Failed);
            walk.expect(GatewayState::Backoff);
            assert_eq!(walk.pass(), [Action::Spawn]);
        }
        walk.exit(End::Failed);
        walk.expect(GatewayState::CrashLooping);
        walk
    }

    pub(super) fn stopped() -> Self {
        let mut walk = Self::stopping();
        walk.exit(End::Clean);
        walk.expect(GatewayState::Stopped);
        walk
    }

    /// After another sidecar that left this.
    pub(super) fn resumed(memory: Memory) -> Self {
        let mut walk = Self { limits: Limits::default(), state: State::initial(), now: secs(1000) };
        assert_eq!(walk.take(Event::Resumed(memory)), []);
        walk
    }

    pub(super) fn adopted(ready_for: Option<Duration>) -> Self {
        let walk = Self::resumed(Memory { running: Some(Running { age: secs(100), ready_for }), ..NOTHING });
        walk.expect(GatewayState::Adopted);
        walk
    }

    pub(super) fn take(&mut self, event: Event) -> Vec<Action> {
        let moment = Moment { now: self.now, jitter: Jitter(u16::MAX) };
        let (state, actions) = step(&self.limits, &self.state, event, moment);
        self.state = state;
        actions
    }

    pub(super) fn exit(&mut self, end: End) -> Vec<Action> {
        self.take(Event::Exited(end))
    }

    /// Lets the deadline of the present phase pass.
    pub(super) fn pass(&mut self) -> Vec<Action> {
        self.now = self.state.phase.deadline().expect("a deadline");
        self.take(Event::Deadline)
    }

    pub(super) fn expect(&self, state: GatewayState) {
        assert_eq!(self.state.phase.public(), state, "{:?}", self.state);
    }
}

/// A walk to each node of the diagram but the last.
pub(super) fn everywhere() -> Vec<Walk> {
    let waiting = Walk { limits: Limits::default(), state: State::initial(), now: secs(1000) };
    vec![
        waiting,
        Walk::adopted(None),
        Walk::adopted(Some(secs(50))),
        Walk::starting(),
        Walk::ready(),
        Walk::unresponsive(),
        Walk::stopping(),
        Walk::backoff(),
        Walk::crash_looping(),
        Walk::stopped(),
    ]
}
