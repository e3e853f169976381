//! Which handler answers what.
//!
//! | Route | Handler |
//! |---|---|
//! | `GET /health` (no token) | [`routes::health`] |
//! | `GET /status` | [`routes::status`] |
//! | `GET /version`, `GET /metrics` | [`routes::metrics`] |
//! | `GET /files?path=` | [`routes::list`] |
//! | `GET`, `PUT`, `DELETE /files/<path>` | [`routes::files`] |
//! | `POST /files/<path>?op=`, `DELETE` of directories | [`routes::ops`] |
//! | `POST /batch` | [`routes::batch`] |
//! | `PUT /archive/<directory>` | [`routes::extract`] |
//! | `PATCH /files/<path>`, `POST /files/<path>?op=merge` | [`routes::merge`] |
//! | `GET /conflicts`, `GET`, `POST /conflicts/<path>` | [`routes::conflicts`] |
//! | `GET /archive/<directory>` | [`routes::archive`] |
//! | `GET /search?q=` | [`routes::search`] |
//! | `GET /changes` | [`routes::changes`] |
//! | `/winston/*` (`/winston/health` without a token) | [`routes::winston`] |
//! | `GET /gateway` | [`routes::gateway`] |
//! | `GET /gateway/logs?limit=&since=&level=&follow` | [`routes::gateway_logs`] |
//! | `GET`, `PUT /config`, `GET /config/good`, `POST /config/rollback` | [`routes::config`] |
//! | `POST /watch/accept` | [`routes::watch`] |
//! | `POST /upgrade` | [`routes::upgrade`] |
//! | `POST /gateway/start`, `/gateway/stop`, `/gateway/restart`, `/gateway/suspend`, `/gateway/resume` | [`routes::gateway`] |

use http::{Method, Request, Response};
use hyper::body::Incoming;

use super::App;
use super::body::Body;
use super::error::ApiError;
use super::query::Query;
use super::routes::{self, gateway::Order};

/// Answers one request. `HEAD` is `GET` whose body the server leaves out.
pub(super) async fn route(app: &App, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let authorized = app.token.admits(request.headers());
    let path = request.uri().path();
    if path == "/health" {
        get(&request, "GET, HEAD")?;
        return Ok(routes::health::health(app, authorized));
    }
    if path == "/winston/health" {
        get(&request, "GET, HEAD")?;
        return Ok(routes::winston::health(app, authorized));
    }
    if !authorized {
        return Err(ApiError::unauthorized());
    }
    if let Some(encoded) = path.strip_prefix("/files/") {
        let encoded = encoded.to_owned();
        return routes::files::file(app, &encoded, request).await;
    }
    if let Some(encoded) = path.strip_prefix("/conflicts/") {
        let encoded = encoded.to_owned();
        return routes::conflicts::conflict(app, &encoded, request).await;
    }
    if let Some(encoded) = path.strip_prefix("/archive/") {
        if request.method() == Method::PUT {
            let encoded = encoded.to_owned();
            return routes::extract::extract(app, &encoded, request).await;
        }
        get(&request, "GET, HEAD, PUT")?;
        return routes::archive::archive(app, encoded, &request).await;
    }
    if let Some(rest) = path.strip_prefix("/winston/") {
        let rest = rest.to_owned();
        return routes::winston::winston(app, &rest, request).await;
    }
    match path {
        "/batch" => routes::batch::batch(app, request).await,
        "/conflicts" => {
            get(&request, "GET, HEAD")?;
            Ok(routes::conflicts::list(app))
        }
        "/version" => {
            get(&request, "GET, HEAD")?;
            Ok(routes::metrics::version(app))
        }
        "/metrics" => {
            get(&request, "GET, HEAD")?;
            Ok(routes::metrics::metrics(app))
        }
        "/search" => {
            get(&request, "GET, HEAD")?;
            routes::search::search(app, &Query::parse(request.uri().query())?).await
        }
        "/status" => {
            get(&request, "GET, HEAD")?;
            Ok(routes::status::status(app))
        }
        "/files" => {
            get(&request, "GET, HEAD")?;
            routes::list::list(app, &Query::parse(request.uri().query())?).await
        }
        "/changes" => {
            get(&request, "GET, HEAD")?;
            routes::changes::changes(app, &request).await
        }
        "/gateway" => {
            get(&request, "GET, HEAD")?;
            routes::gateway::status(app).await
        }
        "/config" => routes::config::config(app, request).await,
        "/config/good" => {
            get(&request, "GET, HEAD")?;
            routes::config::good(app)
        }
        "/config/rollback" => routes::config::rollback(app, request).await,
        "/gateway/logs" => {
            get(&request, "GET, HEAD")?;
            routes::gateway_logs::logs(app, &request).await
        }
        "/watch/accept" => {
            if request.method() != Method::POST {
                return Err(ApiError::method("POST"));
            }
            routes::watch::accept(app)
        }
        "/upgrade" => {
            if request.method() != Method::POST {
                return Err(ApiError::method("POST"));
            }
            routes::upgrade::upgrade(app).await
        }
        "/gateway/start" => order(app, &request, Order::Start).await,
        "/gateway/stop" => order(app, &request, Order::Stop).await,
        "/gateway/restart" => order(app, &request, Order::Restart).await,
        "/gateway/suspend" => {
            post(&request)?;
            routes::gateway::suspend(app, &Query::parse(request.uri().query())?).await
        }
        "/gateway/resume" => {
            post(&request)?;
            routes::gateway::resume(app).await
        }
        _ => Err(ApiError::no_route()),
    }
}

fn get(request: &Request<Incoming>, allow: &'static str) -> Result<(), ApiError> {
    if matches!(*request.method(), Method::GET | Method::HEAD) { Ok(()) } else { Err(ApiError::method(allow)) }
}

fn post(request: &Request<Incoming>) -> Result<(), ApiError> {
    if *request.method() == Method::POST { Ok(()) } else { Err(ApiError::method("POST")) }
}

async fn order(app: &App, request: &Request<Incoming>, order: Order) -> Result<Response<Body>, ApiError> {
    post(request)?;
    routes::gateway::order(app, order).await
}
