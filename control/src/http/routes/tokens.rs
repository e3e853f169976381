//! `/api/tenants/{id}/tokens`: a token is shown once, when it is made.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::App;
use super::super::auth::Actor;
use super::super::error::Problem;
use super::super::extract::{Body, TenantAndId, TenantId};
use crate::db::{tenants, tokens};
use crate::lifecycle::LifecycleError;
use crate::token::{TokenHash, new_token};

/// How long older tokens stay valid after a rotation, unless the request says otherwise.
const OVERLAP_SECONDS: i32 = 600;
/// Longest overlap: a week.
const MAX_OVERLAP_SECONDS: i32 = 7 * 24 * 3600;
/// Longest label.
const MAX_LABEL_CHARS: usize = 128;

#[derive(Deserialize)]
pub(in super::super) struct Create {
    label: Option<String>,
    overlap_seconds: Option<i32>,
}

/// A further token.
pub(in super::super) async fn create(
    State(app): State<App>,
    Extension(Actor(actor)): Extension<Actor>,
    TenantId(tenant): TenantId,
    Body(body): Body<Create>,
) -> Result<Response, Problem> {
    issue(&app, &actor, tenant, body.label.as_deref(), None).await
}

/// A new token; the older ones end after the overlap.
pub(in super::super) async fn rotate(
    State(app): State<App>,
    Extension(Actor(actor)): Extension<Actor>,
    TenantId(tenant): TenantId,
    Body(body): Body<Create>,
) -> Result<Response, Problem> {
    let overlap = body.overlap_seconds.unwrap_or(OVERLAP_SECONDS);
    if !(0..=MAX_OVERLAP_SECONDS).contains(&overlap) {
        return Err(Problem::bad("bad_field", format!("overlap_seconds must be from 0 to {MAX_OVERLAP_SECONDS}")));
    }
    issue(&app, &actor, tenant, body.label.as_deref(), Some(overlap)).await
}

async fn issue(
    app: &App,
    actor: &str,
    tenant: Uuid,
    label: Option<&str>,
    overlap: Option<i32>,
) -> Result<Response, Problem> {
    if label.is_some_and(|label| label.chars().count() > MAX_LABEL_CHARS || label.chars().any(char::is_control)) {
        return Err(Problem::bad("bad_field", format!("label must be at most {MAX_LABEL_CHARS} printable characters")));
    }
    let token = new_token().map_err(LifecycleError::from)?;
    let hash = TokenHash::of(token.expose());
    let id = tokens::issue(&app.db, actor, tenant, label, hash, overlap).await?;
    let body = json!({
        "token": token.expose(),
        "id": id,
        "tenant_id": tenant,
        "label": label,
        "overlap_seconds": overlap,
    });
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

/// Every token, without the tokens.
pub(in super::super) async fn list(State(app): State<App>, TenantId(tenant): TenantId) -> Result<Json<Value>, Problem> {
    let tokens = tokens::list(&app.db, tenant).await?;
    if tokens.is_empty() && !tenants::exists(&app.db, tenant).await? {
        return Err(Problem::no_tenant());
    }
    Ok(Json(json!({"count": tokens.len(), "tokens": tokens})))
}

/// Ends a token.
pub(in super::super) async fn revoke(
    State(app): State<App>,
    Extension(Actor(actor)): Extension<Actor>,
    TenantAndId(tenant, token): TenantAndId<Uuid>,
) -> Result<Json<Value>, Problem> {
    if tokens::revoke(&app.db, &actor, tenant, token).await? {
        Ok(Json(json!({"message": "Token revoked", "id": token})))
    } else {
        Err(Problem::not_found("Token not found"))
    }
}
