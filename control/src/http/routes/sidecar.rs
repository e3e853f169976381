//! `/api/sidecar/*`: what sidecars call. See `winston_wire` for the conversation.

use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;
use winston_wire::{
    ChangeBatch, ChangeBatchAnswer, CheckIn, CheckInAnswer, Desired, GatewayState, ManifestDifferences, ManifestRange,
    PROTOCOL_VERSION,
};

use super::super::App;
use super::super::auth::{Session, superseded};
use super::super::error::{Problem, sentence};
use super::super::extract::{Args, Body};
use crate::db::sessions::Standing;
use crate::db::sidecar_sync::Described;
use crate::db::tokens::Identity;
use crate::db::{batch, commit, current, desired, sessions, sidecar_sync, tokens};
use crate::manifest;

/// Longest wait of a long poll, in seconds.
const MAX_WAIT_SECONDS: u64 = 55;
/// How often a long poll looks although nobody woke it: notifications are hints, and tokens expire by themselves.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Most files that control looks at in a range beyond as many as the sidecar has there.
const MAX_OTHER_FILES: usize = 5000;
/// Most differences in an answer; with the first ones mended, the sidecar comes again.
const MAX_DIFFERENCES: usize = 5000;
/// About the most bytes of paths in an answer.
const MAX_DIFFERENCE_BYTES: usize = 1 << 20;

/// Heartbeat.
pub(in super::super) async fn check_in(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    Body(report): Body<Value>,
) -> Result<Json<CheckInAnswer>, Problem> {
    // Before the rest is read: another protocol may have another shape.
    let protocol = report.get("protocol").and_then(Value::as_u64);
    if protocol != Some(u64::from(PROTOCOL_VERSION)) {
        return Err(Problem::bad(
            "protocol_mismatch",
            format!("This control speaks sidecar protocol {PROTOCOL_VERSION}"),
        )
        .with("protocol", PROTOCOL_VERSION));
    }
    let report = without_nul(report);
    let report: CheckIn = serde_json::from_value(report)
        .map_err(|error| Problem::bad("bad_json", format!("The body is not a check-in: {error}")))?;
    batch::check_in(&report).map_err(|why| Problem::bad("bad_check_in", format!("The check-in {why}")))?;
    let described = Described {
        health: health(report.gateway.state),
        gateway: value(&report.gateway),
        conflicts: value(&report.conflicts),
        manifest: report.manifest.as_ref().map(value),
    };
    let Some(done) = sidecar_sync::check_in(&app.db, identity.tenant, &report, &described).await? else {
        sessions::insisted(&app.db, identity.tenant, report.session).await?;
        return Err(superseded());
    };
    Ok(Json(CheckInAnswer {
        tenant_id: identity.tenant,
        acked_seq: done.acked_seq,
        desired_generation: done.generation,
        heartbeat_seconds: app.limits.heartbeat_seconds,
        acked_change: done.acked_change,
        manifest_differs: done.manifest_differs,
    }))
}

/// Word for `health_status`.
fn health(gateway: GatewayState) -> &'static str {
    match gateway {
        GatewayState::Ready => "healthy",
        GatewayState::Degraded => "degraded",
        GatewayState::Adopted | GatewayState::Starting | GatewayState::WaitingForConfig => "starting",
        GatewayState::Disabled | GatewayState::Stopped | GatewayState::Stopping => "stopped",
        GatewayState::Unresponsive | GatewayState::Backoff | GatewayState::CrashLooping => "unhealthy",
        GatewayState::Unknown => "unknown",
    }
}

fn value(part: &impl Serialize) -> Value {
    serde_json::to_value(part).unwrap_or_default()
}

/// PostgreSQL can keep no NUL in text; a gateway's last words may have one.
fn without_nul(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains('\0') => text.replace('\0', "\u{fffd}").into(),
        Value::Array(items) => items.into_iter().map(without_nul).collect(),
        Value::Object(members) => {
            members.into_iter().map(|(key, value)| (key.replace('\0', "\u{fffd}"), without_nul(value))).collect()
        }
        other => other,
    }
}

/// A batch of changes.
pub(in super::super) async fn changes(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    Extension(Session(session)): Extension<Session>,
    Body(batch): Body<ChangeBatch>,
) -> Result<Json<ChangeBatchAnswer>, Problem> {
    batch::check(&batch).map_err(|error| {
        let code = match error {
            batch::BadBatch::TooMany => "too_many_changes",
            batch::BadBatch::Sequence(_) => "bad_sequence",
            batch::BadBatch::Path { .. } => "bad_path",
            batch::BadBatch::Change { .. } => "bad_change",
        };
        Problem::bad(code, sentence(&error.to_string()))
    })?;
    commit::commit(&app.db, identity.tenant, session, &batch).await?.map(Json).ok_or_else(superseded)
}

/// Files of a range of paths, to be compared with what control has.
pub(in super::super) async fn manifest(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    Body(range): Body<ManifestRange>,
) -> Result<Json<ManifestDifferences>, Problem> {
    manifest::check(&range).map_err(|why| Problem::bad("bad_manifest", format!("The manifest {why}")))?;
    let most = range.files.len() + MAX_OTHER_FILES;
    let Some(ours) = current::range(&app.db, identity.tenant, &range, most as i64).await? else {
        return Ok(Json(ManifestDifferences { stale: true, differing: Vec::new() }));
    };
    // Where control has more files than it looks at, nothing is known about paths behind the last one.
    let mut theirs = range.files;
    if let Some(last) = ours.files.last().filter(|_| !ours.whole) {
        theirs.retain(|file| file.path <= last.path);
    }
    let differing = manifest::differences(&theirs, &ours.files, MAX_DIFFERENCES, MAX_DIFFERENCE_BYTES);
    Ok(Json(ManifestDifferences { stale: false, differing }))
}

#[derive(Deserialize)]
pub(in super::super) struct DesiredArgs {
    #[serde(default)]
    generation: u64,
    #[serde(default)]
    wait: u64,
}

/// Files newer than a generation; waits for some when there are none.
pub(in super::super) async fn desired(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    Extension(Session(session)): Extension<Session>,
    Args(args): Args<DesiredArgs>,
) -> Result<Json<Desired>, Problem> {
    let deadline = Instant::now() + Duration::from_secs(args.wait.min(MAX_WAIT_SECONDS));
    let mut stopping = app.stopping.clone();
    let subscription = app.hub.subscribe(identity.tenant);
    let mut first = true;
    loop {
        // Registered before the look, so that a push between look and wait is not missed.
        let woken = subscription.woken();
        let desired = {
            let client = app.db.client().await?;
            if !first && !tokens::still_valid(&client, identity).await? {
                return Err(Problem::unauthorized("The sidecar token is not valid any more"));
            }
            // Somebody may have taken over while this waited.
            if !first && sessions::standing(&client, identity.tenant, session).await? == Standing::Superseded {
                return Err(superseded());
            }
            desired::since(&client, identity.tenant, args.generation).await?
        };
        first = false;
        let news = !desired.files.is_empty() || desired.generation != args.generation;
        if news || Instant::now() >= deadline || *stopping.borrow() {
            return Ok(Json(desired));
        }
        tokio::select! {
            () = woken => {}
            () = tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_EVERY)) => {}
            _ = stopping.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nul_characters_are_replaced_everywhere() {
        let value = json!({"a\0": ["x\0y", {"b": "\0"}], "n": 1});
        let text = without_nul(value).to_string();
        assert!(!text.contains("\\u0000"), "{text}");
        assert!(text.contains("x\u{fffd}y"));
    }
}
