//! `/winston/*`: the contract of the later sidecar, in its own names over the same store and journal.
//!
//! What it got wrong is not kept: nothing falls through to the gateway, content is written byte for byte, files may be empty, secrets
//! and our own directory are not served, and errors are JSON.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use serde::Serialize;
use winston_wire::{Action, Change, ContentHash, Source, Timestamp};

use super::super::body::Body;
use super::super::error::ApiError;
use super::super::history::in_old_words;
use super::super::query::Query;
use super::super::{App, blocking};
use super::list::{OLD_FORM_ENTRIES, directory};
use super::old_names::{OLD_LOG, WORKSPACE, WORKSPACE_NAMES, is_hidden, name_of, resolve};
use super::{content, files};
use crate::edits::{Edits, hash_of};
use crate::fs::{Class, EntryKind, FsError, Layout, Stat, TenantPath};

/// Changes in one answer: the newest ones, when there are more.
const CHANGES: usize = 1000;

/// Answers everything below `/winston/`. `rest` is what follows it.
pub(in super::super) async fn winston(
    app: &App,
    rest: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    match rest {
        "changes" if read => changes(app, &Query::parse(request.uri().query())?),
        "files" | "files/" if read => root(app).await,
        "files" | "files/" | "changes" => Err(ApiError::method("GET, HEAD")),
        _ => {
            let encoded = rest.strip_prefix("files/").ok_or_else(ApiError::no_route)?;
            let name = TenantPath::from_url(encoded)?;
            let answered = match *request.method() {
                Method::GET | Method::HEAD if name.is_root() => root(app).await,
                Method::GET | Method::HEAD => file_or_directory(app, &name).await,
                Method::PUT => put(app, &name, request).await,
                _ => Err(ApiError::method("GET, HEAD, PUT")),
            };
            answered.map_err(|error| error.not_found_as("File not found").about(&name))
        }
    }
}

#[derive(Serialize)]
struct Health<'a> {
    status: &'static str,
    service: &'static str,
    uptime: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_dir: Option<String>,
}

/// `GET /winston/health`: whose container this is and where its files are is told only to those who have the token.
pub(in super::super) fn health(app: &App, authorized: bool) -> Response<Body> {
    let state_dir = || app.edits.root().path().join(app.edits.layout().state.as_str()).display().to_string();
    super::json(&Health {
        status: "ok",
        service: "winston-sidecar",
        uptime: app.started.elapsed().as_secs_f64(),
        tenant_id: app.tenant_id.as_deref().filter(|_| authorized),
        state_dir: authorized.then(state_dir),
    })
}

#[derive(Serialize)]
struct Listing {
    files: Vec<Item>,
}

#[derive(Serialize)]
struct Item {
    name: String,
    /// `directory` for directories, `file` for everything else.
    r#type: &'static str,
    /// Bytes, for directories too.
    size: u64,
    mtime: String,
}

impl Item {
    fn new(name: String, stat: &Stat) -> Self {
        let r#type = if stat.kind == EntryKind::Directory { "directory" } else { "file" };
        Self { name, r#type, size: stat.size, mtime: super::iso(stat.mtime_ns) }
    }
}

/// The state directory, with the names that mean the workspace.
async fn root(app: &App) -> Result<Response<Body>, ApiError> {
    let edits = Arc::clone(&app.edits);
    let files = blocking(move || root_items(&edits)).await;
    super::json_or_error(&Listing { files: files.map_err(|error| error.not_found_as("File not found"))? })
}

fn root_items(edits: &Edits) -> Result<Vec<Item>, FsError> {
    let layout = edits.layout();
    let mut items = match directory(edits, &layout.state, OLD_FORM_ENTRIES, Item::new) {
        Ok((items, _)) => items,
        // The files of the workspace are there all the same.
        Err(FsError::NotFound) => Vec::new(),
        Err(error) => return Err(error),
    };
    items.retain(|item| !is_hidden(&item.name));
    for name in WORKSPACE_NAMES.iter().chain(std::iter::once(&WORKSPACE)) {
        let path = TenantPath::parse(name).ok().and_then(|name| resolve(layout, &name));
        // Behind a link: listed by nobody, like in a directory that cannot be opened.
        if let Some(stat) = path.and_then(|path| edits.root().stat(&path).ok().flatten()) {
            items.push(Item::new((*name).to_owned(), &stat));
        }
    }
    items.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(items)
}

#[derive(Serialize)]
struct FileAnswer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    /// Instead of `content` when it is not UTF-8: a decoded text could not be written back.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_base64: Option<String>,
    metadata: Metadata<'a>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    path: &'a str,
    size: u64,
    mtime: String,
    hash: ContentHash,
}

