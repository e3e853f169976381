//! Suspending the gateway for a planned stop, or for a snapshot of its host, and resuming it.
//!
//! ```text
//!  gateway.suspend.prepare {"requestId","drain":true} → {"status":"ready","suspensionId","expiresAtMs",…}
//!                                                     → {"status":"draining","suspensionId","retryAfterMs","blockers":[…],…}
//!                                                     → {"status":"busy","reason","retryAfterMs","blockers":[…],…}
//!  gateway.suspend.status  {"suspensionId"}           → draining or ready, as above; {"status":"running"}
//!  gateway.suspend.resume  {"suspensionId"}           → {"status":"running","resumed":true}
//! ```
//!
//! While it drains, and once it is ready, the gateway takes no new work. Its lease is two minutes; the same `prepare` renews it. It is
//! renewed here until somebody resumes, but not for ever: a tenant must not stay silent because whoever suspended it has died. A sidecar
//! that ends takes the renewal with it, and the gateway goes on when its lease is over.
//!
//! The only timer is that of the renewal, and there is one only while the gateway is suspended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};
use winston_wire::env::Secret;
use winston_wire::{Suspension, Timestamp};

use super::rpc::{self, RpcError};
use super::{Answer, GatewayConfig, GatewayError, Shared};

/// Longest pause between two questions whether it is idle. The gateway proposes 20 s, for callers from afar.
const POLL: Duration = Duration::from_millis(500);

/// Who can suspend the gateway.
pub(super) struct Suspender {
    port: u16,
    secret: Option<Secret>,
    limit: Duration,
    renewal: Duration,
    longest: Duration,
    /// Held while something is asked, so that orders do not cross.
    lease: Mutex<Option<Lease>>,
    /// Somebody has it finish what it does: from before the gateway is told until that is public, or given up.
    begun: AtomicBool,
}

/// A suspension of ours.
struct Lease {
    /// Of this process.
    pid: u32,
    request: String,
    id: String,
    since: Timestamp,
    renewal: AbortHandle,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// What the gateway answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    status: String,
    #[serde(default)]
    suspension_id: Option<String>,
    #[serde(default)]
    expires_at_ms: i64,
    #[serde(default)]
    retry_after_ms: u64,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    blockers: Vec<Blocker>,
}

#[derive(Debug, Deserialize)]
struct Blocker {
    #[serde(default)]
    message: String,
}

/// What an answer means for whoever waits.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// It takes no work and has none. `id`: of the suspension, where the answer names it.
    Ready { id: Option<String>, expires: Timestamp },
    /// It takes no new work and still has some.
    Draining { id: Option<String>, pause: Duration, why: String },
    /// It goes on as before, and may be asked again.
    Busy { pause: Duration, why: String },
    /// It did not answer in time, and may have done what was asked.
    Silent,
    /// It is something that we do not know.
    Strange(String),
}

fn progress(answer: &Value) -> Progress {
    let Ok(told) = serde_json::from_value::<Told>(answer.clone()) else {
        return Progress::Strange("an answer without a status".into());
    };
    let pause = Duration::from_millis(told.retry_after_ms).clamp(Duration::from_millis(20), POLL);
    let blockers: Vec<String> = told.blockers.into_iter().take(5).map(|blocker| blocker.message).collect();
    // In its own words: they are cut and redacted for whoever is told.
    let why = if blockers.is_empty() { told.reason.unwrap_or_default() } else { blockers.join(", ") };
    let id = told.suspension_id;
    match told.status.as_str() {
        "ready" => match Timestamp::from_millisecond(told.expires_at_ms) {
            Ok(expires) => Progress::Ready { id, expires },
            Err(_) => Progress::Strange("a lease that ends at no time".into()),
        },
        "draining" => Progress::Draining { id, pause, why },
        "busy" => Progress::Busy { pause, why },
        other => Progress::Strange(format!("the status {other:?}")),
    }
}

