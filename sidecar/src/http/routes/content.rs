//! `GET /files/<path>`: what is in one file, as JSON or as its bytes.

use std::io::{Seek, SeekFrom};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;
use winston_wire::{ContentHash, Timestamp};

use super::super::body::Body;
use super::super::conditional::{Verdict, judge};
use super::super::error::ApiError;
use super::super::{App, blocking};
use crate::edits::{EditError, Edits, hash_of};
use crate::fs::{Class, FsError, Opened, Stat, TenantPath};

/// Files up to this size are answered from the kernel's cache without leaving the event loop.
const CACHED_BYTES: usize = 64 * 1024;

/// Media type of a file's bytes.
pub(super) const RAW: &str = "application/octet-stream";

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

/// Refuses paths that callers may not read. For readers our directory does not exist.
pub(super) fn permit(edits: &Edits, path: &TenantPath) -> Result<(), EditError> {
    match edits.layout().class(path) {
        Class::Internal => Err(FsError::NotFound.into()),
        Class::Secret => Err(EditError::Secret),
        Class::Untracked | Class::Tracked => Ok(()),
    }
}

/// Opens a file for a reader. Blocking.
pub(super) fn open(edits: &Edits, path: &TenantPath) -> Result<Opened, FsError> {
    match edits.root().open_file(path) {
        // To a reader, a path below a file is a path that is not there.
        Err(FsError::NotADirectory) => Err(FsError::NotFound),
        opened => opened,
    }
}

/// Content and stat of a file up to the size limit.
pub(super) async fn load(app: &App, path: &TenantPath) -> Result<(Vec<u8>, Stat), ApiError> {
    permit(&app.edits, path)?;
    let (edits, wanted) = (Arc::clone(&app.edits), path.clone());
    blocking(move || {
        let mut opened = open(&edits, &wanted)?;
        let limit = edits.max_file_bytes();
        let content = opened.read(limit)?.ok_or_else(|| ApiError::too_large(limit))?;
        Ok::<_, ApiError>((content, Stat::of(&opened.file)?))
    })
    .await
}

/// Answers `GET` and `HEAD`.
pub(super) async fn read(
    app: &App,
    path: &TenantPath,
    request: &Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    permit(&app.edits, path)?;
    let headers = request.headers();
    let raw = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|accept| accept.contains(RAW));
    let form = if raw { Form::Raw { ranged: request.method() == Method::GET } } else { Form::Json };
    if !path.is_root()
        && let Some((content, stat)) = app.edits.root().read_cached(path, CACHED_BYTES)
    {
        return held(path, headers, form, content, &stat);
    }
    // Reading, hashing and writing JSON of megabytes is no work for the event loop.
    let (edits, wanted, headers) = (Arc::clone(&app.edits), path.clone(), headers.clone());
    blocking(move || {
        let mut opened = open(&edits, &wanted)?;
        let limit = edits.max_file_bytes();
        match (opened.read(limit)?, form) {
            (Some(content), form) => held(&wanted, &headers, form, content, &Stat::of(&opened.file)?),
            (None, Form::Raw { ranged }) => streamed(opened, &headers, ranged),
            (None, Form::Json) => Err(ApiError::too_large(limit).with("remedy", format!("send Accept: {RAW}"))),
        }
    })
    .await
}

/// How the content is wanted.
#[derive(Debug, Clone, Copy)]
enum Form {
    Json,
    Raw { ranged: bool },
}

