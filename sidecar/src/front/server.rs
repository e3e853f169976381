//! Accepting connections on the public port, and who answers what comes on them.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use winston_wire::{GatewayState, GatewayStatus};

use super::addresses::{Addresses, Place};
use super::answers::Refused;
use super::attempts::Attempts;
use super::body::Answer;
use super::client::Caller;
use super::pairing::Operator;
use super::pool::Pool;
use super::proxy::Passage;
use super::route::{Route, route};
use super::sessions::{Password, Sessions};
use super::stats::{Counted, Shared, Trouble};
use super::strict::Strict;
use super::{FrontSettings, answers, network, setup, socket};
use crate::http::{self as api, App};

/// Longest time between two requests on one connection. Longer than the 60 s after which Railway's edge drops one that it does not use, so that
/// it is never we who close a connection on which its next request is already on the way.
const IDLE_TIME: Duration = Duration::from_secs(75);

/// Largest request head.
const HEAD_BYTES: usize = 64 * 1024;

/// How long running requests may go on after a stop was asked.
const DRAIN: Duration = Duration::from_secs(5);

/// Pause after a failed accept, which is out of file descriptors more often than not.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that are being told that there is no room, and how long that may take.
const TURNED_AWAY: usize = 32;
const TURN_AWAY_TIME: Duration = Duration::from_secs(1);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Everything that answering needs.
pub(super) struct Front {
    pub(super) settings: FrontSettings,
    pub(super) app: Arc<App>,
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Pool,
    pub(super) password: Option<Password>,
    pub(super) sessions: Sessions,
    pub(super) attempts: Attempts,
    /// How to ask the gateway; `None` without its token.
    pub(super) operator: Option<Operator>,
    /// Requests and WebSockets of each caller.
    pub(super) requests: Addresses,
    /// The turn of whoever has OpenClaw's program run.
    pub(super) console: Semaphore,
    pub(super) gateway: watch::Receiver<GatewayStatus>,
    pub(super) stopped: watch::Receiver<bool>,
}

/// What a connection, and the WebSocket that becomes of it, holds.
pub(super) struct Hold {
    _permit: OwnedSemaphorePermit,
    /// `None` for a proxy, whose connections carry many callers.
    _place: Option<Place>,
    _counted: Counted,
}

impl Front {
    pub(super) fn gateway_state(&self) -> GatewayState {
        self.gateway.borrow().state
    }