async fn file_or_directory(app: &App, name: &TenantPath) -> Result<Response<Body>, ApiError> {
    let path = resolved(app, name)?;
    let (edits, wanted) = (Arc::clone(&app.edits), path.clone());
    content::permit(&app.edits, &path)?;
    let listed = blocking(move || match edits.root().stat(&wanted)? {
        Some(stat) if stat.kind == EntryKind::Directory => {
            directory(&edits, &wanted, OLD_FORM_ENTRIES, Item::new).map(|(items, _)| Some(items))
        }
        Some(_) => Ok(None),
        None => Err(FsError::NotFound),
    })
    .await?;
    if let Some(files) = listed {
        return super::json_or_error(&Listing { files });
    }
    let (content, stat) = content::load(app, &path).await?;
    let text = std::str::from_utf8(&content).ok();
    let binary = if text.is_none() { Some(BASE64.encode(&content)) } else { None };
    super::json_with_room(
        content.len() + content.len() / 8 + 512,
        &FileAnswer {
            content: text,
            content_base64: binary,
            metadata: Metadata {
                path: name.as_str(),
                size: content.len() as u64,
                mtime: super::iso(stat.mtime_ns),
                hash: hash_of(&content),
            },
        },
    )
}

fn resolved(app: &App, name: &TenantPath) -> Result<TenantPath, ApiError> {
    if name.components().next() == Some(OLD_LOG) {
        return Err(FsError::NotFound.into());
    }
    resolve(app.edits.layout(), name).ok_or_else(|| ApiError::bad_request("path_too_long", "path is too long"))
}

#[derive(Serialize)]
struct PutAnswer<'a> {
    success: bool,
    path: &'a str,
    size: u64,
    hash: ContentHash,
}

async fn put(app: &App, name: &TenantPath, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let internal = || {
        let message = "Cannot write to Winston internal directory";
        ApiError::new(http::StatusCode::FORBIDDEN, "internal_path", message)
    };
    if name.components().next() == Some(OLD_LOG) {
        return Err(internal());
    }
    let path = resolved(app, name)?;
    if app.edits.layout().class(&path) == Class::Internal {
        return Err(internal());
    }
    let written = files::store(app, &path, request).await?;
    super::json_or_error(&PutAnswer { success: true, path: name.as_str(), size: written.size, hash: written.hash })
}

#[derive(Serialize)]
struct Changes {
    changes: Vec<OldChange>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct OldChange {
    timestamp: Timestamp,
    file: String,
    action: &'static str,
    source: &'static str,
}

/// Oldest first. The newest [`CHANGES`] of the tenant, without those of files that have no name here.
fn changes(app: &App, query: &Query) -> Result<Response<Body>, ApiError> {
    let mut newest = app.edits.journal().ledger().newest(CHANGES);
    newest.reverse();
    let layout = app.edits.layout();
    let mut changes: Vec<_> =
        newest.into_iter().flat_map(in_old_words).filter_map(|change| old_change(layout, &change)).collect();
    let limit = query.limit(CHANGES, CHANGES);
    changes.drain(..changes.len().saturating_sub(limit));
    super::json_or_error(&Changes { changes })
}

fn old_change(layout: &Layout, change: &Change) -> Option<OldChange> {
    Some(OldChange {
        timestamp: change.timestamp,
        file: name_of(layout, &TenantPath::parse(&change.path).ok()?)?,
        action: match change.action {
            Action::Create | Action::Rename => "created",
            Action::Update => "modified",
            Action::Delete => "deleted",
        },
        // Those clients know two sources; control acts for the people who manage the tenant.
        source: match change.source {
            Source::Agent => "agent",
            Source::Admin | Source::System => "admin",
        },
    })
}
