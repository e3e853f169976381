//! Passing a request on to the gateway, and its answer back.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_EXTENSIONS, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::addresses::Place;
use super::body::{Answer, BodyError, Paced, Passed};
use super::client::Caller;
use super::pairing::{self, Outcome};
use super::pool::{PassError, send_upgrade};
use super::server::{Front, Hold};
use super::stats::Trouble;
use super::strict::Strict;
use super::{answers, headers, sessions, tunnel, waiting};

/// From our 101 to both connections being free.
const UPGRADE_TIME: Duration = Duration::from_secs(10);

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// A request on its way, with what is known about it.
pub(super) struct Passage<'a> {
    pub(super) front: &'a Arc<Front>,
    pub(super) hold: &'a Arc<Hold>,
    pub(super) caller: &'a Caller,
    pub(super) place: Place,
    /// Port on loopback.
    pub(super) port: u16,
    pub(super) request_id: &'a str,
    /// It is the gateway itself that is asked, not one of its webhooks.
    pub(super) is_gateway: bool,
}

impl Passage<'_> {
    /// Answers with what the gateway answers, or says why it does not.
    pub(super) async fn pass(self, request: Request<Incoming>) -> Response<Answer> {
        let state = self.front.gateway_state();
        if self.is_gateway && !waiting::serves(state) {
            self.front.shared.trouble(Trouble::NotReady);
            return waiting::answer(state, waiting::wants_page(request.headers()), self.request_id);
        }
        let wants_page = waiting::wants_page(request.headers());
        let (front, request_id, port) = (self.front, self.request_id, self.port);
        let answer = if headers::has_word(request.headers(), &UPGRADE, "websocket")
            && headers::has_word(request.headers(), &CONNECTION, "upgrade")
        {
            self.websocket(request).await
        } else {
            self.ordinary(request).await
        };
        answer.unwrap_or_else(|error| failed(front, &error, port, wants_page, request_id))
    }

    async fn ordinary(self, request: Request<Incoming>) -> Result<Response<Answer>, PassError> {
        let (mut parts, body) = request.into_parts();
        let wants_trailers = headers::has_word(&parts.headers, &TE, "trailers");
        self.prepare(&mut parts.headers);
        if wants_trailers {
            parts.headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        parts.version = Version::HTTP_11;
        parts.extensions.clear();
        let request = Request::from_parts(parts, Paced::from_client(body));
        let (response, connection) = self.front.pool.send(self.port, request).await?;
        let place = self.place;
        Ok(tidy(response).map(|body| Answer::Gateway(Box::new(Passed::new(body, Some(connection), place)))))
    }

    async fn websocket(self, mut request: Request<Incoming>) -> Result<Response<Answer>, PassError> {
        let has_body = request.headers().contains_key(TRANSFER_ENCODING)
            || request.headers().get(CONTENT_LENGTH).is_some_and(|length| length != "0");
        if request.method() != Method::GET || request.version() != Version::HTTP_11 || has_body {
            self.front.shared.trouble(Trouble::BadRequest);
            let message = "a WebSocket begins with GET, HTTP/1.1 and no body";
            return Ok(answers::refusal(StatusCode::BAD_REQUEST, "bad_upgrade", message, self.request_id));
        }
        let of_client = hyper::upgrade::on(&mut request);
        let is_operator = self.is_gateway && self.front.sessions.admits(request.headers());
        let (mut parts, body) = request.into_parts();
        self.prepare(&mut parts.headers);
        parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(UPGRADE, WEBSOCKET);
        if is_operator {
            // Compressed messages could not be looked at.
            parts.headers.remove(SEC_WEBSOCKET_EXTENSIONS);
        }
        parts.extensions.clear();
        let request = Request::from_parts(parts, Paced::from_client(body));
        let mut response = send_upgrade(self.port, request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let place = self.place;
            return Ok(tidy(response).map(|body| Answer::Gateway(Box::new(Passed::new(body, None, place)))));
        }
        let of_gateway = hyper::upgrade::on(&mut response);
        let (front, hold, place) = (Arc::clone(self.front), Arc::clone(self.hold), self.place);
        tokio::spawn(async move {
            // Both count for as long as the tunnel does.
            let _held = (hold, place, front.shared.websocket());
            carried(&front, of_client, of_gateway, is_operator).await;
        });
        let mut response = tidy(response).map(|_| Answer::empty());
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        response.headers_mut().insert(UPGRADE, WEBSOCKET);
        Ok(response)
    }

    /// Makes the head of a request into one that the gateway may get.
    fn prepare(&self, head: &mut HeaderMap) {
        let front = self.front;
        let is_ours = |value: &HeaderValue| {
            front.app.token.is_in(value) || front.password.as_ref().is_some_and(|password| password.is_in(value))
        };
        headers::strip_hop_by_hop(head);
        headers::strip_our_credentials(head, is_ours, sessions::COOKIE_NAME);
        headers::strip_identity(head, &front.shared.known().view.user_headers);
        headers::say_who(head, self.caller);
    }
}

