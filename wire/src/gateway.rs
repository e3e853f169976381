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
    /// As `Ready`, but by its own account something is not well: a channel, its event loop. No reason to restart it.
    Degraded,
    /// Was ready, does not answer `/healthz` at present.
    Unresponsive,
    /// Asked to stop, still running.
    Stopping,
    /// Exited unasked; waits before the next start.
    Backoff,
    /// Exited quickly too often; waits for a config change or a request, with rare retries.
    CrashLooping,
    /// A state that a newer program knows and this one does not.
    #[serde(other)]
    Unknown,
}

impl GatewayState {
    /// Whether the gateway has started and answers.
    #[must_use]
    pub fn is_up(self) -> bool {
        matches!(self, Self::Ready | Self::Degraded)
    }
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
    /// The same in one word.
    #[serde(default)]
    pub cause: ExitCause,
    /// What probably made it end, if its last lines or its surroundings tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub likely: Option<LikelyCause>,
    /// The line of its output that tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}

/// What probably made a gateway process end: for whoever has to repair it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LikelyCause {
    /// A key or value in `openclaw.json`, or the file as a whole.
    BadConfig,
    /// Another process listens on a port that it needs.
    PortInUse,
    /// A file or directory that it must read or write and may not.
    NoPermission,
    /// The cgroup's limit, or the heap of Node.js.
    OutOfMemory,
    /// Another gateway owns the state directory.
    StateInUse,
    /// The state directory is of another version, or has to be looked after before it can be used.
    Maintenance,
    /// Node.js is missing or has the wrong version.
    WrongNode,
    /// The volume has no room.
    DiskFull,
    /// A cause that a newer program knows and this one does not.
    #[serde(other)]
    Unknown,
}

/// Why a gateway process ended, as far as it decides what happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitCause {
    /// It was asked to.
    Asked,
    /// By itself and in order: it wants to be started again.
    Clean,
    /// There is no configuration.
    NoConfig,
    /// It refuses its configuration.
    BadConfig,
    /// It was ended because it did not become ready, or did not answer any more.
    Hung,
    /// The kernel killed it: the cgroup had no memory left.
    OutOfMemory,
    /// Anything else.
    #[default]
    #[serde(other)]
    Failed,
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
    /// Channels that the gateway keeps silent because it crashed several times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suppressed: Vec<String>,
    /// Accounts of such channels that were started again, since the sidecar started.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub channel_starts: u64,
    /// It takes no work, because somebody has suspended it through the sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspension: Option<Suspension>,
}

/// A gateway that was asked to take no work until it is resumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// Since when.
    pub since: Timestamp,
    /// When it goes on by itself, unless the lease is renewed before.
    pub expires_at: Timestamp,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sidecar may be newer than the control that it checks in with.
    #[test]
    fn what_a_newer_program_says_is_no_error() {
        let text = r#"{
            "state": "levitating", "since": "1970-01-01T00:00:00Z", "port": 18789, "restarts": 0, "colour": "red",
            "last_exit": {"at": "1970-01-01T00:00:00Z", "meaning": "m", "cause": "boredom", "likely": "the moon"}
        }"#;
        let status: GatewayStatus = serde_json::from_str(text).expect("a status");
        assert_eq!((status.state, status.state.is_up()), (GatewayState::Unknown, false));
        let exit = status.last_exit.expect("an end");
        assert_eq!((exit.cause, exit.likely), (ExitCause::Failed, Some(LikelyCause::Unknown)));
    }
}
