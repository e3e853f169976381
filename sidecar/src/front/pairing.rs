//! Letting the browser of a signed-in operator in.
//!
//! The gateway lets a browser in only when its device has been approved, and closes the connection until then: 1008 `pairing required`. Whoever
//! has signed in here ([`super::sessions`]) is who would approve it. So of a WebSocket that comes with a session the first messages are looked
//! at, on both sides:
//!
//! ```text
//!  browser → {"type":"req","id":I,"method":"connect","params":{"role":"operator","device":{"id":D,…},…}}
//!  gateway → {"type":"res","id":I,"ok":false,"error":{"code":"NOT_PAIRED",…}}
//!  sidecar → device.pair.list, and device.pair.approve of the request of D, if there is one
//!  browser ← close 1012; it connects again, as after every restart of the gateway, and is in
//! ```
//!
//! The gateway has checked by then that the browser has the key of D, and the shared secret. Nothing is added to what anybody sends; without a
//! pending request of that very device, or with any other answer, everything goes on as if nobody had looked.

use std::io;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::frames::{self, Kind, LARGEST, Seen};
use super::tunnel::write_all;
use crate::gateway::{RpcError, rpc_call};
use winston_wire::env::Secret;

/// From the upgrade to the answer to `connect`.
const HANDSHAKE_TIME: Duration = Duration::from_secs(30);

/// Longest time for one question to the gateway.
const RPC_TIME: Duration = Duration::from_secs(5);

/// Most bytes that are kept of one side.
const MOST: usize = LARGEST + 16;

/// Close code by which the gateway announces that one may connect again.
const AGAIN: u16 = 1012;

/// How to ask the gateway.
#[derive(Clone)]
pub(super) struct Operator {
    pub(super) port: u16,
    pub(super) secret: Secret,
}

/// What came of looking.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything that was said has been passed on; the rest is nobody's business.
    CarryOn,
    /// The device was approved; the browser has been told to come again.
    Approved,
    /// One side has gone.
    Ended,
}

/// What a browser says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Connect {
    request: String,
    device: String,
}

