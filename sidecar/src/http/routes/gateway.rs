//! `/gateway`: state of the supervised process, and orders to it.

use http::Response;

use super::super::App;
use super::super::body::Body;
use super::super::error::ApiError;

/// What a caller may ask of the gateway.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Order {
    Start,
    Stop,
    Restart,
}

/// `GET /gateway`.
pub(in super::super) fn status(app: &App) -> Response<Body> {
    super::json(&app.gateway.status())
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
