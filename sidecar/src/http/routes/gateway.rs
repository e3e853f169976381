//! `/gateway`: state of the supervised process, and orders to it.

use http::Response;
use serde::Serialize;
use tokio::task::spawn_blocking;
use winston_wire::GatewayStatus;

use super::super::App;
use super::super::body::Body;
use super::super::error::ApiError;
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
    // Without its figures the state is still worth telling.
    let memory = spawn_blocking(move || gateway.memory()).await.ok().flatten();
    super::json_or_error(&Gateway { status: app.gateway.status(), memory })
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
