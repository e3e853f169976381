//! Bodies on their way through, each with a longest pause.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;
use tokio::time::{Instant, Sleep};

use super::addresses::Place;
use super::pool::Borrowed;
use crate::http;

/// Longest pause of a client within its body.
pub(super) const CLIENT_PAUSE: Duration = Duration::from_secs(60);

/// Longest pause of the gateway within an answer. A stream of events may have nothing to say for long.
const GATEWAY_PAUSE: Duration = Duration::from_secs(15 * 60);

/// Why a body ends early.
#[derive(Debug, Error)]
pub(super) enum BodyError {
    #[error("the sender paused for too long")]
    Stalled,
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    #[error(transparent)]
    Ours(#[from] std::io::Error),
}

/// A body whose sender may not pause for longer than a limit. No timer is made for what is there already.
pub(super) struct Paced {
    body: Incoming,
    pause: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    pub(super) fn from_client(body: Incoming) -> Self {
        Self { body, pause: CLIENT_PAUSE, timer: None }
    }

    fn from_gateway(body: Incoming) -> Self {
        Self { body, pause: GATEWAY_PAUSE, timer: None }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                this.timer = None;
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Broken)))
            }
            Poll::Pending => {
                let deadline = || Box::pin(tokio::time::sleep_until(Instant::now() + this.pause));
                std::task::ready!(this.timer.get_or_insert_with(deadline).as_mut().poll(cx));
                Poll::Ready(Some(Err(BodyError::Stalled)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer of the gateway. When it has come to its end the connection goes back to where it is used again; an answer that is dropped before
/// ends its connection, and so tells the gateway that nobody listens.
pub(super) struct Passed {
    body: Paced,
    connection: Option<Borrowed>,
    /// One of the places that its caller may hold.
    _place: Place,
}

impl Passed {
    /// Without a `connection` it was one for this answer only.
    pub(super) fn new(body: Incoming, connection: Option<Borrowed>, place: Place) -> Self {
        let mut passed = Self { body: Paced::from_gateway(body), connection, _place: place };
        passed.give_back_at_end();
        passed
    }

    fn give_back_at_end(&mut self) {
        if self.body.is_end_stream()
            && let Some(connection) = self.connection.take()
        {
            connection.give_back();
        }
    }
}

/// Body of an answer of the front door.
pub(super) enum Answer {
    Text(Option<Bytes>),
    /// Of the sidecar's own API, with the place of whom it is for.
    Ours {
        body: http::Body,
        _place: Place,
    },
    Gateway(Box<Passed>),
}

impl Answer {
    pub(super) fn text(text: impl Into<Bytes>) -> Self {
        Self::Text(Some(text.into()))
    }

    pub(super) const fn empty() -> Self {
        Self::Text(None)
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Ours { body, .. } => Pin::new(body).poll_frame(cx).map_err(BodyError::Ours),
            Self::Gateway(passed) => {
                let frame = std::task::ready!(Pin::new(&mut passed.body).poll_frame(cx));
                match &frame {
                    None => {
                        if let Some(connection) = passed.connection.take() {
                            connection.give_back();
                        }
                    }
                    Some(Ok(_)) => passed.give_back_at_end(),
                    Some(Err(_)) => passed.connection = None,
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.as_ref().is_none_or(Bytes::is_empty),
            Self::Ours { body, .. } => body.is_end_stream(),
            Self::Gateway(passed) => passed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Ours { body, .. } => body.size_hint(),
            Self::Gateway(passed) => passed.body.size_hint(),
        }
    }
}