    /// Serves until `stopped` becomes true, then lets running requests finish, for a bounded time.
    pub(super) async fn run(self: Arc<Self>, listener: TcpListener) {
        let connections = Arc::new(Semaphore::new(self.settings.max_connections));
        let peers = Addresses::new(self.settings.max_per_address);
        let turned_away = Arc::new(Semaphore::new(TURNED_AWAY));
        let mut stopped = self.stopped.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stopped.wait_for(|stopped| *stopped) => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection at the front door");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            match self.room(&connections, &peers, peer) {
                Ok(hold) => self.serve(stream, peer, Arc::new(hold)),
                Err(trouble) => {
                    self.shared.trouble(trouble);
                    if let Ok(permit) = Arc::clone(&turned_away).try_acquire_owned() {
                        tokio::spawn(async move {
                            let _permit = permit;
                            // Whoever does not take it has to do without.
                            let _ = timeout(TURN_AWAY_TIME, socket::turn_away(stream, trouble)).await;
                        });
                    }
                }
            }
        }
        // Every connection and WebSocket has a permit; when all are back, all are gone.
        let all = u32::try_from(self.settings.max_connections).unwrap_or(u32::MAX);
        if timeout(DRAIN, connections.acquire_many(all)).await.is_err() {
            tracing::warn!("requests were still running when the front door closed");
        }
    }

    fn room(&self, connections: &Arc<Semaphore>, peers: &Addresses, peer: SocketAddr) -> Result<Hold, Trouble> {
        let permit = Arc::clone(connections).try_acquire_owned().map_err(|_| Trouble::Full)?;
        let is_proxy = self.settings.trust.proxies.contain(network::plain(peer.ip()));
        let place = if is_proxy { None } else { Some(peers.place(peer.ip()).ok_or(Trouble::Address)?) };
        Ok(Hold { _permit: permit, _place: place, _counted: self.shared.connection() })
    }

    fn serve(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, hold: Arc<Hold>) {
        if let Err(error) = socket::prepare(&stream) {
            tracing::debug!(%error, "socket options");
        }
        let front = Arc::clone(self);
        let service = service_fn(move |request| {
            let (front, hold) = (Arc::clone(&front), Arc::clone(&hold));
            async move { Ok::<_, Infallible>(front.answer(peer.ip(), &hold, request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIME)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(Strict::new(stream)), service)
            .with_upgrades();
        let mut stopped = self.stopped.clone();
        tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => Some(ended),
                () = true_in(&mut stopped) => None,
            };
            let ended = match ended {
                Some(ended) => ended,
                None => {
                    connection.as_mut().graceful_shutdown();
                    timeout(DRAIN, connection).await.unwrap_or(Ok(()))
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "connection at the front door ended");
            }
        });
    }

    async fn answer(self: &Arc<Self>, peer: IpAddr, hold: &Arc<Hold>, request: Request<Incoming>) -> Response<Answer> {
        let started = Instant::now();
        let (request_id, is_theirs) = api::request_id(request.headers());
        let asks_upgrade = request.headers().contains_key(UPGRADE);
        let method = request.method().clone();
        let uri = request.uri().clone();
        let known = self.shared.known();
        let route = route(uri.path(), &known.view.webhooks);
        let mut response = match self.checked(peer, &request, route, &request_id) {
            Ok((caller, place)) => self.dispatch(route, hold, caller, place, request, &request_id).await,
            Err(refusal) => *refusal,
        };
        // The checks on a connection end where an upgrade is asked for; so does the connection, if there is none.
        if asks_upgrade && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let is_ours = !matches!(route, Route::Gateway | Route::Webhook(_));
        if (is_ours || is_theirs)
            && let Ok(value) = HeaderValue::from_str(&request_id)
        {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        let (status, took) = (response.status(), started.elapsed());
        self.shared.answered(route, status, took);
        tracing::debug!(
            request_id,
            %method,
            path = uri.path(),
            status = status.as_u16(),
            elapsed_us = took.as_micros() as u64,
            "front door"
        );
        response
    }

    /// Who asks, with his place; or why the request goes no further.
    fn checked(
        &self,
        peer: IpAddr,
        request: &Request<Incoming>,
        route: Route<'_>,
        request_id: &str,
    ) -> Result<(Caller, Place), Refused> {
        let refuse = |trouble, status, code, message| {
            self.shared.trouble(trouble);
            Err(Box::new(answers::refusal(status, code, message, request_id)))
        };
        let uri = request.uri();
        // `http://host/path`, `host:port` and `*`: only a proxy that is asked for other hosts gets those.
        if uri.authority().is_some() || !uri.path().starts_with('/') {
            return refuse(
                Trouble::BadRequest,
                StatusCode::BAD_REQUEST,
                "bad_target",
                "a request names a path of this host",
            );
        }
        if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
            return refuse(Trouble::BadRequest, StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "not here");
        }
        let Ok(caller) = Caller::of(peer, request.headers(), &self.settings.trust) else {
            return refuse(Trouble::BadRequest, StatusCode::BAD_REQUEST, "bad_host", "a request has one Host header");
        };
        match self.requests.place(caller.address) {
            Some(place) => Ok((caller, place)),
            // The platform must not take a busy caller for a dead container.
            None if route == Route::Health => Ok((caller, Place::none())),
            None => {
                let message = "too many requests of this address at once";
                let refused = refuse(Trouble::Address, StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message);
                refused.map_err(|response| Box::new(answers::retry_after(*response, 1)))
            }
        }
    }

    async fn dispatch(
        self: &Arc<Self>,
        route: Route<'_>,
        hold: &Arc<Hold>,
        caller: Caller,
        place: Place,
        request: Request<Incoming>,
        request_id: &str,
    ) -> Response<Answer> {
        let pass = |port, is_gateway, place| Passage {
            front: self,
            hold,
            caller: &caller,
            place,
            port,
            request_id,
            is_gateway,
        };
        match route {
            Route::Health => self.health(request.method()),
            Route::Winston(rest) => match mounted(rest, request) {
                Some(request) => api::answer(&self.app, request).await.map(|body| Answer::Ours { body, _place: place }),
                None => not_found(request_id),
            },
            Route::Setup(rest) => setup::answer(self, rest, &caller, place, request, request_id).await,
            Route::Webhook(port) => pass(port, false, place).pass(request).await,
            Route::Gateway => pass(self.settings.gateway_port, true, place).pass(request).await,
            Route::Nobody => not_found(request_id),
        }
    }

    /// Whether this container serves. It does as long as this answers: what the gateway does is told, and no reason to take the container away.
    fn health(&self, method: &Method) -> Response<Answer> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return answers::json(
                StatusCode::METHOD_NOT_ALLOWED,
                &json!({ "error": "GET, HEAD", "code": "method_not_allowed" }),
            );
        }
        let gateway = self.gateway.borrow();
        let exit =
            gateway.last_exit.as_ref().map(|exit| json!({ "code": exit.code, "signal": exit.signal, "at": exit.at }));
        let body = json!({
            "ok": true,
            "status": "ok",
            "wrapper": { "configured": self.shared.known().configured },
            "gateway": {
                "state": gateway.state,
                "reachable": gateway.state.is_up(),
                "lastError": null,
                "lastExit": exit,
                "lastDoctorAt": null,
            },
        });
        drop(gateway);
        answers::json(StatusCode::OK, &body)
    }
}

/// Waits until it is true, or can no longer become it.
pub(super) async fn true_in(word: &mut watch::Receiver<bool>) {
    let _ = word.wait_for(|word| *word).await;
}

pub(super) fn not_found(request_id: &str) -> Response<Answer> {
    answers::refusal(StatusCode::NOT_FOUND, "no_route", "there is no such endpoint", request_id)
}

/// A request below `/winston` as the sidecar's own router knows it: the old names as they are, everything else without the prefix.
fn mounted(rest: &str, mut request: Request<Incoming>) -> Option<Request<Incoming>> {
    let first = rest.strip_prefix('/')?.split('/').next().unwrap_or_default();
    if !matches!(first, "" | "files" | "changes" | "health" | "winston") {
        let target = match request.uri().query() {
            Some(query) => format!("{rest}?{query}"),
            None => rest.to_owned(),
        };
        *request.uri_mut() = target.parse::<Uri>().ok()?;
    }
    Some(request)
}
