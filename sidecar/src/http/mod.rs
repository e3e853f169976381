//! The HTTP server of port 18790: accept loop, limits and routes.
//!
//! Plain HTTP/1.1 on hyper. Every limit has an answer: too many connections wait in the listen queue, slow heads are cut after
//! ten seconds, bodies have a size and a time limit, and memory for bodies is one shared budget.

mod auth;
mod body;
mod error;
#[cfg(test)]
mod fuzz;
mod query;
mod router;
mod routes;
mod server;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::edits::Edits;
use crate::gateway::GatewayHandle;
use crate::sync::SyncStatus;
use crate::watch::WatchStatus;

pub(crate) use auth::TokenDigest;
pub(crate) use server::Server;

/// What handlers work with.
pub(crate) struct App {
    pub(crate) token: TokenDigest,
    pub(crate) tenant_id: Option<String>,
    pub(crate) started: Instant,
    pub(crate) edits: Arc<Edits>,
    pub(crate) watch: Arc<WatchStatus>,
    pub(crate) gateway: GatewayHandle,
    pub(crate) sync: Arc<SyncStatus>,
    /// Mutations that may run at once; each holds a blocking thread.
    pub(crate) writes: Arc<Semaphore>,
    /// KiB of request bodies that may be in memory at once.
    pub(crate) body_budget: Arc<Semaphore>,
}

/// Concurrent mutations. Enough for group commit to pay off.
pub(crate) const CONCURRENT_WRITES: usize = 16;

/// Memory for request bodies, in KiB.
pub(crate) const BODY_BUDGET_KIB: usize = 32 * 1024;

/// Runs blocking work away from the event loop.
async fn blocking<T: Send + 'static, E: Into<error::ApiError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, error::ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        // The task panicked, or the runtime is going down.
        Err(_) => Err(error::ApiError::internal("the request could not be finished")),
    }
}
