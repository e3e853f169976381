//! An id for each request: in its span, in `X-Request-Id`, in the body of every error. Writes that body, so errors
//! have one shape wherever they come from, and logs each request once.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use tracing::Instrument as _;
use uuid::Uuid;

use super::error::Problem;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The outermost layer.
pub(super) async fn layer(request: Request, next: Next) -> Response {
    let id = Uuid::now_v7().to_string();
    let started = Instant::now();
    // The route, not the path: a path may name a person's file.
    let route = request.extensions().get::<MatchedPath>().map_or("-", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("request", request.id = %id, http.method = %request.method(), http.route = %route);
    let mut response = next.run(request).instrument(span.clone()).await;
    let _entered = span.enter();
    if let Some(problem) = problem(&mut response) {
        response = finish(&problem, &response, &id);
        if let Some(cause) = &problem.cause {
            let cause = format!("{cause:#}");
            if problem.status == StatusCode::INTERNAL_SERVER_ERROR {
                tracing::error!(error.code = problem.code, error = cause, "request failed");
            } else {
                tracing::warn!(error.code = problem.code, error = cause, "request failed");
            }
        }
    }
    tracing::debug!(
        http.status = response.status().as_u16(),
        duration_ms = started.elapsed().as_millis() as u64,
        "request answered"
    );
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HEADER, value);
    }
    response
}

/// The problem of an error answer; one that the router made by itself gets a general word.
fn problem(response: &mut Response) -> Option<Problem> {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        return Some(problem);
    }
    let status = response.status();
    let (code, message) = match status {
        StatusCode::NOT_FOUND => ("not_found", "Not found"),
        StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", "This method is not allowed here"),
        StatusCode::PAYLOAD_TOO_LARGE => ("too_large", "The body is too large"),
        status if status.is_client_error() => ("bad_request", "The request cannot be understood"),
        _ => return None,
    };
    let json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    (!json).then(|| Problem::new(status, code, message))
}

fn finish(problem: &Problem, old: &Response, id: &str) -> Response {
    let mut response = (problem.status, axum::Json(problem.body(id))).into_response();
    if let Some(allow) = old.headers().get(header::ALLOW) {
        response.headers_mut().insert(header::ALLOW, allow.clone());
    }
    response.headers_mut().extend(problem.headers.clone());
    response
}
