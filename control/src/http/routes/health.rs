//! `GET /api/health`: open to everybody, so it says only whether control works.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::json;

use super::super::App;

/// Name of the service, as monitors of earlier versions expect it.
const SERVICE: &str = "winston-api";

/// 200 while the database answers, 503 otherwise.
pub(in super::super) async fn show(State(app): State<App>) -> Response {
    let timestamp = Timestamp::now();
    match app.db.ping().await {
        Ok(()) => Json(json!({
            "status": "healthy",
            "service": SERVICE,
            "timestamp": timestamp,
            "database": "connected",
            "version": env!("CARGO_PKG_VERSION"),
        }))
        .into_response(),
        Err(error) => {
            tracing::warn!(error = format!("{:#}", anyhow::Error::from(error)), "not healthy");
            let body = json!({
                "status": "unhealthy",
                "service": SERVICE,
                "timestamp": timestamp,
                "database": "disconnected",
                "error": "The database is not available at the moment",
                "code": "database_unavailable",
            });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}
