//! Who may work on which tenant now.
//!
//! One operation per tenant, and a few at once in all, because each holds a database connection. The tenant comes
//! first: whoever waits for a slow tenant must not hold a place that others could use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as Map, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

/// Operations at the same time: half of the connections.
const AT_ONCE: usize = 8;
/// Longest wait for earlier operations on the same tenant.
const TENANT_WAIT: Duration = Duration::from_secs(120);
/// Longest wait for a place.
const PLACE_WAIT: Duration = Duration::from_secs(60);

/// The queue of one control.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    tenants: Arc<Map<HashMap<Uuid, Weak<Mutex<()>>>>>,
    places: Arc<Semaphore>,
}

/// A turn; it ends with this value.
#[derive(Debug)]
pub(super) struct Turn {
    _place: OwnedSemaphorePermit,
    _tenant: OwnedMutexGuard<()>,
}

impl Default for Queue {
    fn default() -> Self {
        Self { tenants: Arc::default(), places: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Queue {
    /// Waits for a turn; none when the wait gets too long.
    pub(super) async fn turn(&self, tenant: Uuid) -> Option<Turn> {
        let own = self.of(tenant);
        let tenant = tokio::time::timeout(TENANT_WAIT, own.lock_owned()).await.ok()?;
        let place = tokio::time::timeout(PLACE_WAIT, self.places.clone().acquire_owned()).await.ok()?.ok()?;
        Some(Turn { _place: place, _tenant: tenant })
    }

    fn of(&self, tenant: Uuid) -> Arc<Mutex<()>> {
        // Nothing in here panics; and a map of locks is never half-changed.
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.retain(|_, lock| lock.strong_count() > 0);
        let known = tenants.get(&tenant).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let lock = Arc::new(Mutex::new(()));
            tenants.insert(tenant, Arc::downgrade(&lock));
            lock
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_crowd_at_one_tenant_takes_no_place_from_others() {
        let queue = Queue::default();
        let (slow, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let working = queue.turn(slow).await.unwrap();
        let crowd: Vec<_> = (0..AT_ONCE * 2)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.turn(slow).await.is_some() })
            })
            .collect();
        tokio::task::yield_now().await;
        let turn = tokio::time::timeout(Duration::from_secs(10), queue.turn(other)).await;
        assert!(turn.unwrap().is_some());
        assert_eq!(queue.places.available_permits(), AT_ONCE - 1);
        drop(working);
        for waiting in crowd {
            assert!(waiting.await.unwrap());
        }
        assert_eq!(queue.places.available_permits(), AT_ONCE);
        drop(queue.turn(other).await);
        assert_eq!(queue.tenants.lock().unwrap().len(), 1);
    }
}
