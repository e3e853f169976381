//! How long a request may take. A body that keeps coming has as long as a slow line needs for it; one that pauses, or
//! that trickles so that it never ends, does not.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::error::Problem;

/// Bytes per second of the slowest line; sidecars reckon with the same.
const SLOWEST: u64 = 16 << 10;

/// Memory for bodies that take longer than that, in bytes: half of what there is for bodies, so that slow lines leave room for the others.
const SLOW_BYTES: u32 = 32 << 20;
static SLOW: Semaphore = Semaphore::const_new(SLOW_BYTES as usize);

/// Ends a request that takes too long: `limit` before, between and after the parts of its body, and for the whole body
/// as much more as it takes at [`SLOWEST`], as long as there is memory for slow ones.
pub(super) async fn bounded(State(limit): State<Duration>, request: Request, next: Next) -> Result<Response, Problem> {
    within(limit, request, |request| next.run(request)).await
}

async fn within<T, F: Future<Output = T>>(
    limit: Duration,
    request: Request,
    run: impl FnOnce(Request) -> F,
) -> Result<T, Problem> {
    let pace = Arc::new(Pace::new(limit));
    let bytes = request.body().size_hint().upper().and_then(|bytes| u32::try_from(bytes).ok());
    let bytes = bytes.unwrap_or(SLOW_BYTES / 2).min(SLOW_BYTES);
    let answer = run(request.map(|body| Body::new(Paced { body, pace: pace.clone() })));
    tokio::select! {
        answer = answer => Ok(answer),
        () = pace.crowded(bytes) => Err(Problem::busy("Too many bodies come slowly at the moment")),
        () = pace.lost() => Err(Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timeout",
            format!("The request took longer than {} s, or its body came too slowly", limit.as_secs()),
        )),
    }
}

/// How far a body is.
struct Pace {
    started: Instant,
    limit: Duration,
    /// Bytes so far.
    received: AtomicU64,
    /// When something came last, in milliseconds since the start.
    heard: AtomicU64,
    /// Nothing more is to come.
    whole: AtomicBool,
}

impl Pace {
    fn new(limit: Duration) -> Self {
        Self {
            started: Instant::now(),
            limit,
            received: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            whole: AtomicBool::new(false),
        }
    }

    fn heard(&self, bytes: usize, whole: bool) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
        self.whole.store(whole, Ordering::Relaxed);
    }

    /// When the request ends, unless more of its body comes; that never makes it earlier.
    fn deadline(&self) -> Instant {
        let silence = Duration::from_millis(self.heard.load(Ordering::Relaxed));
        let slowest = Duration::from_millis(self.received.load(Ordering::Relaxed).saturating_mul(1000) / SLOWEST);
        let most = if self.whole.load(Ordering::Relaxed) { silence } else { silence.min(slowest) };
        self.started + self.limit + most
    }

    /// Waits until its body has taken longer than usual and finds no room among those that do. `bytes`: its length.
    async fn crowded(&self, bytes: u32) {
        tokio::time::sleep_until(self.started + self.limit).await;
        // Held for as long as anybody waits here: to the end of the request.
        let room = if self.whole.load(Ordering::Relaxed) { None } else { Some(SLOW.try_acquire_many(bytes)) };
        if matches!(room, None | Some(Ok(_))) {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until it is too late.
    async fn lost(&self) {
        loop {
            let deadline = self.deadline();
            if Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }
}

/// A body that notes how far it is.
struct Paced {
    body: Body,
    pace: Arc<Pace>,
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let bytes = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()).map_or(0, Bytes::len);
        self.pace.heard(bytes, frame.is_none() || self.body.is_end_stream());
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// A request whose body comes in parts: each after so many seconds, with so many bytes. It is read, and then worked
    /// on for some seconds. How many bytes came, or after how many seconds it was ended.
    async fn run(parts: &[(u64, usize)], work: u64) -> Result<usize, u64> {
        let parts = futures_util::stream::iter(parts.to_vec());
        let parts = futures_util::StreamExt::then(parts, |(pause, bytes)| async move {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            Ok::<_, std::io::Error>(vec![0; bytes])
        });
        let started = Instant::now();
        let done = within(LIMIT, Request::new(Body::from_stream(parts)), |request| async move {
            let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap();
            tokio::time::sleep(Duration::from_secs(work)).await;
            body.len()
        });
        done.await.map_err(|_| started.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_has_as_long_as_a_slow_line_needs_and_no_longer() {
        const MIB: usize = 1 << 20;
        // 10 MiB in ten minutes.
        assert_eq!(run(&[(30, MIB / 2); 20], 0).await, Ok(10 * MIB));
        // The work begins when all of it is there.
        assert_eq!(run(&[(30, MIB / 2); 20], 59).await, Ok(10 * MIB));
        assert_eq!(run(&[(30, MIB / 2); 20], 61).await, Err(660));
        assert_eq!(run(&[], 61).await, Err(60));
        // Silence, at once and later, however much came before.
        assert_eq!(run(&[(61, 1)], 0).await, Err(60));
        assert_eq!(run(&[(1, 10 * MIB), (61, 1)], 0).await, Err(61));
        // A trickle gets no further for never being silent.
        assert_eq!(run(&[(1, 1); 1000], 0).await, Err(60));
        assert_eq!(run(&[(1, 8 << 10); 1000], 0).await, Err(119));
        // Slow ones have half of the memory. Streams that do not say how long they are count as a half of that.
        let slow: &[_] = &[(30, MIB / 2); 20];
        let all = tokio::join!(run(slow, 0), run(slow, 0), run(slow, 0), run(&[(1, MIB); 50], 0));
        assert_eq!(all, (Ok(10 * MIB), Ok(10 * MIB), Err(60), Ok(50 * MIB)));
        assert_eq!(SLOW.available_permits(), SLOW_BYTES as usize);
    }
}
