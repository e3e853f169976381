//! A tenant's instance: state, health, and provision, start, stop, restart.

use axum::extract::State;
use axum::{Extension, Json};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;
use winston_wire::env::Secret;

use super::super::App;
use super::super::auth::Actor;
use super::super::error::Problem;
use super::super::extract::{Body, TenantId};
use crate::configgen::Channels;
use crate::db::instances::{self, Instance};
use crate::db::sessions::{self, Overview};
use crate::db::tenants;
use crate::lifecycle::{Change, LifecycleError, Order, Provisioned, SettingsPatch};

/// A sidecar that missed so many check-ins is out of reach.
const MISSED_CHECK_INS: u32 = 3;
/// Longest free text in a provisioning request.
const MAX_PERSONALITY_CHARS: usize = 8_000;
/// Longest short text.
const MAX_SHORT_CHARS: usize = 200;
/// Most capabilities.
const MAX_CAPABILITIES: usize = 40;

/// Health as of now: a report that is too old says nothing any more.
pub(super) fn health_status(app: &App, instance: &Instance) -> Option<String> {
    let reported = instance.health_status.clone()?;
    if matches!(instance.status.as_str(), "stopped" | "exited") {
        return Some("stopped".to_owned());
    }
    let limit = i64::from(app.limits.heartbeat_seconds * MISSED_CHECK_INS);
    let stale = instance
        .last_health_check
        .is_none_or(|at| Timestamp::now().duration_since(at) > SignedDuration::from_secs(limit));
    Some(if stale { "unreachable".to_owned() } else { reported })
}

/// The instance as a bare object, with the keys of earlier versions. Secrets are stored as hashes or not at all, so
/// their keys are null.
fn body(app: &App, instance: &Instance, sessions: Overview) -> Value {
    json!({
        "id": instance.id,
        "tenant_id": instance.tenant_id,
        "instance_name": instance.instance_name,
        "provider": instance.provider,
        "railway_service_id": instance.railway_service_id,
        "railway_domain": instance.railway_domain,
        "sidecar_token": null,
        "setup_password": null,
        "status": instance.status,
        "config_version": instance.config_version,
        "health_status": health_status(app, instance),
        "last_health_check": instance.last_health_check,
        "url": instance.url,
        "sidecar_url": instance.sidecar_url,
        "sidecar_version": instance.sidecar_version,
        "gateway": instance.gateway,
        "epoch": instance.epoch,
        "applied_generation": instance.applied_generation,
        "conflicts": instance.conflicts,
        "manifest": instance.manifest,
        "sidecar_session": sessions.served,
        "superseded_sessions": sessions.insisting,
        "created_at": instance.created_at,
    })
}

/// The instance.
pub(in super::super) async fn show(State(app): State<App>, TenantId(tenant): TenantId) -> Result<Json<Value>, Problem> {
    let client = app.db.client().await?;
    let instance =
        instances::get(&client, tenant).await?.ok_or_else(|| Problem::not_found("Tenant instance not found"))?;
    Ok(Json(body(&app, &instance, sessions::overview(&client, tenant).await?)))
}

/// The instance as a list, for clients that expect several.
pub(in super::super) async fn list(State(app): State<App>, TenantId(tenant): TenantId) -> Result<Json<Value>, Problem> {
    let client = app.db.client().await?;
    let instance = instances::get(&client, tenant).await?;
    if instance.is_none() && tenants::get(&client, tenant).await?.is_none() {
        return Err(Problem::no_tenant());
    }
    let sessions = sessions::overview(&client, tenant).await?;
    let instances: Vec<Value> = instance.iter().map(|instance| body(&app, instance, sessions)).collect();
    Ok(Json(json!({"count": instances.len(), "instances": instances})))
}

/// Health in one row per instance, as earlier versions had it.
pub(in super::super) async fn health(State(app): State<App>, TenantId(id): TenantId) -> Result<Json<Value>, Problem> {
    let client = app.db.client().await?;
    let tenant = tenants::get(&client, id).await?.ok_or_else(Problem::no_tenant)?;
    let instance = instances::get(&client, id).await?;
    let of = |value: fn(&Instance) -> Value| instance.as_ref().map_or(Value::Null, value);
    let mut row = serde_json::to_value(&tenant).unwrap_or_default();
    let credits = row["credits_remaining"].take();
    Ok(Json(json!({"health": [{
        "id": tenant.id,
        "name": tenant.name,
        "status": tenant.status,
        "credits_remaining": credits,
        "railway_service_id": of(|instance| json!(instance.railway_service_id)),
        "health_status": instance.as_ref().and_then(|instance| health_status(&app, instance)),
        "last_health_check": of(|instance| json!(instance.last_health_check)),
        "channel": null,
        "channel_status": null,
        "error_message": null,
        "instance_status": of(|instance| json!(instance.status)),
        "sidecar_version": of(|instance| json!(instance.sidecar_version)),
        "gateway": of(|instance| json!(instance.gateway)),
        "generation": tenant.generation,
        "applied_generation": of(|instance| json!(instance.applied_generation)),
        "conflicts": of(|instance| instance.conflicts.clone()),
    }]})))
}

