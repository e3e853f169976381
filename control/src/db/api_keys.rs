//! `api_keys`: who may use `/api/*`. Only hashes are stored.

use uuid::Uuid;

use super::pool::{one, opt, run};
use super::{Db, DbError};
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

/// Stores a key; storing the same key again changes nothing.
pub(crate) async fn add(db: &Db, name: &str, key: TokenHash) -> Result<(), DbError> {
    run(
        &db.client().await?,
        "INSERT INTO api_keys (id, name, key_hash) VALUES ($1, $2, $3) ON CONFLICT (key_hash) DO NOTHING",
        &[&Uuid::now_v7(), &name, &key.as_bytes()],
    )
    .await
    .map(drop)
}
