//! `/api/tenants/{id}/versions` and `/api/tenants/{id}/changes`.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::App;
use super::super::error::Problem;
use super::super::extract::{Args, TenantId, limit};
use crate::db::history::{self, ChangeQuery};
use crate::db::tenants;
use crate::path;

#[derive(Deserialize)]
pub(in super::super) struct VersionArgs {
    path: Option<String>,
    before: Option<i64>,
    limit: Option<i64>,
}

/// Versions, newest first.
pub(in super::super) async fn versions(
    State(app): State<App>,
    TenantId(tenant): TenantId,
    Args(args): Args<VersionArgs>,
) -> Result<Json<Value>, Problem> {
    args.path.as_deref().map(path::check).transpose()?;
    let limit = limit(args.limit, 100, 1000)?;
    let versions = history::versions(&app.db, tenant, args.path.as_deref(), args.before, limit).await?;
    if versions.is_empty() && !tenants::exists(&app.db, tenant).await? {
        return Err(Problem::no_tenant());
    }
    Ok(Json(json!({"count": versions.len(), "versions": versions})))
}

#[derive(Deserialize)]
pub(in super::super) struct ChangeArgs {
    path: Option<String>,
    epoch: Option<Uuid>,
    after: Option<i64>,
    limit: Option<i64>,
}

/// Changes: newest first, or with `after` in the order in which they happened.
pub(in super::super) async fn changes(
    State(app): State<App>,
    TenantId(tenant): TenantId,
    Args(args): Args<ChangeArgs>,
) -> Result<Json<Value>, Problem> {
    args.path.as_deref().map(path::check).transpose()?;
    let query = ChangeQuery {
        path: args.path.as_deref(),
        epoch: args.epoch,
        after: args.after,
        limit: limit(args.limit, 100, 1000)?,
    };
    let changes = history::changes(&app.db, tenant, &query).await?;
    if changes.is_empty() && !tenants::exists(&app.db, tenant).await? {
        return Err(Problem::no_tenant());
    }
    Ok(Json(json!({"count": changes.len(), "changes": changes})))
}
