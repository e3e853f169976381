//! The current files of a tenant.
//!
//! That is what the journal of the sidecar that is served amounts to (`current_files`), overlaid with a push that is still on its
//! way. A push is on its way until a change that names it arrived (with its content, or with what the sidecar merged
//! it into), or until the sidecar says that it worked through its
//! generation and every change that it had then has arrived; a push in conflict is not, because the local file
//! stays.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;
use winston_wire::{Base, ContentHash};

use super::current::served_journal;
use super::pool::{all, hash, opt, unsigned};
use super::{Db, DbError};

/// The current files that meet a condition on `file_path`, one row per path.
macro_rules! current_files {
    ($condition:literal, $tail:literal) => {
        concat!(
            "WITH j AS (",
            served_journal!("epoch, acked_seq >= head_seq AS settled"),
            "), i AS (
                SELECT applied_generation, conflicts FROM tenant_instances WHERE tenant_id = $1
             ), c AS (
                SELECT file_path, present, source, actor, modified_at, hash, size, content_omitted, snapshot_id
                FROM current_files
                WHERE tenant_id = $1 AND epoch = (SELECT epoch FROM j) AND ",
            $condition,
            "), d AS (
                SELECT f.file_path, f.generation, f.hash, f.base, f.actor, f.pushed_at, s.id AS snapshot_id, s.size,
                       x.conflict,
                       x.conflict IS NULL
                       AND NOT EXISTS (
                           SELECT FROM current_files a
                           WHERE a.tenant_id = $1 AND a.epoch = (SELECT epoch FROM j) AND a.path_hash = f.path_hash
                             AND a.generation >= f.generation
                       )
                       AND NOT coalesce(
                           f.generation <= (SELECT applied_generation FROM i) AND (SELECT settled FROM j), false
                       ) AS pending
                FROM (SELECT * FROM desired_files w WHERE tenant_id = $1 AND NOT merge
                      -- What was refused, or taken back, is not on its way.
                      AND NOT coalesce((
                          SELECT v.verdict IN ('invalid', 'rolled_back') FROM config_verdicts v
                          WHERE v.tenant_id = $1 AND v.generation = w.generation ORDER BY v.judged_at DESC LIMIT 1
                      ), false) AND ",
            $condition,
            ") f
                LEFT JOIN file_snapshots s
                    ON s.tenant_id = $1 AND s.path_hash = f.path_hash AND s.generation = f.generation AND s.epoch IS NULL
                LEFT JOIN LATERAL (
                    SELECT conflict FROM i, jsonb_array_elements(i.conflicts) AS conflict
                    WHERE conflict->>'path' = f.file_path AND (conflict->>'generation')::bigint = f.generation
                    LIMIT 1
                ) x ON true
             ), merged AS (
                SELECT file_path, d.base, c.hash AS disk, d.generation, coalesce(d.pending, false) AS pending, d.conflict,
                       d.hash AS wanted,
                       CASE WHEN d.pending OR c.file_path IS NULL AND d.conflict IS NULL THEN d.hash
                            ELSE c.hash END AS hash,
                       CASE WHEN d.pending OR c.file_path IS NULL AND d.conflict IS NULL THEN d.size ELSE c.size END AS size,
                       CASE WHEN d.pending OR c.file_path IS NULL THEN 'system' ELSE c.source END AS source,
                       CASE WHEN d.pending OR c.file_path IS NULL THEN d.actor ELSE c.actor END AS actor,
                       CASE WHEN d.pending OR c.file_path IS NULL THEN d.pushed_at ELSE c.modified_at END AS modified,
                       CASE WHEN d.pending OR c.file_path IS NULL AND d.conflict IS NULL THEN d.snapshot_id
                            ELSE c.snapshot_id END AS version,
                       CASE WHEN d.pending OR c.file_path IS NULL THEN false ELSE c.content_omitted END AS omitted,
                       coalesce(c.present, false) AND c.hash IS NULL AS unknown
                FROM c FULL JOIN d USING (file_path)
             )
             SELECT file_path, base, disk, generation, pending, conflict, wanted, hash, size, source, actor, modified,
                    version, omitted, unknown
             FROM merged ",
            $tail
        )
    };
}

