//! Connections to the gateway that are used again.
//!
//! The newest one is taken first, so that those which are not needed grow old and are closed. The gateway closes a connection five seconds
//! after its last request (Node's default): ours are given up before, and the kernel is asked whether one is still open, so a request hardly
//! ever meets a connection that is just being closed. If it does, hyper hands back what was not sent and it goes out on a new connection.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::body::Paced;
use super::upstream::{Pulse, Upstream};

/// Longest time for a connection on loopback.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Longest time from a whole request to the head of its answer: a model may think for minutes.
const ANSWER_TIME: Duration = Duration::from_secs(15 * 60);

/// Connections that wait for their next request, and how long.
const MOST_IDLE: usize = 64;
const IDLE_TIME: Duration = Duration::from_secs(3);

/// Largest head of an answer.
const HEAD_BYTES: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum PassError {
    #[error("nobody listens on port {port}")]
    Connect {
        port: u16,
        #[source]
        source: std::io::Error,
    },
    #[error("the connection was not accepted in time")]
    ConnectTime,
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("there was no answer in time")]
    AnswerTime,
}

struct Idle {
    port: u16,
    since: Instant,
    sender: Sender,
}

/// Where requests go in.
struct Sender {
    requests: SendRequest<Paced>,
    /// Unless the connection is for an upgrade.
    pulse: Option<Pulse>,
}

impl Sender {
    fn is_open(&self) -> bool {
        !self.requests.is_closed() && self.pulse.as_ref().is_some_and(Pulse::beats)
    }
}

/// The connections that wait.
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Vec<Idle>>>);

/// A connection in use.
pub(super) struct Borrowed {
    pool: Pool,
    port: u16,
    sender: Sender,
}

impl Borrowed {
    /// For the next request, once this answer has been read to its end.
    pub(super) fn give_back(self) {
        if self.sender.requests.is_closed() {
            return;
        }
        let now = Instant::now();
        let mut idle = self.pool.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| now.duration_since(idle.since) < IDLE_TIME && !idle.sender.requests.is_closed());
        if idle.len() < MOST_IDLE {
            idle.push(Idle { port: self.port, since: now, sender: self.sender });
        }
    }
}

impl Pool {
    /// Sends a request, on a connection that is there or on a new one.
    pub(super) async fn send(
        &self,
        port: u16,
        mut request: Request<Paced>,
    ) -> Result<(Response<Incoming>, Borrowed), PassError> {
        if let Some(mut sender) = self.take(port) {
            match answered(sender.requests.try_send_request(request)).await? {
                Ok(response) => return Ok((response, Borrowed { pool: self.clone(), port, sender })),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(error.into_error().into()),
                },
            }
        }
        let mut sender = connect(port, false).await?;
        let response = answered(sender.requests.send_request(request)).await??;
        Ok((response, Borrowed { pool: self.clone(), port, sender }))
    }

    /// The newest connection that is ready and open.
    fn take(&self, port: u16) -> Option<Sender> {
        let now = Instant::now();
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |idle: &Idle| idle.port == port && now.duration_since(idle.since) < IDLE_TIME;
        loop {
            // One that is not ready still takes in the end of a request body: it is left for later.
            let found = idle.iter().rposition(|idle| is_fresh(idle) && idle.sender.requests.is_ready())?;
            let sender = idle.remove(found).sender;
            if sender.is_open() {
                return Some(sender);
            }
        }
    }
}

/// Sends a request for an upgrade, on a connection of its own.
pub(super) async fn send_upgrade(port: u16, request: Request<Paced>) -> Result<Response<Incoming>, PassError> {
    let mut sender = connect(port, true).await?;
    Ok(answered(sender.requests.send_request(request)).await??)
}

async fn answered<T>(answer: impl Future<Output = T>) -> Result<T, PassError> {
    timeout(ANSWER_TIME, answer).await.map_err(|_| PassError::AnswerTime)
}

async fn connect(port: u16, upgrades: bool) -> Result<Sender, PassError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = timeout(CONNECT_TIME, TcpStream::connect(address)).await.map_err(|_| PassError::ConnectTime)?;
    let stream = stream.map_err(|source| PassError::Connect { port, source })?;
    // Heads and frames are written whole.
    stream.set_nodelay(true).map_err(|source| PassError::Connect { port, source })?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES);
    // Both end when the sender is dropped and no body is on its way any more.
    if upgrades {
        let (requests, connection) = builder.handshake(TokioIo::new(stream)).await?;
        tokio::spawn(ended(connection.with_upgrades()));
        return Ok(Sender { requests, pulse: None });
    }
    let (stream, pulse) = Upstream::new(stream);
    let (requests, connection) = builder.handshake(TokioIo::new(stream)).await?;
    tokio::spawn(ended(connection));
    Ok(Sender { requests, pulse: Some(pulse) })
}

async fn ended(connection: impl Future<Output = hyper::Result<()>>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection to the gateway ended");
    }
}
