//! Asking the gateway to finish what it is doing, within a time, and then to end.
//!
//! On a plain SIGTERM a busy gateway drains for more than five minutes and nothing shortens that. The one request
//! with a budget is a restart: under external supervision it drains, marks interrupted turns so that the next start
//! resumes them, and exits with 0.

use std::time::Duration;

use serde_json::{Value, json};
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

/// Asks the gateway with this `pid` to end within `budget`. `Ok` means that it will end by itself.
pub(super) async fn ask(config: GatewayConfig, pid: u32, budget: Duration) -> Result<(), DrainError> {
    let budget = u64::try_from(budget.as_millis()).unwrap_or(u64::MAX);
    let intent = json!({ "restartIntent": { "force": true, "drainBudgetMs": budget } });
    request(config, pid, "stopped by its supervisor", intent).await
}

/// Asks the gateway with this `pid` to start anew once it has nothing to do; it decides when, and then ends with 0.
pub(super) async fn ask_anew(config: GatewayConfig, pid: u32, why: String) -> Result<(), DrainError> {
    request(config, pid, &why, json!({ "safe": true })).await
}

async fn request(config: GatewayConfig, pid: u32, why: &str, how: Value) -> Result<(), DrainError> {
    let secret = config.rpc_secret.clone().ok_or(DrainError::NoSecret)?;
    let (port, limits) = (config.port, config.limits.clone());
    let lock = tokio::time::timeout(limits.rpc_limit, spawn_blocking(move || read_lock(&config)))
        .await
        .ok()
        .and_then(Result::ok)
        .flatten()
        .filter(|lock| lock.pid == pid)
        .ok_or(DrainError::NoLock)?;
    let mut params = how;
    params["reason"] = why.into();
    params["target"] = json!({ "pid": lock.pid, "ownerId": lock.owner_id, "port": lock.port });
    rpc::call(port, &secret, "gateway.restart.request", params, limits.rpc_limit).await?;
    Ok(())
}
