//! Wake-ups for long polls: one connection LISTENs, waiters register by tenant.
//!
//! A notification is only a hint to look. While the connection is down nobody is woken, and the waiters' own slow
//! look (see the desired route) finds what they missed.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_postgres::{AsyncMessage, Config, NoTls};
use uuid::Uuid;

use crate::db::{DbError, desired, tokens};

/// First and longest wait before a new connection.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

type Waiters = HashMap<Uuid, Arc<Notify>>;

/// Who waits for what.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hub {
    waiters: Arc<Mutex<Waiters>>,
}

impl Hub {
    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        // The map is whole between any two statements, so a panic elsewhere does not spoil it.
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers interest in a tenant. Register first, then look, then wait: so nothing slips between.
    pub(crate) fn subscribe(&self, tenant: Uuid) -> Subscription {
        let notify = self.waiters().entry(tenant).or_default().clone();
        Subscription { hub: self.clone(), tenant, notify }
    }

    /// Wakes everyone who waits for a tenant.
    pub(crate) fn wake(&self, tenant: Uuid) {
        if let Some(notify) = self.waiters().get(&tenant) {
            notify.notify_waiters();
        }
    }

    /// Wakes everyone.
    pub(crate) fn wake_all(&self) {
        for notify in self.waiters().values() {
            notify.notify_waiters();
        }
    }
}

/// Interest in one tenant.
#[derive(Debug)]
pub(crate) struct Subscription {
    hub: Hub,
    tenant: Uuid,
    notify: Arc<Notify>,
}

impl Subscription {
    /// Ends at the next wake-up after this call (not after the first poll of the future).
    pub(crate) fn woken(&self) -> tokio::sync::futures::Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut waiters = self.hub.waiters();
        // The map's and ours: nobody else waits for this tenant.
        if Arc::strong_count(&self.notify) == 2 {
            waiters.remove(&self.tenant);
        }
    }
}

/// Listens for ever, with a new connection after each loss.
pub(crate) async fn listen(config: Config, hub: Hub) {
    let mut wait = BACKOFF.0;
    loop {
        let result = listen_once(&config, &hub, &mut wait).await;
        tracing::warn!(
            error = result.err().map(|error| error.to_string()),
            retry_ms = wait.as_millis() as u64,
            "lost the connection that listens for notifications"
        );
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(BACKOFF.1);
    }
}

async fn listen_once(config: &Config, hub: &Hub, wait: &mut Duration) -> Result<(), DbError> {
    let (client, mut connection) = config.connect(NoTls).await?;
    let (sender, mut notifications) = tokio::sync::mpsc::channel(256);
    let reader = async move {
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notification) = message?
                && sender.send(notification.payload().to_owned()).await.is_err()
            {
                break;
            }
        }
        Ok::<(), tokio_postgres::Error>(())
    };
    let work = async {
        client.batch_execute(&format!("LISTEN {}; LISTEN {}", desired::CHANNEL, tokens::CHANNEL)).await?;
        *wait = BACKOFF.0;
        // Whatever happened while nobody listened.
        hub.wake_all();
        while let Some(payload) = notifications.recv().await {
            if let Ok(tenant) = payload.parse() {
                hub.wake(tenant);
            }
        }
        Ok::<(), tokio_postgres::Error>(())
    };
    tokio::try_join!(reader, work)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wake_up_between_look_and_wait_is_not_lost() {
        let hub = Hub::default();
        let tenant = Uuid::from_u128(1);
        let subscription = hub.subscribe(tenant);
        let woken = subscription.woken();
        hub.wake(tenant);
        tokio::time::timeout(Duration::from_secs(5), woken).await.unwrap();
    }

    #[test]
    fn the_last_waiter_cleans_up() {
        let hub = Hub::default();
        let tenant = Uuid::from_u128(1);
        let (first, second) = (hub.subscribe(tenant), hub.subscribe(tenant));
        drop(first);
        assert_eq!(hub.waiters().len(), 1);
        drop(second);
        assert!(hub.waiters().is_empty());
    }
}
