//! Check-ins of sidecars.

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;
use winston_wire::{AckedChange, CheckIn};

use super::pool::{hash, one, opt, run, signed, unsigned};
use super::sessions::{self, Standing};
use super::{Db, DbError, current, verdicts};

/// What a check-in is answered with.
pub(crate) struct CheckedIn {
    /// Last committed change of the epoch.
    pub(crate) acked_seq: u64,
    /// Newest generation of desired files.
    pub(crate) generation: u64,
    /// The change at `acked_seq`; none when that number was lost or is 0.
    pub(crate) acked_change: Option<AckedChange>,
    /// Everything is committed, and yet the sidecar's files are others than control's.
    pub(crate) manifest_differs: bool,
}

/// The parts of a check-in that are stored as they are, or as one word.
pub(crate) struct Described {
    /// For `health_status`.
    pub(crate) health: &'static str,
    /// The gateway.
    pub(crate) gateway: Value,
    /// The conflicts.
    pub(crate) conflicts: Value,
    /// What the sidecar's files amount to, when it says so.
    pub(crate) manifest: Option<Value>,
}

/// Stores the state that a sidecar reports. Nothing, when its session is superseded.
pub(crate) async fn check_in(
    db: &Db,
    tenant: Uuid,
    report: &CheckIn,
    described: &Described,
) -> Result<Option<CheckedIn>, DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    if sessions::appear(&tx, tenant, report.session, report.started_at).await? == Standing::Superseded {
        return Ok(None);
    }
    let generation = generation(&tx, tenant, signed(report.applied_generation)).await?;
    let journal = one(
        &tx,
        "INSERT INTO journals (tenant_id, epoch, head_seq) VALUES ($1, $2, $3)
         ON CONFLICT (tenant_id, epoch)
         DO UPDATE SET head_seq = EXCLUDED.head_seq, last_seen_at = now()
         RETURNING acked_seq",
        &[&tenant, &report.epoch, &signed(report.head_seq)],
    )
    .await?;
    let acked_seq = unsigned(journal.get(0));
    // A tenant that was enrolled by hand has no instance row until its sidecar speaks.
    run(
        &tx,
        "INSERT INTO tenant_instances AS i
             (tenant_id, id, provider, instance_name, status, sidecar_version, sidecar_started_at,
              health_status, last_health_check, gateway, epoch, applied_generation, conflicts,
              manifest)
         SELECT t.id, $2, 'manual', t.name || ' Gateway', 'running', $3, $4, $5, now(), $6, $7, $8, $9, $10
         FROM tenants t WHERE t.id = $1
         ON CONFLICT (tenant_id) DO UPDATE SET
             status = CASE WHEN i.status IN ('stopped', 'provisioning') THEN i.status ELSE 'running' END,
             sidecar_version = EXCLUDED.sidecar_version, sidecar_started_at = EXCLUDED.sidecar_started_at,
             health_status = EXCLUDED.health_status, last_health_check = now(),
             gateway = EXCLUDED.gateway, epoch = EXCLUDED.epoch,
             applied_generation = EXCLUDED.applied_generation, conflicts = EXCLUDED.conflicts,
             manifest = EXCLUDED.manifest, updated_at = now()",
        &[
            &tenant,
            &Uuid::now_v7(),
            &report.version,
            &report.started_at,
            &described.health,
            &described.gateway,
            &report.epoch,
            &signed(report.applied_generation),
            &described.conflicts,
            &described.manifest,
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
    verdicts::store(&tx, tenant, &report.verdicts).await?;
    let acked_change = change_at(&tx, tenant, report.epoch, acked_seq).await?;
    let manifest_differs = differs(&tx, tenant, report, acked_seq).await?;
    tx.commit().await?;
    Ok(Some(CheckedIn { acked_seq, generation: unsigned(generation), acked_change, manifest_differs }))
}

/// The change with a number, as it was committed.
async fn change_at(tx: &Transaction<'_>, tenant: Uuid, epoch: Uuid, seq: u64) -> Result<Option<AckedChange>, DbError> {
    let row = opt(
        tx,
        "SELECT file_path, changed_at, hash FROM file_changes WHERE tenant_id = $1 AND epoch = $2 AND seq = $3",
        &[&tenant, &epoch, &signed(seq)],
    )
    .await?;
    row.map(|row| {
        let at: Timestamp = row.get(1);
        Ok(AckedChange { seq, path: row.get(0), timestamp_us: at.as_microsecond(), hash: hash(row.get(2))? })
    })
    .transpose()
}

/// Whether both sides speak of the same moment, and of other files. The caller holds the lock of the journal's row.
async fn differs(tx: &Transaction<'_>, tenant: Uuid, report: &CheckIn, acked_seq: u64) -> Result<bool, DbError> {
    let Some(manifest) = report.manifest.filter(|manifest| manifest.seq == acked_seq && report.head_seq == acked_seq)
    else {
        return Ok(false);
    };
    let ours = current::totals(tx, tenant, report.epoch).await?;
    Ok(ours.files != manifest.files || ours.digest != manifest.digest)
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
