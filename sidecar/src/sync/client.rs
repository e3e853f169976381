//! HTTP to control.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;
use winston_wire::env::Secret;
use winston_wire::{
    CONTENTS_TYPE, ChangeBatch, ChangeBatchAnswer, CheckIn, CheckInAnswer, ContentHash, ContentsAnswer, Desired,
    ErrorBody, ManifestDifferences, ManifestRange, SESSION_HEADER, SUPERSEDED, Timestamp,
};

use super::body::UploadBody;

const CONNECT_TIME: Duration = Duration::from_secs(10);
const CALL_TIME: Duration = Duration::from_secs(60);

/// Contents may be as slow as this, beyond [`CALL_TIME`].
const SLOWEST_BYTES_PER_SECOND: u64 = 16 * 1024;

/// The call that starts a session, and so does not name it in a header.
const CHECK_IN: &str = "/api/sidecar/check-in";

/// Largest JSON answer.
const ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// Why a call did not give an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody answered, or the answer broke off. Worth trying again.
    #[error("control cannot be reached: {0}")]
    Unreachable(String),
    /// Control cannot serve now. Worth trying again, not before `retry_after`.
    #[error("control cannot serve now ({status})")]
    Unavailable { status: StatusCode, retry_after: Option<Duration> },
    /// The token is not accepted.
    #[error("control does not accept WINSTON_SIDECAR_TOKEN")]
    Unauthorized,
    /// Another process checked in with the same token after us.
    #[error(
        "another sidecar with this tenant's token has taken over; stop one of the two and restart the one that should \
         serve (two volumes need two tenants)"
    )]
    Superseded,
    /// Control understood and said no.
    #[error("control refused ({status}, {code}): {message}")]
    Refused { status: StatusCode, code: String, message: String },
    /// The answer is larger than what we take.
    #[error("control's answer is larger than {limit} bytes")]
    TooLarge { limit: usize },
    /// Control answered something that we cannot read.
    #[error("control's answer is not understood: {0}")]
    BadAnswer(String),
}

/// The sidecar's side of `/api/sidecar`.
pub(crate) struct ControlClient {
    http: Client<HttpsConnector<HttpConnector>, UploadBody>,
    base: String,
    authorization: HeaderValue,
    session: (Uuid, HeaderValue),
    max_content: usize,
}

impl ControlClient {
    /// Prepares a client. Nothing is sent yet. `ca_file` is a PEM file with further authorities.
    pub(crate) fn new(base: &Uri, token: &Secret, ca_file: Option<&Path>, max_content: u64) -> io::Result<Self> {
        let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(path) = ca_file {
            let pem = std::fs::read(path)?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
            }
        }
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIME));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(4)
            .build(connector);
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
            .map_err(|_| io::Error::other("WINSTON_SIDECAR_TOKEN has characters that do not fit a header"))?;
        authorization.set_sensitive(true);
        let session = Uuid::now_v7();
        let named = HeaderValue::from_str(&session.to_string()).map_err(io::Error::other)?;
        let base = base.to_string().trim_end_matches('/').to_owned();
        let session = (session, named);
        Ok(Self { http, base, authorization, session, max_content: usize::try_from(max_content).unwrap_or(usize::MAX) })
    }

    /// Identity of this process towards control.
    pub(crate) fn session(&self) -> Uuid {
        self.session.0
    }

    /// `POST /api/sidecar/check-in`.
    pub(crate) async fn check_in(&self, body: &CheckIn) -> Result<CheckInAnswer, ClientError> {
        self.post(CHECK_IN, body).await
    }

    /// `POST /api/sidecar/changes`.
    pub(crate) async fn changes(&self, body: &ChangeBatch) -> Result<ChangeBatchAnswer, ClientError> {
        self.post("/api/sidecar/changes", body).await
    }

    /// `POST /api/sidecar/manifest`.
    pub(crate) async fn manifest(&self, body: &ManifestRange) -> Result<ManifestDifferences, ClientError> {
        self.post("/api/sidecar/manifest", body).await
    }

    /// `PUT /api/sidecar/contents/<hash>`.
    pub(super) async fn put_content(&self, hash: ContentHash, content: UploadBody) -> Result<(), ClientError> {
        let path = format!("/api/sidecar/contents/{hash}");
        // A slow line is no reason to start over for ever.
        let time = CALL_TIME + Duration::from_secs(content.len() / SLOWEST_BYTES_PER_SECOND);
        self.call(Method::PUT, &path, "application/octet-stream", content, time, ANSWER_BYTES).await?;
        Ok(())
    }

    /// `POST /api/sidecar/contents`: the body is a row of frames.
    pub(super) async fn put_contents(&self, frames: UploadBody) -> Result<ContentsAnswer, ClientError> {
        let time = CALL_TIME + Duration::from_secs(frames.len() / SLOWEST_BYTES_PER_SECOND);
        let answer =
            self.call(Method::POST, "/api/sidecar/contents", CONTENTS_TYPE, frames, time, ANSWER_BYTES).await?;
        parse(&answer)
    }

    /// `GET /api/sidecar/contents/<hash>`; the bytes are checked against the hash by the caller.
    pub(crate) async fn get_content(&self, hash: ContentHash) -> Result<Bytes, ClientError> {
        let path = format!("/api/sidecar/contents/{hash}");
        let time = CALL_TIME + Duration::from_secs(self.max_content as u64 / SLOWEST_BYTES_PER_SECOND);
        self.call(Method::GET, &path, "application/json", Bytes::new(), time, self.max_content).await
    }

    /// `GET /api/sidecar/desired`, answered by control at once or when there is something newer, after `wait` at the latest.
    pub(crate) async fn desired(&self, generation: u64, wait: Duration) -> Result<Desired, ClientError> {
        let path = format!("/api/sidecar/desired?generation={generation}&wait={}", wait.as_secs());
        let time = wait + CALL_TIME / 4;
        let answer = self.call(Method::GET, &path, "application/json", Bytes::new(), time, ANSWER_BYTES).await?;
        parse(&answer)
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::BadAnswer(error.to_string()))?;
        let answer =
            self.call(Method::POST, path, "application/json", Bytes::from(body), CALL_TIME, ANSWER_BYTES).await?;
        parse(&answer)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: impl Into<UploadBody>,
        time: Duration,
        limit: usize,
    ) -> Result<Bytes, ClientError> {
        let mut request = Request::builder();
        if path != CHECK_IN {
            request = request.header(SESSION_HEADER, self.session.1.clone());
        }
        let request = request
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, content_type)
            .body(body.into())
            .map_err(|error| ClientError::BadAnswer(error.to_string()))?;
        let exchange = async {
            let response = self.http.request(request).await.map_err(|error| ClientError::Unreachable(chain(&error)))?;
            let (parts, body) = response.into_parts();
            let limited = Limited::new(body, limit);
            match limited.collect().await {
                Ok(body) => Ok((parts, body.to_bytes())),
                Err(error) if error.is::<LengthLimitError>() => Err(ClientError::TooLarge { limit }),
                Err(error) => Err(ClientError::Unreachable(error.to_string())),
            }
        };
        let (parts, body) = tokio::time::timeout(time, exchange)
            .await
            .map_err(|_| ClientError::Unreachable("no answer in time".to_owned()))??;
        if parts.status.is_success() {
            return Ok(body);
        }
        Err(failure(parts.status, &parts.headers, &body))
    }
}

