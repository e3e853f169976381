//! `POST /watch/accept`: an operator confirms that the files that are gone were to go.

use http::{Response, StatusCode};
use serde::Serialize;

use super::super::App;
use super::super::body::Body;
use super::super::error::ApiError;
use crate::watch::AcceptError;

#[derive(Serialize)]
struct Accepted {
    /// Files whose deletions are recorded soon.
    files: usize,
}

pub(in super::super) fn accept(app: &App) -> Result<Response<Body>, ApiError> {
    let files = app.watch.accept(app.edits.withheld()).map_err(|error| {
        let (status, code) = match error {
            AcceptError::NotHalted => (StatusCode::CONFLICT, "not_halted"),
            AcceptError::Away => (StatusCode::CONFLICT, "data_dir_away"),
            AcceptError::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        };
        ApiError::new(status, code, error.to_string())
    })?;
    super::json_or_error(&Accepted { files })
}
