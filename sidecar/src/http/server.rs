//! Accepting connections.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::App;
use super::body::Body;
use super::router;

/// Open connections; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 512;

/// From accepting (or the end of the previous answer) to a complete request head.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// Longest time, in milliseconds, without the client taking any of its answer.
const STALLED_MS: u32 = 30_000;

/// Largest request head.
const HEAD_BYTES: usize = 64 * 1024;

/// How long running requests may go on after a stop was asked.
const DRAIN: Duration = Duration::from_secs(5);

/// Pause after a failed accept, which is out of file descriptors more often than not.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Longest request id that is taken over from a caller.
const MAX_REQUEST_ID: usize = 64;

const REQUEST_ID: &str = "x-request-id";

/// The listener with everything that it serves.
pub(crate) struct Server {
    listener: TcpListener,
    app: Arc<App>,
}

impl Server {
    pub(crate) fn new(listener: TcpListener, app: Arc<App>) -> Self {
        Self { listener, app }
    }

    /// Serves until `stop` becomes true, then lets running requests finish, for a bounded time.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let graceful = GracefulShutdown::new();
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = self.accept(&connections) => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let Some((stream, permit)) = accepted else { continue };
            let app = Arc::clone(&self.app);
            let service = service_fn(move |request| {
                let app = Arc::clone(&app);
                async move { Ok::<_, Infallible>(answer(&app, request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .max_buf_size(HEAD_BYTES)
                .serve_connection(TokioIo::new(stream), service);
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                let _permit = permit;
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection ended");
                }
            });
        }
        if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
            tracing::warn!("requests were still running when the server stopped");
        }
    }

    async fn accept(&self, connections: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        let permit = Arc::clone(connections).acquire_owned().await.ok()?;
        match self.listener.accept().await {
            Ok((stream, _)) => {
                // Answers are written whole; waiting for more to fill a packet only delays them.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "set_nodelay");
                }
                // A client that does not read its answer is dropped by the kernel (tcp(7): also when the window is closed).
                if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, STALLED_MS) {
                    tracing::debug!(%error, "TCP_USER_TIMEOUT");
                }
                Some((stream, permit))
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }
}

/// Answers a request; failures are logged here and nowhere else.
pub(super) async fn answer(app: &App, request: Request<Incoming>) -> Response<Body> {
    let started = Instant::now();
    let (request_id, _) = request_id(request.headers());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let mut response = match router::route(app, request).await {
        Ok(response) => response,
        Err(error) => {
            let (status, code) = (error.status().as_u16(), error.code());
            if error.status().is_server_error() {
                tracing::error!(request_id, %method, path, status, code, error = error.message(), "request failed");
            } else {
                tracing::debug!(request_id, %method, path, status, code, error = error.message(), "request refused");
            }
            error.into_response(&request_id)
        }
    };
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    app.counters.count(response.status());
    let status = response.status().as_u16();
    tracing::debug!(request_id, %method, path, status, elapsed_us = started.elapsed().as_micros() as u64, "request");
    response
}

/// The caller's request id when it is short and printable, otherwise a new one; whether it is the caller's.
pub(super) fn request_id(headers: &HeaderMap) -> (String, bool) {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let usable =
        |id: &&str| !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.bytes().all(|byte| byte.is_ascii_graphic());
    match given.filter(usable) {
        Some(id) => (id.to_owned(), true),
        None => (fresh_id(), false),
    }
}

/// A random id. Randomness is fetched for many at once: a system call for each request is a good part of what a small answer costs.
fn fresh_id() -> String {
    const AHEAD: usize = 32;
    static POOL: Mutex<Vec<[u8; 16]>> = Mutex::new(Vec::new());
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let bytes = pool.pop().unwrap_or_else(|| {
        let mut bytes = [[0; 16]; AHEAD];
        if let Err(error) = getrandom::fill(bytes.as_flattened_mut()) {
            tracing::warn!(%error, "no randomness for the ids of requests");
        }
        pool.extend_from_slice(&bytes[1..]);
        bytes[0]
    });
    uuid::Builder::from_random_bytes(bytes).into_uuid().simple().to_string()
}