/// One current file.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CurrentFile {
    /// Path relative to the data directory.
    pub(crate) path: String,
    /// Content; absent when the file does not exist or its content was not kept.
    pub(crate) hash: Option<ContentHash>,
    /// Bytes.
    pub(crate) size: Option<i64>,
    /// `agent`, `admin` or `system`.
    pub(crate) source: String,
    /// Who, when that is known.
    pub(crate) actor: Option<String>,
    /// When.
    pub(crate) modified: Timestamp,
    /// Id of the version, when control has the content.
    pub(crate) version: Option<i64>,
    /// Pushed, and not yet confirmed by the sidecar.
    pub(crate) pending: bool,
    /// The newest push was not applied because somebody had edited the file.
    pub(crate) conflict: Option<FileConflict>,
    /// The file is on disk, but over the size limit, so control has the record only.
    pub(crate) content_omitted: bool,
    #[serde(skip)]
    base: Option<String>,
    /// What the journal says is on disk, whatever is pending.
    #[serde(skip)]
    pub(super) disk: Option<ContentHash>,
    /// The journal says that it is on disk, and not with which content.
    #[serde(skip)]
    pub(super) unknown: bool,
}

/// Both sides of a conflict.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FileConflict {
    /// Generation of the push.
    pub(crate) generation: u64,
    /// Content that was pushed; `null` for a delete.
    pub(crate) pushed_hash: Option<ContentHash>,
    /// Content that the sidecar found; `null` when the file was missing.
    pub(crate) local_hash: Option<ContentHash>,
}

impl CurrentFile {
    fn from_row(row: &Row) -> Result<Self, DbError> {
        let conflict: Option<Value> = row.get("conflict");
        let conflict = match conflict {
            None => None,
            Some(value) => Some(FileConflict {
                generation: unsigned(row.get("generation")),
                pushed_hash: hash(row.get("wanted"))?,
                local_hash: value.get("local_hash").and_then(Value::as_str).and_then(|text| text.parse().ok()),
            }),
        };
        Ok(Self {
            path: row.get("file_path"),
            hash: hash(row.get("hash"))?,
            size: row.get("size"),
            source: row.get("source"),
            actor: row.get("actor"),
            modified: row.get("modified"),
            version: row.get("version"),
            pending: row.get("pending"),
            conflict,
            content_omitted: row.get("omitted"),
            base: row.get("base"),
            disk: hash(row.get("disk"))?,
            unknown: row.get("unknown"),
        })
    }
}

/// The newest version that control knows of a path, and what to push it onto.
pub(crate) struct Known {
    /// Hash of the newest version, pushes included.
    pub(crate) latest: Option<ContentHash>,
    /// There is a newest version. Of a file over the size limit control knows that, and no hash.
    pub(crate) present: bool,
    /// What is on disk as far as control was told.
    pub(crate) base: Base,
}

/// Looks up what a push of this path replaces.
pub(crate) async fn known(client: &impl GenericClient, tenant: Uuid, path: &str) -> Result<Known, DbError> {
    let Some(file) = current(client, tenant, path).await? else {
        return Ok(Known { latest: None, present: false, base: Base::Absent });
    };
    // A file whose content control never saw has no base: the push ends as a conflict, not as a loss.
    let over = |hash: Option<ContentHash>| hash.map_or(Base::Absent, Base::Hash);
    let base = match (&file.base, file.pending) {
        (Some(base), true) => match base.parse() {
            // The earlier push was forced; those behind it are not.
            Ok(Base::Any) => over(file.disk),
            // The disk does not have the earlier push yet, so its base is still what the disk has.
            Ok(base) => base,
            Err(_) => return Err(DbError::Value(format!("base {base:?} of {path}"))),
        },
        _ => over(file.hash),
    };
    let present = file.hash.is_some() || file.unknown && !file.pending;
    Ok(Known { latest: file.hash, present, base })
}

/// The current state of one path; a row may also say that the file is gone.
pub(crate) async fn current(
    client: &impl GenericClient,
    tenant: Uuid,
    path: &str,
) -> Result<Option<CurrentFile>, DbError> {
    opt(client, current_files!("path_hash = path_key($2)", ""), &[&tenant, &path])
        .await?
        .map(|row| CurrentFile::from_row(&row))
        .transpose()
}

/// Current files below a textual prefix, by path, behind `after`. Files in conflict are listed even when they do
/// not exist on disk.
pub(crate) async fn list(
    db: &Db,
    tenant: Uuid,
    prefix: &str,
    after: &str,
    limit: i64,
) -> Result<Vec<CurrentFile>, DbError> {
    all(
        &db.client().await?,
        current_files!(
            "starts_with(file_path, $2) AND file_path > $3 AND left(file_path, 512) >= left($3, 512)",
            "WHERE hash IS NOT NULL OR unknown OR conflict IS NOT NULL ORDER BY file_path LIMIT $4"
        ),
        &[&tenant, &prefix, &after, &limit],
    )
    .await?
    .iter()
    .map(CurrentFile::from_row)
    .collect()
}
