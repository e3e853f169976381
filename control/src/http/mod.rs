//! The HTTP side: accept loop, limits, routes.

pub(crate) mod auth;
mod budget;
pub(crate) mod error;
mod extract;
mod pace;
mod request_id;
mod router;
mod routes;
mod server;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::db::Db;
use crate::lifecycle::Lifecycle;
use crate::notify::Hub;

pub(crate) use budget::Budget;
pub(crate) use router::router;
pub(crate) use server::serve;

/// Longest time for a request, beside what its body takes on a slow line (see [`pace`]).
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// The same for the long poll, which waits up to 55 s by itself.
const LONG_POLL_LIMIT: Duration = Duration::from_secs(75);
/// The same for what starts and stops instances: a queue, a drain and a first check-in.
const LIFECYCLE_LIMIT: Duration = Duration::from_secs(300);

/// What handlers share.
#[derive(Clone)]
pub(crate) struct App {
    /// The database.
    pub(crate) db: Db,
    /// Wake-ups.
    pub(crate) hub: Hub,
    /// Instances.
    pub(crate) lifecycle: Lifecycle,
    /// Bytes of contents in memory.
    pub(crate) budget: Budget,
    /// Limits and answers.
    pub(crate) limits: Arc<Limits>,
    /// True once control stops; long polls end then.
    pub(crate) stopping: watch::Receiver<bool>,
}

/// Configured numbers.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Largest content in bytes.
    pub(crate) max_file_bytes: usize,
    /// Seconds between check-ins.
    pub(crate) heartbeat_seconds: u32,
}
