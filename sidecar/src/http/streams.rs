//! Answers that take long: how many of each kind may run at once, and the word to end them.

use std::sync::Arc;

use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::error::ApiError;

/// Streams of events. There is one token, so this is also the limit per token.
const EVENTS: usize = 16;

/// Archives; each holds a blocking thread and the memory of a compressor.
const ARCHIVES: usize = 4;

/// Searches; each holds a blocking thread and reads as fast as it can.
const SEARCHES: usize = 2;

/// See the module.
pub(crate) struct Streams {
    events: Arc<Semaphore>,
    archives: Arc<Semaphore>,
    searches: Arc<Semaphore>,
    stopping: watch::Receiver<bool>,
}

impl Streams {
    /// `stopping` becomes true when the server ends.
    pub(crate) fn new(stopping: watch::Receiver<bool>) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { events: places(EVENTS), archives: places(ARCHIVES), searches: places(SEARCHES), stopping }
    }

    /// Becomes true when every stream has to end.
    pub(super) fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.clone()
    }

    /// A place among the streams of events.
    pub(super) fn events(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        place(&self.events, "too_many_streams", EVENTS)
    }

    /// A place among the archives.
    pub(super) fn archive(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        place(&self.archives, "too_many_archives", ARCHIVES)
    }

    /// A place among the searches.
    pub(super) fn search(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        place(&self.searches, "too_many_searches", SEARCHES)
    }

    /// Streams of events, archives and searches that run now.
    pub(super) fn running(&self) -> [(&'static str, usize); 3] {
        [
            ("events", EVENTS - self.events.available_permits()),
            ("archive", ARCHIVES - self.archives.available_permits()),
            ("search", SEARCHES - self.searches.available_permits()),
        ]
    }
}

fn place(places: &Arc<Semaphore>, code: &'static str, limit: usize) -> Result<OwnedSemaphorePermit, ApiError> {
    Arc::clone(places).try_acquire_owned().map_err(|_| {
        let message = format!("{limit} of these run already; try again when one has ended");
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, code, message).with("limit", limit)
    })
}