fn failure(status: StatusCode, headers: &http::HeaderMap, body: &[u8]) -> ClientError {
    if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
        return ClientError::Unauthorized;
    }
    if status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT) {
        let retry_after = headers.get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| wait_of(text, Timestamp::now()));
        return ClientError::Unavailable { status, retry_after };
    }
    let said = serde_json::from_slice::<ErrorBody>(body).ok();
    let (code, message) = said.map_or_else(Default::default, |said| (said.code, said.error));
    if status == StatusCode::CONFLICT && code == SUPERSEDED {
        return ClientError::Superseded;
    }
    ClientError::Refused { status, code, message }
}

/// `Retry-After`: seconds, or a date in the form of HTTP.
fn wait_of(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = format!("{} +0000", text.strip_suffix("GMT")?.trim_end());
    let date = Timestamp::strptime("%a, %d %b %Y %H:%M:%S %z", date).ok()?;
    Some(Duration::from_secs(u64::try_from(date.as_second().saturating_sub(now.as_second())).unwrap_or(0)))
}

fn parse<T: DeserializeOwned>(answer: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(answer).map_err(|error| ClientError::BadAnswer(error.to_string()))
}

/// An error with its causes: hyper's own texts only say which step failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        let now: Timestamp = "2026-02-11T10:00:00Z".parse().unwrap();
        assert_eq!(wait_of("120", now), Some(Duration::from_secs(120)));
        assert_eq!(wait_of("Wed, 11 Feb 2026 10:01:30 GMT", now), Some(Duration::from_secs(90)));
        assert_eq!(wait_of("Wed, 11 Feb 2026 09:00:00 GMT", now), Some(Duration::ZERO));
        for text in ["", "soon", "-5", "Wed, 11 Feb 2026 10:01:30"] {
            assert_eq!(wait_of(text, now), None, "{text}");
        }
    }

    #[test]
    fn being_superseded_is_no_ordinary_refusal() {
        let said = |code: &str| format!("{{\"error\":\"x\",\"code\":\"{code}\"}}").into_bytes();
        let failed = |status, code| failure(status, &http::HeaderMap::new(), &said(code));
        assert!(matches!(failed(StatusCode::CONFLICT, SUPERSEDED), ClientError::Superseded));
        assert!(matches!(failed(StatusCode::CONFLICT, "conflict"), ClientError::Refused { .. }));
        assert!(matches!(failed(StatusCode::NOT_FOUND, SUPERSEDED), ClientError::Refused { .. }));
    }
}
