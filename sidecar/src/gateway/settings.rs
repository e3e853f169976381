//! What the supervisor is told once, at its start: what to run and as whom, times and counts.

use std::path::PathBuf;
use std::time::Duration;

use winston_wire::env::Secret;

use super::{Backoff, LogSettings};

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
    /// What it inherits, as [`super::inherited_environment`] returns it.
    pub(crate) environment: Vec<(String, String)>,
    /// `OPENCLAW_GATEWAY_TOKEN`; without it a stop cannot ask for a drain.
    pub(crate) rpc_secret: Option<Secret>,
    /// Resident size, in bytes, above which it is asked to start anew once it is idle.
    pub(crate) memory_limit: Option<u64>,
    /// Times and counts.
    pub(crate) limits: Limits,
    /// What becomes of its output.
    pub(crate) logs: LogSettings,
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
    /// Of the last stop of all, where it is not like any other.
    pub(crate) last_stop: Option<StopLimits>,
    /// Delays before a start.
    pub(crate) backoff: Backoff,
    /// Ends in a row that make a crash loop.
    pub(crate) quick_ends: u32,
    /// Pause between two starts in a crash loop.
    pub(crate) crash_loop_retry: Duration,
    /// Time of being ready after which earlier ends are forgiven.
    pub(crate) ran_well: Duration,
    /// Time of being ready after which channels are started that it keeps silent.
    pub(crate) revive_after: Duration,
    /// Pause before the second time that they are started; it doubles with each further one.
    pub(crate) revive_pause: Duration,
    /// Pause between two renewals of a suspension. Its lease is two minutes, so two may fail.
    pub(crate) suspend_renewal: Duration,
    /// Longest time that a suspension is renewed for.
    pub(crate) suspend_longest: Duration,
}

/// Times of the first steps of a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StopLimits {
    /// How long running turns may go on.
    pub(crate) drain: Duration,
    /// From asking for that to SIGTERM.
    pub(crate) drain_step: Duration,
    /// From SIGTERM to SIGKILL.
    pub(crate) term: Duration,
}

/// Of the grace that entrypoint gives us, what the rest of our end takes: the log files, and the last changes for control.
const OUR_END: Duration = Duration::from_secs(3);

/// The same for answers that are on their way, where there is time for them.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Shortest time that is worth planning; half of it is the least for a gateway that cannot be asked.
const LEAST: Duration = Duration::from_secs(2);

// A whole stop fits into the usual grace that entrypoint gives us (`WINSTON_STOP_GRACE_SECONDS`, 25 s).
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
            last_stop: None,
            backoff: Backoff::STANDARD,
            quick_ends: 5,
            crash_loop_retry: Duration::from_secs(300),
            ran_well: Duration::from_secs(60),
            revive_after: Duration::from_secs(30),
            revive_pause: Duration::from_secs(60),
            suspend_renewal: Duration::from_secs(40),
            suspend_longest: Duration::from_secs(30 * 60),
        }
    }
}

impl Limits {
    /// Of a stop; `last`: nothing follows.
    pub(super) fn stop(&self, last: bool) -> StopLimits {
        let usual = StopLimits {
            drain: self.drain,
            drain_step: self.rpc_limit + self.drain + self.drain_margin,
            term: self.term_grace,
        };
        self.last_stop.filter(|_| last).unwrap_or(usual)
    }

    /// Longest time that the last stop can take, unless the kernel holds the process.
    pub(crate) fn longest_stop(&self) -> Duration {
        let stop = self.stop(true);
        stop.drain_step + stop.term + self.kill_wait + self.sweep
    }

    /// The same with a last stop that fits into the `grace` that entrypoint gives us. Of a longer one than usual most goes to running turns, and the
    /// rest to a gateway that cannot be asked. Other stops do not take longer for it: somebody waits for them. With one that is too short to plan with
    /// nothing is planned, and entrypoint ends the gateway.
    pub(crate) fn within(self, grace: Duration) -> Self {
        let (usual, whole, left) = (self.stop(false), self.longest_stop(), grace.saturating_sub(OUR_END));
        if left < LEAST {
            return self;
        }
        if let Some(more) = left.checked_sub(whole) {
            let more = more.saturating_sub(LAST_ANSWERS);
            let (turns, term) = (more / 4 * 3, usual.term + more / 4);
            let (drain, drain_step) = (usual.drain + turns, usual.drain_step + turns);
            return Self { last_stop: Some(StopLimits { drain, drain_step, term }), ..self };
        }
        // SIGKILL and what is left behind take no time as a rule.
        let time = left - (self.kill_wait + self.sweep).min(left / 4);
        let share = |part: Duration| time.mul_f64(part.as_secs_f64() / (usual.drain_step + usual.term).as_secs_f64());
        let term = share(usual.term).max(LEAST / 2);
        let drain_step = time - term;
        let drain = usual.drain.mul_f64(drain_step.as_secs_f64() / usual.drain_step.as_secs_f64());
        Self { last_stop: Some(StopLimits { drain, drain_step, term }), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_stop_fits_into_its_grace() {
        let usual = Limits::default();
        let secs = Duration::from_secs;
        assert_eq!(usual.clone().within(secs(25)).stop(true), usual.stop(true));
        for grace in [5, 6, 8, 15, 24, 25, 26, 30, 300, 3600] {
            let limits = usual.clone().within(secs(grace));
            let stop = limits.stop(true);
            assert!(stop.drain_step + stop.term + OUR_END < secs(grace), "{grace}: {stop:?}");
            assert!(stop.drain < stop.drain_step && stop.term >= secs(1), "{grace}: {stop:?}");
            // What somebody waits for, and what comes after a crash, stays as it is.
            assert_eq!(
                (limits.stop(false), limits.kill_wait, limits.sweep),
                (usual.stop(false), usual.kill_wait, usual.sweep)
            );
        }
        assert!(usual.clone().within(secs(300)).stop(true).drain > secs(200));
        for grace in [0, 1, 4] {
            assert_eq!(usual.clone().within(secs(grace)).stop(true), usual.stop(true));
        }
    }
}
