//! `PUT /archive/<directory>`: an archive, laid out below a directory as one transaction.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use serde::Serialize;

use super::super::archive::{self, Entry, Received, Refused};
use super::super::body::{Body, ReadBody};
use super::super::error::ApiError;
use super::super::{App, blocking};
use super::files::{author, precondition};
use crate::edits::{Author, Edits, Precondition, SetError};
use crate::fs::TenantPath;

#[derive(Serialize)]
struct Answer<'a> {
    success: bool,
    path: &'a str,
    files: usize,
    directories: usize,
    bytes: u64,
    /// Files that did not exist before.
    created: usize,
    /// Last of the records; `null` when everything was there already.
    seq: Option<u64>,
}

pub(in super::super) async fn extract(
    app: &App,
    encoded: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let path = TenantPath::from_url(encoded)?;
    if !path.is_root() {
        app.edits.permit(&path)?;
    }
    let author = author(request.headers())?;
    let precondition = precondition(request.headers())?;
    if !matches!(precondition, Precondition::None | Precondition::Absent) {
        return Err(ApiError::bad_request("bad_precondition", "an archive takes If-None-Match: * only"));
    }
    let limit = app.max_archive_bytes;
    let announced = request.headers().get(http::header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(ApiError::too_large(limit));
    }
    // One file at a time is in memory.
    let share = ReadBody::share(app.edits.max_file_bytes(), &app.body_budget).await?;
    let turn = Arc::clone(&app.writes).acquire_owned().await.map_err(|_| ApiError::internal("shutting down"))?;
    let (feed, received) = archive::channel(limit);
    let (edits, about) = (Arc::clone(&app.edits), path.clone());
    let work = blocking(move || {
        let _held = (turn, share);
        let answer = carry_out(&edits, &path, received, limit, &author, precondition);
        answer.map_err(|error| error.about(&path))
    });
    tokio::pin!(work);
    let answer = tokio::select! {
        // Refused: what is still to come is not waited for.
        answer = &mut work => answer?,
        () = feed.run(request.into_body()) => work.await?,
    };
    super::json_or_error(&Answer { path: about.as_str(), ..answer })
}

fn carry_out(
    edits: &Edits,
    path: &TenantPath,
    received: Received,
    limit: u64,
    author: &Author,
    precondition: Precondition,
) -> Result<Answer<'static>, ApiError> {
    let config = edits.layout().config_file();
    let mut set = edits.begin(author)?;
    let mut answer = Answer { success: true, path: "", files: 0, directories: 0, bytes: 0, created: 0, seq: None };
    if !path.is_root() {
        set.directory(path.clone())?;
    }
    let mut names = Vec::new();
    archive::each_entry(received, limit, edits.max_file_bytes(), |entry| {
        match entry {
            Entry::Directory { path: name } => {
                let directory = below(path, &name)?;
                set.directory(directory).map_err(|error| about_entry(error.into(), &name))?;
                answer.directories += 1;
            }
            Entry::File { path: name, mode, bytes } => {
                let file = below(path, &name)?;
                // The configuration may hold secrets: an archive does not decide who reads it.
                let mode = (config.as_ref() != Some(&file)).then_some(mode);
                set.put(file, &bytes, precondition, mode).map_err(|error| about_entry(error.into(), &name))?;
                answer.files += 1;
                answer.bytes += bytes.len() as u64;
                names.push(name);
            }
        }
        Ok::<_, ApiError>(())
    })?;
    let outcomes = set.commit().map_err(|SetError { index, error }| {
        let name = index.and_then(|index| names.get(index));
        let error = ApiError::from(error);
        match name {
            Some(name) => about_entry(error, name),
            None => error,
        }
    })?;
    answer.created = outcomes.iter().filter(|outcome| outcome.created).count();
    answer.seq = outcomes.iter().filter_map(|outcome| outcome.seq).max();
    Ok(answer)
}

fn below(directory: &TenantPath, name: &str) -> Result<TenantPath, ApiError> {
    Ok(TenantPath::parse(&format!("{}/{name}", directory.as_str()))?)
}

fn about_entry(error: ApiError, name: &str) -> ApiError {
    error.with("entry", name)
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::Unreadable(_) => Self::bad_request("bad_archive", message),
            Refused::Entry { name, .. } => Self::bad_request("bad_entry", message).with("entry", name),
            Refused::FileTooLarge { name, limit } => Self::too_large(limit).with("entry", name),
            Refused::TooMuch { limit, .. } => {
                Self::new(http::StatusCode::PAYLOAD_TOO_LARGE, "too_many", message).with("limit", limit)
            }
            Refused::Cut => Self::bad_request("bad_body", message),
        }
    }
}
