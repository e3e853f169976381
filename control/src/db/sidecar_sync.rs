//! What sidecars bring: check-ins and batches of changes.

use std::collections::HashMap;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;
use winston_wire::{Change, ChangeBatch, ChangeBatchAnswer, CheckIn, Source};

use super::pool::{all, one, opt, run, signed, unsigned};
use super::{Db, DbError, batch, contents};

/// What a check-in is answered with.
pub(crate) struct CheckedIn {
    /// Last committed change of the epoch.
    pub(crate) acked_seq: u64,
    /// Newest generation of desired files.
    pub(crate) generation: u64,
}

/// Stores the state that a sidecar reports. `health` is the one word for the instance row; `gateway` and
/// `conflicts` are stored as they are.
pub(crate) async fn check_in(
    db: &Db,
    tenant: Uuid,
    report: &CheckIn,
    health: &str,
    gateway: &Value,
    conflicts: &Value,
) -> Result<CheckedIn, DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    let generation = generation(&tx, tenant, signed(report.applied_generation)).await?;
    let acked: i64 = one(
        &tx,
        "INSERT INTO journals (tenant_id, epoch, head_seq) VALUES ($1, $2, $3)
         ON CONFLICT (tenant_id, epoch)
         DO UPDATE SET head_seq = EXCLUDED.head_seq, last_seen_at = now()
         RETURNING acked_seq",
        &[&tenant, &report.epoch, &signed(report.head_seq)],
    )
    .await?
    .get(0);
    // A tenant that was enrolled by hand has no instance row until its sidecar speaks.
    run(
        &tx,
        "INSERT INTO tenant_instances AS i
             (tenant_id, id, provider, instance_name, status, sidecar_version, sidecar_started_at,
              health_status, last_health_check, gateway, epoch, applied_generation, conflicts)
         SELECT t.id, $2, 'manual', t.name || ' Gateway', 'running', $3, $4, $5, now(), $6, $7, $8, $9
         FROM tenants t WHERE t.id = $1
         ON CONFLICT (tenant_id) DO UPDATE SET
             status = CASE WHEN i.status IN ('stopped', 'provisioning') THEN i.status ELSE 'running' END,
             sidecar_version = EXCLUDED.sidecar_version, sidecar_started_at = EXCLUDED.sidecar_started_at,
             health_status = EXCLUDED.health_status, last_health_check = now(),
             gateway = EXCLUDED.gateway, epoch = EXCLUDED.epoch,
             applied_generation = EXCLUDED.applied_generation, conflicts = EXCLUDED.conflicts,
             updated_at = now()",
        &[
            &tenant,
            &Uuid::now_v7(),
            &report.version,
            &report.started_at,
            &health,
            &gateway,
            &report.epoch,
            &signed(report.applied_generation),
            &conflicts,
        ],
    )
    .await?;
    run(
        &tx,
        "UPDATE tenants SET status = 'active', updated_at = now()
         WHERE id = $1 AND status IN ('provisioning', 'error')
           AND EXISTS (SELECT FROM tenant_instances WHERE tenant_id = $1 AND status = 'running')",
        &[&tenant],
    )
    .await?;
    tx.commit().await?;
    Ok(CheckedIn { acked_seq: unsigned(acked), generation: unsigned(generation) })
}

/// The newest generation of desired files. Control may have been restored from a backup that is older than what the
/// sidecar has applied: then the numbers in between were handed out already, and a push that got one of them again
/// would never reach the disk.
async fn generation(tx: &Transaction<'_>, tenant: Uuid, applied: i64) -> Result<i64, DbError> {
    let known: i64 = one(tx, "SELECT generation FROM tenants WHERE id = $1", &[&tenant]).await?.get(0);
    // Nearly always; the row's lock belongs to those who push.
    if applied <= known {
        return Ok(known);
    }
    tracing::warn!(tenant.id = %tenant, known, applied, "the sidecar is ahead of control; was a backup restored?");
    let raised = one(
        tx,
        "UPDATE tenants SET generation = greatest(generation, $2) WHERE id = $1 RETURNING generation",
        &[&tenant, &applied],
    )
    .await?;
    Ok(raised.get(0))
}

/// Commits what can be committed of a checked batch.
pub(crate) async fn commit(db: &Db, tenant: Uuid, incoming: &ChangeBatch) -> Result<ChangeBatchAnswer, DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    run(
        &tx,
        "INSERT INTO journals (tenant_id, epoch) VALUES ($1, $2)
         ON CONFLICT (tenant_id, epoch) DO NOTHING",
        &[&tenant, &incoming.epoch],
    )
    .await?;
    // The row lock makes two copies of one batch follow each other; the second finds the first one's work.
    let acked: i64 = one(
        &tx,
        "SELECT acked_seq FROM journals WHERE tenant_id = $1 AND epoch = $2 FOR UPDATE",
        &[&tenant, &incoming.epoch],
    )
    .await?
    .get(0);
    let needed: Vec<_> = incoming.changes.iter().filter_map(batch::needs).collect();
    let stored = contents::stored(&tx, tenant, &needed).await?;
    let plan = batch::plan(incoming, unsigned(acked), &stored);
    if !plan.commit.is_empty() {
        let versions = link_versions(&tx, tenant, incoming.epoch, &plan.commit).await?;
        insert_changes(&tx, tenant, incoming.epoch, &plan.commit, &versions).await?;
    }
    let lost: Vec<i64> = plan.lost.iter().copied().map(signed).collect();
    run(
        &tx,
        "UPDATE journals SET acked_seq = $3, head_seq = greatest(head_seq, $3),
             lost_seqs = lost_seqs || $4, last_seen_at = now()
         WHERE tenant_id = $1 AND epoch = $2",
        &[&tenant, &incoming.epoch, &signed(plan.acked), &lost],
    )
    .await?;
    tx.commit().await?;
    Ok(ChangeBatchAnswer { acked_seq: plan.acked, contents_wanted: plan.wanted })
}

