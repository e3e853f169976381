//! `/files/<path>`: one file.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use winston_wire::{ContentHash, Source};

use super::super::body::{self, Body};
use super::super::error::ApiError;
use super::super::{App, blocking};
use super::content::{self, RAW};
use crate::edits::{Author, Precondition, Written};
use crate::fs::TenantPath;

/// No content has this hash (or if one has, nobody can name it).
const NO_VERSION: ContentHash = ContentHash::from_bytes([0; 32]);

/// Who makes a change; any text of up to [`MAX_ACTOR`] printable bytes.
pub(in super::super) const ACTOR: &str = "x-winston-actor";
const MAX_ACTOR: usize = 128;

pub(in super::super) async fn file(
    app: &App,
    encoded: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let path = TenantPath::from_url(encoded)?;
    let answered = match *request.method() {
        Method::GET | Method::HEAD => content::read(app, &path, &request).await,
        Method::PUT => write(app, &path, request).await,
        Method::DELETE => super::ops::delete(app, &path, &request).await,
        Method::POST => super::ops::post(app, &path, request).await,
        Method::PATCH => super::merge::patch(app, &path, request).await,
        _ => Err(ApiError::method("GET, HEAD, PUT, PATCH, DELETE, POST")),
    };
    answered.map_err(|error| error.not_found_as("File not found").about(&path))
}

#[derive(Deserialize)]
struct PutBody<'a> {
    /// Kept as text until it is known to be a string: other values would be built in memory for nothing.
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    content_base64: Option<String>,
}

#[derive(Serialize)]
struct PutAnswer<'a> {
    success: bool,
    path: &'a str,
    size: u64,
    hash: ContentHash,
    created: bool,
    /// Position in the journal; `null` when the content was there already.
    seq: Option<u64>,
}

async fn write(app: &App, path: &TenantPath, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let written = store(app, path, request).await?;
    let mut response = super::json_or_error(&PutAnswer {
        success: true,
        path: path.as_str(),
        size: written.size,
        hash: written.hash,
        created: written.created,
        seq: written.seq,
    })?;
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{}\"", written.hash)) {
        response.headers_mut().insert(ETAG, etag);
    }
    Ok(response)
}

/// Writes what the request carries to `path`.
pub(super) async fn store(app: &App, path: &TenantPath, request: Request<Incoming>) -> Result<Written, ApiError> {
    app.edits.permit(path)?;
    let (author, precondition) = (author(request.headers())?, precondition(request.headers())?);
    let (parts, incoming) = request.into_parts();
    let raw = parts.headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(RAW.as_bytes()));
    let limit = app.edits.max_file_bytes();
    // JSON escapes line ends and quotes; what counts is checked again on the content.
    let body_limit = if raw { limit } else { 2 * limit + 64 * 1024 };
    let body = body::read(incoming, &parts.headers, body_limit, &app.body_budget).await?;
    let turn = Arc::clone(&app.writes).acquire_owned().await.map_err(|_| ApiError::internal("shutting down"))?;
    let (edits, target) = (Arc::clone(&app.edits), path.clone());
    blocking(move || {
        // Held until the work is done, also when the client has gone.
        let (_turn, body) = (turn, body);
        let content = if raw { body.bytes.clone() } else { json_content(&body.bytes)? };
        Ok::<_, ApiError>(edits.put(&target, &content, &author, precondition)?)
    })
    .await
}

/// `{"content": "…"}` or `{"content_base64": "…"}`.
pub(super) fn json_content(body: &[u8]) -> Result<Bytes, ApiError> {
    let missing = || ApiError::bad_request("missing_content", "Missing content field");
    if body.is_empty() {
        return Err(missing());
    }
    // The whole of it: members that nobody asks for are skipped unread, and JSON is UTF-8 or it is no JSON.
    let body = std::str::from_utf8(body)
        .map_err(|error| ApiError::bad_request("bad_json", format!("bad JSON: not valid UTF-8: {error}")))?;
    let body: PutBody<'_> = serde_json::from_str(body).map_err(|error| {
        // Valid JSON of another shape, such as a list, simply has no content field.
        if error.is_data() { missing() } else { ApiError::bad_request("bad_json", format!("bad JSON: {error}")) }
    })?;
    let text = body.content.map(|raw| serde_json::from_str::<String>(raw.get()));
    match (text, body.content_base64) {
        (Some(Ok(text)), None) => Ok(text.into()),
        (None, Some(text)) => {
            let bytes = BASE64.decode(text);
            Ok(bytes.map_err(|_| ApiError::bad_request("bad_base64", "content_base64 is not base64"))?.into())
        }
        (Some(_), Some(_)) => {
            Err(ApiError::bad_request("two_contents", "give either content or content_base64, not both"))
        }
        _ => Err(missing()),
    }
}

pub(super) fn author(headers: &HeaderMap) -> Result<Author, ApiError> {
    let actor = match headers.get(ACTOR) {
        None => None,
        Some(value) => match value.to_str() {
            Ok(text) if !text.trim().is_empty() && text.len() <= MAX_ACTOR => Some(text.trim().to_owned()),
            _ => {
                let message = format!("{ACTOR} must be 1 to {MAX_ACTOR} printable ASCII characters");
                return Err(ApiError::bad_request("bad_actor", message));
            }
        },
    };
    Ok(Author { source: Source::Admin, actor, generation: None })
}

/// `If-Match: "<hash>"` or `*`, `If-None-Match: *`; at most one of them.
pub(super) fn precondition(headers: &HeaderMap) -> Result<Precondition, ApiError> {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("").trim());
    let bad = |message: &str| ApiError::bad_request("bad_precondition", message);
    match (text(IF_MATCH), text(IF_NONE_MATCH)) {
        (None, None) => Ok(Precondition::None),
        (Some("*"), None) => Ok(Precondition::Present),
        (Some(list), None) if list.contains(',') => Err(bad("If-Match takes one ETag or *")),
        // A tag that is no hash is no version of ours: it matches nothing, and the answer tells the current one.
        (Some(tag), None) => Ok(Precondition::Match(tag.trim_matches('"').parse().unwrap_or(NO_VERSION))),
        (None, Some("*")) => Ok(Precondition::Absent),
        (None, Some(_)) => Err(bad("If-None-Match takes * here")),
        (Some(_), Some(_)) => Err(bad("give either If-Match or If-None-Match, not both")),
    }
}

#[cfg(test)]
#[path = "files_fuzz.rs"]
mod fuzz;
