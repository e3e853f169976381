//! What a trial of a configuration has to see of the gateway.

use std::time::Duration;

use winston_wire::GatewayStatus;

use super::logs::LogLine;
use super::{GatewayHandle, descendants, probe};

impl GatewayHandle {
    /// The present state, and whether its process had not ended by now, be that known already or not.
    pub(crate) fn sighted(&self) -> (GatewayStatus, bool) {
        let status = self.status();
        let pid = status.pid.and_then(|pid| i32::try_from(pid).ok());
        (status, pid.is_some_and(descendants::lives))
    }

    /// Whether it has started, does not drain, and its event loop turns: `/healthz` and `/startupz` answer 200, each within `limit`.
    pub(crate) async fn serves(&self, limit: Duration) -> bool {
        let port = self.shared.status.borrow().port;
        probe::answers(port, probe::HEALTH, limit).await && probe::answers(port, probe::STARTUP, limit).await
    }

    /// Number of the last line of its output.
    pub(crate) fn last_line(&self) -> u64 {
        self.shared.logs.tail(1).last().map_or(0, |line| line.seq)
    }

    /// The lines after that one, as far as they are kept.
    pub(crate) fn lines_after(&self, seq: u64) -> Vec<LogLine> {
        let mut lines = self.shared.logs.tail(usize::MAX);
        lines.retain(|line| line.seq > seq);
        lines
    }
}
