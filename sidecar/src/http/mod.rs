//! The HTTP server of port 18790: accept loop, limits and routes.
//!
//! Plain HTTP/1.1 on hyper. Every limit has an answer: too many connections wait in the listen queue, slow heads are cut after
//! ten seconds, bodies have a size and a time limit, and memory for bodies is one shared budget.

mod archive;
mod auth;
mod body;
mod conditional;
mod door;
mod error;
#[cfg(test)]
mod fuzz;
mod history;
mod metrics;
mod pack;
mod query;
mod router;
mod routes;
mod search;
mod server;
mod sse;
mod streams;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::candidate::Configs;
use crate::edits::Edits;
use crate::front::FrontShared;
use crate::gateway::{Cli, GatewayHandle};
use crate::sync::{Engine, SyncStatus};
use crate::upgrade::Upgrade;
use crate::watch::WatchStatus;

pub(crate) use auth::TokenDigest;
pub(crate) use body::Body;
pub(crate) use door::{answer, export, import, request_id};
pub(crate) use metrics::HttpCounters;
pub(crate) use server::Server;
pub(crate) use streams::Streams;

/// What handlers work with.
pub(crate) struct App {
    pub(crate) token: TokenDigest,
    pub(crate) tenant_id: Option<String>,
    pub(crate) started: Instant,
    pub(crate) edits: Arc<Edits>,
    pub(crate) watch: Arc<WatchStatus>,
    pub(crate) gateway: GatewayHandle,
    pub(crate) upgrade: Arc<Upgrade>,
    /// `None` without a gateway.
    pub(crate) configs: Option<Configs>,
    /// Asks the gateway's own program; `None` without a gateway.
    pub(crate) cli: Option<Cli>,
    pub(crate) sync: Arc<SyncStatus>,
    /// `None` without control.
    pub(crate) engine: Option<Arc<Engine>>,
    /// Mutations that may run at once; each holds a blocking thread.
    pub(crate) writes: Arc<Semaphore>,
    /// KiB of request bodies that may be in memory at once.
    pub(crate) body_budget: Arc<Semaphore>,
    /// Most bytes of one uploaded archive and of what is in it.
    pub(crate) max_archive_bytes: u64,
    /// Places for answers that take long.
    pub(crate) streams: Streams,
    pub(crate) counters: HttpCounters,
    /// `None` without a front door.
    pub(crate) front: Option<Arc<FrontShared>>,
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
