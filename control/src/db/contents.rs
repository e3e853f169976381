//! `file_contents`: bytes by hash, once per tenant.

use std::collections::HashSet;

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

/// Which of these contents this tenant has.
pub(crate) async fn stored(
    client: &impl GenericClient,
    tenant: Uuid,
    hashes: &[ContentHash],
) -> Result<HashSet<ContentHash>, DbError> {
    if hashes.is_empty() {
        return Ok(HashSet::new());
    }
    let hashes: Vec<&[u8]> = hashes.iter().map(|hash| hash.as_bytes().as_slice()).collect();
    let rows =
        all(client, "SELECT hash FROM file_contents WHERE tenant_id = $1 AND hash = ANY($2)", &[&tenant, &hashes])
            .await?;
    let mut found = HashSet::with_capacity(rows.len());
    for row in rows {
        found.extend(hash(row.get(0))?);
    }
    Ok(found)
}
