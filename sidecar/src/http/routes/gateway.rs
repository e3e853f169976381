//! `/gateway`: state of the supervised process, and orders to it.

use std::time::Duration;

use http::Response;
use serde::Serialize;
use winston_wire::GatewayStatus;

use super::super::App;
use super::super::blocking;
use super::super::body::Body;
use super::super::error::ApiError;
use super::super::query::Query;
use crate::gateway::Memory;

/// What a caller may ask of the gateway.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Order {
    Start,
    Stop,
    Restart,
}

#[derive(Serialize)]
struct Gateway {
    #[serde(flatten)]
    status: GatewayStatus,
    /// Left out without a gateway to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
}

/// `GET /gateway`.
pub(in super::super) async fn status(app: &App) -> Result<Response<Body>, ApiError> {
    let gateway = app.gateway.clone();
    let memory = blocking(move || Ok::<_, ApiError>(gateway.memory())).await?;
    super::json_or_error(&Gateway { status: app.gateway.status(), memory })
}

/// Longest wait for an idle gateway: in seconds, unless the caller says otherwise, and at most.
const IDLE_WAIT: u64 = 30;
const LONGEST_IDLE_WAIT: u64 = 300;

/// `POST /gateway/suspend?wait=`: answers once it is idle and takes no work.
pub(in super::super) async fn suspend(app: &App, query: &Query) -> Result<Response<Body>, ApiError> {
    let wait = query.number("wait")?.unwrap_or(IDLE_WAIT).min(LONGEST_IDLE_WAIT);
    let configs = app.configs.clone();
    let on_trial = move || configs.as_ref().is_some_and(|configs| configs.report().open.is_some());
    super::json_or_error(&app.gateway.suspend(Duration::from_secs(wait), on_trial).await?)
}

/// `POST /gateway/resume`.
pub(in super::super) async fn resume(app: &App) -> Result<Response<Body>, ApiError> {
    super::json_or_error(&app.gateway.resume().await?)
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
