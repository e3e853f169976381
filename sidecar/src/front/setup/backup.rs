//! `/setup/export` and `/setup/import`: the tree as one archive, through the archive routes of the file API.

use std::sync::Arc;

use http::header::CONTENT_DISPOSITION;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use winston_wire::{GatewayState, Timestamp};

use super::super::addresses::Place;
use super::super::answers::text;
use super::super::body::Answer;
use super::super::server::Front;
use crate::http as api;

/// Everything that has a history, or with `?all=true` everything but secrets, as `tar.gz`.
pub(super) async fn export(front: &Arc<Front>, place: Place, request: Request<Incoming>) -> Response<Answer> {
    let all = request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "all=true"));
    let mut response = api::export(&front.app, request, all).await;
    if response.status().is_success() {
        let time = Timestamp::now().strftime("%Y-%m-%dT%H-%M-%SZ");
        if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"openclaw-backup-{time}.tar.gz\"")) {
            response.headers_mut().insert(CONTENT_DISPOSITION, value);
        }
    }
    response.map(|body| Answer::Ours { body, _place: place })
}

/// Lays an archive out as one transaction and restarts the gateway on what it brought.
pub(super) async fn import(front: &Arc<Front>, request: Request<Incoming>) -> Response<Answer> {
    if request.body().is_end_stream() {
        return text(StatusCode::BAD_REQUEST, "Empty body");
    }
    if let Err((status, message)) = api::import(&front.app, request).await {
        return text(status, format!("Import failed, nothing was changed: {message}"));
    }
    let state = front.gateway_state();
    if matches!(state, GatewayState::Disabled | GatewayState::Stopped) {
        return text(StatusCode::OK, "OK - imported backup into /data; the gateway was not running.");
    }
    match front.app.gateway.restart().await {
        Ok(_) => text(StatusCode::OK, "OK - imported backup into /data and restarted gateway."),
        Err(error) => {
            let message = format!("The backup was imported, but the gateway was not restarted: {error}");
            text(StatusCode::INTERNAL_SERVER_ERROR, message)
        }
    }
}