impl Suspender {
    pub(super) fn of(config: &GatewayConfig) -> Self {
        let limits = &config.limits;
        Self {
            port: config.port,
            secret: config.rpc_secret.clone(),
            limit: limits.rpc_limit,
            renewal: limits.suspend_renewal,
            longest: limits.suspend_longest,
            lease: Mutex::default(),
            begun: AtomicBool::new(false),
        }
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    /// The answer; `None` when there was none in time.
    async fn call(&self, method: &str, params: Value) -> Result<Option<Value>, GatewayError> {
        let secret = self.secret.as_ref().ok_or(GatewayError::NoSecret)?;
        match rpc::call(self.port, secret, method, params, self.limit).await {
            Ok(answer) => Ok(Some(answer)),
            Err(RpcError::TimedOut) => Ok(None),
            // It goes on in a moment: a start or a stop, another's suspension.
            Err(RpcError::Refused { code, message, .. }) if code == "UNAVAILABLE" => {
                Err(GatewayError::Occupied(message))
            }
            Err(error) => Err(GatewayError::Refused(error.to_string())),
        }
    }

    async fn progress(&self, method: &str, params: Value) -> Result<Progress, GatewayError> {
        Ok(self.call(method, params).await?.as_ref().map_or(Progress::Silent, progress))
    }

    async fn prepare(&self, request: &str) -> Result<Progress, GatewayError> {
        let params = json!({ "requestId": request, "terminalPolicy": "preserve", "drain": true });
        self.progress("gateway.suspend.prepare", params).await
    }

    /// Waits until it is idle. What has begun is taken back when that takes too long, or anything goes wrong.
    async fn drain(&self, request: &str, wait: Duration) -> Result<(String, Timestamp), GatewayError> {
        let mut suspension = None;
        let drained = self.until_idle(request, wait, &mut suspension).await;
        if let (Err(_), Some(id)) = (&drained, suspension) {
            // Its lease ends by itself where this fails.
            let _ = self.call("gateway.suspend.resume", json!({ "suspensionId": id })).await;
        }
        drained
    }

    /// `suspension`: its id, as soon as it is known.
    async fn until_idle(
        &self,
        request: &str,
        wait: Duration,
        suspension: &mut Option<String>,
    ) -> Result<(String, Timestamp), GatewayError> {
        let ends = Instant::now() + wait;
        let mut last = self.prepare(request).await?;
        loop {
            let (pause, why) = match last {
                Progress::Ready { id, expires } => match id.or_else(|| suspension.clone()) {
                    Some(id) => return Ok((id, expires)),
                    None => return Err(GatewayError::Refused("a suspension without a name".into())),
                },
                Progress::Draining { id, pause, why } => {
                    *suspension = id.or(suspension.take());
                    (pause, why)
                }
                Progress::Busy { pause, why } => (pause, why),
                // Asked again under the same name, it does nothing twice.
                Progress::Silent => (POLL, RpcError::TimedOut.to_string()),
                Progress::Strange(what) => return Err(GatewayError::Refused(what)),
            };
            if Instant::now() + pause > ends {
                return Err(GatewayError::Occupied(why));
            }
            sleep(pause).await;
            last = match suspension {
                Some(id) => self.progress("gateway.suspend.status", json!({ "suspensionId": id })).await?,
                None => self.prepare(request).await?,
            };
        }
    }
}

/// As long as it is there, [`Shared::is_fenced`] holds.
struct Begun<'a>(&'a Shared, &'a Suspender);

impl<'a> Begun<'a> {
    fn mark(shared: &'a Shared, suspender: &'a Suspender) -> Self {
        suspender.begun.store(true, Ordering::SeqCst);
        Self(shared, suspender)
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.1.begun.store(false, Ordering::SeqCst);
        // Whoever has put something off because of it looks again.
        self.0.status.send_modify(|_| {});
    }
}

/// Has the gateway finish what it does, for at most `wait`, and take nothing new until it is resumed. Not while a configuration is on trial:
/// `on_trial` is asked when no further one can begin.
pub(super) async fn suspend(shared: Arc<Shared>, wait: Duration, on_trial: impl Fn() -> bool + Send) -> Answer {
    let suspender = shared.suspender.as_ref().ok_or(GatewayError::Disabled)?;
    let mut lease = suspender.lease.try_lock().map_err(|_| GatewayError::Busy)?;
    let _begun = Begun::mark(&shared, suspender);
    if on_trial() {
        return Err(GatewayError::Occupied("a configuration is on trial".into()));
    }
    let pid = ready_pid(&shared).ok_or(GatewayError::NotReady)?;
    if lease.as_ref().is_some_and(|lease| lease.pid == pid) && shared.status.borrow().suspension.is_some() {
        return Ok(shared.status.borrow().clone());
    }
    let since = Timestamp::now();
    let request = format!("winston-{pid}-{}", since.as_millisecond());
    let (id, expires_at) = suspender.drain(&request, wait).await?;
    tracing::info!(pid, "gateway suspended");
    shared.logs.note("gateway suspended on request".into());
    publish(&shared, pid, Some(Suspension { since, expires_at }));
    let renewal = tokio::spawn(renew(Arc::clone(&shared), id.clone())).abort_handle();
    *lease = Some(Lease { pid, request, id, since, renewal });
    Ok(shared.status.borrow().clone())
}

/// Lets the gateway take work again.
pub(super) async fn resume(shared: Arc<Shared>) -> Answer {
    let suspender = shared.suspender.as_ref().ok_or(GatewayError::Disabled)?;
    let mut held = suspender.lease.lock().await;
    let Some(lease) = held.as_ref() else { return Err(GatewayError::NotSuspended) };
    if ready_pid(&shared) == Some(lease.pid) {
        release(suspender, &lease.id).await?;
    }
    tracing::info!("gateway resumed");
    shared.logs.note("gateway resumed on request".into());
    publish(&shared, lease.pid, None);
    *held = None;
    Ok(shared.status.borrow().clone())
}

async fn release(suspender: &Suspender, id: &str) -> Result<(), GatewayError> {
    match suspender.call("gateway.suspend.resume", json!({ "suspensionId": id })).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(GatewayError::Refused(RpcError::TimedOut.to_string())),
        // Its lease has ended already, or is another's: either way ours is over.
        Err(GatewayError::Refused(why)) if why.contains("does not match") => Ok(()),
        Err(error) => Err(error),
    }
}

