//! Edits that are put together with what is on disk: `PATCH /files/<path>` and `POST /files/<path>?op=merge`.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use winston_wire::ContentHash;

use super::super::body::{self, Body, ReadBody};
use super::super::error::ApiError;
use super::super::query::Query;
use super::super::{App, blocking};
use super::files;
use crate::edits::{Author, EditError, Edits, Precondition, Written, hash_of};
use crate::fs::{FsError, TenantPath};
use crate::merge::{self, MAX_MERGE_BYTES, PatchError};

/// Media type of RFC 7396.
const MERGE_PATCH: &str = "application/merge-patch+json";

/// Attempts at an edit whose file changes between reading and writing.
const ATTEMPTS: usize = 8;

#[derive(Serialize)]
struct Answer<'a> {
    success: bool,
    path: &'a str,
    size: u64,
    hash: ContentHash,
    /// Position in the journal; `null` when nothing changed.
    seq: Option<u64>,
    /// For a patch: every comment of the file is still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    comments_kept: Option<bool>,
    /// For a merge: the content is another one than the caller's.
    #[serde(skip_serializing_if = "Option::is_none")]
    merged: Option<bool>,
}

/// A request whose work can begin.
struct Ready {
    body: ReadBody,
    author: Author,
    precondition: Precondition,
    query: Query,
}

async fn ready(app: &App, path: &TenantPath, request: Request<Incoming>) -> Result<Ready, ApiError> {
    app.edits.permit(path)?;
    let (author, precondition) = (files::author(request.headers())?, files::precondition(request.headers())?);
    let query = Query::parse(request.uri().query())?;
    let (parts, incoming) = request.into_parts();
    let limit = 4 * MAX_MERGE_BYTES as u64 + 64 * 1024;
    let body = body::read(incoming, &parts.headers, limit, &app.body_budget).await?;
    Ok(Ready { body, author, precondition, query })
}

/// `PATCH /files/<path>?lossy=`: a merge patch (RFC 7396) onto a JSON or JSON5 file.
pub(super) async fn patch(
    app: &App,
    path: &TenantPath,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(MERGE_PATCH) {
        let message = format!("PATCH takes Content-Type: {MERGE_PATCH}");
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    }
    let Ready { body, author, precondition, query } = ready(app, path, request).await?;
    let lossy = query.get("lossy") == Some("true");
    let change: Value = serde_json::from_slice(&body.bytes)
        .map_err(|error| ApiError::bad_request("bad_json", format!("bad JSON: {error}")))?;
    let turn = Arc::clone(&app.writes).acquire_owned().await.map_err(|_| ApiError::internal("shutting down"))?;
    let (edits, target) = (Arc::clone(&app.edits), path.clone());
    let (written, kept) = blocking(move || {
        let (_turn, _body) = (turn, body);
        over_current(&edits, &target, &author, precondition, |current| {
            let Some(current) = current else { return Err(EditError::from(FsError::NotFound).into()) };
            let not_json = |reason: String| ApiError::new(StatusCode::CONFLICT, "not_json", reason);
            if current.len() > MAX_MERGE_BYTES {
                return Err(not_json(format!("files over {MAX_MERGE_BYTES} bytes are not patched")));
            }
            let text = std::str::from_utf8(current).map_err(|_| not_json("the file is not UTF-8".to_owned()))?;
            let patched = merge::patch(text, &change).map_err(|error| match error {
                PatchError::NotJson(_) => not_json(error.to_string()),
                PatchError::Failed => ApiError::internal("the patch could not be applied"),
            })?;
            if !patched.comments_kept && !lossy {
                let message = "comments of the file would be lost; PATCH with ?lossy=true does it anyway";
                return Err(ApiError::new(StatusCode::CONFLICT, "cannot_keep_comments", message));
            }
            Ok((patched.content.into_bytes(), patched.comments_kept))
        })
    })
    .await?;
    answer(path, &written, Some(kept), None)
}

#[derive(Deserialize)]
struct MergeBody {
    base: Option<String>,
    base_hash: Option<ContentHash>,
    content: String,
}

