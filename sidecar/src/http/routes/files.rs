//! `/files/<path>`: one file.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, LAST_MODIFIED, VARY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use winston_wire::{ContentHash, Source};

use super::super::body::{self, Body};
use super::super::error::ApiError;
use super::super::{App, blocking};
use crate::edits::{Author, EditError, Precondition, hash_of};
use crate::fs::{Class, FsError, Opened, Stat, TenantPath};

/// Files up to this size are answered from the kernel's cache without leaving the event loop.
const CACHED_BYTES: usize = 64 * 1024;

/// No content has this hash (or if one has, nobody can name it).
const NO_VERSION: ContentHash = ContentHash::from_bytes([0; 32]);

const RAW: &str = "application/octet-stream";

/// Who makes a change; any text of up to [`MAX_ACTOR`] printable bytes.
const ACTOR: &str = "x-winston-actor";
const MAX_ACTOR: usize = 128;

pub(in super::super) async fn file(
    app: &App,
    encoded: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let path = TenantPath::from_url(encoded)?;
    let answered = match *request.method() {
        Method::GET | Method::HEAD => read(app, &path, request.headers()).await,
        Method::PUT => write(app, &path, request).await,
        Method::DELETE => delete(app, &path, request.headers()).await,
        _ => Err(ApiError::method("GET, HEAD, PUT, DELETE")),
    };
    answered.map_err(|error| error.not_found_as("File not found").about(&path))
}

#[derive(Serialize)]
struct FileAnswer<'a> {
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_base64: Option<String>,
    size: u64,
    modified: String,
    hash: ContentHash,
}

async fn read(app: &App, path: &TenantPath, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    match app.edits.layout().class(path) {
        // For readers our directory does not exist.
        Class::Internal => return Err(FsError::NotFound.into()),
        Class::Secret => return Err(EditError::Secret.into()),
        Class::Untracked | Class::Tracked => {}
    }
    let raw = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|accept| accept.contains(RAW));
    let limit = app.edits.max_file_bytes();
    if !path.is_root()
        && let Some((content, stat)) = app.edits.root().read_cached(path, CACHED_BYTES)
    {
        return content_answer(path, headers, raw, content, &stat);
    }
    // Reading, hashing and writing JSON of megabytes is no work for the event loop.
    let (edits, wanted, headers) = (Arc::clone(&app.edits), path.clone(), headers.clone());
    blocking(move || {
        let mut opened = match edits.root().open_file(&wanted) {
            // To a reader, a path below a file is a path that is not there.
            Err(FsError::NotADirectory) => return Err(FsError::NotFound.into()),
            opened => opened?,
        };
        match opened.read(limit)? {
            Some(content) => {
                let stat = Stat::of(&opened.file)?;
                content_answer(&wanted, &headers, raw, content, &stat)
            }
            None if raw => stream(opened),
            None => Err(ApiError::too_large(limit).with("remedy", format!("send Accept: {RAW}"))),
        }
    })
    .await
}

/// A file that is too large to hold: streamed, without a hash.
fn stream(mut opened: Opened) -> Result<Response<Body>, ApiError> {
    std::io::Seek::rewind(&mut opened.file).map_err(FsError::from)?;
    let mut response = Response::new(Body::file(opened.file, opened.stat.size));
    raw_headers(response.headers_mut(), &opened.stat);
    Ok(response)
}

fn content_answer(
    path: &TenantPath,
    headers: &HeaderMap,
    raw: bool,
    content: Vec<u8>,
    stat: &Stat,
) -> Result<Response<Body>, ApiError> {
    let hash = hash_of(&content);
    let etag = HeaderValue::from_str(&format!("\"{hash}\"")).map_err(|_| ApiError::internal("bad etag"))?;
    let mut response = if matches(headers, IF_NONE_MATCH, Some(hash))? {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else if raw {
        let mut response = Response::new(Body::full(content));
        raw_headers(response.headers_mut(), stat);
        response
    } else {
        let text = std::str::from_utf8(&content).ok();
        let binary = if text.is_none() { Some(BASE64.encode(&content)) } else { None };
        // Room for the content and some escapes: growing step by step would copy it several times.
        super::json_with_room(
            content.len() + content.len() / 8 + 512,
            &FileAnswer {
                path: path.as_str(),
                content: text,
                content_base64: binary,
                size: content.len() as u64,
                modified: super::iso(stat.mtime_ns),
                hash,
            },
        )?
    };
    response.headers_mut().insert(ETAG, etag);
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

fn raw_headers(headers: &mut HeaderMap, stat: &Stat) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(RAW));
    // A tenant's file must never run as a page of ours.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let modified = winston_wire::Timestamp::from_nanosecond(i128::from(stat.mtime_ns)).ok();
    let modified = modified.map(|time| time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
    if let Some(value) = modified.and_then(|text| HeaderValue::from_str(&text).ok()) {
        headers.insert(LAST_MODIFIED, value);
    }
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
    let written = blocking(move || {
        // Held until the work is done, also when the client has gone.
        let (_turn, body) = (turn, body);
        let content = if raw { body.bytes.clone() } else { json_content(&body.bytes)? };
        Ok::<_, ApiError>(edits.put(&target, &content, &author, precondition)?)
    })
    .await?;
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

/// `{"content": "…"}` or `{"content_base64": "…"}`.
fn json_content(body: &[u8]) -> Result<Bytes, ApiError> {
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

#[derive(Serialize)]
struct DeleteAnswer<'a> {
    success: bool,
    path: &'a str,
    /// Position in the journal; `null` for links and special files, which have no history.
    seq: Option<u64>,
}

async fn delete(app: &App, path: &TenantPath, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    app.edits.permit(path)?;
    let (author, precondition) = (author(headers)?, precondition(headers)?);
    let turn = Arc::clone(&app.writes).acquire_owned().await.map_err(|_| ApiError::internal("shutting down"))?;
    let (edits, target) = (Arc::clone(&app.edits), path.clone());
    let seq = blocking(move || {
        let _turn = turn;
        edits.delete(&target, &author, precondition)
    })
    .await?;
    super::json_or_error(&DeleteAnswer { success: true, path: path.as_str(), seq })
}

fn author(headers: &HeaderMap) -> Result<Author, ApiError> {
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
fn precondition(headers: &HeaderMap) -> Result<Precondition, ApiError> {
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

/// Whether a list of ETags names this content.
fn matches(headers: &HeaderMap, name: http::HeaderName, hash: Option<ContentHash>) -> Result<bool, ApiError> {
    let Some(value) = headers.get(&name) else { return Ok(false) };
    let list =
        value.to_str().map_err(|_| ApiError::bad_request("bad_precondition", format!("{name} is not readable")))?;
    let tag = |tag: &str| tag.trim().trim_start_matches("W/").trim_matches('"').parse().ok();
    Ok(list.trim() == "*" || list.split(',').any(|entry| hash.is_some() && tag(entry) == hash))
}

#[cfg(test)]
#[path = "files_fuzz.rs"]
mod fuzz;
