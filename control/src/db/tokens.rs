//! `sidecar_tokens`: who may speak for a tenant. Only hashes are stored.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::pool::{all, opt, run};
use super::{Db, DbError, audit};
use crate::token::TokenHash;

/// Channel that wakes the long polls of a tenant when one of its tokens ends (payload: the tenant's id).
pub(crate) const CHANNEL: &str = "winston_tokens";

/// What is known about a token; never the token.
#[derive(Debug, Serialize)]
pub(crate) struct TokenInfo {
    id: Uuid,
    label: Option<String>,
    created_at: Timestamp,
    last_used_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
}

/// A valid token's owner.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity {
    /// The tenant.
    pub(crate) tenant: Uuid,
    /// The token.
    pub(crate) token: Uuid,
}

const VALID: &str = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())";

/// Finds the owner of a presented token.
pub(crate) async fn authenticate(db: &Db, presented: TokenHash) -> Result<Option<Identity>, DbError> {
    let client = db.client().await?;
    let sql = format!(
        "SELECT tenant_id, id, token_hash, last_used_at IS NULL OR last_used_at < now() - interval '1 minute'
         FROM sidecar_tokens WHERE token_hash = $1 AND {VALID}"
    );
    let Some(row) = opt(&client, &sql, &[&presented.as_bytes()]).await? else {
        return Ok(None);
    };
    let stored: &[u8] = row.get(2);
    if !presented.matches(stored) {
        return Ok(None);
    }
    let identity = Identity { tenant: row.get(0), token: row.get(1) };
    // Once a minute is precise enough, and keeps a heartbeat from being a write each time.
    if row.get(3) {
        run(
            &client,
            "UPDATE sidecar_tokens SET last_used_at = now() WHERE tenant_id = $1 AND id = $2",
            &[&identity.tenant, &identity.token],
        )
        .await?;
    }
    Ok(Some(identity))
}

/// Whether a token that was valid still is.
pub(crate) async fn still_valid(client: &impl GenericClient, identity: Identity) -> Result<bool, DbError> {
    let sql = format!("SELECT 1 FROM sidecar_tokens WHERE tenant_id = $1 AND id = $2 AND {VALID}");
    Ok(opt(client, &sql, &[&identity.tenant, &identity.token]).await?.is_some())
}

/// Stores a new token. `overlap_seconds` is how long the older ones stay valid; without it they stay as they are.
/// A tenant that does not exist is [`DbError::Missing`].
pub(crate) async fn issue(
    db: &Db,
    actor: &str,
    tenant: Uuid,
    label: Option<&str>,
    token: TokenHash,
    overlap_seconds: Option<i32>,
) -> Result<Uuid, DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    let id = Uuid::now_v7();
    run(
        &tx,
        "INSERT INTO sidecar_tokens (tenant_id, id, token_hash, label) VALUES ($1, $2, $3, $4)",
        &[&tenant, &id, &token.as_bytes(), &label],
    )
    .await?;
    if let Some(overlap) = overlap_seconds {
        run(
            &tx,
            "UPDATE sidecar_tokens
             SET expires_at = least(expires_at, now() + make_interval(secs => $3::int))
             WHERE tenant_id = $1 AND id <> $2 AND revoked_at IS NULL",
            &[&tenant, &id, &overlap],
        )
        .await?;
        wake(&tx, tenant).await?;
    }
    audit::record(
        &tx,
        audit::Entry {
            tenant: Some(tenant),
            actor,
            action: if overlap_seconds.is_some() { "token.rotate" } else { "token.create" },
            resource: "sidecar_token",
            id: id.to_string(),
            details: json!({"label": label, "overlap_seconds": overlap_seconds}),
        },
    )
    .await?;
    tx.commit().await?;
    Ok(id)
}

/// Every token of a tenant, newest first.
pub(crate) async fn list(db: &Db, tenant: Uuid) -> Result<Vec<TokenInfo>, DbError> {
    let rows = all(
        &db.client().await?,
        "SELECT id, label, created_at, last_used_at, expires_at, revoked_at
         FROM sidecar_tokens WHERE tenant_id = $1 ORDER BY id DESC LIMIT 1000",
        &[&tenant],
    )
    .await?;
    Ok(rows
        .iter()
        .map(|row| TokenInfo {
            id: row.get(0),
            label: row.get(1),
            created_at: row.get(2),
            last_used_at: row.get(3),
            expires_at: row.get(4),
            revoked_at: row.get(5),
        })
        .collect())
}

/// Ends a token now. Says whether there is such a token; ending it again changes nothing.
pub(crate) async fn revoke(db: &Db, actor: &str, tenant: Uuid, id: Uuid) -> Result<bool, DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    let found = run(
        &tx,
        "UPDATE sidecar_tokens SET revoked_at = coalesce(revoked_at, now()) WHERE tenant_id = $1 AND id = $2",
        &[&tenant, &id],
    )
    .await?
        > 0;
    if found {
        wake(&tx, tenant).await?;
        audit::record(
            &tx,
            audit::Entry {
                tenant: Some(tenant),
                actor,
                action: "token.revoke",
                resource: "sidecar_token",
                id: id.to_string(),
                details: json!({}),
            },
        )
        .await?;
        tx.commit().await?;
    }
    Ok(found)
}

/// Wakes the long polls of a tenant, so that they look again at who they are.
pub(crate) async fn wake(client: &impl GenericClient, tenant: Uuid) -> Result<(), DbError> {
    run(client, "SELECT pg_notify($1, $2)", &[&CHANNEL, &tenant.to_string()]).await.map(drop)
}
