//! The table of routes.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{MethodRouter, delete, get, post, put};
use winston_wire::MAX_CONTENTS_BYTES;

use super::budget::Kind;
use super::error::Problem;
use super::pace::bounded;
use super::routes::{config, conflicts, contents, files, health, history, instances, sidecar, tenants, tokens};
use super::{App, LIFECYCLE_LIMIT, LONG_POLL_LIMIT, REQUEST_LIMIT, auth, budget, request_id};

/// Largest body where nothing else is said.
const BODY_BYTES: usize = 256 << 10;
/// Largest batch of changes or range of a manifest: 500 records with the longest paths, escaped.
const BATCH_BYTES: usize = 16 << 20;
/// Largest check-in: it lists conflicts.
const CHECK_IN_BYTES: usize = 4 << 20;

/// Every route, with its checks.
pub(crate) fn router(app: App) -> Router {
    let max_file = app.limits.max_file_bytes;
    // A JSON push may be base64 or have every second character escaped.
    let most = max_file * 2 + BODY_BYTES;
    let push = DefaultBodyLimit::max(most);
    let weighed_as = |kind, most| middleware::from_fn_with_state((app.budget.clone(), most, kind), budget::bodies);
    let weighed = |most| weighed_as(Kind::Content, most);
    let batch = |route: MethodRouter<App>| route.layer(DefaultBodyLimit::max(BATCH_BYTES)).layer(weighed(BATCH_BYTES));

    let quick = Router::new()
        .route("/api/tenants", get(tenants::list).post(tenants::create))
        .route("/api/tenants/{id}", get(tenants::show).patch(tenants::update))
        .route("/api/tenants/{id}/instance", get(instances::show))
        .route("/api/tenants/{id}/instances", get(instances::list))
        .route("/api/tenants/{id}/health", get(instances::health))
        .route("/api/tenants/{id}/tokens", get(tokens::list).post(tokens::create))
        .route("/api/tenants/{id}/tokens/rotate", post(tokens::rotate))
        .route("/api/tenants/{id}/tokens/{token}", delete(tokens::revoke))
        .route("/api/tenants/{id}/files", get(files::list))
        .route(
            "/api/tenants/{id}/files/{*path}",
            get(files::read).put(files::push).delete(files::push_delete).layer(push).layer(weighed(most)),
        )
        .route("/api/tenants/{id}/conflicts", get(conflicts::list))
        .route("/api/tenants/{id}/conflicts/{*path}", post(conflicts::settle).layer(push).layer(weighed(most)))
        .route("/api/tenants/{id}/config", get(config::show))
        .route("/api/tenants/{id}/config/verdicts", get(config::verdicts))
        .route("/api/tenants/{id}/versions", get(history::versions))
        .route("/api/tenants/{id}/changes", get(history::changes))
        .route_layer(middleware::from_fn_with_state(REQUEST_LIMIT, bounded));
    let slow = Router::new()
        .route("/api/tenants/{id}", delete(tenants::remove))
        .route("/api/tenants/{id}/provision", post(instances::provision))
        .route("/api/tenants/{id}/start", post(instances::start))
        .route("/api/tenants/{id}/stop", post(instances::stop))
        .route("/api/tenants/{id}/restart", post(instances::restart))
        .route_layer(middleware::from_fn_with_state(LIFECYCLE_LIMIT, bounded));
    let people = quick.merge(slow).route_layer(middleware::from_fn_with_state(app.clone(), auth::people));

    let calls = Router::new()
        .route(
            "/api/sidecar/contents",
            post(contents::put_many)
                .layer(DefaultBodyLimit::max(MAX_CONTENTS_BYTES))
                .layer(weighed(MAX_CONTENTS_BYTES)),
        )
        .route(
            "/api/sidecar/contents/{hash}",
            put(contents::put).layer(DefaultBodyLimit::max(max_file)).layer(weighed(max_file)).get(contents::get),
        )
        .route("/api/sidecar/changes", batch(post(sidecar::changes)))
        .route("/api/sidecar/manifest", batch(post(sidecar::manifest)))
        .route_layer(middleware::from_fn_with_state(REQUEST_LIMIT, bounded));
    let long_poll = Router::new()
        .route("/api/sidecar/desired", get(sidecar::desired))
        .route_layer(middleware::from_fn_with_state(LONG_POLL_LIMIT, bounded));
    // Which process it is, the check-in says in its body.
    let check_in = Router::new()
        .route(
            "/api/sidecar/check-in",
            post(sidecar::check_in)
                .layer(DefaultBodyLimit::max(CHECK_IN_BYTES))
                .layer(weighed_as(Kind::CheckIn, CHECK_IN_BYTES)),
        )
        .route_layer(middleware::from_fn_with_state(REQUEST_LIMIT, bounded))
        .route_layer(middleware::from_fn_with_state(app.clone(), auth::sidecars));
    let sidecars =
        calls.merge(long_poll).route_layer(middleware::from_fn_with_state(app.clone(), auth::sessions)).merge(check_in);

    Router::new()
        .route("/api/health", get(health::show))
        .merge(people)
        .merge(sidecars)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .fallback(async || Problem::not_found("Not found"))
        .layer(middleware::from_fn(request_id::layer))
        .with_state(app)
}
