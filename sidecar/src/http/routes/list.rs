//! `GET /files?path=`: one directory.

use std::os::fd::AsFd;
use std::sync::Arc;

use http::Response;
use serde::Serialize;

use super::super::body::Body;
use super::super::error::ApiError;
use super::super::query::Query;
use super::super::{App, blocking};
use crate::edits::EditError;
use crate::fs::{Class, EntryKind, FsError, Root, TenantPath};

#[derive(Serialize)]
struct Listing {
    path: String,
    items: Vec<Item>,
}

#[derive(Serialize)]
struct Item {
    name: String,
    /// `directory` for directories, `file` for everything else, as the first sidecar had it.
    r#type: &'static str,
    /// Bytes of a regular file, `null` for anything else.
    size: Option<u64>,
    modified: String,
}

pub(in super::super) async fn list(app: &App, query: &Query) -> Result<Response<Body>, ApiError> {
    let given = query.get("path").unwrap_or("").to_owned();
    let path = TenantPath::parse(&given)?;
    let about = path.clone();
    let edits = Arc::clone(&app.edits);
    let items = blocking(move || {
        match edits.layout().class(&path) {
            Class::Internal => return Err(FsError::NotFound.into()),
            Class::Secret => return Err(EditError::Secret),
            Class::Untracked | Class::Tracked => {}
        }
        let dir = edits.root().open_dir(&path)?;
        let mut items = Vec::new();
        Root::each_entry(dir.as_fd(), |entry| {
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            let internal = path.child(&name).is_some_and(|path| edits.layout().class(&path) == Class::Internal);
            if !internal {
                items.push(Item {
                    name,
                    r#type: if entry.stat.kind == EntryKind::Directory { "directory" } else { "file" },
                    size: (entry.stat.kind == EntryKind::File).then_some(entry.stat.size),
                    modified: super::iso(entry.stat.mtime_ns),
                });
            }
        })?;
        items.sort_by(|a, b| a.name.cmp(&b.name));
        Ok::<_, EditError>(items)
    })
    .await
    .map_err(|error| error.not_found_as("Directory not found").about(&about))?;
    super::json_or_error(&Listing { path: given, items })
}
