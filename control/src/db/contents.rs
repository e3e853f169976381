//! `file_contents`: bytes by hash, once per tenant.

use std::collections::HashMap;

use deadpool_postgres::GenericClient;
use uuid::Uuid;
use winston_wire::ContentHash;

use super::pool::{all, hash, opt, run, signed, unsigned};
use super::{Db, DbError};

/// Stores bytes whose hash has been checked. Storing them again changes nothing.
pub(crate) async fn put(
    client: &impl GenericClient,
    tenant: Uuid,
    content_hash: &ContentHash,
    content: &[u8],
) -> Result<(), DbError> {
    run(
        client,
        "INSERT INTO file_contents (tenant_id, hash, size, content) VALUES ($1, $2, $3, $4)
         ON CONFLICT (tenant_id, hash) DO NOTHING",
        &[&tenant, &content_hash.as_bytes().as_slice(), &signed(content.len() as u64), &content],
    )
    .await
    .map(drop)
}

/// The same for an upload, without waiting for the disk. The batch that refers to the content is committed later and
/// waits for everything before it; should the database die between the two, the content is wanted again.
pub(crate) async fn put_upload(
    client: &impl GenericClient,
    tenant: Uuid,
    content_hash: &ContentHash,
    content: &[u8],
) -> Result<(), DbError> {
    run(
        client,
        "INSERT INTO file_contents (tenant_id, hash, size, content)
         SELECT $1, $2, $3, $4 FROM (SELECT set_config('synchronous_commit', 'off', true) AS mode) AS this
         WHERE this.mode IS NOT NULL
         ON CONFLICT (tenant_id, hash) DO NOTHING",
        &[&tenant, &content_hash.as_bytes().as_slice(), &signed(content.len() as u64), &content],
    )
    .await
    .map(drop)
}

/// The same for many small uploads: all of them or, when something fails, none.
pub(crate) async fn put_uploads(
    client: &impl GenericClient,
    tenant: Uuid,
    uploads: &[(ContentHash, &[u8])],
) -> Result<(), DbError> {
    if uploads.is_empty() {
        return Ok(());
    }
    let hashes: Vec<&[u8]> = uploads.iter().map(|(hash, _)| hash.as_bytes().as_slice()).collect();
    let contents: Vec<&[u8]> = uploads.iter().map(|(_, content)| *content).collect();
    run(
        client,
        "INSERT INTO file_contents (tenant_id, hash, size, content)
         SELECT $1, n.hash, length(n.content), n.content
         FROM (SELECT set_config('synchronous_commit', 'off', true) AS mode) AS this,
              unnest($2::bytea[], $3::bytea[]) AS n (hash, content)
         WHERE this.mode IS NOT NULL
         ON CONFLICT (tenant_id, hash) DO NOTHING",
        &[&tenant, &hashes, &contents],
    )
    .await
    .map(drop)
}

/// How many bytes that are, if this tenant has them.
pub(crate) async fn size(db: &Db, tenant: Uuid, content_hash: &ContentHash) -> Result<Option<u64>, DbError> {
    size_in(&db.client().await?, tenant, content_hash).await
}

/// The same on a connection or in a transaction of the caller.
pub(crate) async fn size_in(
    client: &impl GenericClient,
    tenant: Uuid,
    content_hash: &ContentHash,
) -> Result<Option<u64>, DbError> {
    let row = opt(
        client,
        "SELECT size FROM file_contents WHERE tenant_id = $1 AND hash = $2",
        &[&tenant, &content_hash.as_bytes().as_slice()],
    )
    .await?;
    Ok(row.map(|row| unsigned(row.get(0))))
}

/// The bytes, if this tenant has them.
pub(crate) async fn get(db: &Db, tenant: Uuid, content_hash: &ContentHash) -> Result<Option<Vec<u8>>, DbError> {
    let row = opt(
        &db.client().await?,
        "SELECT content FROM file_contents WHERE tenant_id = $1 AND hash = $2",
        &[&tenant, &content_hash.as_bytes().as_slice()],
    )
    .await?;
    Ok(row.map(|row| row.get(0)))
}

/// Which of these contents this tenant has, and how many bytes each is.
pub(crate) async fn stored(
    client: &impl GenericClient,
    tenant: Uuid,
    hashes: &[ContentHash],
) -> Result<HashMap<ContentHash, i64>, DbError> {
    if hashes.is_empty() {
        return Ok(HashMap::new());
    }
    let hashes: Vec<&[u8]> = hashes.iter().map(|hash| hash.as_bytes().as_slice()).collect();
    let rows = all(
        client,
        "SELECT hash, size FROM file_contents WHERE tenant_id = $1 AND hash = ANY($2)",
        &[&tenant, &hashes],
    )
    .await?;
    let mut found = HashMap::with_capacity(rows.len());
    for row in rows {
        found.extend(hash(row.get(0))?.map(|hash| (hash, row.get(1))));
    }
    Ok(found)
}
