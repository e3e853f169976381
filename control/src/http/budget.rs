//! How many bytes of contents are in memory at once: bodies on their way to the database, and answers on their way to
//! the network.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Problem;

/// Bytes at once. A content that is larger than all of them goes alone.
const TOTAL: u32 = 64 << 20;
/// Longest wait for them.
const WAIT: Duration = Duration::from_secs(20);

/// What is left of the bytes.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Arc<Semaphore>);

/// Bytes that were taken; they go back with this value.
#[derive(Debug)]
pub(super) struct Taken {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TOTAL as usize)))
    }
}

impl Budget {
    /// Waits until so many bytes are free; 503 when that takes too long.
    pub(super) async fn take(&self, bytes: u64) -> Result<Taken, Problem> {
        let bytes = u32::try_from(bytes).unwrap_or(TOTAL).min(TOTAL);
        if bytes == 0 {
            return Ok(Taken { _permit: None });
        }
        match tokio::time::timeout(WAIT, self.0.clone().acquire_many_owned(bytes)).await {
            Ok(Ok(permit)) => Ok(Taken { _permit: Some(permit) }),
            // It is never closed.
            Ok(Err(_)) | Err(_) => Err(Problem::busy("Too many contents are on their way at the moment")),
        }
    }
}

impl Taken {
    /// Bytes for an answer. What was taken goes back when the last of them was written to the network.
    pub(super) fn answer(self, bytes: Vec<u8>) -> Bytes {
        struct Answer {
            bytes: Vec<u8>,
            _taken: Taken,
        }
        impl AsRef<[u8]> for Answer {
            fn as_ref(&self) -> &[u8] {
                &self.bytes
            }
        }
        Bytes::from_owner(Answer { bytes, _taken: self })
    }
}

/// Takes the bytes of a request's body before anybody reads it; at most the route's limit.
pub(super) async fn bodies(
    State((budget, most)): State<(Budget, usize)>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let most = most as u64;
    // A body that does not say how long it is may be as long as it is allowed to.
    let bytes = request.body().size_hint().upper().map_or(most, |bytes| bytes.min(most));
    let _taken = budget.take(bytes).await?;
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_go_back_with_the_last_of_an_answer() {
        let budget = Budget::default();
        let free = || budget.0.available_permits();
        let taken = budget.take(10).await.unwrap();
        let answer = taken.answer(vec![7; 10]);
        let rest = answer.slice(9..);
        drop(answer);
        assert_eq!(free(), TOTAL as usize - 10);
        drop(rest);
        assert_eq!(free(), TOTAL as usize);
        // More than there is: alone, but not never.
        let all = budget.take(u64::MAX).await.unwrap();
        assert_eq!(free(), 0);
        assert!(budget.take(0).await.is_ok());
        tokio::time::pause();
        assert_eq!(budget.take(1).await.unwrap_err().code, "busy");
        drop(all);
        assert!(budget.take(1).await.is_ok());
    }
}
