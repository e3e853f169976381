//! `/api/tenants` and `/api/tenants/{id}`.

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
use super::super::extract::{Args, Body, TenantId, limit};
use crate::configgen::is_model_name;
use crate::db::tenants::{self, NewTenant, Tenant, Update};
use crate::db::{DbError, instances};

/// Longest text of a column.
const MAX_TEXT_CHARS: usize = 500;

#[derive(Deserialize)]
pub(in super::super) struct ListArgs {
    before: Option<Uuid>,
    limit: Option<i64>,
}

/// Tenants, newest first.
pub(in super::super) async fn list(State(app): State<App>, Args(args): Args<ListArgs>) -> Result<Json<Value>, Problem> {
    let limit = limit(args.limit, 1000, 1000)?;
    let tenants = tenants::list(&app.db, args.before, limit).await?;
    Ok(Json(json!({"count": tenants.len(), "tenants": tenants})))
}

#[derive(Deserialize)]
pub(in super::super) struct Create {
    name: Option<String>,
    email: Option<String>,
    industry: Option<String>,
    sub_industry: Option<String>,
    website_url: Option<String>,
    tier: Option<String>,
    selected_model: Option<String>,
}

/// Creates a tenant.
pub(in super::super) async fn create(
    State(app): State<App>,
    Extension(Actor(actor)): Extension<Actor>,
    Body(body): Body<Create>,
) -> Result<Response, Problem> {
    let given = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
    let (Some(name), Some(email)) = (given(body.name), given(body.email)) else {
        return Err(Problem::bad("missing_fields", "Missing required fields: name, email"));
    };
    let or = |text: Option<String>, default: &str| given(text).unwrap_or_else(|| default.to_owned());
    let new = NewTenant {
        name,
        email,
        industry: or(body.industry, "cannabis"),
        sub_industry: or(body.sub_industry, "dispensary"),
        website_url: given(body.website_url),
        tier: or(body.tier, "free"),
        selected_model: or(body.selected_model, "kimi-k2.5"),
    };
    for (field, text) in [
        ("name", Some(&new.name)),
        ("email", Some(&new.email)),
        ("industry", Some(&new.industry)),
        ("sub_industry", Some(&new.sub_industry)),
        ("website_url", new.website_url.as_ref()),
        ("tier", Some(&new.tier)),
        ("selected_model", Some(&new.selected_model)),
    ] {
        check_text(field, text.map_or("", String::as_str))?;
    }
    match tenants::create(&app.db, &actor, &new).await {
        Ok(tenant) => {
            let body = json!({"tenant": tenant, "message": "Tenant created successfully"});
            Ok((StatusCode::CREATED, Json(body)).into_response())
        }
        Err(DbError::Duplicate { constraint }) if constraint == "tenants_email_key" => {
            Err(Problem::new(StatusCode::CONFLICT, "email_taken", "Tenant with this email already exists"))
        }
        Err(error) => Err(error.into()),
    }
}

fn check_text(field: &str, text: &str) -> Result<(), Problem> {
    if text.chars().count() > MAX_TEXT_CHARS || text.contains('\0') {
        return Err(Problem::bad(
            "bad_field",
            format!("{field} must be at most {MAX_TEXT_CHARS} characters, without NUL"),
        ));
    }
    if field == "selected_model" && !is_model_name(text) {
        return Err(Problem::bad(
            "bad_field",
            "selected_model must be a model name such as kimi-k2.5 or anthropic/claude-sonnet-4-6",
        ));
    }
    Ok(())
}

/// One tenant, with what the list of old clients reads of its instance.
pub(in super::super) async fn show(State(app): State<App>, TenantId(id): TenantId) -> Result<Json<Value>, Problem> {
    let client = app.db.client().await?;
    let tenant = tenants::get(&client, id).await?.ok_or_else(Problem::no_tenant)?;
    let instance = instances::get(&client, id).await?;
    let mut body = row(&tenant);
    body["instance_id"] = json!(instance.as_ref().map(|instance| instance.id));
    body["railway_service_id"] = json!(instance.as_ref().and_then(|instance| instance.railway_service_id.as_deref()));
    body["instance_status"] = json!(instance.as_ref().map(|instance| &instance.status));
    body["health_status"] =
        json!(instance.as_ref().and_then(|instance| super::instances::health_status(&app, instance)));
    Ok(Json(json!({"tenant": body})))
}

fn row(tenant: &Tenant) -> Value {
    // Serialising a struct of texts, numbers and times does not fail.
    serde_json::to_value(tenant).unwrap_or_default()
}

/// Changes the given fields.
pub(in super::super) async fn update(
    State(app): State<App>,
    Extension(Actor(actor)): Extension<Actor>,
    TenantId(id): TenantId,
    Body(body): Body<Update>,
) -> Result<Json<Value>, Problem> {
    let fields = body.fields();
    if fields.is_empty() {
        return Err(Problem::bad("no_fields", "No valid fields to update"));
    }
    for (field, text) in fields {
        check_text(field, text)?;
        if field == "name" && text.trim().is_empty() {
            return Err(Problem::bad("bad_field", "name must not be empty"));
        }
    }
    let tenant = tenants::update(&app.db, &actor, id, &body).await?.ok_or_else(Problem::no_tenant)?;
    Ok(Json(json!({"tenant": tenant})))
}

#[derive(Deserialize)]
pub(in super::super) struct RemoveArgs {
    #[serde(default)]
    purge: bool,
}

/// Stops and removes the instance, then the tenant.
pub(in super::super) async fn remove(
    State(app): State<App>,
    Extension(Actor(actor)): Extension<Actor>,
    TenantId(id): TenantId,
    Args(args): Args<RemoveArgs>,
) -> Result<Json<Value>, Problem> {
    let lifecycle = app.lifecycle.clone();
    let deleted = super::instances::detached(async move { lifecycle.delete(id, &actor, args.purge).await }).await?;
    if deleted { Ok(Json(json!({"message": "Tenant deleted successfully"}))) } else { Err(Problem::no_tenant()) }
}
