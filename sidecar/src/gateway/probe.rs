//! Asking the gateway over HTTP whether it has started, whether it is alive, and how it is.

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::condition::Reading;

/// Answers 200 once everything has started and until a drain begins.
pub(super) const STARTUP: &str = "/startupz";

/// Answers 200 as long as the event loop turns, during a drain too.
pub(super) const HEALTH: &str = "/healthz";

/// How it is, by its own account. 200 or 503, both with a body.
const CONDITION: &str = "/readyz";

/// The body is some 400 bytes.
const LARGEST_CONDITION: usize = 64 * 1024;

/// Why there was no 200.
#[derive(Debug, Error)]
enum NoAnswer {
    #[error("not connected")]
    Connect(#[from] std::io::Error),
    #[error("no HTTP answer")]
    Http(#[from] hyper::Error),
    #[error("request not built")]
    Request(#[from] http::Error),
}

/// Whether `GET path` on the loopback port answers 200 within `limit`.
///
/// A connection of its own each time: a connection that stays open would keep a gateway from closing. No forwarding
/// headers: with them the gateway takes us for a proxy and refuses.
pub(super) async fn answers(port: u16, path: &'static str, limit: Duration) -> bool {
    match timeout(limit, get(port, path, limit)).await {
        Ok(Ok(response)) => response.status() == StatusCode::OK,
        Ok(Err(error)) => {
            tracing::trace!(%error, path, "gateway probe");
            false
        }
        Err(_) => false,
    }
}

/// What `/readyz` says; `None` if it says nothing that can be understood within `limit`.
pub(super) async fn condition(port: u16, limit: Duration) -> Option<Reading> {
    let read = async {
        let response = get(port, CONDITION, limit).await.ok()?;
        let body = Limited::new(response.into_body(), LARGEST_CONDITION).collect().await.ok()?;
        Reading::parse(&body.to_bytes())
    };
    timeout(limit, read).await.ok().flatten()
}

async fn get(port: u16, path: &'static str, limit: Duration) -> Result<Response<Incoming>, NoAnswer> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends when `sender` and the body are dropped; the limit is for a peer that holds it back.
    tokio::spawn(timeout(limit, connection));
    let request = Request::get(path)
        .header(header::HOST, format!("127.0.0.1:{port}"))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?)
}