/// Keeps the lease up.
async fn renew(shared: Arc<Shared>, mut id: String) {
    let Some(suspender) = &shared.suspender else { return };
    loop {
        sleep(suspender.renewal).await;
        let mut held = suspender.lease.lock().await;
        let Some(lease) = held.as_mut().filter(|lease| lease.id == id) else { return };
        if ready_pid(&shared) != Some(lease.pid) {
            // Another process was never suspended.
            *held = None;
            return;
        }
        let age = Duration::try_from(Timestamp::now().duration_since(lease.since)).unwrap_or_default();
        if age >= suspender.longest {
            tracing::warn!("nobody has resumed the gateway; it is resumed");
            shared.logs.note("gateway resumed: its suspension has lasted as long as it may".into());
            // Where this fails, the lease that is not renewed any more ends.
            let _ = release(suspender, &lease.id).await;
            publish(&shared, lease.pid, None);
            *held = None;
            return;
        }
        match suspender.prepare(&lease.request).await {
            Ok(Progress::Ready { id: renewed, expires }) => {
                if let Some(renewed) = renewed {
                    // After a pause of the whole machine it is a new one.
                    id.clone_from(&renewed);
                    lease.id = renewed;
                }
                publish(&shared, lease.pid, Some(Suspension { since: lease.since, expires_at: expires }));
            }
            Ok(Progress::Silent) => tracing::warn!("the gateway's suspension was not renewed: no answer in time"),
            Ok(_) => tracing::warn!("the gateway's suspension is not whole any more"),
            Err(error) => {
                let error = shared.logs.excerpt(&error.to_string());
                tracing::warn!(error, "the gateway's suspension was not renewed");
            }
        }
    }
}

/// The process, if it is there and answers.
fn ready_pid(shared: &Shared) -> Option<u32> {
    let status = shared.status.borrow();
    status.pid.filter(|_| status.state.is_up())
}

/// Tells everybody, unless there is another process by now.
fn publish(shared: &Shared, pid: u32, suspension: Option<Suspension>) {
    shared.status.send_if_modified(|status| {
        let changed = status.pid == Some(pid) && status.suspension != suspension;
        if changed {
            status.suspension = suspension;
        }
        changed
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_answers_are_understood() {
        let ready = json!({"status": "ready", "suspensionId": "15de", "expiresAtMs": 1_795_919_459_491_i64,
            "activeCount": 0, "blockers": [], "writeCustody": []});
        let expires = Timestamp::from_millisecond(1_795_919_459_491).expect("a time");
        assert_eq!(progress(&ready), Progress::Ready { id: Some("15de".into()), expires });
        let draining = json!({"status": "draining", "suspensionId": "x", "expiresAtMs": 1, "retryAfterMs": 20_000,
            "activeCount": 2, "blockers": [{"kind": "root-request", "count": 1, "message": "1 active request"}]});
        let why = "1 active request".to_owned();
        assert_eq!(progress(&draining), Progress::Draining { id: Some("x".into()), pause: POLL, why });
        let busy = json!({"status": "busy", "reason": "starting", "retryAfterMs": 0, "activeCount": 0});
        let pause = Duration::from_millis(20);
        assert_eq!(progress(&busy), Progress::Busy { pause, why: "starting".into() });
        for strange in [json!({"status": "running"}), json!({}), json!(null), json!({"status": 1})] {
            assert!(matches!(progress(&strange), Progress::Strange(_)), "{strange}");
        }
    }
}
