//! `GET /files?path=`: a directory, or a part of the tree, page by page.
//!
//! Two forms. Without further parameters the answer is what the first sidecar gave. With any of `depth`, `hashes`, `limit`, `cursor`
//! entries carry more, and the answer says where the next page begins. Neither holds more than a page in memory.

use std::ops::ControlFlow;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use http::Response;
use serde::Serialize;
use winston_wire::ContentHash;

use super::super::body::Body;
use super::super::error::ApiError;
use super::super::query::Query;
use super::super::{App, blocking};
use super::content;
use crate::edits::{Edits, hash_of};
use crate::fs::{Class, EntryKind, Found, FsError, MAX_LEVELS, Stat, TenantPath, Walk};

/// Entries of the old form; of more, the first by name are listed and `next` tells that there are others.
pub(super) const OLD_FORM_ENTRIES: usize = 15_000;

/// Entries of a page.
const DEFAULT: usize = 1000;
const MOST: usize = 10_000;

/// Bytes that are read for one page's hashes. A page that would need more ends early.
const HASHED_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Serialize)]
struct OldListing {
    path: String,
    items: Vec<OldItem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Serialize)]
struct OldItem {
    name: String,
    /// `directory` for directories, `file` for everything else, as the first sidecar had it.
    r#type: &'static str,
    /// Bytes of a regular file, `null` for anything else.
    size: Option<u64>,
    modified: String,
}

#[derive(Serialize)]
struct Listing {
    path: String,
    items: Vec<Item>,
    /// `cursor` of the next page.
    next: Option<String>,
}

#[derive(Serialize)]
struct Item {
    path: String,
    name: String,
    r#type: &'static str,
    size: Option<u64>,
    modified: String,
    mode: String,
    /// Only when asked for: `null` for what is not a regular file, is a secret or is over the size limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<Option<ContentHash>>,
}

pub(in super::super) async fn list(app: &App, query: &Query) -> Result<Response<Body>, ApiError> {
    let given = query.get("path").unwrap_or("").to_owned();
    let path = TenantPath::parse(&given)?;
    let about = path.clone();
    let edits = Arc::clone(&app.edits);
    let asked = Asked::parse(query)?;
    blocking(move || {
        content::permit(&edits, &path)?;
        let Some(asked) = asked else {
            let (items, next) = directory(&edits, &path, OLD_FORM_ENTRIES, |name, stat| OldItem {
                name,
                r#type: if stat.kind == EntryKind::Directory { "directory" } else { "file" },
                size: (stat.kind == EntryKind::File).then_some(stat.size),
                modified: super::iso(stat.mtime_ns),
            })?;
            return super::json_or_error(&OldListing { path: given, items, next });
        };
        let (items, next) = page(&edits, &path, &asked)?;
        super::json_or_error(&Listing { path: given, items, next })
    })
    .await
    .map_err(|error| error.not_found_as("Directory not found").about(&about))
}

/// The first `most` entries of one directory, by name, and the cursor after them if there are more. Blocking.
pub(super) fn directory<T>(
    edits: &Edits,
    path: &TenantPath,
    most: usize,
    mut render: impl FnMut(String, &Stat) -> T,
) -> Result<(Vec<T>, Option<String>), FsError> {
    let mut items = Vec::new();
    let (mut last, mut more) = (Vec::new(), false);
    let mut visit = |found: &Found<'_>| {
        if is_internal(edits, found) {
            return ControlFlow::Continue(());
        }
        if items.len() == most {
            more = true;
            return ControlFlow::Break(());
        }
        items.push(render(String::from_utf8_lossy(found.name).into_owned(), &found.stat));
        found.below.clone_into(&mut last);
        ControlFlow::Continue(())
    };
    Walk { root: edits.root(), wanted: most + 2, descends: &|_, _| false, visit: &mut visit }.run(path, b"")?;
    Ok((items, more.then(|| BASE64.encode(last))))
}

