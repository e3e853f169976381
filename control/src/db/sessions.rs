//! `sidecar_sessions`: which sidecar process speaks for a tenant.
//!
//! Of several processes with a tenant's token the one whose first check-in came last is served; the others are told
//! so. Nothing else decides: not clocks, not who speaks louder.

use deadpool_postgres::{GenericClient, Transaction};
use jiff::Timestamp;
use uuid::Uuid;

use super::pool::{all, opt, run, unsigned};
use super::{Db, DbError, tokens};

/// Superseded sessions that are kept, per tenant, the ones heard of last. A process that calls again after it was
/// forgotten would count as new; it would have to be silent for [`KEEP_DAYS`] or for this many restarts.
const KEEP: i64 = 1000;
/// How long at least a superseded session is kept, unless there are more than [`KEEP`].
const KEEP_DAYS: i32 = 30;

/// What control thinks of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is the one that is served.
    Served,
    /// Another one appeared after it.
    Superseded,
    /// It never checked in here (or so long ago that it was forgotten). Its next check-in decides.
    Unknown,
}

/// Registers a check-in. A session that was not seen before supersedes the one that is served.
pub(crate) async fn appear(
    tx: &Transaction<'_>,
    tenant: Uuid,
    session: Uuid,
    started_at: Timestamp,
) -> Result<Standing, DbError> {
    // Nearly always. Waits for another session's first check-in that is about to end this one, and then finds no row.
    let touched = run(
        tx,
        "UPDATE sidecar_sessions SET last_seen_at = clock_timestamp()
         WHERE tenant_id = $1 AND session = $2 AND superseded_at IS NULL",
        &[&tenant, &session],
    )
    .await?;
    if touched > 0 {
        return Ok(Standing::Served);
    }
    // First check-in of a session: one at a time, so that "last" has a meaning.
    run(tx, "SELECT pg_advisory_xact_lock(hashtextextended('session ' || $1::text, 0))", &[&tenant.to_string()])
        .await?;
    match standing(tx, tenant, session).await? {
        Standing::Unknown => {}
        known => return Ok(known),
    }
    // Waits for batches of the old session that are being committed (they share its row), so that what this
    // check-in is told about the journal is final.
    let ended = run(
        tx,
        "UPDATE sidecar_sessions SET superseded_at = clock_timestamp() WHERE tenant_id = $1 AND superseded_at IS NULL",
        &[&tenant],
    )
    .await?;
    run(
        tx,
        "INSERT INTO sidecar_sessions (tenant_id, session, started_at) VALUES ($1, $2, $3)",
        &[&tenant, &session, &started_at],
    )
    .await?;
    run(
        tx,
        "DELETE FROM sidecar_sessions WHERE tenant_id = $1 AND superseded_at IS NOT NULL AND (
             last_seen_at < now() - make_interval(days => $2) OR session IN (
                 SELECT session FROM sidecar_sessions WHERE tenant_id = $1 AND superseded_at IS NOT NULL
                 ORDER BY last_seen_at DESC, session OFFSET $3
             )
         )",
        &[&tenant, &KEEP_DAYS, &KEEP],
    )
    .await?;
    if ended > 0 {
        tracing::info!(tenant.id = %tenant, %session, "another sidecar process took over");
        tokens::wake(tx, tenant).await?;
    }
    Ok(Standing::Served)
}

/// What the session is at the moment.
pub(crate) async fn standing(client: &impl GenericClient, tenant: Uuid, session: Uuid) -> Result<Standing, DbError> {
    let row = opt(
        client,
        "SELECT superseded_at IS NULL FROM sidecar_sessions WHERE tenant_id = $1 AND session = $2",
        &[&tenant, &session],
    )
    .await?;
    Ok(from_row(row.map(|row| row.get(0))))
}

/// The same, and while the transaction lasts it stays so.
pub(crate) async fn hold(tx: &Transaction<'_>, tenant: Uuid, session: Uuid) -> Result<Standing, DbError> {
    let row = opt(
        tx,
        "SELECT superseded_at IS NULL FROM sidecar_sessions WHERE tenant_id = $1 AND session = $2 FOR SHARE",
        &[&tenant, &session],
    )
    .await?;
    Ok(from_row(row.map(|row| row.get(0))))
}

fn from_row(served: Option<bool>) -> Standing {
    match served {
        Some(true) => Standing::Served,
        Some(false) => Standing::Superseded,
        None => Standing::Unknown,
    }
}

/// Notes that a superseded session called all the same: two sidecars use the tenant's token. Once a minute is enough.
pub(crate) async fn insisted(db: &Db, tenant: Uuid, session: Uuid) -> Result<(), DbError> {
    run(
        &db.client().await?,
        "UPDATE sidecar_sessions SET last_seen_at = clock_timestamp()
         WHERE tenant_id = $1 AND session = $2 AND superseded_at IS NOT NULL
           AND (last_seen_at <= superseded_at OR last_seen_at < now() - interval '1 minute')",
        &[&tenant, &session],
    )
    .await
    .map(drop)
}

/// What an operator sees of a tenant's sessions.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Overview {
    /// The one that is served.
    pub(crate) served: Option<Uuid>,
    /// How many superseded ones called within the last hour and after they were superseded. More than none means
    /// that two sidecars run with tokens of one tenant.
    pub(crate) insisting: u64,
}

/// Looks at a tenant's sessions.
pub(crate) async fn overview(client: &impl GenericClient, tenant: Uuid) -> Result<Overview, DbError> {
    let rows = all(
        client,
        "SELECT (SELECT session FROM sidecar_sessions WHERE tenant_id = $1 AND superseded_at IS NULL),
                (SELECT count(*) FROM sidecar_sessions WHERE tenant_id = $1 AND last_seen_at > superseded_at
                     AND last_seen_at > now() - interval '1 hour')",
        &[&tenant],
    )
    .await?;
    Ok(rows
        .first()
        .map_or_else(Overview::default, |row| Overview { served: row.get(0), insisting: unsigned(row.get(1)) }))
}
