//! `POST /upgrade`: this sidecar makes room for what lies at its path now. The gateway goes on.

use http::{Response, StatusCode};
use serde::Serialize;

use super::super::App;
use super::super::body::Body;
use super::super::error::ApiError;
use crate::upgrade::UpgradeError;

#[derive(Serialize)]
struct Accepted {
    /// Version of this one.
    from: &'static str,
    /// Version of the one that follows.
    to: String,
}

/// Answers 202 before it leaves.
pub(in super::super) async fn upgrade(app: &App) -> Result<Response<Body>, ApiError> {
    let to = app.upgrade.request().await.map_err(|error| {
        let code = match error {
            UpgradeError::Alone => "no_entrypoint",
            UpgradeError::Unfit { .. } => "unfit_program",
        };
        ApiError::new(StatusCode::CONFLICT, code, error.to_string())
    })?;
    let mut response = super::json_or_error(&Accepted { from: env!("CARGO_PKG_VERSION"), to })?;
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}
