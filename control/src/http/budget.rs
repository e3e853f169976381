//! How many bytes of contents are in memory at once: bodies on their way to the database, and answers on their way to
//! the network.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use super::error::Problem;
use crate::db::tokens::Identity;

/// Bytes at once. A content that is larger than all of them goes alone.
const TOTAL: u32 = 64 << 20;
/// For check-ins of all tenants, and of one. They are apart, so that no slow content keeps a sidecar from being seen.
const ALL_CHECK_INS: u32 = 16 << 20;
const CHECK_INS: u32 = 4 << 20;
/// Longest wait for them.
const WAIT: Duration = Duration::from_secs(20);

/// What the bytes of a sidecar are for. For each kind a tenant has a share of its own, and no more than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Contents and batches, up and down.
    Content,
    /// The heartbeat.
    CheckIn,
}

/// What is left of each tenant's shares, of those of which something is taken.
type Shares = HashMap<(Uuid, Kind), Weak<Semaphore>>;

/// What is left of the bytes.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    all: Arc<Semaphore>,
    check_ins: Arc<Semaphore>,
    /// Of one tenant's contents and batches.
    share: u32,
    shares: Arc<Mutex<Shares>>,
}

/// Bytes that were taken; they go back with this value.
#[derive(Debug)]
pub(super) struct Taken {
    _share: Option<OwnedSemaphorePermit>,
    _all: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// For contents of at most so many bytes. One tenant has at most a quarter of it all, but always enough for one of
    /// the largest in each direction.
    pub(crate) fn new(largest: usize) -> Self {
        let both = u32::try_from(largest.saturating_mul(2)).unwrap_or(TOTAL);
        Self {
            all: Arc::new(Semaphore::new(TOTAL as usize)),
            check_ins: Arc::new(Semaphore::new(ALL_CHECK_INS as usize)),
            share: (TOTAL / 4).max(both).min(TOTAL),
            shares: Arc::default(),
        }
    }

    /// Waits until so many bytes are free, in the tenant's share too where they are a sidecar's; 503 when that takes too
    /// long.
    pub(super) async fn take(&self, whose: Option<(Uuid, Kind)>, bytes: u64) -> Result<Taken, Problem> {
        let bytes = u32::try_from(bytes).unwrap_or(TOTAL).min(TOTAL);
        if bytes == 0 {
            return Ok(Taken { _share: None, _all: None });
        }
        let take = async {
            // The share first: who waits for his own holds nothing of the others'.
            let share = match whose {
                Some((tenant, kind)) => {
                    let (share, most) = self.share(tenant, kind);
                    Some(share.acquire_many_owned(bytes.min(most)).await?)
                }
                None => None,
            };
            let (all, bytes) = match whose {
                Some((_, Kind::CheckIn)) => (&self.check_ins, bytes.min(CHECK_INS)),
                Some((_, Kind::Content)) | None => (&self.all, bytes),
            };
            Ok::<_, tokio::sync::AcquireError>(Taken {
                _share: share,
                _all: Some(all.clone().acquire_many_owned(bytes).await?),
            })
        };
        match tokio::time::timeout(WAIT, take).await {
            Ok(Ok(taken)) => Ok(taken),
            // They are never closed.
            Ok(Err(_)) | Err(_) => Err(Problem::busy("Too many contents are on their way at the moment")),
        }
    }

    /// What is left of a tenant's share, and how much that is when nothing is taken.
    fn share(&self, tenant: Uuid, kind: Kind) -> (Arc<Semaphore>, u32) {
        let most = match kind {
            Kind::Content => self.share,
            Kind::CheckIn => CHECK_INS,
        };
        // Nothing in here panics.
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(&(tenant, kind)).and_then(Weak::upgrade) {
            return (share, most);
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(most as usize));
        shares.insert((tenant, kind), Arc::downgrade(&share));
        (share, most)
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
    State((budget, most, kind)): State<(Budget, usize, Kind)>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let most = most as u64;
    // A body that does not say how long it is may be as long as it is allowed to.
    let bytes = request.body().size_hint().upper().map_or(most, |bytes| bytes.min(most));
    // People are trusted with all of it.
    let whose = request.extensions().get::<Identity>().map(|identity| (identity.tenant, kind));
    let _taken = budget.take(whose, bytes).await?;
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_go_back_with_the_last_of_an_answer() {
        let budget = Budget::new(10);
        let free = || budget.all.available_permits();
        let taken = budget.take(None, 10).await.unwrap();
        let answer = taken.answer(vec![7; 10]);
        let rest = answer.slice(9..);
        drop(answer);
        assert_eq!(free(), TOTAL as usize - 10);
        drop(rest);
        assert_eq!(free(), TOTAL as usize);
        // More than there is: alone, but not never.
        let all = budget.take(None, u64::MAX).await.unwrap();
        assert_eq!(free(), 0);
        assert!(budget.take(None, 0).await.is_ok());
        tokio::time::pause();
        assert_eq!(budget.take(None, 1).await.unwrap_err().code, "busy");
        drop(all);
        assert!(budget.take(None, 1).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn one_tenant_holds_no_more_than_its_share() {
        const MIB: u64 = 1 << 20;
        let budget = Budget::new(10 << 20);
        let (greedy, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let content = |tenant| Some((tenant, Kind::Content));
        let up = budget.take(content(greedy), 10 * MIB).await.unwrap();
        let down = budget.take(content(greedy), 10 * MIB).await.unwrap();
        assert_eq!(budget.take(content(greedy), 1).await.unwrap_err().code, "busy");
        // Its heartbeat goes on, and so does everybody else; who waits for his share takes nothing from them.
        drop(budget.take(Some((greedy, Kind::CheckIn)), 4 * MIB).await.unwrap());
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.take(content(greedy), 10 * MIB).await.is_ok() }
        });
        tokio::task::yield_now().await;
        let others = budget.take(content(other), 20 * MIB).await.unwrap();
        let people = budget.take(None, 24 * MIB).await.unwrap();
        // Nothing is left, and those who wait are first in the queue; nobody's heartbeat waits with them.
        assert_eq!(budget.all.available_permits(), 0);
        for tenant in [greedy, other, Uuid::from_u128(3)] {
            drop(budget.take(Some((tenant, Kind::CheckIn)), 4 * MIB).await.unwrap());
        }
        drop((up, down, others, people));
        assert!(waiting.await.unwrap());
        assert_eq!(budget.all.available_permits(), TOTAL as usize);
        drop(budget.take(content(other), 1).await);
        assert_eq!(budget.shares.lock().unwrap().len(), 1);

        // A share has room for the largest request, whatever that is.
        for largest in [1, 100 << 20, usize::MAX] {
            let budget = Budget::new(largest);
            assert!(budget.take(content(greedy), largest as u64).await.is_ok());
            assert!(budget.share >= TOTAL / 4);
        }
    }
}
