//! What everybody sees of the owner's state.

use winston_wire::{GatewayState, GatewayStatus, Timestamp};

use super::Owner;
use crate::gateway::process::Process;
use crate::gateway::state::{Phase, State, Why};

impl Owner {
    /// The only place that changes the state: logs the change and tells everybody.
    pub(super) fn set_state(&mut self, next: State) {
        let (from, to) = (self.state.phase.public(), next.phase.public());
        self.state = next;
        self.remember();
        let reason = self.shared.logs.redact(&self.reason());
        if from != to {
            tracing::info!(?from, ?to, reason, "gateway state");
        }
        let pid = self.process.as_ref().map(Process::id);
        let restarts = self.starts.saturating_sub(1);
        let last_exit = self.last_exit.clone();
        let suppressed = self.condition.suppressed().to_vec();
        self.shared.status.send_if_modified(|status| {
            let next = GatewayStatus {
                state: to,
                since: if from == to { status.since } else { Timestamp::now() },
                reason,
                pid,
                restarts,
                adopted: self.process.as_ref().is_some_and(Process::is_adopted),
                port: status.port,
                // Until it is known again: the time of the last process would look like this one's.
                ready_after_ms: status.ready_after_ms.filter(|_| to != GatewayState::Starting),
                last_exit,
                suppressed,
                channel_starts: self.channel_starts,
                // Of the process, and not of the next one.
                suspension: status.suspension.clone().filter(|_| pid.is_some() && pid == status.pid),
            };
            let changed = *status != next;
            *status = next;
            changed
        });
    }

    fn reason(&self) -> String {
        match self.state.phase {
            Phase::WaitingForConfig => "there is no openclaw.json yet".into(),
            Phase::Stopped => "stopped on request".into(),
            Phase::ShutDown => "the sidecar is shutting down".into(),
            Phase::Adopted { .. } => "taken over from an earlier sidecar; it has not answered yet".into(),
            Phase::Starting { .. } | Phase::Ready { degraded: false, .. } => String::new(),
            Phase::Ready { degraded: true, .. } => self.impairment(),
            Phase::Unresponsive { .. } => "it does not answer /healthz".into(),
            Phase::Stopping { why, .. } => match why {
                Why::Requested => "on request".into(),
                Why::NeverReady => "it did not become ready within the start budget".into(),
                Why::Unresponsive => "it did not answer within the liveness budget".into(),
            },
            Phase::Backoff { .. } => self.trouble.clone(),
            Phase::CrashLooping { .. } => {
                format!("{} quick ends in a row; the last: {}", self.config.limits.quick_ends, self.trouble)
            }
        }
    }

    /// Whether somebody has asked it to take no work.
    pub(super) fn is_suspended(&self) -> bool {
        self.shared.status.borrow().suspension.is_some()
    }

    /// What the gateway says of itself, and what became of the attempt to help.
    fn impairment(&self) -> String {
        if self.is_suspended() {
            // It calls that draining.
            return "suspended on request; it takes no work until it is resumed".into();
        }
        let words = self.condition.words();
        match self.revival_trouble.as_str() {
            "" => words,
            trouble => format!("{words}; {trouble}"),
        }
    }
}
