//! `/setup`: what an operator can do with a browser and a password, and what the clients of the wrapper before us ask for.
//!
//! | Route | Answer |
//! |---|---|
//! | `GET /setup/healthz` (no password) | that we are here |
//! | `GET /setup` | a page; begins the session that lets this browser in |
//! | `GET /setup/api/status` | what is configured, and versions |
//! | `POST /setup/api/console/run` | [`console`], [`program`] |
//! | `GET /setup/api/devices/pending`, `POST /setup/api/devices/approve` | browsers that wait to be let in |
//! | `GET /setup/export`, `POST /setup/import` | a backup as `tar.gz` |
//!
//! The password is `SETUP_PASSWORD`, as Basic auth with any user; without one all this does not exist, except for the holder of the sidecar's token.

mod backup;
mod console;
mod page;
mod program;
mod version;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{ORIGIN, SET_COOKIE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::timeout;

use super::addresses::Place;
use super::answers::{Refused, json, page, retry_after, text};
use super::body::Answer;
use super::client::Caller;
use super::server::{Front, not_found};
use super::sessions::Presented;
use super::stats::Trouble;

/// Largest JSON of a request here, and longest time for it.
const BODY_BYTES: usize = 64 * 1024;
const BODY_TIME: Duration = Duration::from_secs(30);

const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"OpenClaw Setup\", charset=\"UTF-8\"");

/// Answers everything below `/setup`. `rest` is what follows it.
pub(super) async fn answer(
    front: &Arc<Front>,
    rest: &str,
    caller: &Caller,
    place: Place,
    request: Request<Incoming>,
    request_id: &str,
) -> Response<Answer> {
    if rest == "/healthz" {
        return json(StatusCode::OK, &json!({ "ok": true }));
    }
    if let Err(refusal) = admitted(front, caller, request.headers(), request_id) {
        return *refusal;
    }
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    if !is_read && is_from_another_site(request.headers(), &caller.host) {
        return json(StatusCode::FORBIDDEN, &json!({ "ok": false, "error": "this request comes from another site" }));
    }
    match (request.method(), rest) {
        (&Method::GET | &Method::HEAD, "" | "/") => {
            let mut response = page(StatusCode::OK, page::page(front, caller));
            if let Some(cookie) = front.sessions.begin(caller.secure) {
                response.headers_mut().insert(SET_COOKIE, cookie);
            }
            response
        }
        (&Method::GET | &Method::HEAD, "/api/status") => json(StatusCode::OK, &status(front).await),
        (&Method::POST, "/api/console/run") => console::run(front, request).await,
        (&Method::GET | &Method::HEAD, "/api/devices/pending") => console::pending(front).await,
        (&Method::POST, "/api/devices/approve") => console::approve(front, request).await,
        (&Method::GET | &Method::HEAD, "/export") => backup::export(front, place, request).await,
        (&Method::POST, "/import") => backup::import(front, request).await,
        _ => not_found(request_id),
    }
}

/// Lets the operator in; otherwise what he is told.
fn admitted(front: &Front, caller: &Caller, headers: &HeaderMap, request_id: &str) -> Result<(), Refused> {
    if front.app.token.admits(headers) {
        return Ok(());
    }
    let Some(password) = &front.password else { return Err(Box::new(not_found(request_id))) };
    let now = Instant::now();
    if let Some(wait) = front.attempts.wait(caller.address, now) {
        front.shared.trouble(Trouble::Password);
        let refusal = text(StatusCode::TOO_MANY_REQUESTS, "Too many wrong passwords");
        return Err(Box::new(retry_after(refusal, wait.as_secs() + 1)));
    }
    let message = match password.check(headers) {
        Presented::Right => {
            front.attempts.right(caller.address);
            return Ok(());
        }
        Presented::Nothing => "Auth required",
        Presented::Wrong => {
            front.shared.trouble(Trouble::Password);
            front.attempts.wrong(caller.address, now);
            tracing::warn!(address = %caller.address, request_id, "wrong password at /setup");
            "Invalid password"
        }
    };
    let mut refusal = text(StatusCode::UNAUTHORIZED, message);
    refusal.headers_mut().insert(WWW_AUTHENTICATE, CHALLENGE);
    Err(Box::new(refusal))
}

/// A browser sends a password that it knows with whatever any page makes it send; it also says which page that was. `host` is the one by which
/// the caller reached us.
fn is_from_another_site(headers: &HeaderMap, host: &HeaderValue) -> bool {
    let fetch_site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if fetch_site.is_some_and(|site| !matches!(site, b"same-origin" | b"none")) {
        return true;
    }
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let of_origin = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host.as_bytes());
    !of_origin.is_some_and(|of_origin| host.as_bytes().eq_ignore_ascii_case(of_origin))
}

async fn status(front: &Front) -> serde_json::Value {
    let state = front.gateway_state();
    json!({
        "configured": front.shared.known().configured,
        "gatewayTarget": format!("http://127.0.0.1:{}", front.settings.gateway_port),
        "openclawVersion": version::openclaw(front).await.unwrap_or_default(),
        // Of the wizard that is no more: its clients look for the keys.
        "channelsAddHelp": "",
        "authGroups": [],
        "gatewayState": state,
        "missing": front.shared.known().view.advice,
    })
}

/// A JSON body, or what its sender is told.
async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refused> {
    let refuse = |status, error: &str| Err(Box::new(json(status, &json!({ "ok": false, "error": error }))));
    match timeout(BODY_TIME, Limited::new(request.into_body(), BODY_BYTES).collect()).await {
        Err(_) => refuse(StatusCode::REQUEST_TIMEOUT, "the request body took too long"),
        Ok(Err(_)) => refuse(StatusCode::BAD_REQUEST, "the request body is too large or ended early"),
        Ok(Ok(collected)) => match serde_json::from_slice(&collected.to_bytes()) {
            Ok(body) => Ok(body),
            Err(_) => refuse(StatusCode::BAD_REQUEST, "the request body is not the JSON that is expected here"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_sites_may_not_act_with_an_operators_browser() {
        let from = |rows: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in rows {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            is_from_another_site(&headers, &HeaderValue::from_static("t.example.com"))
        };
        assert!(!from(&[]), "a program");
        assert!(!from(&[("origin", "https://t.example.com"), ("sec-fetch-site", "same-origin")]));
        assert!(from(&[("origin", "https://p.example.com"), ("x-forwarded-host", "p.example.com")]));
        assert!(from(&[("origin", "https://evil.example.com")]));
        assert!(from(&[("origin", "null")]));
        assert!(from(&[("sec-fetch-site", "cross-site")]));
        assert!(from(&[("sec-fetch-site", "same-site"), ("origin", "https://t.example.com")]));
    }
}
