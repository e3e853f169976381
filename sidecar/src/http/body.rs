//! Bodies, both ways.

use std::fs::File;
use std::io::Read;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use super::error::ApiError;

/// Longest time that a request body may take.
const BODY_TIME: Duration = Duration::from_secs(60);

/// Piece of a file in one frame.
const CHUNK: usize = 64 * 1024;

/// Body of an answer.
pub(super) enum Body {
    /// In memory.
    Full(Option<Bytes>),
    /// A file that is read while it is sent.
    File { chunks: mpsc::Receiver<std::io::Result<Bytes>>, left: u64 },
}

impl Body {
    pub(super) fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(Some(bytes.into()))
    }

    pub(super) const fn empty() -> Self {
        Self::Full(None)
    }

    /// Sends the first `size` bytes of a file. A file that turns out shorter ends the connection: the promised length cannot be kept.
    pub(super) fn file(file: File, size: u64) -> Self {
        let (sender, chunks) = mpsc::channel(2);
        tokio::task::spawn_blocking(move || {
            let mut file = file.take(size);
            let mut sent = 0;
            while sent < size {
                let mut chunk = vec![0; CHUNK];
                let piece = match file.read(&mut chunk) {
                    Ok(0) => Err(std::io::ErrorKind::UnexpectedEof.into()),
                    Ok(read) => {
                        chunk.truncate(read);
                        sent += read as u64;
                        Ok(chunk.into())
                    }
                    Err(error) => Err(error),
                };
                let failed = piece.is_err();
                // A receiver that is gone is a client that is gone.
                if sender.blocking_send(piece).is_err() || failed {
                    return;
                }
            }
        });
        Self::File { chunks, left: size }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::File { chunks, left } => chunks.poll_recv(cx).map(|chunk| {
                chunk.map(|chunk| {
                    chunk.map(|bytes| {
                        *left = left.saturating_sub(bytes.len() as u64);
                        Frame::data(bytes)
                    })
                })
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::File { left, .. } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Full(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Self::File { left, .. } => *left,
        })
    }
}

/// A request body in memory, with its share of the budget.
pub(super) struct ReadBody<'a> {
    pub(super) bytes: Bytes,
    _share: SemaphorePermit<'a>,
}

/// Reads a request body of at most `limit` bytes.
pub(super) async fn read<'a>(
    body: Incoming,
    headers: &HeaderMap,
    limit: u64,
    budget: &'a Semaphore,
) -> Result<ReadBody<'a>, ApiError> {
    let announced =
        headers.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(ApiError::too_large(limit));
    }
    let kib = announced.unwrap_or(limit).div_ceil(1024).max(1);
    let timed_out = || ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the request body took too long");
    let work = async {
        let kib = u32::try_from(kib).map_err(|_| ApiError::too_large(limit))?;
        let share = budget.acquire_many(kib).await.map_err(|_| ApiError::internal("shutting down"))?;
        match Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX)).collect().await {
            Ok(collected) => Ok(ReadBody { bytes: collected.to_bytes(), _share: share }),
            Err(error) if error.is::<LengthLimitError>() => Err(ApiError::too_large(limit)),
            Err(_) => Err(ApiError::bad_request("bad_body", "the request body ended early")),
        }
    };
    tokio::time::timeout(BODY_TIME, work).await.unwrap_or_else(|_| Err(timed_out()))
}
