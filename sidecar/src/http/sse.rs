//! Server-sent events: an answer that goes on.
//!
//! A producer task writes into a channel of a few pieces, the connection takes them out at the client's pace: a slow reader costs the
//! pieces that wait and nothing else. When nothing happens a comment is sent now and then, so that whoever is between does not close
//! the connection, and so that a client that has gone is noticed.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use super::body::Body;

/// Pause between two comments on a stream on which nothing happens.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Pieces that wait for the client.
const WAITING: usize = 2;

/// The producer's end.
pub(super) struct Events {
    pieces: mpsc::Sender<std::io::Result<Bytes>>,
    stopping: watch::Receiver<bool>,
}

/// A stream of events and the answer that carries it. It ends when [`Events`] is dropped, and when `stopping` becomes true.
pub(super) fn stream(stopping: watch::Receiver<bool>) -> (Events, Response<Body>) {
    let (pieces, waiting) = mpsc::channel(WAITING);
    let mut response = Response::new(Body::stream(waiting));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A proxy that collects an answer before it passes it on would hold every event back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    (Events { pieces, stopping }, response)
}

impl Events {
    /// Sends a piece of text; waits while the client is behind. False: the stream is over.
    pub(super) async fn send(&mut self, text: Vec<u8>) -> bool {
        tokio::select! {
            sent = self.pieces.send(Ok(text.into())) => sent.is_ok(),
            _ = self.stopping.wait_for(|stopping| *stopping) => false,
        }
    }

    /// Waits for `news`, keeping the connection alive. False: the stream is over.
    pub(super) async fn wait(&mut self, news: impl Future<Output = ()>) -> bool {
        let mut news = pin!(news);
        loop {
            tokio::select! {
                () = &mut news => return true,
                () = self.pieces.closed() => return false,
                _ = self.stopping.wait_for(|stopping| *stopping) => return false,
                () = tokio::time::sleep(KEEP_ALIVE) => {}
            }
            if !self.send(b": keep-alive\n\n".to_vec()).await {
                return false;
            }
        }
    }
}

/// Appends one event. JSON has no line ends of its own, so one `data` line is enough.
pub(super) fn event(text: &mut Vec<u8>, id: &str, name: &str, data: &impl Serialize) -> serde_json::Result<()> {
    text.extend_from_slice(format!("id: {id}\nevent: {name}\ndata: ").as_bytes());
    serde_json::to_writer(&mut *text, data)?;
    text.extend_from_slice(b"\n\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_three_lines_and_an_empty_one() {
        let mut text = Vec::new();
        event(&mut text, "e:7", "change", &serde_json::json!({ "path": "a\nb" })).unwrap();
        assert_eq!(text, b"id: e:7\nevent: change\ndata: {\"path\":\"a\\nb\"}\n\n");
    }
}
