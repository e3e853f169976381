//! The gateway's WebSocket RPC (protocol 4), as much of it as one call needs.
//!
//! ```text
//!  gateway → {"type":"event","event":"connect.challenge",…}
//!  sidecar → {"type":"req","id":"1","method":"connect","params":{…,"auth":{"token":…}}}
//!  gateway → {"type":"res","id":"1","ok":true,"payload":{"type":"hello-ok",…}}
//!  sidecar → {"type":"req","id":"2","method":…,"params":…}
//!  gateway → {"type":"res","id":"2","ok":true,"payload":…}
//! ```
//!
//! A backend on loopback that names itself `gateway-client` and knows the shared secret needs no device identity.
//! That holds only without an `Origin` and without forwarding headers.

use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use winston_wire::env::Secret;

use super::logs::Redactor;

/// Version of the gateway's protocol.
const PROTOCOL: u32 = 4;

/// The greeting lists some 500 methods and events; nothing that we ask for is larger.
const LARGEST_MESSAGE: usize = 4 << 20;

/// Ids of the two requests.
const CONNECT: &str = "1";
const CALL: &str = "2";

/// Why a call has no result.
#[derive(Debug, Error)]
pub(crate) enum RpcError {
    #[error("the gateway does not accept connections")]
    Connect(#[source] std::io::Error),
    #[error("the connection to the gateway failed")]
    Socket(#[source] Box<tungstenite::Error>),
    #[error("the gateway closed the connection")]
    Closed,
    #[error("the gateway refused {method}: {code}: {message}")]
    Refused { method: String, code: String, message: String },
    #[error("the gateway did not answer in time")]
    TimedOut,
}

impl From<tungstenite::Error> for RpcError {
    fn from(error: tungstenite::Error) -> Self {
        Self::Socket(Box::new(error))
    }
}

/// What the gateway sends, as far as we care.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Frame {
    Event {
        event: String,
    },
    Res {
        id: String,
        #[serde(default)]
        ok: bool,
        #[serde(default)]
        payload: Value,
        #[serde(default)]
        error: Fault,
    },
    #[serde(other)]
    Other,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Fault {
    code: String,
    message: String,
}

/// Connects, makes one call and returns its payload. Takes at most `limit`.
pub(crate) async fn call(
    port: u16,
    secret: &Secret,
    method: &str,
    params: Value,
    limit: Duration,
) -> Result<Value, RpcError> {
    tokio::time::timeout(limit, converse(port, secret, method, params)).await.unwrap_or(Err(RpcError::TimedOut))
}

async fn converse(port: u16, secret: &Secret, method: &str, params: Value) -> Result<Value, RpcError> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(RpcError::Connect)?;
    let config =
        WebSocketConfig::default().max_message_size(Some(LARGEST_MESSAGE)).max_frame_size(Some(LARGEST_MESSAGE));
    let url = format!("ws://127.0.0.1:{port}/");
    let (mut socket, _) = tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await?;
    loop {
        if let Frame::Event { event } = receive(&mut socket).await?
            && event == "connect.challenge"
        {
            break;
        }
    }
    request(&mut socket, CONNECT, "connect", connect_params(secret)).await?;
    let result = request(&mut socket, CALL, method, params).await;
    // Whatever it says to our farewell, the call has been made.
    let _ = socket.close(None).await;
    result
}

fn connect_params(secret: &Secret) -> Value {
    json!({
        "minProtocol": PROTOCOL,
        "maxProtocol": PROTOCOL,
        "client": {
            "id": "gateway-client",
            "mode": "backend",
            "version": env!("CARGO_PKG_VERSION"),
            "platform": "linux",
        },
        "role": "operator",
        "scopes": ["operator.read", "operator.write", "operator.admin"],
        "caps": [],
        "auth": { "token": secret.expose() },
    })
}

async fn request(
    socket: &mut WebSocketStream<TcpStream>,
    id: &str,
    method: &str,
    params: Value,
) -> Result<Value, RpcError> {
    let frame = json!({ "type": "req", "id": id, "method": method, "params": params });
    socket.send(Message::text(frame.to_string())).await?;
    loop {
        if let Some(result) = answer(receive(socket).await?, id, method) {
            return result;
        }
    }
}

/// Most bytes that are kept of a refusal's words.
const LONGEST_REFUSAL: usize = 16 * 1024;

/// The result, if this frame is the answer to request `id`.
fn answer(frame: Frame, id: &str, method: &str) -> Option<Result<Value, RpcError>> {
    match frame {
        Frame::Res { id: answered, ok, payload, error } if answered == id => Some(if ok {
            Ok(payload)
        } else {
            // Its words go to our log, and to callers: whoever knows the tenant's secrets cuts them to what is shown.
            let words = |text: &str| Redactor::new([]).excerpt(text, LONGEST_REFUSAL);
            let (code, message) = (words(&error.code), words(&error.message));
            Err(RpcError::Refused { method: method.to_owned(), code, message })
        }),
        _ => None,
    }
}

/// The next frame. What cannot be parsed is none of ours.
async fn receive(socket: &mut WebSocketStream<TcpStream>) -> Result<Frame, RpcError> {
    loop {
        match socket.next().await.ok_or(RpcError::Closed)?? {
            Message::Text(text) => {
                return Ok(serde_json::from_str(&text).unwrap_or(Frame::Other));
            }
            Message::Close(_) => return Err(RpcError::Closed),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Frame {
        serde_json::from_str(text).expect("a frame")
    }

    #[test]
    fn recorded_frames_are_understood() {
        assert_eq!(
            parse(r#"{"type":"event","event":"connect.challenge","payload":{"nonce":"b18e","ts":1}}"#),
            Frame::Event { event: "connect.challenge".into() }
        );
        assert_eq!(parse(r#"{"type":"tick","x":[1]}"#), Frame::Other);
        let hello = parse(r#"{"type":"res","id":"1","ok":true,"payload":{"protocol":4}}"#);
        let payload = answer(hello, CONNECT, "connect").expect("ours").expect("ok");
        assert_eq!(payload["protocol"], 4);
    }

    #[test]
    fn a_refusal_says_what_the_gateway_says() {
        let frame = r#"{"type":"res","id":"2","ok":false,"error":{"code":"INVALID_REQUEST","message":"no"}}"#;
        assert!(answer(parse(frame), CONNECT, "x").is_none());
        let error = answer(parse(frame), CALL, "gateway.restart.request").expect("ours").expect_err("refused");
        assert_eq!(error.to_string(), "the gateway refused gateway.restart.request: INVALID_REQUEST: no");
    }

    #[test]
    fn a_refusal_has_an_end() {
        let words = "why ".repeat(100_000);
        let frame = json!({"type": "res", "id": CALL, "ok": false, "error": {"code": words, "message": words}});
        let error = answer(parse(&frame.to_string()), CALL, "x").expect("ours").expect_err("refused");
        assert!(error.to_string().len() < 3 * LONGEST_REFUSAL, "{} bytes", error.to_string().len());
    }
}
