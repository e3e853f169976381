//! `audit_log`: who did what, written in the transaction that did it.

use deadpool_postgres::GenericClient;
use serde_json::Value;
use uuid::Uuid;

use super::DbError;
use super::pool::run;

/// One mutation.
pub(crate) struct Entry<'a> {
    /// The tenant, when it concerns one.
    pub(crate) tenant: Option<Uuid>,
    /// Person or key.
    pub(crate) actor: &'a str,
    /// For example `tenant.create`.
    pub(crate) action: &'a str,
    /// For example `file`.
    pub(crate) resource: &'a str,
    /// Its id or path.
    pub(crate) id: String,
    /// More, without secrets and without contents.
    pub(crate) details: Value,
}

/// Writes the entry.
pub(crate) async fn record(client: &impl GenericClient, entry: Entry<'_>) -> Result<(), DbError> {
    run(
        client,
        "INSERT INTO audit_log (id, tenant_id, actor, action, resource_type, resource_id, details)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        &[&Uuid::now_v7(), &entry.tenant, &entry.actor, &entry.action, &entry.resource, &entry.id, &entry.details],
    )
    .await
    .map(drop)
}
