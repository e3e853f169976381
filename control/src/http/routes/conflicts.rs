//! `/api/tenants/{id}/conflicts`: pushes that met a local edit, and how a person settles them.

use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use winston_wire::{ContentHash, Resolution};

use super::super::App;
use super::super::auth::Actor;
use super::super::error::Problem;
use super::super::extract::{Raw, TenantFile, TenantId, json as parse_json, too_large};
use super::files::decoded;
use crate::db::conflicts::{self, Settled, Settlement};
use crate::db::tenants;

/// Conflicts, by path.
pub(in super::super) async fn list(State(app): State<App>, TenantId(tenant): TenantId) -> Result<Json<Value>, Problem> {
    let conflicts = conflicts::list(&app.db, tenant).await?;
    if conflicts.is_empty() && !tenants::exists(&app.db, tenant).await? {
        return Err(Problem::no_tenant());
    }
    Ok(Json(json!({"count": conflicts.len(), "conflicts": conflicts})))
}

#[derive(Deserialize)]
struct SettleBody {
    resolution: Resolution,
    content: Option<String>,
    content_base64: Option<String>,
    /// Absent and `null` differ: `null` says that there is no local file.
    #[serde(default, deserialize_with = "said")]
    local_hash: Option<Option<ContentHash>>,
}

/// Reads a value that is there, be it `null`.
fn said<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<ContentHash>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Settles a conflict with a push.
pub(in super::super) async fn settle(
    State(app): State<App>,
    Extension(Actor(actor)): Extension<Actor>,
    TenantFile(tenant, path): TenantFile,
    Raw(body): Raw,
) -> Result<Json<Value>, Problem> {
    let body: SettleBody = parse_json(&body)?;
    let merged = body.resolution == Resolution::Merged;
    if !merged && (body.content.is_some() || body.content_base64.is_some()) {
        return Err(Problem::bad("bad_json", "Only the resolution merged comes with a content"));
    }
    let content = if merged { Some(decoded(body.content, body.content_base64)?) } else { None };
    if content.as_ref().is_some_and(|content| content.len() > app.limits.max_file_bytes) {
        return Err(too_large());
    }
    let settlement = Settlement { resolution: body.resolution, content: content.as_deref(), local: body.local_hash };
    match conflicts::settle(&app.db, tenant, &actor, &path, &settlement).await? {
        Settled::Pushed { pushed, size } => Ok(Json(json!({
            "success": true,
            "path": path,
            "resolution": body.resolution,
            "size": size,
            "hash": pushed.hash,
            "generation": pushed.generation,
            "version": pushed.version,
        }))),
        Settled::NoConflict => {
            Err(Problem::not_found("The file has no conflict, or it is being settled already").with("path", path))
        }
        Settled::Mismatch { local } => Err(Problem::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            "The local file is not the version that the request names",
        )
        .with("current_hash", json!(local))
        .with("path", path)),
        Settled::NotYetReceived => Err(Problem::new(
            StatusCode::CONFLICT,
            "not_yet_received",
            "Control does not have that content: its upload is still to come, or it was over the size limit",
        )
        .with("path", path)),
        Settled::OwnedKeys => Err(Problem::new(
            StatusCode::CONFLICT,
            "owned_keys",
            "The push was of keys that control owns, which is no content for the file: push these keys once more, give \
             them up, or settle with a whole content (merged)",
        )
        .with("path", path)),
        Settled::NoTenant => Err(Problem::no_tenant()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_local_hash_and_no_local_file_are_two_things() {
        let local = |text: &str| parse_json::<SettleBody>(text.as_bytes()).map(|body| body.local_hash).ok();
        assert_eq!(local(r#"{"resolution": "ours"}"#), Some(None));
        assert_eq!(local(r#"{"resolution": "ours", "local_hash": null}"#), Some(Some(None)));
        let hash = ContentHash::from_bytes([3; 32]);
        let given = format!(r#"{{"resolution": "theirs", "local_hash": "{hash}"}}"#);
        assert_eq!(local(&given), Some(Some(Some(hash))));
        assert_eq!(local(r#"{"resolution": "mine"}"#), None);
    }
}