fn is_internal(edits: &Edits, found: &Found<'_>) -> bool {
    found.path.is_some_and(|path| edits.layout().class(path) == Class::Internal)
}

/// Parameters of the new form.
struct Asked {
    depth: usize,
    hashes: bool,
    limit: usize,
    after: Vec<u8>,
}

impl Asked {
    /// `None` when there are none of them.
    fn parse(query: &Query) -> Result<Option<Self>, ApiError> {
        if ["depth", "hashes", "limit", "cursor"].iter().all(|name| query.get(name).is_none()) {
            return Ok(None);
        }
        let depth = match query.get("depth") {
            None => 1,
            Some(text) => {
                let bad = || ApiError::bad_request("bad_query", format!("depth is a number from 1 to {MAX_LEVELS}"));
                text.parse().ok().filter(|depth| (1..=MAX_LEVELS).contains(depth)).ok_or_else(bad)?
            }
        };
        let after = match query.get("cursor") {
            None => Vec::new(),
            Some(text) => BASE64
                .decode(text)
                .map_err(|_| ApiError::bad_request("bad_query", "cursor is not one that a listing gave"))?,
        };
        Ok(Some(Self { depth, hashes: query.flag("hashes")?, limit: query.limit(DEFAULT, MOST), after }))
    }
}

fn page(edits: &Edits, path: &TenantPath, asked: &Asked) -> Result<(Vec<Item>, Option<String>), ApiError> {
    let mut items: Vec<Item> = Vec::new();
    let (mut last, mut more, mut hashed) = (Vec::new(), false, 0);
    let mut visit = |found: &Found<'_>| {
        if is_internal(edits, found) {
            return ControlFlow::Continue(());
        }
        if items.len() == asked.limit || (hashed > HASHED_BYTES && !items.is_empty()) {
            more = true;
            return ControlFlow::Break(());
        }
        items.push(item(edits, found, asked.hashes, &mut hashed));
        found.below.clone_into(&mut last);
        ControlFlow::Continue(())
    };
    // A directory of secrets is shown by its name and no further.
    let descends = |path: &TenantPath, level: usize| {
        level < asked.depth && matches!(edits.layout().class(path), Class::Tracked | Class::Untracked)
    };
    Walk { root: edits.root(), wanted: asked.limit + 2, descends: &descends, visit: &mut visit }
        .run(path, &asked.after)?;
    Ok((items, more.then(|| BASE64.encode(last))))
}

fn item(edits: &Edits, found: &Found<'_>, hashes: bool, hashed: &mut u64) -> Item {
    let name = String::from_utf8_lossy(found.name).into_owned();
    let stat = found.stat;
    Item {
        // What cannot be part of a path can be listed, but not asked for.
        path: found
            .path
            .map_or_else(|| String::from_utf8_lossy(found.below).into_owned(), |path| path.as_str().to_owned()),
        name,
        r#type: match stat.kind {
            EntryKind::File => "file",
            EntryKind::Directory => "directory",
            EntryKind::Symlink => "symlink",
            EntryKind::Special => "special",
        },
        size: (stat.kind == EntryKind::File).then_some(stat.size),
        modified: super::iso(stat.mtime_ns),
        mode: format!("{:04o}", stat.mode),
        hash: hashes.then(|| found.path.and_then(|path| hash(edits, path, &stat, hashed))),
    }
}

/// The recorded hash when the file certainly still is the recorded one, otherwise the hash of what is there.
fn hash(edits: &Edits, path: &TenantPath, stat: &Stat, hashed: &mut u64) -> Option<ContentHash> {
    if stat.kind != EntryKind::File || edits.layout().class(path) == Class::Secret {
        return None;
    }
    if let Some(version) = edits.index().matching(path.as_str(), stat) {
        return version.hash;
    }
    let content = edits.root().open_file(path).and_then(|mut opened| opened.read(edits.max_file_bytes())).ok()??;
    *hashed += content.len() as u64;
    Some(hash_of(&content))
}
