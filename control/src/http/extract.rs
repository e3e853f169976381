//! Extractors whose refusals are [`Problem`]s.

use std::str::FromStr;

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::error::Problem;
use crate::path;

/// A JSON body, whatever its content type says. An empty body counts as `{}`.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Raw(bytes) = Raw::from_request(request, state).await?;
        json(&bytes).map(Body)
    }
}

/// Parses a JSON body.
pub(super) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::bad("bad_json", format!("The body is not the expected JSON: {error}")))
}

/// The body's bytes, up to the route's limit.
pub(super) struct Raw(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Bytes::from_request(request, state).await.map(Raw).map_err(|rejection: BytesRejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                too_large()
            } else {
                Problem::bad("bad_body", "The body could not be read")
            }
        })
    }
}

/// 413.
pub(super) fn too_large() -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The body is too large")
}

/// The query string.
pub(super) struct Args<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Args<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Query::from_request_parts(parts, state)
            .await
            .map(|Query(args)| Args(args))
            .map_err(|rejection| Problem::bad("bad_query", rejection.body_text()))
    }
}

/// Path parameters as text, decoded once.
async fn params<S: Send + Sync, T: DeserializeOwned + Send>(parts: &mut Parts, state: &S) -> Result<T, Problem> {
    Path::from_request_parts(parts, state)
        .await
        .map(|Path(params)| params)
        .map_err(|_| Problem::bad("bad_path", "The path is not valid UTF-8"))
}

fn id<T: FromStr>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| Problem::bad("bad_id", "The id is not valid"))
}

/// `{id}` of a tenant.
pub(super) struct TenantId(pub(super) Uuid);

impl<S: Send + Sync> FromRequestParts<S> for TenantId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text: String = params(parts, state).await?;
        id(&text).map(Self)
    }
}

/// `{id}` of a tenant and an id of something of it.
pub(super) struct TenantAndId<T>(pub(super) Uuid, pub(super) T);

impl<S: Send + Sync, T: FromStr> FromRequestParts<S> for TenantAndId<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let (tenant, other): (String, String) = params(parts, state).await?;
        Ok(Self(id(&tenant)?, id(&other)?))
    }
}

/// `{id}` of a tenant and the path of a file of it, checked.
pub(super) struct TenantFile(pub(super) Uuid, pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for TenantFile {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let (tenant, file): (String, String) = params(parts, state).await?;
        path::check(&file)?;
        Ok(Self(id(&tenant)?, file))
    }
}

/// A page size within bounds.
pub(super) fn limit(asked: Option<i64>, default: i64, most: i64) -> Result<i64, Problem> {
    match asked {
        None => Ok(default),
        Some(limit) if (1..=most).contains(&limit) => Ok(limit),
        Some(_) => Err(Problem::bad("bad_query", format!("limit must be from 1 to {most}"))),
    }
}
