//! `tenants`: the rows that people work with.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio_postgres::Row;
use uuid::Uuid;

use super::pool::{all, one, opt, run};
use super::{Db, DbError, audit};

/// A row of `tenants`. NUMERIC columns are text on the wire.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Tenant {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) industry: Option<String>,
    pub(crate) sub_industry: Option<String>,
    pub(crate) website_url: Option<String>,
    brand_colors: Option<Value>,
    pub(crate) tier: String,
    pub(crate) status: String,
    pub(crate) selected_model: String,
    stripe_customer_id: Option<String>,
    stripe_subscription_id: Option<String>,
    credits_remaining: String,
    credits_monthly_allotment: String,
    credits_refresh_date: Timestamp,
    pub(crate) settings: Value,
    pub(crate) generation: i64,
    created_at: Timestamp,
    updated_at: Timestamp,
}

const COLUMNS: &str =
    "t.id, t.name, t.email, t.industry, t.sub_industry, t.website_url, t.brand_colors, t.tier, t.status,
     t.selected_model, t.stripe_customer_id, t.stripe_subscription_id, t.credits_remaining::text,
     t.credits_monthly_allotment::text, t.credits_refresh_date, t.settings, t.generation, t.created_at, t.updated_at";

fn from_row(row: &Row) -> Tenant {
    Tenant {
        id: row.get(0),
        name: row.get(1),
        email: row.get(2),
        industry: row.get(3),
        sub_industry: row.get(4),
        website_url: row.get(5),
        brand_colors: row.get(6),
        tier: row.get(7),
        status: row.get(8),
        selected_model: row.get(9),
        stripe_customer_id: row.get(10),
        stripe_subscription_id: row.get(11),
        credits_remaining: row.get(12),
        credits_monthly_allotment: row.get(13),
        credits_refresh_date: row.get(14),
        settings: row.get(15),
        generation: row.get(16),
        created_at: row.get(17),
        updated_at: row.get(18),
    }
}

/// The columns that the list of tenants shows.
#[derive(Debug, Serialize)]
pub(crate) struct Listed {
    id: Uuid,
    name: String,
    email: String,
    industry: Option<String>,
    tier: String,
    status: String,
    selected_model: String,
    credits_remaining: String,
    credits_monthly_allotment: String,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// Tenants, newest first, older than `before`.
pub(crate) async fn list(db: &Db, before: Option<Uuid>, limit: i64) -> Result<Vec<Listed>, DbError> {
    // Ids are UUIDv7, so their order is the order of creation.
    let rows = all(
        &db.client().await?,
        "SELECT id, name, email, industry, tier, status, selected_model, credits_remaining::text,
                credits_monthly_allotment::text, created_at, updated_at
         FROM tenants WHERE id < $1 ORDER BY id DESC LIMIT $2",
        &[&before.unwrap_or(Uuid::max()), &limit],
    )
    .await?;
    Ok(rows
        .iter()
        .map(|row| Listed {
            id: row.get(0),
            name: row.get(1),
            email: row.get(2),
            industry: row.get(3),
            tier: row.get(4),
            status: row.get(5),
            selected_model: row.get(6),
            credits_remaining: row.get(7),
            credits_monthly_allotment: row.get(8),
            created_at: row.get(9),
            updated_at: row.get(10),
        })
        .collect())
}

/// One tenant.
pub(crate) async fn get(client: &impl GenericClient, id: Uuid) -> Result<Option<Tenant>, DbError> {
    let sql = format!("SELECT {COLUMNS} FROM tenants t WHERE t.id = $1");
    Ok(opt(client, &sql, &[&id]).await?.as_ref().map(from_row))
}

/// Whether there is such a tenant.
pub(crate) async fn exists(db: &Db, id: Uuid) -> Result<bool, DbError> {
    Ok(opt(&db.client().await?, "SELECT 1 FROM tenants WHERE id = $1", &[&id]).await?.is_some())
}

/// A tenant to create.
#[derive(Debug)]
pub(crate) struct NewTenant {
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) industry: String,
    pub(crate) sub_industry: String,
    pub(crate) website_url: Option<String>,
    pub(crate) tier: String,
    pub(crate) selected_model: String,
}

/// Credits per month of a tier.
fn allotment(tier: &str) -> i64 {
    match tier {
        "starter" => 500_000,
        "growth" => 2_000_000,
        _ => 50_000,
    }
}

