//! Reading history: versions and changes.

use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;
use winston_wire::ContentHash;

use super::current::served_journal;
use super::pool::{all, hash, opt};
use super::{Db, DbError};

/// Longest chain of renames along which a file's history is followed.
const MAX_RENAMES: i32 = 32;

/// One version of one file.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Version {
    /// Id within the tenant.
    pub(crate) id: i64,
    /// Path relative to the data directory.
    pub(crate) path: String,
    /// For the version that a rename made: where the file was before.
    pub(crate) previous_path: Option<String>,
    /// Content.
    pub(crate) hash: Option<ContentHash>,
    /// Bytes.
    pub(crate) size: i64,
    /// `agent`, `admin` or `system`.
    pub(crate) source: String,
    /// Who, when that is known.
    pub(crate) actor: Option<String>,
    /// For a push: its generation.
    pub(crate) generation: Option<i64>,
    /// Journal that brought it; none for a push.
    pub(crate) epoch: Option<Uuid>,
    /// Its number in that journal.
    pub(crate) seq: Option<i64>,
    /// When the file got this content, as the sidecar saw it.
    pub(crate) modified: Timestamp,
    /// When control got it.
    pub(crate) captured: Timestamp,
}

const VERSION_COLUMNS: &str =
    "SELECT id, file_path, hash, size, source, actor, generation, epoch, seq, modified_at, captured_at, previous_path
     FROM file_snapshots WHERE tenant_id = $1 AND ";

fn version_from_row(row: &Row) -> Result<Version, DbError> {
    Ok(Version {
        id: row.get(0),
        path: row.get(1),
        hash: hash(row.get(2))?,
        size: row.get(3),
        source: row.get(4),
        actor: row.get(5),
        generation: row.get(6),
        epoch: row.get(7),
        seq: row.get(8),
        modified: row.get(9),
        captured: row.get(10),
        previous_path: row.get(11),
    })
}

/// One version by id.
pub(crate) async fn version(db: &Db, tenant: Uuid, path: &str, id: i64) -> Result<Option<Version>, DbError> {
    opt(&db.client().await?, &format!("{VERSION_COLUMNS} path_hash = path_key($2) AND id = $3"), &[&tenant, &path, &id])
        .await?
        .map(|row| version_from_row(&row))
        .transpose()
}

/// Versions, newest first, of one path or of all, older than `before`.
///
/// Those of one path begin with every version that was ever there. From the newest rename to the path on, they go on
/// with the versions that the file had where it was before, and so on.
pub(crate) async fn versions(
    db: &Db,
    tenant: Uuid,
    path: Option<&str>,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<Version>, DbError> {
    let before = before.unwrap_or(i64::MAX);
    let client = db.client().await?;
    let rows = match path {
        Some(path) => {
            all(
                &client,
                // A place is a path and the first id that is not of the file any more. Each place is looked up by
                // itself and gives no more rows than are asked for.
                "WITH RECURSIVE place (path_hash, until, depth) AS (
                     SELECT path_key($2), 9223372036854775807::bigint, 0
                     UNION ALL
                     SELECT path_key(r.previous_path), r.id, place.depth + 1
                     FROM place CROSS JOIN LATERAL (
                         SELECT id, previous_path FROM file_snapshots
                         WHERE tenant_id = $1 AND path_hash = place.path_hash AND id < place.until
                           AND previous_path IS NOT NULL
                         ORDER BY id DESC LIMIT 1
                     ) r
                     WHERE place.depth < $5
                 ), widest AS (
                     SELECT path_hash, max(until) AS until FROM place GROUP BY path_hash
                 )
                 SELECT v.* FROM widest CROSS JOIN LATERAL (
                     SELECT id, file_path, hash, size, source, actor, generation, epoch, seq, modified_at, captured_at,
                            previous_path
                     FROM file_snapshots
                     WHERE tenant_id = $1 AND path_hash = widest.path_hash AND id < least(widest.until, $3)
                     ORDER BY id DESC LIMIT $4
                 ) v
                 ORDER BY v.id DESC LIMIT $4",
                &[&tenant, &path, &before, &limit, &MAX_RENAMES],
            )
            .await?
        }
        None => {
            all(&client, &format!("{VERSION_COLUMNS} id < $2 ORDER BY id DESC LIMIT $3"), &[&tenant, &before, &limit])
                .await?
        }
    };
    rows.iter().map(version_from_row).collect()
}

/// One committed change.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CommittedChange {
    epoch: Uuid,
    seq: i64,
    path: String,
    /// For a rename: where the file was before.
    previous_path: Option<String>,
    action: String,
    source: String,
    actor: Option<String>,
    timestamp: Timestamp,
    hash: Option<ContentHash>,
    previous_hash: Option<ContentHash>,
    size: Option<i64>,
    generation: Option<i64>,
    content_omitted: bool,
    version: Option<i64>,
    received: Timestamp,
}

/// Which changes to list.
pub(crate) struct ChangeQuery<'a> {
    /// One path only; a rename away from it is one of its changes.
    pub(crate) path: Option<&'a str>,
    /// One journal only; with `after`, that of the sidecar that is served when absent.
    pub(crate) epoch: Option<Uuid>,
    /// Oldest first, behind this number; newest first when absent, beginning with the journal that is served.
    pub(crate) after: Option<i64>,
    /// At most so many.
    pub(crate) limit: i64,
}

/// Committed changes.
pub(crate) async fn changes(db: &Db, tenant: Uuid, query: &ChangeQuery<'_>) -> Result<Vec<CommittedChange>, DbError> {
    // In order is within one journal.
    let order = if query.after.is_some() {
        "ORDER BY c.seq"
    } else {
        "ORDER BY (c.epoch = (SELECT epoch FROM served)) DESC, j.first_seen_at DESC, c.seq DESC"
    };
    let of_path = match query.path {
        Some(_) => "(c.path_hash = path_key($2) OR c.previous_path_hash = path_key($2))",
        None => "$2::text IS NULL",
    };
    let served = served_journal!("epoch");
    let sql = format!(
        "WITH served AS ({served})
         SELECT c.epoch, c.seq, c.file_path, c.change_type, c.source, c.changed_by, c.changed_at, c.hash,
                c.previous_hash, c.size, c.generation, c.content_omitted, c.snapshot_id, c.received_at,
                c.previous_path
         FROM file_changes c JOIN journals j ON j.tenant_id = c.tenant_id AND j.epoch = c.epoch
         WHERE c.tenant_id = $1 AND {of_path}
           AND ($3::bigint IS NULL OR c.seq > $3)
           AND c.epoch = coalesce($4, CASE WHEN $3 IS NULL THEN c.epoch ELSE (SELECT epoch FROM served) END)
         {order} LIMIT $5"
    );
    let rows =
        all(&db.client().await?, &sql, &[&tenant, &query.path, &query.after, &query.epoch, &query.limit]).await?;
    rows.iter()
        .map(|row| {
            Ok(CommittedChange {
                epoch: row.get(0),
                seq: row.get(1),
                path: row.get(2),
                action: row.get(3),
                source: row.get(4),
                actor: row.get(5),
                timestamp: row.get(6),
                hash: hash(row.get(7))?,
                previous_hash: hash(row.get(8))?,
                size: row.get(9),
                generation: row.get(10),
                content_omitted: row.get(11),
                version: row.get(12),
                received: row.get(13),
                previous_path: row.get(14),
            })
        })
        .collect()
}
