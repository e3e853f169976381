//! `config_verdicts`: what became of the configurations of a tenant, as its sidecar told.

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;
use winston_wire::ConfigVerdict;

use super::pool::{all, hash, opt, run, signed, unsigned};
use super::{Db, DbError, contents};

/// Verdicts that are kept of a tenant.
const KEPT: i64 = 500;

/// Most bytes that are kept of one verdict, as JSON.
const MAX_BYTES: usize = 64 << 10;
/// Most bytes of its reason.
const MAX_REASON_BYTES: usize = 4 << 10;

/// A verdict.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Judged {
    /// Generation of the push; `null` for what did not come from control.
    generation: Option<u64>,
    /// `applied`, `conflict`, `invalid` or `rolled_back`.
    verdict: String,
    /// Why, in one sentence.
    reason: String,
    /// When the sidecar judged.
    at: Timestamp,
    /// Hash, issues, lines and kept paths.
    #[serde(flatten)]
    details: Value,
}

/// Stores the verdicts of a check-in; those that are known already stay as they are.
pub(super) async fn store(tx: &Transaction<'_>, tenant: Uuid, verdicts: &[ConfigVerdict]) -> Result<(), DbError> {
    let mut new = 0;
    for verdict in verdicts {
        let (reason, details) = kept_of(verdict);
        new += run(
            tx,
            "INSERT INTO config_verdicts (tenant_id, judged_at, generation, verdict, reason, details)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            &[&tenant, &verdict.at, &verdict.generation.map(signed), &verdict.verdict.as_str(), &reason, &details],
        )
        .await?;
    }
    if new > 0 {
        run(
            tx,
            "DELETE FROM config_verdicts WHERE tenant_id = $1 AND judged_at < (
                 SELECT judged_at FROM config_verdicts WHERE tenant_id = $1 ORDER BY judged_at DESC OFFSET $2 LIMIT 1
             )",
            &[&tenant, &(KEPT - 1)],
        )
        .await?;
    }
    Ok(())
}

/// Reason and details as they are kept: what does not fit is left out, the oldest lines first. Refusing it would keep the
/// sidecar from checking in for good.
fn kept_of(verdict: &ConfigVerdict) -> (&str, Value) {
    let reason = &verdict.reason[..verdict.reason.floor_char_boundary(MAX_REASON_BYTES)];
    let mut left = MAX_BYTES - MAX_REASON_BYTES;
    let issues = fitting(verdict.issues.iter(), &mut left);
    let kept = fitting(verdict.kept.iter(), &mut left);
    let mut lines = fitting(verdict.lines.iter().rev(), &mut left);
    lines.reverse();
    (reason, json!({"hash": verdict.hash, "issues": issues, "lines": lines, "kept": kept}))
}

/// The first ones that fit into what is left.
fn fitting<T: Serialize>(items: impl Iterator<Item = T>, left: &mut usize) -> Vec<Value> {
    let values = items.map(|item| json!(item));
    let fits = |value: &Value| {
        let rest = left.checked_sub(value.to_string().len() + 1);
        *left = rest.unwrap_or(*left);
        rest.is_some()
    };
    values.take_while(fits).collect()
}

/// The keys of `openclaw.json` that control owns.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct OwnedKeys {
    /// Path of the configuration.
    path: String,
    /// Generation of the push that made them.
    generation: u64,
    /// The keys with their values, as a merge patch.
    patch: Value,
    /// Who pushed.
    actor: Option<String>,
    /// When.
    pushed_at: Timestamp,
}

/// Looks them up.
pub(crate) async fn owned(db: &Db, tenant: Uuid) -> Result<Option<OwnedKeys>, DbError> {
    let row = opt(
        &db.client().await?,
        "SELECT file_path, generation, hash, actor, pushed_at FROM desired_files
         WHERE tenant_id = $1 AND merge AND hash IS NOT NULL ORDER BY generation DESC LIMIT 1",
        &[&tenant],
    )
    .await?;
    let Some(row) = row else { return Ok(None) };
    let Some(hash) = hash(row.get(2))? else { return Ok(None) };
    let content = contents::get(db, tenant, &hash).await?.unwrap_or_default();
    Ok(Some(OwnedKeys {
        path: row.get(0),
        generation: unsigned(row.get(1)),
        patch: serde_json::from_slice(&content).unwrap_or_default(),
        actor: row.get(3),
        pushed_at: row.get(4),
    }))
}

/// The newest verdicts, newest first; of one generation only, when it is given.
pub(crate) async fn list(db: &Db, tenant: Uuid, generation: Option<u64>, limit: i64) -> Result<Vec<Judged>, DbError> {
    let rows = all(
        &db.client().await?,
        "SELECT generation, verdict, reason, judged_at, details FROM config_verdicts
         WHERE tenant_id = $1 AND ($2::bigint IS NULL OR generation = $2) ORDER BY judged_at DESC LIMIT $3",
        &[&tenant, &generation.map(signed), &limit],
    )
    .await?;
    let judged = |row: &tokio_postgres::Row| Judged {
        generation: row.get::<_, Option<i64>>(0).map(unsigned),
        verdict: row.get(1),
        reason: row.get(2),
        at: row.get(3),
        details: row.get(4),
    };
    Ok(rows.iter().map(judged).collect())
}
