//! Asking the gateway to finish what it is doing, within a time, and then to end.
//!
//! On a plain SIGTERM a busy gateway drains for more than five minutes and nothing shortens that. The one request
//! with a budget is a restart: under external supervision it drains, marks interrupted turns so that the next start
//! resumes them, and exits with 0.

use serde_json::json;
use thiserror::Error;
use tokio::task::spawn_blocking;

use super::GatewayConfig;
use super::process::read_lock;
use super::rpc::{self, RpcError};

/// Why the gateway cannot be asked.
#[derive(Debug, Error)]
pub(super) enum DrainError {
    #[error("OPENCLAW_GATEWAY_TOKEN is not known")]
    NoSecret,
    #[error("its lock file is missing, not readable, or names another process")]
    NoLock,
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

/// Asks the gateway with this `pid`. `Ok` means that it will end by itself.
pub(super) async fn ask(config: GatewayConfig, pid: u32) -> Result<(), DrainError> {
    let secret = config.rpc_secret.clone().ok_or(DrainError::NoSecret)?;
    let (port, limits) = (config.port, config.limits.clone());
    let lock = tokio::time::timeout(limits.rpc_limit, spawn_blocking(move || read_lock(&config)))
        .await
        .ok()
        .and_then(Result::ok)
        .flatten()
        .filter(|lock| lock.pid == pid)
        .ok_or(DrainError::NoLock)?;
    let budget = u64::try_from(limits.drain.as_millis()).unwrap_or(u64::MAX);
    let params = json!({
        "reason": "stopped by its supervisor",
        "target": { "pid": lock.pid, "ownerId": lock.owner_id, "port": lock.port },
        "restartIntent": { "force": true, "drainBudgetMs": budget },
    });
    rpc::call(port, &secret, "gateway.restart.request", params, limits.rpc_limit).await?;
    Ok(())
}
