//! The supervised OpenClaw gateway as others see it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// State of the gateway process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GatewayState {
    /// This sidecar does not run a gateway.
    Disabled,
    /// There is no `openclaw.json` yet.
    WaitingForConfig,
    /// Stopped on request.
    Stopped,
    /// It runs since before this sidecar, which has taken it over and has not had an answer from it yet.
    Adopted,
    /// Process started, `/startupz` has not answered 200 yet.
    Starting,
    /// `/startupz` answered 200 and `/healthz` goes on answering.
    Ready,
    /// Was ready, does not answer `/healthz` at present.
    Unresponsive,
    /// Asked to stop, still running.
    Stopping,
    /// Exited unasked; waits before the next start.
    Backoff,
    /// Exited quickly too often; waits for a config change or a request, with rare retries.
    CrashLooping,
}

/// How the gateway process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayExit {
    /// When the end was noticed.
    pub at: Timestamp,
    /// Exit code, when it exited by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// Signal number, when a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// What that means for this gateway, in one sentence.
    pub meaning: String,
}

/// Snapshot of the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// Present state.
    pub state: GatewayState,
    /// Since when.
    pub since: Timestamp,
    /// Why, in one sentence; empty when there is nothing to say.
    #[serde(default)]
    pub reason: String,
    /// Process id, while there is a process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Port on loopback.
    pub port: u16,
    /// Starts after the first, since entrypoint (or a sidecar without one) started.
    pub restarts: u64,
    /// The process was started by an earlier sidecar and taken over by this one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// Milliseconds from the last start to the first `/startupz` 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_after_ms: Option<u64>,
    /// Last end of the process, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<GatewayExit>,
}
