//! `/config`: the gateway's configuration, changed so that a bad one does no harm.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use winston_wire::{ConfigVerdict, Verdict};

use super::super::App;
use super::super::body::{self, Body};
use super::super::error::ApiError;
use super::super::query::Query;
use super::content::RAW;
use super::files;
use crate::candidate::{Configs, GoodSet, NewFile, Origin, Report, Submission, SubmitError};

#[derive(Serialize)]
struct Shown {
    present: bool,
    #[serde(flatten)]
    report: Report,
}

/// `GET` and `PUT /config`.
pub(in super::super) async fn config(app: &App, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let configs = configs(app)?.clone();
    match *request.method() {
        Method::GET | Method::HEAD => {
            let report = configs.report();
            super::json_or_error(&Shown { present: report.hash.is_some(), report })
        }
        Method::PUT => put(app, configs, request).await,
        _ => Err(ApiError::method("GET, HEAD, PUT")),
    }
}

fn configs(app: &App) -> Result<&Configs, ApiError> {
    app.configs
        .as_ref()
        .ok_or_else(|| ApiError::new(StatusCode::CONFLICT, "gateway_disabled", "this sidecar does not run a gateway"))
}

/// Like `PUT /files/<config>`, but validated, tried out, and taken back when the gateway does not do well with it. Answers with the verdict; with
/// `?wait=false` at once.
async fn put(app: &App, configs: Configs, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let path = app.edits.layout().config_file().ok_or_else(|| ApiError::internal("there is no place for it"))?;
    let (author, over) = (files::author(request.headers())?, files::precondition(request.headers())?);
    let wait = Query::parse(request.uri().query())?.get("wait") != Some("false");
    let (parts, incoming) = request.into_parts();
    let raw = parts.headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(RAW.as_bytes()));
    let limit = 2 * app.edits.max_file_bytes() + 64 * 1024;
    let body = body::read(incoming, &parts.headers, limit, &app.body_budget).await?;
    let content: Bytes = if raw { body.bytes.clone() } else { files::json_content(&body.bytes)? };
    let file = NewFile { path, content: Some(content), over };
    let submission = Submission { origin: Origin::Local, author, files: vec![file], owned: None, pushed: None };
    decided(wait, async move { configs.submit(submission).await }).await
}

#[derive(Serialize)]
struct Good {
    sets: Vec<GoodSet>,
}

/// `GET /config/good`: the last-known-good sets, newest first.
pub(in super::super) fn good(app: &App) -> Result<Response<Body>, ApiError> {
    super::json_or_error(&Good { sets: configs(app)?.good() })
}

#[derive(Deserialize, Default)]
struct Rollback {
    to: Option<u64>,
}

/// `POST /config/rollback`: the set `to`, or the newest one that is not in place.
pub(in super::super) async fn rollback(app: &App, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    if request.method() != Method::POST {
        return Err(ApiError::method("POST"));
    }
    let configs = configs(app)?.clone();
    let author = files::author(request.headers())?;
    let wait = Query::parse(request.uri().query())?.get("wait") != Some("false");
    let (parts, incoming) = request.into_parts();
    let body = body::read(incoming, &parts.headers, 4096, &app.body_budget).await?;
    let wanted: Rollback = if body.bytes.is_empty() {
        Rollback::default()
    } else {
        serde_json::from_slice(&body.bytes)
            .map_err(|error| ApiError::bad_request("bad_json", format!("the body is not a rollback: {error}")))?
    };
    decided(wait, async move { configs.rollback(wanted.to, author).await }).await
}

#[derive(Serialize)]
struct Accepted {
    accepted: bool,
}

/// Waits for the verdict in a task of its own: what has begun is finished, also when the client has gone.
async fn decided(
    wait: bool,
    work: impl Future<Output = Result<ConfigVerdict, SubmitError>> + Send + 'static,
) -> Result<Response<Body>, ApiError> {
    let work = tokio::spawn(work);
    if !wait {
        let mut response = super::json_or_error(&Accepted { accepted: true })?;
        *response.status_mut() = StatusCode::ACCEPTED;
        return Ok(response);
    }
    let verdict = work.await.map_err(|_| ApiError::internal("the request could not be finished"))??;
    let mut response = super::json_or_error(&Answer::of(&verdict))?;
    *response.status_mut() = match verdict.verdict {
        Verdict::Applied => StatusCode::OK,
        Verdict::Conflict => StatusCode::CONFLICT,
        Verdict::Invalid | Verdict::RolledBack => StatusCode::UNPROCESSABLE_ENTITY,
    };
    Ok(response)
}

/// A verdict, in the shape of an error when it is one.
#[derive(Serialize)]
struct Answer<'a> {
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(flatten)]
    verdict: &'a ConfigVerdict,
}

impl<'a> Answer<'a> {
    fn of(verdict: &'a ConfigVerdict) -> Self {
        let code = match verdict.verdict {
            Verdict::Applied => None,
            Verdict::Conflict => Some("conflict"),
            Verdict::Invalid => Some("config_invalid"),
            Verdict::RolledBack => Some("config_rolled_back"),
        };
        Self { success: code.is_none(), error: code.map(|_| verdict.reason.as_str()), code, verdict }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::Edit { error, .. } => error.into(),
            SubmitError::Unusable(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "config_unusable", message),
            SubmitError::NoSet => Self::new(StatusCode::NOT_FOUND, "no_good_set", message),
            SubmitError::Suspended => Self::new(StatusCode::CONFLICT, "gateway_suspended", message),
            SubmitError::Busy => Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message),
            SubmitError::ShuttingDown => Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", message),
        }
    }
}