/// Runs an operation to its end even when the client goes away: half a provisioning helps nobody.
pub(super) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, LifecycleError>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Problem::new(http::StatusCode::SERVICE_UNAVAILABLE, "stopping", "Control is stopping")),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in super::super) struct Provision {
    agent_name: Option<String>,
    personality: Option<String>,
    tone: Option<String>,
    capabilities: Option<Vec<String>>,
    channels: Option<Channels>,
    telegram_bot_token: Option<String>,
    provider: Option<String>,
    rotate_secrets: Option<bool>,
    take_over: Option<bool>,
}

impl Provision {
    /// Forms send every field: an empty one is as good as none.
    fn without_empty(mut self) -> Self {
        for field in [
            &mut self.agent_name,
            &mut self.personality,
            &mut self.tone,
            &mut self.telegram_bot_token,
            &mut self.provider,
        ] {
            field.take_if(|text| text.trim().is_empty());
        }
        self
    }

    fn order(self, actor: String) -> Result<Order, Problem> {
        for (field, text, most) in [
            ("agentName", self.agent_name.as_deref(), MAX_SHORT_CHARS),
            ("personality", self.personality.as_deref(), MAX_PERSONALITY_CHARS),
            ("tone", self.tone.as_deref(), MAX_SHORT_CHARS),
        ] {
            check(field, text.unwrap_or("-"), most)?;
        }
        let capabilities = self.capabilities.as_deref().unwrap_or_default();
        if capabilities.len() > MAX_CAPABILITIES {
            return Err(Problem::bad("bad_field", format!("capabilities must be at most {MAX_CAPABILITIES}")));
        }
        for capability in capabilities {
            check("capabilities", capability, MAX_SHORT_CHARS)?;
        }
        // The token becomes a line of an environment file.
        let telegram = self.telegram_bot_token;
        if telegram
            .as_ref()
            .is_some_and(|token| token.len() > 200 || !token.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return Err(Problem::bad("bad_field", "telegramBotToken does not look like a bot token"));
        }
        Ok(Order {
            provider: self.provider.unwrap_or_else(|| "local".to_owned()),
            settings: SettingsPatch {
                agent_name: self.agent_name,
                personality: self.personality,
                tone: self.tone,
                capabilities: self.capabilities,
                channels: self.channels,
            },
            telegram_bot_token: telegram.map(Secret::new),
            rotate_secrets: self.rotate_secrets.unwrap_or_default(),
            take_over: self.take_over.unwrap_or_default(),
            actor,
        })
    }
}

fn check(field: &str, text: &str, most: usize) -> Result<(), Problem> {
    if text.trim().is_empty() || text.chars().count() > most || text.contains('\0') {
        return Err(Problem::bad("bad_field", format!("{field} must be 1 to {most} characters, without NUL")));
    }
    Ok(())
}

/// Provisions a tenant. Blocks until its first check-in, within a limit.
pub(in super::super) async fn provision(
    State(app): State<App>,
    Extension(Actor(actor)): Extension<Actor>,
    TenantId(tenant): TenantId,
    Body(body): Body<Provision>,
) -> Result<Json<Value>, Problem> {
    let order = body.without_empty().order(actor)?;
    let lifecycle = app.lifecycle.clone();
    let done = detached(async move { lifecycle.provision(tenant, order).await }).await?;
    Ok(Json(provisioned(&done)))
}

fn provisioned(done: &Provisioned) -> Value {
    let instance = &done.instance;
    let secrets = done.secrets.as_ref();
    json!({
        "message": if secrets.is_some() {
            "Tenant provisioned successfully"
        } else {
            "Tenant was provisioned before; its secrets are shown only once (rotateSecrets makes new ones)"
        },
        "tenantId": instance.tenant_id,
        "provider": instance.provider,
        "status": done.status,
        "instanceStatus": instance.status,
        "url": instance.url,
        "sidecarUrl": instance.sidecar_url,
        "sidecarToken": secrets.map(|secrets| secrets.sidecar_token.expose()),
        "gatewayToken": secrets.map(|secrets| secrets.gateway_token.expose()),
        "railwayServiceId": instance.railway_service_id,
        "railwayUrl": instance.railway_domain.as_ref().map(|domain| format!("https://{domain}")),
        "projectId": null,
        "serviceId": null,
        "deploymentId": null,
        "setupUrl": null,
        "setupPassword": null,
    })
}

async fn change(app: &App, tenant: Uuid, actor: String, change: Change) -> Result<Json<Value>, Problem> {
    let lifecycle = app.lifecycle.clone();
    let instance = detached(async move { lifecycle.change(tenant, &actor, change).await }).await?;
    let sessions = sessions::overview(&app.db.client().await?, tenant).await?;
    Ok(Json(body(app, &instance, sessions)))
}

/// Starts the instance with the files that it has.
pub(in super::super) async fn start(
    State(app): State<App>,
    Extension(Actor(actor)): Extension<Actor>,
    TenantId(tenant): TenantId,
) -> Result<Json<Value>, Problem> {
    change(&app, tenant, actor, Change::Start).await
}

/// Stops the instance.
pub(in super::super) async fn stop(
    State(app): State<App>,
    Extension(Actor(actor)): Extension<Actor>,
    TenantId(tenant): TenantId,
) -> Result<Json<Value>, Problem> {
    change(&app, tenant, actor, Change::Stop).await
}

/// Stops and starts the instance.
pub(in super::super) async fn restart(
    State(app): State<App>,
    Extension(Actor(actor)): Extension<Actor>,
    TenantId(tenant): TenantId,
) -> Result<Json<Value>, Problem> {
    change(&app, tenant, actor, Change::Restart).await
}
