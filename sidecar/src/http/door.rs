//! What the front door uses of this server: the router itself, and the two archive routes.

use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;

use super::App;
use super::body::Body;
use super::routes;
use super::server;

/// Who does what comes through `/setup`, in history.
const ACTOR: HeaderValue = HeaderValue::from_static("setup");

/// Answers a request as port 18790 would, token and all.
pub(crate) async fn answer(app: &App, request: Request<Incoming>) -> Response<Body> {
    server::answer(app, request).await
}

/// The request's id, and whether its sender gave it.
pub(crate) fn request_id(headers: &HeaderMap) -> (String, bool) {
    server::request_id(headers)
}

/// The whole tree as `tar.gz`; with `all` also what has no history. The caller has been let in already.
pub(crate) async fn export(app: &App, mut request: Request<Incoming>, all: bool) -> Response<Body> {
    *request.uri_mut() = if all {
        Uri::from_static("/archive/?format=tar.gz&all=true")
    } else {
        Uri::from_static("/archive/?format=tar.gz")
    };
    let (id, _) = request_id(request.headers());
    routes::archive::archive(app, "", &request).await.unwrap_or_else(|error| error.into_response(&id))
}

/// Lays an archive out over the tree as one transaction; why not, as status and sentence. The caller has been let in already.
pub(crate) async fn import(app: &App, mut request: Request<Incoming>) -> Result<(), (StatusCode, String)> {
    let headers = request.headers_mut();
    for name in [AUTHORIZATION, IF_MATCH, IF_NONE_MATCH, CONTENT_ENCODING, CONTENT_TYPE] {
        headers.remove(name);
    }
    headers.insert(routes::files::ACTOR, ACTOR);
    match routes::extract::extract(app, "", request).await {
        Ok(_) => Ok(()),
        Err(error) => Err((error.status(), error.message().to_owned())),
    }
}
