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
            revive_after: Duration::from_secs(30),
            revive_pause: Duration::from_secs(60),
            suspend_renewal: Duration::from_secs(40),
            suspend_longest: Duration::from_secs(30 * 60),
        }
    }
}

impl Limits {
    /// From asking for a drain to SIGTERM.
    pub(super) fn drain_step(&self) -> Duration {
        self.rpc_limit + self.drain + self.drain_margin
    }

    /// Longest time that a stop or shutdown can take, unless the kernel holds the process.
    pub(crate) fn longest_stop(&self) -> Duration {
        self.drain_step() + self.term_grace + self.kill_wait + self.sweep
    }
}