/// Creates a tenant. A taken email is [`DbError::Duplicate`].
pub(crate) async fn create(db: &Db, actor: &str, new: &NewTenant) -> Result<Tenant, DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    let sql = format!(
        "INSERT INTO tenants AS t (id, name, email, industry, sub_industry, website_url, tier, selected_model,
             credits_remaining, credits_monthly_allotment)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::bigint, $9::bigint) RETURNING {COLUMNS}"
    );
    let row = one(
        &tx,
        &sql,
        &[
            &Uuid::now_v7(),
            &new.name,
            &new.email,
            &new.industry,
            &new.sub_industry,
            &new.website_url,
            &new.tier,
            &new.selected_model,
            &allotment(&new.tier),
        ],
    )
    .await?;
    let tenant = from_row(&row);
    record(&tx, actor, "tenant.create", tenant.id, json!({"name": new.name})).await?;
    tx.commit().await?;
    Ok(tenant)
}

/// Fields that people may change; absent ones stay.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Update {
    pub(crate) name: Option<String>,
    pub(crate) website_url: Option<String>,
    pub(crate) selected_model: Option<String>,
    pub(crate) tier: Option<String>,
    pub(crate) stripe_customer_id: Option<String>,
    pub(crate) stripe_subscription_id: Option<String>,
}

impl Update {
    /// The fields that are there, by column.
    pub(crate) fn fields(&self) -> Vec<(&'static str, &str)> {
        [
            ("name", &self.name),
            ("website_url", &self.website_url),
            ("selected_model", &self.selected_model),
            ("tier", &self.tier),
            ("stripe_customer_id", &self.stripe_customer_id),
            ("stripe_subscription_id", &self.stripe_subscription_id),
        ]
        .into_iter()
        .filter_map(|(column, value)| Some((column, value.as_deref()?)))
        .collect()
    }
}

/// Changes the given fields.
pub(crate) async fn update(db: &Db, actor: &str, id: Uuid, update: &Update) -> Result<Option<Tenant>, DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    let sql = format!(
        "UPDATE tenants t SET name = coalesce($2, name), website_url = coalesce($3, website_url),
             selected_model = coalesce($4, selected_model), tier = coalesce($5, tier),
             stripe_customer_id = coalesce($6, stripe_customer_id),
             stripe_subscription_id = coalesce($7, stripe_subscription_id), updated_at = now()
         WHERE id = $1 RETURNING {COLUMNS}"
    );
    let row = opt(
        &tx,
        &sql,
        &[
            &id,
            &update.name,
            &update.website_url,
            &update.selected_model,
            &update.tier,
            &update.stripe_customer_id,
            &update.stripe_subscription_id,
        ],
    )
    .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let changed: Map<String, Value> =
        update.fields().into_iter().map(|(column, value)| (column.to_owned(), value.into())).collect();
    record(&tx, actor, "tenant.update", id, changed.into()).await?;
    tx.commit().await?;
    Ok(Some(from_row(&row)))
}

/// Deletes a tenant with everything that belongs to it; the audit log stays.
pub(crate) async fn delete(db: &Db, actor: &str, id: Uuid, purge: bool) -> Result<bool, DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    // Years of history are one statement; what waits for its end waits for `LIFECYCLE_LIMIT`.
    tx.batch_execute("SET LOCAL statement_timeout = '240s'").await?;
    let deleted = run(&tx, "DELETE FROM tenants WHERE id = $1", &[&id]).await? > 0;
    if deleted {
        record(&tx, actor, "tenant.delete", id, json!({"purge": purge})).await?;
        tx.commit().await?;
    }
    Ok(deleted)
}

/// Sets the status.
pub(crate) async fn set_status(client: &impl GenericClient, id: Uuid, status: &str) -> Result<(), DbError> {
    run(client, "UPDATE tenants SET status = $2, updated_at = now() WHERE id = $1", &[&id, &status]).await.map(drop)
}

/// Sets what the configuration is generated from.
pub(crate) async fn set_settings(client: &impl GenericClient, id: Uuid, settings: &Value) -> Result<(), DbError> {
    run(client, "UPDATE tenants SET settings = $2, updated_at = now() WHERE id = $1", &[&id, settings]).await.map(drop)
}

/// Audits something that was done to a tenant.
pub(crate) async fn record(
    client: &impl GenericClient,
    actor: &str,
    action: &str,
    id: Uuid,
    details: Value,
) -> Result<(), DbError> {
    audit::record(
        client,
        audit::Entry { tenant: Some(id), actor, action, resource: "tenant", id: id.to_string(), details },
    )
    .await
}
