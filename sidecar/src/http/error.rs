//! From failures to answers.

use http::header::{ALLOW, CONTENT_RANGE, CONTENT_TYPE, ETAG, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Map, Value};
use winston_wire::ContentHash;

use super::body::Body;
use crate::edits::EditError;
use crate::fs::{EntryKind, FsError, PathError, TenantPath};
use crate::gateway::GatewayError;
use crate::journal::JournalError;

/// An answer that is not a success.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    extra: Map<String, Value>,
    allow: Option<&'static str>,
    etag: Option<ContentHash>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), extra: Map::new(), allow: None, etag: None }
    }

    pub(super) fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn internal(message: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized")
    }

    pub(super) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no_route", "there is no such endpoint")
    }

    pub(super) fn method(allow: &'static str) -> Self {
        let mut error =
            Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", format!("this endpoint takes {allow}"));
        error.allow = Some(allow);
        error
    }

    pub(super) fn too_large(limit: u64) -> Self {
        let message = format!("the limit is {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message).with("limit", limit)
    }

    /// A range that lies outside a file of `size` bytes.
    pub(super) fn outside(size: u64) -> Self {
        let message = format!("the file has {size} bytes");
        Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", message).with("size", size)
    }

    /// Adds a key beside `error` and `code`.
    pub(super) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(key.to_owned(), value.into());
        self
    }

    /// Names the path that it is about.
    pub(super) fn about(self, path: &TenantPath) -> Self {
        self.with("path", path.as_str())
    }

    /// A 404 in the words of the endpoint.
    pub(super) fn not_found_as(mut self, message: &str) -> Self {
        if self.status == StatusCode::NOT_FOUND {
            self.message = message.to_owned();
        }
        self
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn into_response(self, request_id: &str) -> Response<Body> {
        let mut body = self.extra;
        let outside =
            body.get("size").and_then(Value::as_u64).filter(|_| self.status == StatusCode::RANGE_NOT_SATISFIABLE);
        body.insert("error".to_owned(), self.message.into());
        body.insert("code".to_owned(), self.code.into());
        body.insert("request_id".to_owned(), request_id.into());
        let mut response = Response::new(Body::full(Value::Object(body).to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(hash) = self.etag
            && let Ok(value) = HeaderValue::from_str(&format!("\"{hash}\""))
        {
            headers.insert(ETAG, value);
        }
        if let Some(size) = outside
            && let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}"))
        {
            headers.insert(CONTENT_RANGE, value);
        }
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<PathError> for ApiError {
    fn from(error: PathError) -> Self {
        match error {
            PathError::Parent => Self::new(StatusCode::FORBIDDEN, "access_denied", error.to_string()),
            PathError::TooLong => Self::bad_request("path_too_long", error.to_string()),
            PathError::NotUtf8 | PathError::Nul => Self::bad_request("bad_path", error.to_string()),
        }
    }
}

impl From<FsError> for ApiError {
    fn from(error: FsError) -> Self {
        let (status, code) = match &error {
            FsError::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            FsError::Escape | FsError::NotAFile(EntryKind::Symlink) => {
                return Self::new(StatusCode::FORBIDDEN, "access_denied", "Access denied");
            }
            FsError::NotAFile(EntryKind::Directory) => (StatusCode::CONFLICT, "is_directory"),
            FsError::NotAFile(_) => (StatusCode::CONFLICT, "not_a_file"),
            FsError::NotADirectory => (StatusCode::CONFLICT, "not_a_directory"),
            FsError::Exists => (StatusCode::CONFLICT, "exists"),
            FsError::CrossDevice => (StatusCode::CONFLICT, "cross_device"),
            FsError::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "no_space"),
            FsError::ReadOnly => (StatusCode::SERVICE_UNAVAILABLE, "read_only"),
            FsError::Denied => (StatusCode::FORBIDDEN, "permission_denied"),
            FsError::NameTooLong => (StatusCode::BAD_REQUEST, "path_too_long"),
            FsError::Io(_) => {
                return Self::internal("the file system reported an error").with("detail", error.to_string());
            }
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<EditError> for ApiError {
    fn from(error: EditError) -> Self {
        let message = error.to_string();
        match error {
            EditError::Internal => Self::new(StatusCode::FORBIDDEN, "internal_path", message),
            EditError::Secret => Self::new(StatusCode::FORBIDDEN, "secret_path", message),
            EditError::TooLarge { limit } => Self::too_large(limit),
            EditError::TooMany { limit, .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many", message).with("limit", limit)
            }
            EditError::Duplicate => Self::bad_request("duplicate_path", message),
            EditError::Protected => Self::new(StatusCode::FORBIDDEN, "protected_path", message),
            EditError::NotEmpty => Self::new(StatusCode::CONFLICT, "directory_not_empty", message),
            EditError::IntoItself => Self::new(StatusCode::CONFLICT, "into_itself", message),
            EditError::PreconditionFailed { current } => {
                let mut error = Self::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", message)
                    .with("current_hash", current.map(|hash| hash.to_string()));
                error.etag = current;
                error
            }
            EditError::Busy => Self::new(StatusCode::CONFLICT, "busy", message),
            EditError::Fs(error) => error.into(),
            EditError::Journal(JournalError::NoSpace) => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "no_space", message)
            }
            EditError::Journal(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "journal_unavailable", message),
        }
    }
}

impl From<GatewayError> for ApiError {
    fn from(error: GatewayError) -> Self {
        let (status, code) = match &error {
            GatewayError::Disabled => (StatusCode::CONFLICT, "gateway_disabled"),
            GatewayError::NoConfig => (StatusCode::CONFLICT, "gateway_has_no_config"),
            GatewayError::NotStarted(_) => (StatusCode::BAD_GATEWAY, "gateway_not_started"),
            GatewayError::NotReady => (StatusCode::CONFLICT, "gateway_not_ready"),
            GatewayError::NoSecret => (StatusCode::CONFLICT, "gateway_token_unknown"),
            GatewayError::Occupied(_) => (StatusCode::CONFLICT, "gateway_busy"),
            GatewayError::NotSuspended => (StatusCode::CONFLICT, "not_suspended"),
            GatewayError::Refused(_) => (StatusCode::BAD_GATEWAY, "gateway_refused"),
            GatewayError::Overtaken => (StatusCode::CONFLICT, "overtaken"),
            GatewayError::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            GatewayError::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
        };
        Self::new(status, code, error.to_string())
    }
}
