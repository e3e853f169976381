//! `/gateway`: state, orders and output of the supervised process.

use http::Response;
use serde::Serialize;

use super::super::App;
use super::super::body::Body;
use super::super::error::ApiError;
use super::super::query::Query;
use crate::gateway::LogLine;

const DEFAULT_LINES: usize = 100;
const MOST_LINES: usize = 1000;

/// What a caller may ask of the gateway.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Order {
    Start,
    Stop,
    Restart,
}

#[derive(Serialize)]
struct Lines {
    lines: Vec<LogLine>,
}

/// `GET /gateway`.
pub(in super::super) fn status(app: &App) -> Response<Body> {
    super::json(&app.gateway.status())
}

/// `GET /gateway/logs?limit=`: the newest lines, oldest first.
pub(in super::super) fn logs(app: &App, query: &Query) -> Response<Body> {
    super::json(&Lines { lines: app.gateway.logs(query.limit(DEFAULT_LINES, MOST_LINES)) })
}

/// `POST /gateway/<order>`: answers once the order is carried out.
pub(in super::super) async fn order(app: &App, order: Order) -> Result<Response<Body>, ApiError> {
    let status = match order {
        Order::Start => app.gateway.start().await,
        Order::Stop => app.gateway.stop().await,
        Order::Restart => app.gateway.restart().await,
    }?;
    super::json_or_error(&status)
}
