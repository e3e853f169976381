//! Errors as clients see them. The one place where an internal error becomes an answer.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value};

use crate::db::DbError;
use crate::lifecycle::LifecycleError;
use crate::path::BadPath;
use crate::provision::ProviderError;

/// An error answer. The body is written by the request-id layer, which knows the id and logs the cause once.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) extra: Map<String, Value>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Never shown to clients.
    pub(super) cause: Option<Arc<anyhow::Error>>,
}

impl Problem {
    /// With a status, a stable word and a sentence for a person.
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), extra: Map::new(), headers: Vec::new(), cause: None }
    }

    /// 400.
    pub(crate) fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 404 `not_found`.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// 404 for a tenant.
    pub(crate) fn no_tenant() -> Self {
        Self::not_found("Tenant not found")
    }

    /// 401.
    pub(crate) fn unauthorized(message: &'static str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
            .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"winston\""))
    }

    /// 503 `busy`.
    pub(crate) fn busy(message: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
            .header(header::RETRY_AFTER, HeaderValue::from_static("2"))
    }

    /// Another key of the body.
    pub(crate) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(key.to_owned(), value.into());
        self
    }

    /// Another header.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    fn because(mut self, cause: impl Into<anyhow::Error>) -> Self {
        self.cause = Some(Arc::new(cause.into()));
        self
    }

    /// The body.
    pub(super) fn body(&self, request_id: &str) -> Value {
        let mut body = self.extra.clone();
        body.insert("error".to_owned(), self.message.clone().into());
        body.insert("code".to_owned(), self.code.into());
        body.insert("request_id".to_owned(), request_id.into());
        body.into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Unavailable(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "database_unavailable",
                "The database is not available at the moment",
            )
            .header(header::RETRY_AFTER, HeaderValue::from_static("2")),
            DbError::Duplicate { .. } => Self::new(StatusCode::CONFLICT, "already_exists", "That exists already"),
            // Whatever is referred to belongs to a tenant, and was there when the request began.
            DbError::Missing { .. } => Self::no_tenant(),
            DbError::Query(_) | DbError::Value(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something went wrong on our side")
            }
        }
        .because(error)
    }
}

impl From<LifecycleError> for Problem {
    fn from(error: LifecycleError) -> Self {
        match error {
            LifecycleError::Db(error) => error.into(),
            LifecycleError::NoTenant => Self::no_tenant(),
            LifecycleError::NoInstance => Self::not_found("Tenant instance not found"),
            LifecycleError::UnknownProvider(name) => {
                Self::bad("unknown_provider", format!("Provider {name:?} is not available here"))
            }
            LifecycleError::EnrolledByHand => Self::new(
                StatusCode::CONFLICT,
                "enrolled_by_hand",
                "The tenant was enrolled by hand; takeOver replaces it, and ends its tokens",
            ),
            LifecycleError::Busy => Self::busy("Too many tenants are being changed at the moment"),
            LifecycleError::Provider { source: ProviderError::NotProvisioned(_), .. } => {
                Self::new(StatusCode::CONFLICT, "not_provisioned", "The tenant has no secrets yet; provision it")
            }
            LifecycleError::Provider { .. } => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "provider_failed",
                "Provisioning failed: the provider could not start or stop the tenant",
            )
            .because(error),
            LifecycleError::Random(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something went wrong on our side")
                    .because(error)
            }
        }
    }
}

impl From<BadPath> for Problem {
    fn from(error: BadPath) -> Self {
        Self::bad("bad_path", sentence(&error.to_string()))
    }
}

/// Upper-cases the first letter.
pub(crate) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
