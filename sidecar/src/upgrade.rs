//! Making room for another binary: who may ask, and what is checked before this one leaves.
//!
//! Entrypoint starts whatever lies at the path from which it started us. A file there that cannot run would leave the tenant
//! without an API until somebody repairs it, so it is run once (`--version`) before we go.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use thiserror::Error;
use tokio::process::Command;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Longest time for the replacement to print its version.
const LOOK: Duration = Duration::from_secs(5);

/// Why this sidecar stays.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum UpgradeError {
    /// Nobody would start another one.
    #[error("this sidecar was not started by winston-entrypoint, so nothing would take its place")]
    Alone,
    /// What lies there would not run.
    #[error("the file at {path} does not run: {reason}; this sidecar stays")]
    Unfit { path: String, reason: String },
}

/// Requests to make room.
pub(crate) struct Upgrade {
    below_entrypoint: bool,
    /// Our own path as entrypoint wrote it. What the kernel says about us would name the old file.
    program: OsString,
    asked: Notify,
}

impl Upgrade {
    pub(crate) fn new(below_entrypoint: bool) -> Self {
        let program = std::env::args_os().next().unwrap_or_default();
        Self { below_entrypoint, program, asked: Notify::new() }
    }

    /// Asks this sidecar to leave, unless it had better stay; the first word of the version that follows.
    pub(crate) async fn request(&self) -> Result<String, UpgradeError> {
        if !self.below_entrypoint {
            return Err(UpgradeError::Alone);
        }
        let version = self.look().await?;
        tracing::info!(version, program = %self.program.display(), "making room for the sidecar that lies there now");
        self.asked.notify_one();
        Ok(version)
    }

    /// Waits for a request.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }

    async fn look(&self) -> Result<String, UpgradeError> {
        let unfit = |reason: String| UpgradeError::Unfit { path: self.program.display().to_string(), reason };
        let mut command = Command::new(&self.program);
        command.arg("--version").env_clear().stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let output = timeout(LOOK, command.output())
            .await
            .map_err(|_| unfit(format!("no version within {} s", LOOK.as_secs())))?
            .map_err(|error| unfit(error.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        match text.trim().strip_prefix(concat!(env!("CARGO_PKG_NAME"), " ")) {
            Some(version) if output.status.success() && version.len() < 100 => Ok(version.to_owned()),
            _ => Err(unfit(format!("it is no {}, {}", env!("CARGO_PKG_NAME"), output.status))),
        }
    }
}
