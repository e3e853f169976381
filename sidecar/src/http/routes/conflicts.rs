//! `/conflicts`: pushes that met a local edit, and how a person ends them.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use winston_wire::{Conflict, ContentHash, Resolution};

use super::super::App;
use super::super::body::{self, Body};
use super::super::error::ApiError;
use super::files;
use crate::fs::TenantPath;
use crate::sync::{Resolve, ResolveError};

#[derive(Serialize)]
struct Conflicts {
    conflicts: Vec<Conflict>,
}

/// `GET /conflicts`.
pub(in super::super) fn list(app: &App) -> Response<Body> {
    super::json(&Conflicts { conflicts: app.sync.report().conflicts })
}

#[derive(Deserialize)]
struct Decision {
    resolution: Resolution,
    local_hash: Option<ContentHash>,
}

#[derive(Serialize)]
struct Resolved<'a> {
    success: bool,
    path: &'a str,
    resolution: Resolution,
    /// What is on disk now; `null` when there is no file.
    hash: Option<ContentHash>,
}

/// `GET` and `POST /conflicts/<path>`.
pub(in super::super) async fn conflict(
    app: &App,
    encoded: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let path = TenantPath::from_url(encoded)?;
    let Some(engine) = &app.engine else { return Err(ApiError::from(ResolveError::NotFound).about(&path)) };
    let answered = match *request.method() {
        Method::GET | Method::HEAD => {
            engine.conflict(path.as_str()).await.map_err(ApiError::from).map(|view| super::json(&view))
        }
        Method::POST => resolve(app, &path, request).await,
        _ => Err(ApiError::method("GET, HEAD, POST")),
    };
    answered.map_err(|error| error.about(&path))
}

async fn resolve(app: &App, path: &TenantPath, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let author = files::author(request.headers())?;
    let (parts, incoming) = request.into_parts();
    let body_limit = 2 * app.edits.max_file_bytes() + 64 * 1024;
    let body = body::read(incoming, &parts.headers, body_limit, &app.body_budget).await?;
    let decision: Decision = serde_json::from_slice(&body.bytes)
        .map_err(|error| ApiError::bad_request("bad_json", format!("the body is not a resolution: {error}")))?;
    let content = match decision.resolution {
        Resolution::Merged => Some(files::json_content(&body.bytes)?),
        Resolution::Ours | Resolution::Theirs => None,
    };
    let Some(engine) = app.engine.clone() else { return Err(ResolveError::NotFound.into()) };
    let turn = Arc::clone(&app.writes).acquire_owned().await.map_err(|_| ApiError::internal("shutting down"))?;
    let (resolution, named) = (decision.resolution, path.clone());
    let wanted = Resolve { resolution, content, local_hash: decision.local_hash, author };
    // A task of its own: what has begun is finished, also when the client has gone.
    let work = tokio::spawn(async move {
        let (_turn, _body) = (turn, body);
        engine.resolve(named.as_str(), wanted).await
    });
    let hash = work.await.map_err(|_| ApiError::internal("the request could not be finished"))??;
    super::json_or_error(&Resolved { success: true, path: path.as_str(), resolution, hash })
}

impl From<ResolveError> for ApiError {
    fn from(error: ResolveError) -> Self {
        let message = error.to_string();
        match error {
            ResolveError::NotFound => Self::new(StatusCode::NOT_FOUND, "no_conflict", message),
            ResolveError::NoContent => Self::bad_request("missing_content", message),
            ResolveError::Control(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "control_unavailable", message),
            ResolveError::Edit(error) => error.into(),
            ResolveError::Memory(_) => Self::new(StatusCode::INSUFFICIENT_STORAGE, "no_space", message),
            ResolveError::ShuttingDown => Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", message),
        }
    }
}