/// A file that is in memory; its tag is its hash.
fn held(
    path: &TenantPath,
    headers: &HeaderMap,
    form: Form,
    content: Vec<u8>,
    stat: &Stat,
) -> Result<Response<Body>, ApiError> {
    let hash = hash_of(&content);
    let etag = format!("\"{hash}\"");
    let size = content.len() as u64;
    let verdict = judge(headers, Some(&etag), size, matches!(form, Form::Raw { ranged: true }))?;
    let mut response = match (verdict, form) {
        (Verdict::NotModified, _) => not_modified(),
        (Verdict::Failed, _) => return Err(EditError::PreconditionFailed { current: Some(hash) }.into()),
        (Verdict::Unsatisfiable, _) => return Err(ApiError::outside(size)),
        (Verdict::Part { from, length }, _) => {
            let (from_index, to_index) = (index(from)?, index(from + length)?);
            part(Body::full(Bytes::from(content).slice(from_index..to_index)), from, length, size, stat)
        }
        (Verdict::Whole, Form::Raw { .. }) => {
            let mut response = Response::new(Body::full(content));
            raw_headers(response.headers_mut(), stat);
            response
        }
        (Verdict::Whole, Form::Json) => {
            let text = std::str::from_utf8(&content).ok();
            let binary = if text.is_none() { Some(BASE64.encode(&content)) } else { None };
            // Room for the content and some escapes: growing step by step would copy it several times.
            super::json_with_room(
                content.len() + content.len() / 8 + 512,
                &FileAnswer {
                    path: path.as_str(),
                    content: text,
                    content_base64: binary,
                    size,
                    modified: super::iso(stat.mtime_ns),
                    hash,
                },
            )?
        }
    };
    tag(response.headers_mut(), &etag);
    Ok(response)
}

/// A file that is too large to hold: sent as it is read, without a hash. Its tag is the stat tuple, once the file is old enough for the
/// tuple to tell versions apart.
fn streamed(mut opened: Opened, headers: &HeaderMap, ranged: bool) -> Result<Response<Body>, ApiError> {
    let stat = opened.stat;
    let etag = is_settled(&stat)
        .then(|| format!("\"{:x}-{:x}-{:x}-{:x}-{:x}\"", stat.dev, stat.ino, stat.size, stat.mtime_ns, stat.ctime_ns));
    let verdict = judge(headers, etag.as_deref(), stat.size, ranged)?;
    let mut from_byte = |from| opened.file.seek(SeekFrom::Start(from)).map_err(FsError::from);
    let mut response = match verdict {
        Verdict::NotModified => not_modified(),
        Verdict::Failed => return Err(EditError::PreconditionFailed { current: None }.into()),
        Verdict::Unsatisfiable => return Err(ApiError::outside(stat.size)),
        Verdict::Part { from, length } => {
            from_byte(from)?;
            part(Body::file(opened.file, length), from, length, stat.size, &stat)
        }
        Verdict::Whole => {
            from_byte(0)?;
            let mut response = Response::new(Body::file(opened.file, stat.size));
            raw_headers(response.headers_mut(), &stat);
            response
        }
    };
    if let Some(etag) = etag {
        tag(response.headers_mut(), &etag);
    }
    Ok(response)
}

/// Whether every later change of the file will show in its times: kernel timestamps move in ticks of up to 10 ms.
fn is_settled(stat: &Stat) -> bool {
    const TICKS_NS: i128 = 20_000_000;
    i128::from(stat.ctime_ns) + TICKS_NS < Timestamp::now().as_nanosecond()
}

fn index(position: u64) -> Result<usize, ApiError> {
    usize::try_from(position).map_err(|_| ApiError::internal("a position beyond memory"))
}

fn not_modified() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

/// A 206.
fn part(body: Body, from: u64, length: u64, size: u64, stat: &Stat) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    raw_headers(response.headers_mut(), stat);
    if let Ok(value) = HeaderValue::from_str(&format!("bytes {from}-{}/{size}", from + length - 1)) {
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
    response
}

fn tag(headers: &mut HeaderMap, etag: &str) {
    if let Ok(value) = HeaderValue::from_str(etag) {
        headers.insert(ETAG, value);
    }
    headers.insert(VARY, HeaderValue::from_static("accept"));
}

fn raw_headers(headers: &mut HeaderMap, stat: &Stat) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(RAW));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // A tenant's file must never run as a page of ours.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let modified = Timestamp::from_nanosecond(i128::from(stat.mtime_ns)).ok();
    let modified = modified.map(|time| time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
    if let Some(value) = modified.and_then(|text| HeaderValue::from_str(&text).ok()) {
        headers.insert(LAST_MODIFIED, value);
    }
}
