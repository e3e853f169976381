//! The few commands that clients of the old wrapper send, and the browsers that wait to be let in.

use std::fmt::Write as _;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::answers::{Refused, json};
use super::super::body::Answer;
use super::super::pairing::{self, Operator};
use super::super::server::Front;
use super::{program, version};
use crate::gateway::{GatewayError, RpcError};
use winston_wire::GatewayStatus;

/// Lines of the gateway's log: fewest, usual, most.
const LINES: (usize, usize, usize) = (50, 200, 1000);

#[derive(Deserialize)]
struct Command {
    cmd: String,
    #[serde(default)]
    arg: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Approval {
    #[serde(default)]
    request_id: String,
}

/// `POST /setup/api/console/run`: answers once the command is carried out.
pub(super) async fn run(front: &Arc<Front>, request: Request<Incoming>) -> Response<Answer> {
    let command: Command = match super::body(request).await {
        Ok(command) => command,
        Err(refusal) => return *refusal,
    };
    let gateway = &front.app.gateway;
    let arg = command.arg.as_ref().and_then(Value::as_str);
    match command.cmd.as_str() {
        "gateway.restart" => ordered(gateway.restart().await, "Gateway restarted (wrapper-managed).\n"),
        "gateway.stop" => ordered(gateway.stop().await, "Gateway stopped (wrapper-managed).\n"),
        "gateway.start" => ordered(gateway.start().await, "Gateway started (wrapper-managed).\n"),
        "openclaw.version" => match version::openclaw(front).await {
            Some(version) => output(StatusCode::OK, true, format!("{version}\n")),
            None => output(StatusCode::INTERNAL_SERVER_ERROR, false, "the openclaw program was not found\n".to_owned()),
        },
        "openclaw.status" | "openclaw.health" => {
            let status = serde_json::to_string_pretty(&gateway.status()).unwrap_or_default();
            output(StatusCode::OK, true, status + "\n")
        }
        "openclaw.logs.tail" => {
            let lines = front.app.gateway.logs(lines(command.arg.as_ref()));
            let text = lines.iter().fold(String::new(), |mut text, line| {
                // Writing into a string cannot fail.
                let _ = writeln!(text, "{} {}", line.time, line.line);
                text
            });
            output(StatusCode::OK, true, text)
        }
        "openclaw.devices.list" => match asked(front) {
            Ok(operator) => match pairing::pending(operator).await {
                Ok(list) => {
                    output(StatusCode::OK, true, serde_json::to_string_pretty(&list).unwrap_or_default() + "\n")
                }
                Err(error) => rpc_failed(&error),
            },
            Err(refusal) => *refusal,
        },
        "openclaw.doctor" => program::doctor(front).await,
        "openclaw.config.get" => program::config(front, arg).await,
        "openclaw.plugins.list" => program::plugins(front).await,
        "openclaw.plugins.enable" => program::enable(front, arg).await,
        "openclaw.devices.approve" => match arg {
            Some(id) => approve_request(front, id).await,
            None => json(StatusCode::BAD_REQUEST, &json!({ "ok": false, "error": "Missing device request ID" })),
        },
        _ => json(StatusCode::BAD_REQUEST, &json!({ "ok": false, "error": "Command not allowed" })),
    }
}

/// `GET /setup/api/devices/pending`.
pub(super) async fn pending(front: &Front) -> Response<Answer> {
    let operator = match asked(front) {
        Ok(operator) => operator,
        Err(refusal) => return *refusal,
    };
    match pairing::pending(operator).await {
        Ok(list) => {
            let requests = list["pending"].as_array().cloned().unwrap_or_default();
            let ids: Vec<&str> = requests.iter().filter_map(|request| request["requestId"].as_str()).collect();
            let text = serde_json::to_string_pretty(&requests).unwrap_or_default();
            json(StatusCode::OK, &json!({ "ok": true, "requestIds": ids, "output": text }))
        }
        Err(error) => rpc_failed(&error),
    }
}

/// `POST /setup/api/devices/approve`.
pub(super) async fn approve(front: &Front, request: Request<Incoming>) -> Response<Answer> {
    match super::body::<Approval>(request).await {
        Ok(approval) => approve_request(front, &approval.request_id).await,
        Err(refusal) => *refusal,
    }
}

async fn approve_request(front: &Front, id: &str) -> Response<Answer> {
    let refuse = |error: &str| json(StatusCode::BAD_REQUEST, &json!({ "ok": false, "error": error }));
    if id.is_empty() {
        return refuse("Missing device request ID");
    }
    if id.len() > 128 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')) {
        return refuse("Invalid device request ID");
    }
    match asked(front) {
        Ok(operator) => match pairing::approve_request(operator, id).await {
            Ok(_) => {
                front.shared.approved();
                tracing::info!(request = id, "an operator approved a device");
                output(StatusCode::OK, true, "Device approved.\n".to_owned())
            }
            Err(error) => rpc_failed(&error),
        },
        Err(refusal) => *refusal,
    }
}

fn asked(front: &Front) -> Result<&Operator, Refused> {
    front.operator.as_ref().ok_or_else(|| {
        Box::new(output(
            StatusCode::INTERNAL_SERVER_ERROR,
            false,
            "OPENCLAW_GATEWAY_TOKEN is not set, so the gateway cannot be asked\n".to_owned(),
        ))
    })
}

fn rpc_failed(error: &RpcError) -> Response<Answer> {
    output(StatusCode::INTERNAL_SERVER_ERROR, false, format!("{error}\n"))
}

fn ordered(answer: Result<GatewayStatus, GatewayError>, done: &str) -> Response<Answer> {
    match answer {
        Ok(_) => output(StatusCode::OK, true, done.to_owned()),
        Err(error) => output(StatusCode::INTERNAL_SERVER_ERROR, false, format!("{error}\n")),
    }
}

pub(super) fn output(status: StatusCode, ok: bool, text: String) -> Response<Answer> {
    json(status, &json!({ "ok": ok, "output": text }))
}

/// How many lines are asked for: a number, or digits in a text.
fn lines(arg: Option<&Value>) -> usize {
    let (fewest, usual, most) = LINES;
    let asked = match arg {
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    asked.map_or(usual, |asked| usize::try_from(asked).unwrap_or(most).clamp(fewest, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_between_the_limits() {
        for (arg, wanted) in [
            (json!(null), 200),
            (json!("300"), 300),
            (json!(300), 300),
            (json!("1"), 50),
            (json!(99_999), 1000),
            (json!(-1), 200),
            (json!("many"), 200),
        ] {
            assert_eq!(lines(Some(&arg)), wanted, "{arg}");
        }
        assert_eq!(lines(None), 200);
    }
}