/// Finds or makes the version of every change that has content; by sequence number.
async fn link_versions(
    tx: &Transaction<'_>,
    tenant: Uuid,
    epoch: Uuid,
    changes: &[&Change],
) -> Result<HashMap<i64, i64>, DbError> {
    let mut versions = HashMap::new();
    let with_content = || changes.iter().filter_map(|change| Some((*change, batch::needs(change)?)));
    // A push became a version when control accepted it; its arrival on disk is not another one.
    for (change, hash) in with_content() {
        let (Source::System, Some(generation)) = (change.source, change.generation) else {
            continue;
        };
        let row = opt(
            tx,
            "SELECT id FROM file_snapshots
             WHERE tenant_id = $1 AND path_hash = path_key($2) AND generation = $3 AND hash = $4 AND source = 'system'
             ORDER BY id LIMIT 1",
            &[&tenant, &change.path, &signed(generation), &hash.as_bytes().as_slice()],
        )
        .await?;
        if let Some(row) = row {
            versions.insert(signed(change.seq), row.get(0));
        }
    }
    let new: Vec<_> = with_content().filter(|(change, _)| !versions.contains_key(&signed(change.seq))).collect();
    if new.is_empty() {
        return Ok(versions);
    }
    let column = |of: fn(&Change) -> i64| new.iter().map(|(change, _)| of(change)).collect();
    let seqs: Vec<i64> = column(|change| signed(change.seq));
    let paths: Vec<&str> = new.iter().map(|(change, _)| change.path.as_str()).collect();
    let hashes: Vec<&[u8]> = new.iter().map(|(_, hash)| hash.as_bytes().as_slice()).collect();
    let sources: Vec<&str> = new.iter().map(|(change, _)| change.source.as_str()).collect();
    let actors: Vec<Option<&str>> = new.iter().map(|(change, _)| change.actor.as_deref()).collect();
    let generations: Vec<Option<i64>> = new.iter().map(|(change, _)| change.generation.map(signed)).collect();
    let times: Vec<Timestamp> = new.iter().map(|(change, _)| change.timestamp).collect();
    // The size is that of the stored content: what a sidecar says is not needed here.
    let rows = all(
        tx,
        "INSERT INTO file_snapshots
             (tenant_id, epoch, seq, file_path, hash, size, source, actor, generation, modified_at)
         SELECT $1, $2, n.seq, n.path, n.hash, c.size, n.source, n.actor, n.generation, n.at
         FROM unnest($3::bigint[], $4::text[], $5::bytea[], $6::text[], $7::text[], $8::bigint[], $9::timestamptz[])
              AS n (seq, path, hash, source, actor, generation, at)
         JOIN file_contents c ON c.tenant_id = $1 AND c.hash = n.hash
         ORDER BY n.seq
         ON CONFLICT (tenant_id, epoch, seq) DO NOTHING
         RETURNING seq, id",
        &[&tenant, &epoch, &seqs, &paths, &hashes, &sources, &actors, &generations, &times],
    )
    .await?;
    versions.extend(rows.iter().map(|row| (row.get::<_, i64>(0), row.get::<_, i64>(1))));
    Ok(versions)
}

async fn insert_changes(
    tx: &Transaction<'_>,
    tenant: Uuid,
    epoch: Uuid,
    changes: &[&Change],
    versions: &HashMap<i64, i64>,
) -> Result<(), DbError> {
    let seqs: Vec<i64> = changes.iter().map(|change| signed(change.seq)).collect();
    let paths: Vec<&str> = changes.iter().map(|change| change.path.as_str()).collect();
    let actions: Vec<&str> = changes.iter().map(|change| change.action.as_str()).collect();
    let sources: Vec<&str> = changes.iter().map(|change| change.source.as_str()).collect();
    let actors: Vec<Option<&str>> = changes.iter().map(|change| change.actor.as_deref()).collect();
    let times: Vec<Timestamp> = changes.iter().map(|change| change.timestamp).collect();
    let hashes: Vec<Option<&[u8]>> =
        changes.iter().map(|change| change.hash.as_ref().map(|hash| hash.as_bytes().as_slice())).collect();
    let previous: Vec<Option<&[u8]>> = changes
        .iter()
        .map(|change| {
            let hash = change.previous_hash.as_ref()?;
            Some(hash.as_bytes().as_slice())
        })
        .collect();
    let sizes: Vec<Option<i64>> = changes.iter().map(|change| change.size.map(signed)).collect();
    let generations: Vec<Option<i64>> = changes.iter().map(|change| change.generation.map(signed)).collect();
    let omitted: Vec<bool> = changes.iter().map(|change| change.content_omitted).collect();
    let snapshots: Vec<Option<i64>> = seqs.iter().map(|seq| versions.get(seq).copied()).collect();
    run(
        tx,
        "INSERT INTO file_changes
             (tenant_id, epoch, seq, file_path, change_type, source, changed_by, changed_at, hash,
              previous_hash, size, generation, content_omitted, snapshot_id)
         SELECT $1, $2, n.* FROM unnest($3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[],
              $8::timestamptz[], $9::bytea[], $10::bytea[], $11::bigint[], $12::bigint[], $13::bool[], $14::bigint[]) AS n
         ON CONFLICT (tenant_id, epoch, seq) DO NOTHING",
        &[
            &tenant,
            &epoch,
            &seqs,
            &paths,
            &actions,
            &sources,
            &actors,
            &times,
            &hashes,
            &previous,
            &sizes,
            &generations,
            &omitted,
            &snapshots,
        ],
    )
    .await
    .map(drop)
}
