//! What is to be done about the configuration while no transaction is open: prove it, bring a good one back, enforce what control owns. Pure.
//!
//! Level-triggered: every look tells everything, and what was missed is in the next one. Times are durations since an origin that the
//! caller chooses.

use std::collections::VecDeque;
use std::time::Duration;

use winston_wire::{ContentHash, ExitCause, GatewayState, Timestamp};

/// A running gateway must have gone well with a configuration for this long to prove it, at least.
const LEAST_PROOF: Duration = Duration::from_secs(1);

/// Repairs within [`REPAIR_WINDOW`] that come at once. Further ones wait for [`REPAIR_PAUSE`].
const QUICK_REPAIRS: usize = 3;
const REPAIR_WINDOW: Duration = Duration::from_secs(300);
const REPAIR_PAUSE: Duration = Duration::from_secs(60);

/// Pauses before keys that control owns are enforced, by how often that was done within the last hour.
const ENFORCE_PAUSES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
    Duration::from_secs(600),
];
const ENFORCE_WINDOW: Duration = Duration::from_secs(3600);

/// From this many enforcements within an hour on, somebody is told that two sides do not agree.
pub(super) const WAR: usize = 3;

/// A look at everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scene {
    /// Content of the configuration on disk.
    pub(super) config: Option<ContentHash>,
    pub(super) state: GatewayState,
    /// The gateway's process.
    pub(super) pid: Option<u32>,
    /// How many processes there have been.
    pub(super) starts: u64,
    /// The last end of a process.
    pub(super) exit: Option<(Timestamp, ExitCause)>,
    /// It ended as one does that refuses its configuration, but something else is known to be wrong. That may come from a configuration that
    /// nothing is known of, and not from one with which it has run.
    pub(super) is_doubtful: bool,
    /// Last-known-good sets, newest first: number and content of their configuration.
    pub(super) good: Vec<(u64, ContentHash)>,
    /// The keys that control owns are not as control wants them.
    pub(super) drifted: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Nothing before the next look, which is due then at the latest.
    Wait(Option<Duration>),
    /// The configuration on disk is good: keep it as such.
    Keep,
    /// A running gateway has it in front of it: validate it, then say [`Guard::judged`].
    Validate,
    /// Bring the configuration of this last-known-good set back, over the one on disk.
    Restore(u64),
    /// Have the gateway start anew, with what is there.
    Retry,
    /// Enforce the keys that control owns.
    Enforce,
}

/// What is known about the configuration on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// Nothing yet.
    None,
    /// The validation has nothing against it.
    Valid,
    /// The validation, or the gateway, refuses it.
    Refused,
    /// The gateway runs with it.
    Proved,
}

/// Memory between the looks.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    proof_time: Duration,
    config: Option<ContentHash>,
    config_since: Duration,
    pub(super) proof: Proof,
    pid: Option<u32>,
    pid_since: Duration,
    ready_since: Option<Duration>,
    /// The process since which the configuration can be read again.
    mended: Option<u64>,
    /// The end that was acted upon.
    handled: Option<Timestamp>,
    /// Configurations of good sets that the gateway refused all the same, since something was proved.
    tried: Vec<ContentHash>,
    repairs: VecDeque<Duration>,
    enforced: VecDeque<Duration>,
    drifted_since: Option<Duration>,
}

impl Guard {
    /// `proof_time`: how long the gateway must have gone well with a configuration.
    pub(super) fn new(proof_time: Duration) -> Self {
        Self {
            proof_time: proof_time.max(LEAST_PROOF),
            config: None,
            config_since: Duration::ZERO,
            proof: Proof::None,
            pid: None,
            pid_since: Duration::ZERO,
            ready_since: None,
            mended: None,
            handled: None,
            tried: Vec::new(),
            repairs: VecDeque::new(),
            enforced: VecDeque::new(),
            drifted_since: None,
        }
    }

    /// Takes a look and says what to do. Carrying an order out is told by what the next looks show, and by the methods below.
    pub(super) fn look(&mut self, scene: &Scene, now: Duration) -> Order {
        self.note(scene, now);
        if let Some(order) = self.repair(scene, now) {
            return order;
        }
        if let Some(order) = self.enforce(scene, now) {
            return order;
        }
        self.prove(scene, now)
    }

    fn note(&mut self, scene: &Scene, now: Duration) {
        if scene.config != self.config {
            (self.config, self.config_since, self.proof) = (scene.config, now, Proof::None);
            let is_known = scene.config.is_some_and(|hash| scene.good.iter().any(|(_, good)| *good == hash));
            if !is_known {
                // Somebody wrote something new: with the next refusal the search starts over.
                self.tried.clear();
            }
        }
        if scene.pid != self.pid {
            (self.pid, self.pid_since) = (scene.pid, now);
        }
        let ready = scene.state.is_up();
        self.ready_since = if ready { self.ready_since.or(Some(now)) } else { None };
        forget(&mut self.repairs, now, REPAIR_WINDOW);
        forget(&mut self.enforced, now, ENFORCE_WINDOW);
        self.drifted_since = if scene.drifted { self.drifted_since.or(Some(now)) } else { None };
    }