#[derive(Deserialize)]
struct Message {
    r#type: String,
    #[serde(default)]
    id: Value,
    #[serde(default)]
    method: String,
    #[serde(default)]
    params: Params,
    #[serde(default)]
    ok: bool,
    #[serde(default)]
    error: Fault,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Params {
    role: String,
    device: Device,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Device {
    id: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Fault {
    code: String,
}

/// The device that asks for an operator's place, if this message is that.
fn connect_of(text: &[u8]) -> Option<Connect> {
    let message: Message = serde_json::from_slice(text).ok()?;
    let is_it = message.r#type == "req" && message.method == "connect" && message.params.role == "operator";
    let (Value::String(request), device) = (message.id, message.params.device.id) else { return None };
    (is_it && !device.is_empty()).then_some(Connect { request, device })
}

/// Whether this message answers `connect`; if so, whether with `NOT_PAIRED`.
fn answer_to(connect: &Connect, text: &[u8]) -> Option<bool> {
    let message: Message = serde_json::from_slice(text).ok()?;
    (message.r#type == "res" && message.id == connect.request.as_str())
        .then_some(!message.ok && message.error.code == "NOT_PAIRED")
}

/// Bytes of one side that are not passed on or looked at yet.
struct Side<'a> {
    from: &'a TcpStream,
    ahead: Vec<u8>,
}

impl Side<'_> {
    /// Reads what is there; `false` at the end.
    async fn more(&mut self) -> io::Result<bool> {
        loop {
            self.from.readable().await?;
            match self.from.try_read_buf(&mut self.ahead) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Ok(read? > 0),
            }
        }
    }
}

/// Carries the first messages of a WebSocket. `ahead` are the bytes of client and gateway that have been read already.
pub(super) async fn usher(
    client: &TcpStream,
    gateway: &TcpStream,
    ahead: (Vec<u8>, Vec<u8>),
    operator: &Operator,
) -> io::Result<Outcome> {
    let mut from_client = Side { from: client, ahead: ahead.0 };
    let mut from_gateway = Side { from: gateway, ahead: ahead.1 };
    let outcome = watch(&mut from_client, &mut from_gateway, client, gateway, operator).await?;
    if outcome == Outcome::CarryOn {
        write_all(gateway, &from_client.ahead).await?;
        write_all(client, &from_gateway.ahead).await?;
    }
    Ok(outcome)
}

async fn watch(
    from_client: &mut Side<'_>,
    from_gateway: &mut Side<'_>,
    client: &TcpStream,
    gateway: &TcpStream,
    operator: &Operator,
) -> io::Result<Outcome> {
    let mut connect: Option<Connect> = None;
    // Around the waiting only: a frame that has begun to be passed on is passed on whole.
    let late = Instant::now() + HANDSHAKE_TIME;
    loop {
        // The client's side until it has said who it is; a frame that cannot be looked into ends the looking.
        while connect.is_none() {
            match frames::first(&from_client.ahead) {
                Seen::Partial => break,
                Seen::Opaque => return Ok(Outcome::CarryOn),
                Seen::Frame { length, kind } => {
                    let is_text = match kind {
                        Kind::Text(text) => {
                            connect = connect_of(&text);
                            true
                        }
                        Kind::Control | Kind::Other => false,
                    };
                    pass(&mut from_client.ahead, length, gateway).await?;
                    // The first text is `connect` or this is nothing of ours.
                    if is_text && connect.is_none() {
                        return Ok(Outcome::CarryOn);
                    }
                }
            }
        }
        loop {
            match frames::first(&from_gateway.ahead) {
                Seen::Partial => break,
                Seen::Opaque => return Ok(Outcome::CarryOn),
                Seen::Frame { length, kind } => {
                    if let (Kind::Text(text), Some(connect)) = (kind, &connect) {
                        match answer_to(connect, &text) {
                            Some(true) if approve(operator, &connect.device).await => {
                                write_all(client, &frames::close(AGAIN, "device approved, connect again")).await?;
                                return Ok(Outcome::Approved);
                            }
                            Some(_) => return Ok(Outcome::CarryOn),
                            None => {}
                        }
                    }
                    pass(&mut from_gateway.ahead, length, client).await?;
                }
            }
        }
        if from_client.ahead.len() > MOST || from_gateway.ahead.len() > MOST {
            return Ok(Outcome::CarryOn);
        }
        let is_open = tokio::select! {
            more = from_client.more(), if connect.is_none() => more?,
            more = from_gateway.more() => more?,
            () = tokio::time::sleep_until(late) => return Ok(Outcome::CarryOn),
        };
        if !is_open {
            return Ok(Outcome::Ended);
        }
    }
}

/// Passes the first bytes on.
async fn pass(ahead: &mut Vec<u8>, length: usize, to: &TcpStream) -> io::Result<()> {
    let frame: Vec<u8> = ahead.drain(..length).collect();
    write_all(to, &frame).await
}

/// Approves the pending request of this device, if the gateway has one; whether it did.
async fn approve(operator: &Operator, device: &str) -> bool {
    match try_approve(operator, device).await {
        Ok(Some(request)) => {
            tracing::info!(device, request, "approved the device of a signed-in operator");
            true
        }
        Ok(None) => {
            tracing::info!(device, "no request of this device waits for approval");
            false
        }
        Err(error) => {
            tracing::warn!(device, %error, "could not approve the device of a signed-in operator");
            false
        }
    }
}

async fn try_approve(operator: &Operator, device: &str) -> Result<Option<String>, RpcError> {
    let pending = pending(operator).await?;
    let Some(request) = request_of(&pending, device) else { return Ok(None) };
    approve_request(operator, &request).await?;
    Ok(Some(request))
}

/// The requests that wait, as the gateway lists them.
pub(super) async fn pending(operator: &Operator) -> Result<Value, RpcError> {
    rpc_call(operator.port, &operator.secret, "device.pair.list", json!({}), RPC_TIME).await
}

/// Approves one request.
pub(super) async fn approve_request(operator: &Operator, request: &str) -> Result<Value, RpcError> {
    rpc_call(operator.port, &operator.secret, "device.pair.approve", json!({ "requestId": request }), RPC_TIME).await
}

/// The newest operator's request of this very device.
fn request_of(list: &Value, device: &str) -> Option<String> {
    let is_its = |request: &&Value| {
        let role = request["role"].as_str();
        request["deviceId"] == device && (role.is_none() || role == Some("operator"))
    };
    let requests = list["pending"].as_array()?.iter().filter(is_its);
    let newest = requests.max_by_key(|request| request["ts"].as_i64().unwrap_or(0))?;
    newest["requestId"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_says_who_it_is() {
        let hello = |role: &str, id: &str| {
            json!({"type": "req", "id": "7", "method": "connect", "params": {"role": role, "device": {"id": id, "publicKey": "k"}}})
                .to_string()
        };
        let connect = connect_of(hello("operator", "d1").as_bytes());
        assert_eq!(connect, Some(Connect { request: "7".to_owned(), device: "d1".to_owned() }));
        assert_eq!(connect_of(hello("node", "d1").as_bytes()), None);
        assert_eq!(connect_of(hello("operator", "").as_bytes()), None);
        for other in ["", "[]", "{\"type\":\"req\"}", "{\"type\":\"req\",\"id\":7,\"method\":\"connect\"}"] {
            assert_eq!(connect_of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn only_the_answer_to_it_counts() {
        let connect = Connect { request: "7".to_owned(), device: "d1".to_owned() };
        for (text, wanted) in [
            (r#"{"type":"event","event":"connect.challenge","payload":{}}"#, None),
            (r#"{"type":"res","id":"8","ok":false,"error":{"code":"NOT_PAIRED"}}"#, None),
            (
                r#"{"type":"res","id":"7","ok":false,"error":{"code":"NOT_PAIRED","message":"pairing required"}}"#,
                Some(true),
            ),
            (r#"{"type":"res","id":"7","ok":false,"error":{"code":"INVALID_REQUEST"}}"#, Some(false)),
            (r#"{"type":"res","id":"7","ok":true,"payload":{"type":"hello-ok"}}"#, Some(false)),
            ("not JSON", None),
        ] {
            assert_eq!(answer_to(&connect, text.as_bytes()), wanted, "{text}");
        }
    }

    #[test]
    fn the_request_of_that_device_is_found() {
        let list = json!({"pending": [
            {"requestId": "r1", "deviceId": "d1", "role": "operator", "ts": 1},
            {"requestId": "r2", "deviceId": "d2", "role": "operator", "ts": 3},
            {"requestId": "r3", "deviceId": "d1", "role": "operator", "ts": 2},
            {"requestId": "r4", "deviceId": "d1", "role": "node", "ts": 4},
        ], "paired": [{"deviceId": "d3"}]});
        assert_eq!(request_of(&list, "d1").as_deref(), Some("r3"));
        for device in ["d3", "d", ""] {
            assert_eq!(request_of(&list, device), None, "{device}");
        }
        assert_eq!(request_of(&json!({}), "d1"), None);
    }
}
