//! One file per endpoint.

pub(super) mod archive;
pub(super) mod batch;
pub(super) mod changes;
pub(super) mod conflicts;
mod content;
pub(super) mod extract;
pub(super) mod files;
pub(super) mod gateway;
pub(super) mod gateway_logs;
pub(super) mod health;
pub(super) mod list;
pub(super) mod merge;
pub(super) mod metrics;
mod old_names;
pub(super) mod ops;
pub(super) mod search;
pub(super) mod status;
pub(super) mod upgrade;
pub(super) mod watch;
pub(super) mod winston;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use winston_wire::Timestamp;

use super::body::Body;
use super::error::ApiError;

/// A 200 with a JSON body.
fn json(value: &impl Serialize) -> Response<Body> {
    json_or_error(value).unwrap_or_else(|error| error.into_response(""))
}

fn json_or_error(value: &impl Serialize) -> Result<Response<Body>, ApiError> {
    json_with_room(512, value)
}

/// `room` is a guess at the length of the text in bytes.
fn json_with_room(room: usize, value: &impl Serialize) -> Result<Response<Body>, ApiError> {
    let mut text = Vec::with_capacity(room);
    serde_json::to_writer(&mut text, value)
        .map_err(|_| ApiError::internal("the answer could not be written as JSON"))?;
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// A time of the file system as the old sidecar wrote it: ISO 8601 in UTC with milliseconds.
fn iso(ns: i64) -> String {
    Timestamp::from_nanosecond(i128::from(ns)).map_or_else(|_| String::new(), |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_have_milliseconds_and_a_z() {
        assert_eq!(super::iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(super::iso(1_770_804_000_123_456_789), "2026-02-11T10:00:00.123Z");
    }
}
