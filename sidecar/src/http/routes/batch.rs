//! `POST /batch`: several files in one request, all or nothing.

use std::borrow::Cow;

use bytes::Bytes;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use winston_wire::ContentHash;

use super::super::App;
use super::super::body::{self, Body};
use super::super::error::ApiError;
use super::files::author;
use super::ops::{decode, in_turn, mode, target};
use crate::edits::{Author, EditError, Edits, Outcome, Precondition, SetError, Transaction};
use crate::fs::TenantPath;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operations<'a> {
    #[serde(borrow)]
    operations: Vec<Operation<'a>>,
}

/// One operation. Which members it may have depends on `op`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation<'a> {
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(borrow)]
    to: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content_base64: Option<Cow<'a, str>>,
    #[serde(borrow)]
    if_match: Option<Cow<'a, str>>,
    #[serde(borrow)]
    if_none_match: Option<Cow<'a, str>>,
    #[serde(borrow)]
    mode: Option<Cow<'a, str>>,
    #[serde(default)]
    overwrite: bool,
    #[serde(borrow)]
    to_hash: Option<Cow<'a, str>>,
}

#[derive(Serialize)]
struct Answer<'a> {
    success: bool,
    results: Vec<OneAnswer<'a>>,
}

#[derive(Serialize)]
struct OneAnswer<'a> {
    path: &'a str,
    hash: Option<ContentHash>,
    size: Option<u64>,
    created: bool,
    seq: Option<u64>,
}

pub(in super::super) async fn batch(app: &App, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    if request.method() != Method::POST {
        return Err(ApiError::method("POST"));
    }
    let author = author(request.headers())?;
    let (parts, incoming) = request.into_parts();
    // As much as one file of the largest size takes as JSON.
    let limit = 2 * app.edits.max_file_bytes() + 64 * 1024;
    let body = body::read(incoming, &parts.headers, limit, &app.body_budget).await?;
    in_turn(app, move |edits| {
        let outcomes = carry_out(edits, &body.bytes, &author)?;
        let results = outcomes.iter().map(|outcome| OneAnswer {
            path: outcome.path.as_str(),
            hash: outcome.hash,
            size: outcome.size,
            created: outcome.created,
            seq: outcome.seq,
        });
        super::json_or_error(&Answer { success: true, results: results.collect() })
    })
    .await
}

fn carry_out(edits: &Edits, body: &[u8], author: &Author) -> Result<Vec<Outcome>, ApiError> {
    let request: Operations<'_> = serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request("bad_json", format!("bad JSON: {error}")))?;
    let mut set = edits.begin(author)?;
    for (index, operation) in request.operations.iter().enumerate() {
        let added = operation.understood().and_then(|step| Ok(step.add_to(&mut set)?));
        added.map_err(|error| error.with("index", index).with("path", operation.path.as_ref()))?;
    }
    let paths: Vec<_> = request.operations.iter().map(|operation| operation.path.as_ref()).collect();
    set.commit().map_err(|SetError { index, error }| {
        let error = ApiError::from(error);
        match index {
            Some(index) => error.with("index", index).with("path", paths.get(index).copied().unwrap_or_default()),
            None => error,
        }
    })
}

/// What an operation says, once it has been understood.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Put { path: TenantPath, content: Bytes, precondition: Precondition, mode: Option<u32> },
    Delete { path: TenantPath, precondition: Precondition },
    Move { from: TenantPath, to: TenantPath, source: Precondition, target: Precondition },
}

impl Step {
    fn add_to(self, set: &mut Transaction<'_>) -> Result<(), EditError> {
        match self {
            Self::Put { path, content, precondition, mode } => set.put(path, &content, precondition, mode),
            Self::Delete { path, precondition } => set.delete(path, precondition),
            Self::Move { from, to, source, target } => set.move_file(from, to, source, target),
        }
    }
}

impl Operation<'_> {
    fn understood(&self) -> Result<Step, ApiError> {
        let path = TenantPath::parse(&self.path)?;
        let precondition = self.precondition()?;
        let content = decode(self.content.as_deref(), self.content_base64.as_deref())?;
        let for_move = self.to.is_some() || self.to_hash.is_some() || self.overwrite;
        let for_put = content.is_some() || self.mode.is_some();
        let misplaced = |what: &str| Err(ApiError::bad_request("bad_field", format!("{what} is not for this op")));
        match self.op.as_ref() {
            "put" if for_move => misplaced("`to`, `to_hash` or `overwrite`"),
            "put" => {
                let content =
                    content.ok_or_else(|| ApiError::bad_request("missing_content", "Missing content field"))?;
                let mode = self.mode.as_deref().map(mode).transpose()?;
                Ok(Step::Put { path, content, precondition, mode })
            }
            "delete" if for_move || for_put => misplaced("what is given beside the path"),
            "delete" => Ok(Step::Delete { path, precondition }),
            "move" if for_put => misplaced("a content or a mode"),
            "move" => {
                let to = self.to.as_deref().ok_or_else(|| ApiError::bad_request("bad_field", "`to` is missing"))?;
                let target = target(self.overwrite, self.to_hash.as_deref())?;
                Ok(Step::Move { from: path, to: TenantPath::parse(to)?, source: precondition, target })
            }
            _ => Err(ApiError::bad_request("bad_op", "op must be put, delete or move")),
        }
    }

    fn precondition(&self) -> Result<Precondition, ApiError> {
        let bad = |message: &str| ApiError::bad_request("bad_precondition", message);
        match (self.if_match.as_deref(), self.if_none_match.as_deref()) {
            (None, None) => Ok(Precondition::None),
            (Some("*"), None) => Ok(Precondition::Present),
            (Some(hash), None) => hash
                .trim_matches('"')
                .parse()
                .map(Precondition::Match)
                .map_err(|_| bad("if_match takes a SHA-256 or *")),
            (None, Some("*")) => Ok(Precondition::Absent),
            (None, Some(_)) => Err(bad("if_none_match takes *")),
            (Some(_), Some(_)) => Err(bad("give either if_match or if_none_match, not both")),
        }
    }
}

#[cfg(test)]
#[path = "batch_fuzz.rs"]
mod fuzz;
