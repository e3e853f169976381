//! `tenant_instances`: the one running thing per tenant, and the lock under which it is changed.

use deadpool_postgres::{GenericClient, Transaction};
use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::pool::{all, opt, run};
use super::{Db, DbError};

/// Provider of instances that nobody here started: their sidecars were given a token by a person.
pub(crate) const BY_HAND: &str = "manual";

/// A row of `tenant_instances`.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) id: Uuid,
    pub(crate) tenant_id: Uuid,
    pub(crate) provider: String,
    pub(crate) instance_name: String,
    pub(crate) railway_service_id: Option<String>,
    pub(crate) railway_domain: Option<String>,
    pub(crate) status: String,
    pub(crate) config_version: String,
    pub(crate) url: Option<String>,
    pub(crate) sidecar_url: Option<String>,
    pub(crate) sidecar_version: Option<String>,
    pub(crate) health_status: Option<String>,
    pub(crate) last_health_check: Option<Timestamp>,
    pub(crate) gateway: Option<Value>,
    pub(crate) epoch: Option<Uuid>,
    pub(crate) applied_generation: i64,
    pub(crate) conflicts: Value,
    pub(crate) manifest: Option<Value>,
    pub(crate) created_at: Timestamp,
}

const SELECT: &str =
    "SELECT id, tenant_id, provider, instance_name, railway_service_id, railway_domain, status, config_version,
     url, sidecar_url, sidecar_version, health_status, last_health_check, gateway, epoch, applied_generation,
     conflicts, created_at, manifest FROM tenant_instances";

fn from_row(row: &Row) -> Instance {
    Instance {
        id: row.get(0),
        tenant_id: row.get(1),
        provider: row.get(2),
        instance_name: row.get(3),
        railway_service_id: row.get(4),
        railway_domain: row.get(5),
        status: row.get(6),
        config_version: row.get(7),
        url: row.get(8),
        sidecar_url: row.get(9),
        sidecar_version: row.get(10),
        health_status: row.get(11),
        last_health_check: row.get(12),
        gateway: row.get(13),
        epoch: row.get(14),
        applied_generation: row.get(15),
        conflicts: row.get(16),
        created_at: row.get(17),
        manifest: row.get(18),
    }
}

/// The tenant's instance, if it has one.
pub(crate) async fn get(client: &impl GenericClient, tenant: Uuid) -> Result<Option<Instance>, DbError> {
    let sql = format!("{SELECT} WHERE tenant_id = $1");
    Ok(opt(client, &sql, &[&tenant]).await?.as_ref().map(from_row))
}

/// Every instance of a provider.
pub(crate) async fn of_provider(db: &Db, provider: &str) -> Result<Vec<Instance>, DbError> {
    let sql = format!("{SELECT} WHERE provider = $1");
    let rows = all(&db.client().await?, &sql, &[&provider]).await?;
    Ok(rows.iter().map(from_row).collect())
}

/// Takes the lock under which a tenant's instance is provisioned, started, stopped and removed. It ends with the
/// transaction, also when the request is dropped or control dies. Waits up to the pool's `lock_timeout`, unless
/// that is raised here: an operation may last as long as a bounded stop and start.
pub(crate) async fn lock(tx: &Transaction<'_>, tenant: Uuid) -> Result<(), DbError> {
    tx.batch_execute("SET LOCAL statement_timeout = '120s'; SET LOCAL lock_timeout = '120s'").await?;
    opt(tx, "SELECT pg_advisory_xact_lock(hashtextextended('tenant ' || $1::text, 0))", &[&tenant.to_string()])
        .await
        .map(drop)
}

/// Creates the row, or finds the one that is there and sets the provider's part of it.
pub(crate) async fn upsert(
    client: &impl GenericClient,
    tenant: Uuid,
    name: &str,
    provider: &str,
    url: Option<&str>,
    sidecar_url: Option<&str>,
) -> Result<(), DbError> {
    run(
        client,
        "INSERT INTO tenant_instances (tenant_id, id, provider, instance_name, url, sidecar_url)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (tenant_id) DO UPDATE SET provider = EXCLUDED.provider, url = EXCLUDED.url,
             sidecar_url = EXCLUDED.sidecar_url, updated_at = now()",
        &[&tenant, &Uuid::now_v7(), &provider, &name, &url, &sidecar_url],
    )
    .await
    .map(drop)
}

/// Sets the status.
pub(crate) async fn set_status(client: &impl GenericClient, tenant: Uuid, status: &str) -> Result<(), DbError> {
    run(client, "UPDATE tenant_instances SET status = $2, updated_at = now() WHERE tenant_id = $1", &[&tenant, &status])
        .await
        .map(drop)
}
