//! A table of requests and what is answered, and the shapes that answers are compared with.

use anyhow::Result;
use serde_json::{Value, json};
use winston_tests::http::{Answer, request};
use winston_tests::process::TEST_TOKEN;
use winston_tests::sidecar::Sidecar;

/// What a request carries.
#[derive(Clone, Copy)]
pub(crate) enum Body {
    None,
    /// JSON with its content type.
    Json(&'static str),
    /// A form, which neither sidecar took.
    Form(&'static str),
}

/// One row: token or not, method, path, body, status, shape of the answer (see [`matches`]).
pub(crate) struct Row(
    pub(crate) bool,
    pub(crate) &'static str,
    pub(crate) &'static str,
    pub(crate) Body,
    pub(crate) u16,
    pub(crate) Value,
);

/// A shape is JSON whose strings are types: `string`, `int`, `number`, `null`, `iso` (a time with milliseconds), `sha256`, `uuid`, `=text`
/// for this text, `~text` for one that contains it. Objects have exactly these keys, but those that begin with `?` may be missing. A list of one shape is a list
/// of any number (but not none) of it.
fn matches(shape: &Value, value: &Value, place: &str) -> Result<(), String> {
    let wrong = || Err(format!("{place}: {value} is not {shape}"));
    match shape {
        Value::Object(keys) => {
            let Value::Object(values) = value else { return wrong() };
            for (key, shape) in keys {
                let (name, optional) = key.strip_prefix('?').map_or((key.as_str(), false), |name| (name, true));
                match values.get(name) {
                    Some(value) => matches(shape, value, &format!("{place}.{name}"))?,
                    None if optional => {}
                    None => return Err(format!("{place}: {name} is missing in {value}")),
                }
            }
            let known = |name: &String| keys.contains_key(name) || keys.contains_key(&format!("?{name}"));
            match values.keys().find(|name| !known(name)) {
                Some(name) => Err(format!("{place}: {name} is too much in {value}")),
                None => Ok(()),
            }
        }
        Value::Array(shapes) if shapes.len() == 1 => {
            let Value::Array(values) = value else { return wrong() };
            if values.is_empty() {
                return wrong();
            }
            values.iter().enumerate().try_for_each(|(at, value)| matches(&shapes[0], value, &format!("{place}[{at}]")))
        }
        Value::Array(shapes) => {
            let Value::Array(values) = value else { return wrong() };
            if values.len() != shapes.len() {
                return wrong();
            }
            let pairs = shapes.iter().zip(values).enumerate();
            pairs.into_iter().try_for_each(|(at, (shape, value))| matches(shape, value, &format!("{place}[{at}]")))
        }
        Value::String(kind) => {
            let text = value.as_str().unwrap_or("");
            let hexadecimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let fits = match kind.as_str() {
                "string" => value.is_string(),
                "int" => value.is_u64(),
                "number" => value.is_number(),
                "null" => value.is_null(),
                "sha256" => text.len() == 64 && hexadecimal(text),
                "iso" => text.len() == 24 && text.ends_with('Z') && &text[10..11] == "T" && &text[19..20] == ".",
                "time" => text.ends_with('Z') && text.get(10..11) == Some("T"),
                other => match (other.strip_prefix('='), other.strip_prefix('~')) {
                    (Some(wanted), _) => text == wanted,
                    (None, Some(part)) => text.contains(part),
                    (None, None) => return Err(format!("{place}: {other} is no kind")),
                },
            };
            if fits { Ok(()) } else { wrong() }
        }
        other if other == value => Ok(()),
        _ => wrong(),
    }
}

fn call(sidecar: &Sidecar, row: &Row) -> Result<Answer> {
    let Row(token, method, path, body, ..) = row;
    let bearer = format!("Bearer {TEST_TOKEN}");
    let mut headers = Vec::new();
    if *token {
        headers.push(("Authorization", bearer.as_str()));
    }
    let body = match body {
        Body::None => "",
        Body::Json(text) => {
            headers.push(("Content-Type", "application/json"));
            text
        }
        Body::Form(text) => {
            headers.push(("Content-Type", "application/x-www-form-urlencoded"));
            text
        }
    };
    request(sidecar.address(), method, path, &headers, body.as_bytes())
}

/// Runs the rows one after the other and tells of all that differ.
pub(crate) fn check(sidecar: &Sidecar, rows: &[Row]) -> Result<()> {
    let mut wrong = Vec::new();
    for row in rows {
        let Row(_, method, path, _, status, shape) = row;
        let answer = call(sidecar, row)?;
        let is_json = answer.header("content-type") == Some("application/json");
        let told = if answer.status != *status {
            Err(format!("{} instead of {status}: {}", answer.status, answer.text()))
        } else if !is_json {
            Err(format!("not JSON: {:?}", answer.header("content-type")))
        } else {
            matches(shape, &answer.json()?, "answer")
        };
        if let Err(why) = told {
            wrong.push(format!("{method} {path}: {why}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// An error of today: the old `error` text, and beside it what programs can rely on.
pub(crate) fn error(text: &str) -> Value {
    json!({ "error": format!("={text}"), "code": "string", "request_id": "string", "?path": "string", "?remedy": "string" })
}

/// An error that was a page of HTML or a message of the runtime, of which only the status was promised.
pub(crate) fn any_error() -> Value {
    json!({ "error": "string", "code": "string", "request_id": "string", "?path": "string" })
}
