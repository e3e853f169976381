//! What the front door counts, and what it says of itself in `/status`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use http::StatusCode;
use serde::Serialize;

use super::route::Route;
use super::view::View;

/// Where requests went, as a label.
const ROUTES: [&str; 6] = ["health", "winston", "setup", "webhook", "gateway", "nobody"];

/// Classes of answers; 1xx are WebSockets.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Why something was turned away or failed, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// No room for another connection.
    Full,
    /// One address has as many connections or requests as it may.
    Address,
    /// The request is not one.
    BadRequest,
    /// Wrong password, or a wait for the next try.
    Password,
    /// The gateway does not serve at present.
    NotReady,
    /// The gateway broke off.
    Gateway,
    /// The gateway took too long.
    Timeout,
    /// The client broke off, or took too long.
    Client,
}

impl Trouble {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Address => "address",
            Self::BadRequest => "bad_request",
            Self::Password => "password",
            Self::NotReady => "not_ready",
            Self::Gateway => "gateway",
            Self::Timeout => "timeout",
            Self::Client => "client",
        }
    }
}

/// What the front door and the sidecar's own routes share.
#[derive(Default)]
pub(crate) struct Shared {
    address: RwLock<Option<SocketAddr>>,
    known: RwLock<Arc<Known>>,
    answers: [[AtomicU64; CLASSES.len()]; ROUTES.len()],
    micros: [AtomicU64; ROUTES.len()],
    troubles: Mutex<BTreeMap<Trouble, u64>>,
    connections: AtomicI64,
    websockets: AtomicI64,
    approvals: AtomicU64,
}

/// What the configuration on disk says at present.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// There is one.
    pub(super) configured: bool,
    pub(super) view: View,
}

/// For `/status`.
#[derive(Serialize)]
pub(crate) struct FrontReport {
    /// Where it listens.
    address: Option<String>,
    connections: i64,
    websockets: i64,
    /// What the gateway's configuration lacks for browsers to get in, one sentence each.
    missing: Vec<String>,
}

impl Shared {
    pub(super) fn listens(&self, address: SocketAddr) {
        *self.address.write().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }

    pub(super) fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn learn(&self, known: Known) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
    }

    /// For `/status`.
    pub(crate) fn report(&self) -> FrontReport {
        FrontReport {
            address: self.address.read().unwrap_or_else(PoisonError::into_inner).map(|address| address.to_string()),
            connections: self.connections(),
            websockets: self.websockets(),
            missing: self.known().view.advice.clone(),
        }
    }

    pub(super) fn answered(&self, route: Route<'_>, status: StatusCode, took: Duration) {
        let row = match route {
            Route::Health => 0,
            Route::Winston(_) => 1,
            Route::Setup(_) => 2,
            Route::Webhook(_) => 3,
            Route::Gateway => 4,
            Route::Nobody => 5,
        };
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(counter) = self.answers.get(row).and_then(|row| row.get(class)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(micros) = self.micros.get(row) {
            micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn trouble(&self, trouble: Trouble) {
        *self.troubles.lock().unwrap_or_else(PoisonError::into_inner).entry(trouble).or_insert(0) += 1;
    }

    pub(super) fn approved(&self) {
        self.approvals.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection for as long as the guard lives.
    pub(super) fn connection(self: &Arc<Self>) -> Counted {
        Counted::new(Arc::clone(self), |shared| &shared.connections)
    }

    /// The same for a WebSocket.
    pub(super) fn websocket(self: &Arc<Self>) -> Counted {
        Counted::new(Arc::clone(self), |shared| &shared.websockets)
    }

    /// Answers so far: route, class, count.
    pub(crate) fn answers(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        ROUTES.into_iter().zip(&self.answers).flat_map(|(route, row)| {
            CLASSES.into_iter().zip(row).map(move |(class, count)| (route, class, count.load(Ordering::Relaxed)))
        })
    }

    /// Time from heads of requests to heads of answers so far, in seconds.
    pub(crate) fn seconds(&self) -> impl Iterator<Item = (&'static str, f64)> {
        ROUTES.into_iter().zip(self.micros.iter().map(|micros| micros.load(Ordering::Relaxed) as f64 / 1e6))
    }

    pub(crate) fn troubles(&self) -> Vec<(&'static str, u64)> {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.iter().map(|(trouble, count)| (trouble.as_str(), *count)).collect()
    }

    pub(crate) fn connections(&self) -> i64 {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn websockets(&self) -> i64 {
        self.websockets.load(Ordering::Relaxed)
    }

    pub(crate) fn approvals(&self) -> u64 {
        self.approvals.load(Ordering::Relaxed)
    }
}

/// One of something, until it is dropped.
pub(super) struct Counted {
    shared: Arc<Shared>,
    counter: fn(&Shared) -> &AtomicI64,
}

impl Counted {
    fn new(shared: Arc<Shared>, counter: fn(&Shared) -> &AtomicI64) -> Self {
        counter(&shared).fetch_add(1, Ordering::Relaxed);
        Self { shared, counter }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.counter)(&self.shared).fetch_sub(1, Ordering::Relaxed);
    }
}