/// `POST /files/<path>?op=merge`: the caller's edit of `base`, together with what was done to the file since.
pub(super) async fn post(app: &App, path: &TenantPath, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let Ready { body, author, precondition, .. } = ready(app, path, request).await?;
    let wanted: MergeBody = serde_json::from_slice(&body.bytes)
        .map_err(|error| ApiError::bad_request("bad_json", format!("the body is not a merge: {error}")))?;
    let base: Bytes = match (wanted.base, wanted.base_hash) {
        (Some(base), None) => base.into(),
        (None, Some(hash)) => base_content(app, path, hash).await?,
        _ => return Err(ApiError::bad_request("bad_base", "give either base or base_hash")),
    };
    let base_hash = hash_of(&base);
    let turn = Arc::clone(&app.writes).acquire_owned().await.map_err(|_| ApiError::internal("shutting down"))?;
    let (edits, target) = (Arc::clone(&app.edits), path.clone());
    let (written, merged) = blocking(move || {
        let (_turn, _body) = (turn, body);
        over_current(&edits, &target, &author, precondition, |current| {
            let conflict = |current: Option<ContentHash>| {
                let message = "the edits touch each other, or files of this kind are not merged";
                ApiError::new(StatusCode::CONFLICT, "merge_conflict", message)
                    .with("current_hash", current.map(|hash| hash.to_string()))
                    .with("base_hash", base_hash.to_string())
            };
            let Some(current) = current else { return Err(conflict(None)) };
            let theirs = wanted.content.as_bytes();
            let content = merge::three_way(target.as_str(), &base, current, theirs)
                .ok_or_else(|| conflict(Some(hash_of(current))))?;
            let merged = content != theirs;
            Ok((content, merged))
        })
    })
    .await?;
    answer(path, &written, None, Some(merged))
}

/// The content that the caller started from.
async fn base_content(app: &App, path: &TenantPath, hash: ContentHash) -> Result<Bytes, ApiError> {
    let (edits, target) = (Arc::clone(&app.edits), path.clone());
    let here =
        blocking(move || Ok::<_, EditError>(edits.content(&target, hash)?.or_else(|| edits.recorded_content(hash))));
    if let Some(content) = here.await? {
        return Ok(content.into());
    }
    let unknown = || {
        let message = "the base's content is not known here any more; send it as base";
        ApiError::new(StatusCode::CONFLICT, "base_unknown", message).with("base_hash", hash.to_string())
    };
    match &app.engine {
        Some(engine) => engine.content(hash).await.map_err(|_| unknown()),
        None => Err(unknown()),
    }
}

/// Makes a content out of the one that is there and writes it over exactly that one; again when the file changed meanwhile and the caller
/// did not name a version. Blocking.
fn over_current<T>(
    edits: &Edits,
    path: &TenantPath,
    author: &Author,
    precondition: Precondition,
    mut make: impl FnMut(Option<&[u8]>) -> Result<(Vec<u8>, T), ApiError>,
) -> Result<(Written, T), ApiError> {
    for _ in 0..ATTEMPTS {
        let current = match edits.root().open_file(path) {
            Err(FsError::NotFound | FsError::NotADirectory) => None,
            opened => {
                let limit = edits.max_file_bytes();
                let content = opened?.read(limit)?;
                Some(content.ok_or(EditError::TooLarge { limit })?)
            }
        };
        let hash = current.as_deref().map(hash_of);
        if !precondition.holds(hash.is_some(), hash) {
            return Err(EditError::PreconditionFailed { current: hash }.into());
        }
        let (content, made) = make(current.as_deref())?;
        match edits.put(path, &content, author, hash.map_or(Precondition::Absent, Precondition::Match)) {
            Ok(written) => return Ok((written, made)),
            Err(EditError::PreconditionFailed { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(EditError::Busy.into())
}

fn answer(
    path: &TenantPath,
    written: &Written,
    comments_kept: Option<bool>,
    merged: Option<bool>,
) -> Result<Response<Body>, ApiError> {
    let (path, size, hash, seq) = (path.as_str(), written.size, written.hash, written.seq);
    let mut response = super::json_or_error(&Answer { success: true, path, size, hash, seq, comments_kept, merged })?;
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{hash}\"")) {
        response.headers_mut().insert(ETAG, etag);
    }
    Ok(response)
}