/// The head of an answer for our client.
fn tidy<B>(response: Response<B>) -> Response<B> {
    let (mut parts, body) = response.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Response::from_parts(parts, body)
}

/// What a request without an answer is told. The log has it once, here.
fn failed(front: &Front, error: &PassError, port: u16, wants_page: bool, request_id: &str) -> Response<Answer> {
    let refuse = |status, code, message| answers::refusal(status, code, message, request_id);
    let (trouble, response) = match error {
        PassError::Connect { .. } | PassError::ConnectTime => {
            (Trouble::NotReady, waiting::answer(front.gateway_state(), wants_page, request_id))
        }
        PassError::AnswerTime => (
            Trouble::Timeout,
            refuse(StatusCode::GATEWAY_TIMEOUT, "gateway_timeout", "the gateway did not answer in time"),
        ),
        PassError::Http(error) => match body_error(error) {
            Some(BodyError::Stalled) => {
                (Trouble::Client, refuse(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the request body took too long"))
            }
            Some(_) => (Trouble::Client, refuse(StatusCode::BAD_REQUEST, "bad_body", "the request body is not right")),
            None => (Trouble::Gateway, refuse(StatusCode::BAD_GATEWAY, "bad_gateway", "the gateway broke off")),
        },
    };
    front.shared.trouble(trouble);
    tracing::debug!(request_id, port, error = error as &dyn Error, "request not passed on");
    response
}

/// The client's part in a failure, if it has one.
fn body_error(error: &hyper::Error) -> Option<&BodyError> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(body) = error.downcast_ref() {
            return Some(body);
        }
        source = error.source();
    }
    None
}

/// A WebSocket from its 101 to its end.
async fn carried(front: &Front, of_client: OnUpgrade, of_gateway: OnUpgrade, is_operator: bool) {
    let both = async { tokio::try_join!(of_client, of_gateway) };
    let (client, gateway) = match timeout(UPGRADE_TIME, both).await {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => return tracing::debug!(%error, "an upgrade came to nothing"),
        Err(_) => return tracing::debug!("an upgrade took too long"),
    };
    let (Some((client, from_client)), Some((gateway, from_gateway))) =
        (freed::<TokioIo<Strict>>(client), freed::<TokioIo<TcpStream>>(gateway))
    else {
        return tracing::error!("an upgraded connection is none of ours");
    };
    let (client, gateway) = (client.into_inner().into_stream(), gateway.into_inner());
    let talk = async {
        let operator = front.operator.as_ref().filter(|_| is_operator);
        let outcome = match operator {
            Some(operator) => pairing::usher(&client, &gateway, (from_client, from_gateway), operator).await?,
            None => {
                tunnel::write_all(&gateway, &from_client).await?;
                tunnel::write_all(&client, &from_gateway).await?;
                Outcome::CarryOn
            }
        };
        match outcome {
            Outcome::Approved => front.shared.approved(),
            Outcome::CarryOn => tunnel::carry(&client, &gateway).await?,
            Outcome::Ended => {}
        }
        std::io::Result::Ok(())
    };
    let mut stopped = front.stopped.clone();
    tokio::select! {
        ended = talk => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a WebSocket broke off");
            }
        }
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
}

/// The connection below an upgrade, and what has been read of it ahead.
fn freed<T: hyper::rt::Read + hyper::rt::Write + Unpin + 'static>(upgraded: Upgraded) -> Option<(T, Vec<u8>)> {
    let parts = upgraded.downcast::<T>().ok()?;
    Some((parts.io, parts.read_buf.to_vec()))
}
