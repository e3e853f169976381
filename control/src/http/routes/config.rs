//! `/api/tenants/{id}/config`: what control owns in the gateway's configuration, and what became of pushes of it.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::App;
use super::super::error::Problem;
use super::super::extract::{Args, TenantId, limit};
use crate::db::{tenants, verdicts};

/// The keys that control owns, and the newest verdict.
pub(in super::super) async fn show(State(app): State<App>, TenantId(tenant): TenantId) -> Result<Json<Value>, Problem> {
    let newest = verdicts::list(&app.db, tenant, None, 1).await?.into_iter().next();
    let owned = verdicts::owned(&app.db, tenant).await?;
    if newest.is_none() && owned.is_none() && !tenants::exists(&app.db, tenant).await? {
        return Err(Problem::no_tenant());
    }
    Ok(Json(json!({"owned": owned, "verdict": newest})))
}

#[derive(Deserialize)]
pub(in super::super) struct VerdictArgs {
    generation: Option<u64>,
    limit: Option<i64>,
}

/// Verdicts, newest first.
pub(in super::super) async fn verdicts(
    State(app): State<App>,
    TenantId(tenant): TenantId,
    Args(args): Args<VerdictArgs>,
) -> Result<Json<Value>, Problem> {
    let limit = limit(args.limit, 20, 500)?;
    if args.generation.is_some_and(|generation| i64::try_from(generation).is_err()) {
        return Err(Problem::bad("bad_query", "generation is out of range"));
    }
    let verdicts = verdicts::list(&app.db, tenant, args.generation, limit).await?;
    if verdicts.is_empty() && !tenants::exists(&app.db, tenant).await? {
        return Err(Problem::no_tenant());
    }
    Ok(Json(json!({"count": verdicts.len(), "verdicts": verdicts})))
}
