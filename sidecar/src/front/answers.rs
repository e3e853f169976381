//! Answers that the front door gives itself.

use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::body::Answer;

/// An answer instead of a result. Boxed: it is rare, and what it stands beside is small.
pub(super) type Refused = Box<Response<Answer>>;

/// JSON.
pub(super) fn json(status: StatusCode, value: &Value) -> Response<Answer> {
    with_type(status, "application/json", value.to_string())
}

/// Plain text, as the old wrapper's clients show it.
pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Response<Answer> {
    with_type(status, "text/plain; charset=utf-8", text.into())
}

/// A page that needs nothing but itself.
pub(super) fn page(status: StatusCode, html: String) -> Response<Answer> {
    let mut response = with_type(status, "text/html; charset=utf-8", html);
    let headers = response.headers_mut();
    headers.insert(
        http::header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
        ),
    );
    headers.insert(http::header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Why a request goes no further, in the one shape of errors.
pub(super) fn refusal(status: StatusCode, code: &str, message: &str, request_id: &str) -> Response<Answer> {
    json(status, &json!({ "error": message, "code": code, "request_id": request_id }))
}

/// Says when to come again.
pub(super) fn retry_after(mut response: Response<Answer>, seconds: u64) -> Response<Answer> {
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

fn with_type(status: StatusCode, media_type: &'static str, body: String) -> Response<Answer> {
    let mut response = Response::new(Answer::text(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
