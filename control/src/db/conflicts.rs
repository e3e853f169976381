//! Conflicts as the sidecar reported them last, and how they are settled: with another push, whose base is the file
//! that the sidecar found.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio_postgres::Row;
use uuid::Uuid;
use winston_wire::{Base, ContentHash, Resolution};

use super::desired::{self, Pushed, Want};
use super::pool::{all, hash, opt, unsigned};
use super::{Db, DbError, audit, contents, files};

/// A push that met a local edit.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Conflict {
    /// Path relative to the data directory.
    pub(crate) path: String,
    /// Generation of the push.
    pub(crate) generation: u64,
    /// Content that the sidecar found; `null` when the file was missing, or when it did not look.
    pub(crate) local_hash: Option<ContentHash>,
    /// Content that was pushed; `null` for a delete.
    pub(crate) pushed_hash: Option<ContentHash>,
    /// When the sidecar found it, if it said so.
    pub(crate) since: Option<Timestamp>,
    /// Newest version with the local content, once control has it.
    pub(crate) local_version: Option<i64>,
    /// The pushed version.
    pub(crate) pushed_version: Option<i64>,
    /// The push was of owned keys: what was pushed is no version of the file.
    pub(crate) merge: bool,
}

/// The conflicts that a newer push has not answered yet, one per path. `$2` is a path, or null for all.
const SELECT: &str = "
    SELECT DISTINCT ON (r.path) r.path, r.generation, r.local_hash, coalesce(d.hash, r.pushed_hash), r.since,
        (SELECT max(id) FROM file_snapshots
         WHERE tenant_id = $1 AND path_hash = path_key(r.path) AND hash = r.local_hash),
        (SELECT max(id) FROM file_snapshots
         WHERE tenant_id = $1 AND path_hash = path_key(r.path) AND hash = coalesce(d.hash, r.pushed_hash)
           AND generation = r.generation),
        d.generation IS NULL AND EXISTS (
            SELECT FROM desired_files m
            WHERE m.tenant_id = $1 AND m.path_hash = path_key(r.path) AND m.merge AND m.generation >= r.generation
        )
    FROM (
        SELECT c->>'path' COLLATE \"C\" AS path, (c->>'generation')::bigint AS generation,
               decode(c->>'local_hash', 'hex') AS local_hash, decode(c->>'pushed_hash', 'hex') AS pushed_hash,
               (c->>'since')::timestamptz AS since
        FROM tenant_instances i, jsonb_array_elements(i.conflicts) AS c
        WHERE i.tenant_id = $1 AND ($2::text IS NULL OR c->>'path' = $2)
    ) r
    LEFT JOIN desired_files d
        ON d.tenant_id = $1 AND d.path_hash = path_key(r.path) AND d.generation = r.generation AND NOT d.merge
    WHERE NOT EXISTS (
        SELECT FROM desired_files n
        WHERE n.tenant_id = $1 AND n.path_hash = path_key(r.path) AND n.generation > r.generation AND NOT n.merge
    )
    ORDER BY r.path, r.generation DESC";

fn from_row(row: &Row) -> Result<Conflict, DbError> {
    Ok(Conflict {
        path: row.get(0),
        generation: unsigned(row.get(1)),
        local_hash: hash(row.get(2))?,
        pushed_hash: hash(row.get(3))?,
        since: row.get(4),
        local_version: row.get(5),
        pushed_version: row.get(6),
        merge: row.get(7),
    })
}

/// A tenant's conflicts, by path; as many as a check-in may name.
pub(crate) async fn list(db: &Db, tenant: Uuid) -> Result<Vec<Conflict>, DbError> {
    let rows = all(&db.client().await?, SELECT, &[&tenant, &None::<&str>]).await?;
    rows.iter().map(from_row).collect()
}

async fn get(client: &impl GenericClient, tenant: Uuid, path: &str) -> Result<Option<Conflict>, DbError> {
    opt(client, SELECT, &[&tenant, &Some(path)]).await?.map(|row| from_row(&row)).transpose()
}

/// How somebody wants a conflict to end.
pub(crate) struct Settlement<'a> {
    /// Which side.
    pub(crate) resolution: Resolution,
    /// For [`Resolution::Merged`]: the content.
    pub(crate) content: Option<&'a [u8]>,
    /// The local file that the caller saw (`Some(None)`: that there was none); `None` when the caller does not say.
    pub(crate) local: Option<Option<ContentHash>>,
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Settled {
    /// A push is on its way.
    Pushed {
        /// The push.
        pushed: Pushed,
        /// Bytes of its content; 0 for a delete.
        size: u64,
    },
    /// There is no such conflict (any more).
    NoConflict,
    /// The local file is another one than the caller saw.
    Mismatch {
        /// The local file as reported.
        local: Option<ContentHash>,
    },
    /// Control does not have the content of the local file yet.
    NotYetReceived,
    /// The push was of owned keys, so neither side is a content for the file.
    OwnedKeys,
    /// There is no such tenant.
    NoTenant,
}

/// Settles a conflict.
pub(crate) async fn settle(
    db: &Db,
    tenant: Uuid,
    actor: &str,
    path: &str,
    settlement: &Settlement<'_>,
) -> Result<Settled, DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    // First the lock: two who settle the same conflict follow each other, and the second one finds none.
    let Some(generation) = desired::next_generation(&tx, tenant).await? else {
        return Ok(Settled::NoTenant);
    };
    let Some(conflict) = get(&tx, tenant, path).await? else {
        return Ok(Settled::NoConflict);
    };
    if settlement.local.is_some_and(|local| local != conflict.local_hash) {
        return Ok(Settled::Mismatch { local: conflict.local_hash });
    }
    if conflict.merge && settlement.resolution != Resolution::Merged {
        return Ok(Settled::OwnedKeys);
    }
    let mut local = conflict.local_hash;
    if settlement.resolution == Resolution::Ours && local.is_none() {
        // The sidecar may not have looked. What the journal says is there is not to be deleted by who wants to keep it.
        match files::current(&tx, tenant, path).await? {
            Some(file) if file.unknown => return Ok(Settled::NotYetReceived),
            Some(file) => local = file.disk,
            None => {}
        }
    }
    let wanted = match (settlement.resolution, settlement.content) {
        (Resolution::Ours, _) => local,
        (Resolution::Theirs, _) => conflict.pushed_hash,
        (Resolution::Merged, content) => {
            let content = content.unwrap_or_default();
            let content_hash = ContentHash::from_bytes(Sha256::digest(content).into());
            contents::put(&tx, tenant, &content_hash, content).await?;
            Some(content_hash)
        }
    };
    let mut size = 0;
    if let Some(wanted) = wanted {
        let Some(bytes) = contents::size_in(&tx, tenant, &wanted).await? else {
            return Ok(Settled::NotYetReceived);
        };
        size = bytes;
    }
    let base = local.map_or(Base::Absent, Base::Hash);
    let pushed = desired::set(&tx, tenant, actor, generation, Want { path, hash: wanted, base, merge: false }).await?;
    audit::record(
        &tx,
        audit::Entry {
            tenant: Some(tenant),
            actor,
            action: "conflict.resolve",
            resource: "file",
            id: path.to_owned(),
            details: json!({
                "resolution": settlement.resolution,
                "conflict": conflict.generation,
                "generation": generation,
                "hash": wanted,
                "base": base,
            }),
        },
    )
    .await?;
    desired::wake(&tx, tenant).await?;
    tx.commit().await?;
    Ok(Settled::Pushed { pushed, size })
}
