//! What a trial of a configuration has to see of the gateway, and what runs its program beside it.

use std::path::PathBuf;
use std::time::Duration;

use winston_wire::GatewayStatus;

use super::logs::LogLine;
use super::{GatewayConfig, GatewayHandle, Identity, descendants, env, probe};

/// How the gateway's own program is run for a question: as the gateway, except for where its state is.
#[derive(Debug, Clone)]
pub(crate) struct Cli {
    /// The program.
    pub(crate) program: PathBuf,
    /// Whom to run it as; `None`: as ourselves.
    pub(crate) identity: Option<Identity>,
    /// The gateway's whole environment.
    pub(crate) environment: Vec<(String, String)>,
    /// Values that must not show in what is passed on, longest first.
    pub(crate) secrets: Vec<String>,
    /// Port on which the gateway is supervised.
    pub(crate) port: u16,
}

impl Cli {
    /// Like the gateway of this configuration.
    pub(crate) fn of(config: &GatewayConfig) -> Self {
        Self {
            program: config.program.clone(),
            identity: config.identity,
            environment: env::complete(config),
            secrets: env::secrets(config),
            port: config.port,
        }
    }
}

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
