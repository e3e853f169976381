//! `api_keys`: who may use `/api/*`. Only hashes are stored.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::pool::{all, one, opt, run};
use super::{Db, DbError, audit};
use crate::token::TokenHash;

/// Finds the name of a presented key.
pub(crate) async fn authenticate(db: &Db, presented: TokenHash) -> Result<Option<String>, DbError> {
    let client = db.client().await?;
    let row = opt(
        &client,
        "SELECT id, name, key_hash, last_used_at IS NULL OR last_used_at < now() - interval '1 minute'
         FROM api_keys WHERE key_hash = $1 AND revoked_at IS NULL",
        &[&presented.as_bytes()],
    )
    .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let stored: &[u8] = row.get(2);
    if !presented.matches(stored) {
        return Ok(None);
    }
    let id: Uuid = row.get(0);
    if row.get(3) {
        run(&client, "UPDATE api_keys SET last_used_at = now() WHERE id = $1", &[&id]).await?;
    }
    Ok(Some(row.get(1)))
}

/// Whether any key is valid.
pub(crate) async fn any(db: &Db) -> Result<bool, DbError> {
    Ok(one(&db.client().await?, "SELECT EXISTS (SELECT FROM api_keys WHERE revoked_at IS NULL)", &[]).await?.get(0))
}

/// Whether this key is valid.
pub(crate) async fn is_valid(db: &Db, key: TokenHash) -> Result<bool, DbError> {
    let sql = "SELECT 1 FROM api_keys WHERE key_hash = $1 AND revoked_at IS NULL";
    Ok(opt(&db.client().await?, sql, &[&key.as_bytes()]).await?.is_some())
}

/// Stores a new key; gives its id.
pub(crate) async fn add(client: &impl GenericClient, name: &str, key: TokenHash) -> Result<Uuid, DbError> {
    let id = Uuid::now_v7();
    let sql = "INSERT INTO api_keys (id, name, key_hash) VALUES ($1, $2, $3)";
    run(client, sql, &[&id, &name, &key.as_bytes()]).await?;
    Ok(id)
}

/// What is known about a key; never the key.
#[derive(Debug)]
pub(crate) struct KeyInfo {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) created_at: Timestamp,
    pub(crate) last_used_at: Option<Timestamp>,
    pub(crate) revoked_at: Option<Timestamp>,
}

/// Every key, oldest first.
pub(crate) async fn list(client: &impl GenericClient) -> Result<Vec<KeyInfo>, DbError> {
    let sql = "SELECT id, name, created_at, last_used_at, revoked_at FROM api_keys ORDER BY id";
    let rows = all(client, sql, &[]).await?;
    Ok(rows
        .iter()
        .map(|row| KeyInfo {
            id: row.get(0),
            name: row.get(1),
            created_at: row.get(2),
            last_used_at: row.get(3),
            revoked_at: row.get(4),
        })
        .collect())
}

/// Ends a key; says whether it was valid.
pub(crate) async fn revoke(client: &impl GenericClient, id: Uuid) -> Result<bool, DbError> {
    let sql = "UPDATE api_keys SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL";
    Ok(run(client, sql, &[&id]).await? > 0)
}

/// Audits something that was done to a key.
pub(crate) async fn record(
    client: &impl GenericClient,
    actor: &str,
    action: &str,
    id: Uuid,
    details: Value,
) -> Result<(), DbError> {
    let entry = audit::Entry { tenant: None, actor, action, resource: "api_key", id: id.to_string(), details };
    audit::record(client, entry).await
}
