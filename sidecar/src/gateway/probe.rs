//! Asking the gateway over HTTP whether it has started and whether it is alive.

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Answers 200 once everything has started and until a drain begins.
pub(super) const STARTUP: &str = "/startupz";

/// Answers 200 as long as the event loop turns, during a drain too.
pub(super) const HEALTH: &str = "/healthz";

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
    match timeout(limit, status(port, path, limit)).await {
        Ok(Ok(status)) => status == StatusCode::OK,
        Ok(Err(error)) => {
            tracing::trace!(%error, path, "gateway probe");
            false
        }
        Err(_) => false,
    }
}

async fn status(port: u16, path: &'static str, limit: Duration) -> Result<StatusCode, NoAnswer> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends when `sender` is dropped; the limit is for a peer that holds it back.
    tokio::spawn(timeout(limit, connection));
    let request = Request::get(path)
        .header(header::HOST, format!("127.0.0.1:{port}"))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?.status())
}
