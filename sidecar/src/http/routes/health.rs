//! `GET /health`: is this process answering? Needs no token; says which tenant it is only to those who have one.

use http::Response;
use serde::Serialize;

use super::super::App;
use super::super::body::Body;

#[derive(Serialize)]
struct Health<'a> {
    status: &'static str,
    service: &'static str,
    uptime: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<&'a str>,
}

pub(in super::super) fn health(app: &App, authorized: bool) -> Response<Body> {
    super::json(&Health {
        status: "ok",
        service: "winston-sidecar",
        uptime: app.started.elapsed().as_secs_f64(),
        tenant_id: app.tenant_id.as_deref().filter(|_| authorized),
    })
}