    fn repair(&mut self, scene: &Scene, now: Duration) -> Option<Order> {
        let down =
            matches!(scene.state, GatewayState::Backoff | GatewayState::CrashLooping | GatewayState::WaitingForConfig);
        let (at, cause) = scene.exit?;
        let refused = cause == ExitCause::BadConfig || scene.is_doubtful;
        if !down || !(refused || cause == ExitCause::NoConfig) || self.handled == Some(at) {
            return None;
        }
        let pause = if self.repairs.len() < QUICK_REPAIRS { Duration::ZERO } else { REPAIR_PAUSE };
        let due = self.repairs.back().map_or(now, |last| *last + pause);
        if refused && self.mended == Some(scene.starts) {
            if now < due {
                return Some(Order::Wait(Some(due)));
            }
            self.restored(at, now);
            return Some(Order::Retry);
        }
        let known = scene.config.filter(|there| scene.good.iter().any(|(_, good)| good == there));
        if scene.is_doubtful && known.is_some() {
            return None;
        }
        if cause == ExitCause::BadConfig {
            self.proof = Proof::Refused;
        }
        if let Some(there) = known.filter(|there| !self.tried.contains(there)) {
            self.tried.push(there);
        }
        let untried = |good: &&(u64, ContentHash)| Some(good.1) != scene.config && !self.tried.contains(&good.1);
        let (seq, _) = scene.good.iter().find(untried).or_else(|| Self::newest(scene))?;
        if now < due {
            return Some(Order::Wait(Some(due)));
        }
        Some(Order::Restore(*seq))
    }

    /// None of them is taken: the configuration is not to blame. The newest one is what is wanted once the trouble is over.
    fn newest(scene: &Scene) -> Option<&(u64, ContentHash)> {
        scene.good.first().filter(|(_, good)| Some(*good) != scene.config)
    }

    /// A good set was brought back, or what is there is tried again, because of this end.
    pub(super) fn restored(&mut self, exit: Timestamp, now: Duration) {
        self.handled = Some(exit);
        self.repairs.push_back(now);
    }

    /// The configuration could not be read before now. A process that was there already says nothing about it: it may have tried.
    pub(super) fn mended(&mut self, starts: u64) {
        self.mended = Some(starts);
    }

    fn enforce(&self, scene: &Scene, now: Duration) -> Option<Order> {
        let since = self.drifted_since?;
        if !matches!(
            scene.state,
            GatewayState::Ready
                | GatewayState::Degraded
                | GatewayState::Stopped
                | GatewayState::Backoff
                | GatewayState::CrashLooping
        ) {
            return None;
        }
        let pause = ENFORCE_PAUSES[self.enforced.len().min(ENFORCE_PAUSES.len() - 1)];
        let due = since.max(self.enforced.back().copied().unwrap_or_default()) + pause;
        Some(if now >= due { Order::Enforce } else { Order::Wait(Some(due)) })
    }

    /// The keys that control owns were enforced, or that was tried.
    pub(super) fn enforced(&mut self, now: Duration) {
        self.enforced.push_back(now);
        self.drifted_since = None;
    }

    /// How often that was, within the last hour.
    pub(super) fn enforcements(&self) -> usize {
        self.enforced.len()
    }

    fn prove(&self, scene: &Scene, now: Duration) -> Order {
        let (Some(_), Some(ready_since)) = (scene.config, self.ready_since) else { return Order::Wait(None) };
        if matches!(self.proof, Proof::Proved | Proof::Refused) {
            return Order::Wait(None);
        }
        let due = ready_since.max(self.config_since) + self.proof_time;
        if now < due {
            return Order::Wait(Some(due));
        }
        // A process that started after the configuration was there has read it, and nobody needs to ask.
        if self.pid_since > self.config_since || self.proof == Proof::Valid { Order::Keep } else { Order::Validate }
    }

    /// The outcome of [`Order::Validate`], or of a look into the gateway's log.
    pub(super) fn judged(&mut self, config: ContentHash, valid: bool) {
        if self.config == Some(config) && self.proof != Proof::Proved {
            self.proof = if valid { Proof::Valid } else { Proof::Refused };
        }
    }

    /// The gateway runs with this configuration.
    pub(super) fn proved(&mut self, config: ContentHash, now: Duration) {
        if self.config != Some(config) {
            (self.config, self.config_since) = (Some(config), now);
        }
        self.proof = Proof::Proved;
        self.tried.clear();
    }
}

fn forget(times: &mut VecDeque<Duration>, now: Duration, window: Duration) {
    while times.front().is_some_and(|at| now.saturating_sub(*at) > window) {
        times.pop_front();
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
