//! Bodies, both ways.

use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::BODY_BUDGET_KIB;
use super::error::ApiError;

/// Longest time that a request body may take.
const BODY_TIME: Duration = Duration::from_secs(60);

/// Longest wait for memory for a request body.
const BUDGET_TIME: Duration = Duration::from_secs(10);

/// Piece of a file in one frame.
const CHUNK: u64 = 64 * 1024;

/// Body of an answer.
pub(crate) enum Body {
    /// In memory.
    Full(Option<Bytes>),
    /// A file that is read while it is sent.
    File(FileBody),
    /// Pieces of unknown number from a producer. An error ends the connection, so that a part is not taken for the whole.
    Stream(mpsc::Receiver<std::io::Result<Bytes>>),
}

/// The rest of a file. A piece is read when the connection can take it, so a slow client holds no thread.
pub(crate) struct FileBody {
    file: Arc<File>,
    reading: Option<JoinHandle<std::io::Result<Bytes>>>,
    left: u64,
}

impl Body {
    pub(super) fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(Some(bytes.into()))
    }

    pub(super) const fn empty() -> Self {
        Self::Full(None)
    }

    /// Sends the next `size` bytes of a file. A file that turns out shorter ends the connection: the promised length cannot be kept.
    pub(super) fn file(file: File, size: u64) -> Self {
        Self::File(FileBody { file: Arc::new(file), reading: None, left: size })
    }

    /// Sends what comes out of a channel until its senders are gone.
    pub(super) const fn stream(pieces: mpsc::Receiver<std::io::Result<Bytes>>) -> Self {
        Self::Stream(pieces)
    }
}

impl FileBody {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<std::io::Result<Bytes>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let (file, wanted) = (Arc::clone(&self.file), self.left.min(CHUNK));
        let reading =
            self.reading.get_or_insert_with(|| tokio::task::spawn_blocking(move || read_piece(&file, wanted)));
        let piece = std::task::ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        let piece = piece.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        if let Ok(bytes) = &piece {
            self.left = self.left.saturating_sub(bytes.len() as u64);
        }
        Poll::Ready(Some(piece))
    }
}

fn read_piece(mut file: &File, wanted: u64) -> std::io::Result<Bytes> {
    let mut piece = Vec::new();
    file.by_ref().take(wanted).read_to_end(&mut piece)?;
    if piece.is_empty() { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(piece.into()) }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::File(file) => file.poll_chunk(cx).map(|piece| piece.map(|piece| piece.map(Frame::data))),
            Self::Stream(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::File(file) => file.left == 0,
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::File(file) => SizeHint::with_exact(file.left),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// A request body in memory, with its share of the budget.
pub(super) struct ReadBody {
    pub(super) bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

impl ReadBody {
    /// Takes a share of the budget for `bytes` that are no body but come from one.
    pub(super) async fn share(bytes: u64, budget: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ApiError> {
        let kib = bytes.div_ceil(1024).clamp(1, BODY_BUDGET_KIB as u64) as u32;
        match tokio::time::timeout(BUDGET_TIME, Arc::clone(budget).acquire_many_owned(kib)).await {
            Ok(Ok(share)) => Ok(share),
            _ => {
                let message = "too many large request bodies at once";
                Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message))
            }
        }
    }
}

/// Reads a request body of at most `limit` bytes.
pub(super) async fn read(
    body: Incoming,
    headers: &HeaderMap,
    limit: u64,
    budget: &Arc<Semaphore>,
) -> Result<ReadBody, ApiError> {
    let announced =
        headers.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(ApiError::too_large(limit));
    }
    // A body of unknown length is counted as the largest possible one; nobody's share is larger than all there is.
    let share = ReadBody::share(announced.unwrap_or(limit), budget).await?;
    let limited = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX));
    match tokio::time::timeout(BODY_TIME, limited.collect()).await {
        Ok(Ok(collected)) => Ok(ReadBody { bytes: collected.to_bytes(), _share: share }),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::too_large(limit)),
        Ok(Err(_)) => Err(ApiError::bad_request("bad_body", "the request body ended early")),
        Err(_) => Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the request body took too long")),
    }
}
