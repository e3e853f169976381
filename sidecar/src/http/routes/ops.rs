//! `POST /files/<path>?op=`: what is done with a name; and `DELETE`, of files and of directories.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use winston_wire::ContentHash;

use super::super::body::{self, Body, ReadBody};
use super::super::error::ApiError;
use super::super::query::Query;
use super::super::{App, blocking};
use super::files::{author, precondition};
use crate::edits::{Author, Edits, Precondition};
use crate::fs::TenantPath;

/// Longest body of an operation: two paths with every byte escaped.
const BODY_BYTES: u64 = 64 * 1024;

/// An operation as the query and the body say it.
#[derive(Debug, PartialEq, Eq)]
enum Op {
    Move { to: TenantPath, target: Precondition },
    Copy { to: TenantPath, overwrite: bool },
    MakeDirectory,
    Mode(u32),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    to: String,
    #[serde(default)]
    overwrite: bool,
    /// Hash of the file that may be replaced.
    to_hash: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModeBody {
    mode: String,
}

impl Op {
    fn parse(op: Option<&str>, body: &[u8]) -> Result<Self, ApiError> {
        match op {
            Some("move") => {
                let Target { to, overwrite, to_hash } = json(body)?;
                let target = target(overwrite, to_hash.as_deref())?;
                Ok(Self::Move { to: TenantPath::parse(&to)?, target })
            }
            Some("copy") => {
                let Target { to, overwrite, to_hash } = json(body)?;
                if to_hash.is_some() {
                    return Err(ApiError::bad_request("bad_json", "to_hash is for op=move"));
                }
                Ok(Self::Copy { to: TenantPath::parse(&to)?, overwrite })
            }
            Some("mkdir") => Ok(Self::MakeDirectory),
            Some("mode") => Ok(Self::Mode(mode(&json::<ModeBody>(body)?.mode)?)),
            _ => Err(ApiError::bad_request("bad_op", "op must be move, copy, mkdir or mode")),
        }
    }
}

/// What may be at the target of a move.
pub(super) fn target(overwrite: bool, to_hash: Option<&str>) -> Result<Precondition, ApiError> {
    match (to_hash, overwrite) {
        (Some(hash), true) => {
            let hash = hash.trim_matches('"').parse();
            Ok(Precondition::Match(hash.map_err(|_| ApiError::bad_request("bad_hash", "to_hash is not a SHA-256"))?))
        }
        (Some(_), false) => Err(ApiError::bad_request("bad_json", "to_hash needs overwrite: true")),
        (None, true) => Ok(Precondition::None),
        (None, false) => Ok(Precondition::Absent),
    }
}

/// Permission bits in octal. The bits above them change who a program runs as.
pub(super) fn mode(text: &str) -> Result<u32, ApiError> {
    let bad = || ApiError::bad_request("bad_mode", "mode must be octal permission bits, for example \"0644\"");
    if text.is_empty() || text.len() > 5 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let mode = u32::from_str_radix(text, 8).map_err(|_| bad())?;
    if mode > 0o777 { Err(bad()) } else { Ok(mode) }
}

fn json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::bad_request("bad_json", format!("bad JSON: {error}")))
}

/// Answers; each operation has its own members.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer<'a> {
    Moved {
        success: bool,
        path: &'a str,
        previous_path: &'a str,
        hash: Option<ContentHash>,
        created: bool,
        seq: Option<u64>,
    },
    Copied {
        success: bool,
        path: &'a str,
        files: usize,
        bytes: u64,
        skipped: Vec<String>,
        hash: Option<ContentHash>,
        seq: Option<u64>,
    },
    Made {
        success: bool,
        path: &'a str,
        created: bool,
    },
    Mode {
        success: bool,
        path: &'a str,
        mode: String,
    },
    Deleted {
        success: bool,
        path: &'a str,
        seq: Option<u64>,
    },
    DeletedDirectory {
        success: bool,
        path: &'a str,
        entries: usize,
        seq: Option<u64>,
    },
}

pub(super) async fn post(app: &App, path: &TenantPath, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    app.edits.permit(path)?;
    let op = Query::parse(request.uri().query())?.get("op").map(str::to_owned);
    if op.as_deref() == Some("merge") {
        return super::merge::post(app, path, request).await;
    }
    let (author, precondition) = (author(request.headers())?, precondition(request.headers())?);
    let (parts, incoming) = request.into_parts();
    let body = body::read(incoming, &parts.headers, BODY_BYTES, &app.body_budget).await?;
    let op = Op::parse(op.as_deref(), &body.bytes)?;
    drop(body);
    let path = path.clone();
    // A copy has one file at a time in memory.
    let copied = if matches!(op, Op::Copy { .. }) { app.edits.max_file_bytes() } else { 1 };
    let share = ReadBody::share(copied, &app.body_budget).await?;
    in_turn(app, move |edits| {
        let _share = share;
        carry_out(edits, &path, op, &author, precondition)
    })
    .await
}

fn carry_out(
    edits: &Edits,
    path: &TenantPath,
    op: Op,
    author: &Author,
    precondition: Precondition,
) -> Result<Response<Body>, ApiError> {
    match op {
        Op::Move { to, target } => {
            let moved = edits.relocate(path, &to, author, precondition, target)?;
            super::json_or_error(&Answer::Moved {
                success: true,
                path: to.as_str(),
                previous_path: path.as_str(),
                hash: moved.hash,
                created: moved.created,
                seq: moved.seq,
            })
        }
        Op::Copy { to, overwrite } => {
            let copied = edits.copy(path, &to, author, precondition, overwrite)?;
            super::json_or_error(&Answer::Copied {
                success: true,
                path: to.as_str(),
                files: copied.files,
                bytes: copied.bytes,
                skipped: copied.skipped,
                hash: copied.hash,
                seq: copied.seq,
            })
        }
        Op::MakeDirectory => {
            let created = match precondition {
                Precondition::None | Precondition::Absent => edits.make_directory(path)?,
                _ => return Err(ApiError::bad_request("bad_precondition", "mkdir takes If-None-Match: * only")),
            };
            if precondition == Precondition::Absent && !created {
                return Err(crate::edits::EditError::PreconditionFailed { current: None }.into());
            }
            super::json_or_error(&Answer::Made { success: true, path: path.as_str(), created })
        }
        Op::Mode(mode) => {
            let mode = format!("{:04o}", edits.set_mode(path, mode, precondition)?);
            super::json_or_error(&Answer::Mode { success: true, path: path.as_str(), mode })
        }
    }
}

pub(super) async fn delete(
    app: &App,
    path: &TenantPath,
    request: &Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    app.edits.permit_removal(path)?;
    let (author, precondition) = (author(request.headers())?, precondition(request.headers())?);
    let recursive = match Query::parse(request.uri().query())?.get("recursive") {
        None | Some("false") => false,
        Some("true" | "") => true,
        Some(_) => return Err(ApiError::bad_request("bad_query", "recursive must be true or false")),
    };
    let path = path.clone();
    in_turn(app, move |edits| {
        let text = path.as_str();
        if edits.is_directory(&path)? {
            let removed = edits.remove_directory(&path, &author, precondition, recursive)?;
            let (entries, seq) = (removed.entries, removed.seq);
            return super::json_or_error(&Answer::DeletedDirectory { success: true, path: text, entries, seq });
        }
        let seq = edits.delete(&path, &author, precondition)?;
        super::json_or_error(&Answer::Deleted { success: true, path: text, seq })
    })
    .await
}

/// Runs a mutation on a blocking thread when it is its turn. It runs to its end also when the client has gone.
pub(super) async fn in_turn(
    app: &App,
    work: impl FnOnce(&Edits) -> Result<Response<Body>, ApiError> + Send + 'static,
) -> Result<Response<Body>, ApiError> {
    let turn = Arc::clone(&app.writes).acquire_owned().await.map_err(|_| ApiError::internal("shutting down"))?;
    let edits = Arc::clone(&app.edits);
    blocking(move || {
        let _turn = turn;
        work(&edits)
    })
    .await
}

/// Bytes of a content that came in JSON.
pub(super) fn decode(content: Option<&str>, base64: Option<&str>) -> Result<Option<Bytes>, ApiError> {
    use base64::Engine as _;
    match (content, base64) {
        (Some(text), None) => Ok(Some(Bytes::copy_from_slice(text.as_bytes()))),
        (None, Some(text)) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text);
            Ok(Some(bytes.map_err(|_| ApiError::bad_request("bad_base64", "content_base64 is not base64"))?.into()))
        }
        (Some(_), Some(_)) => {
            Err(ApiError::bad_request("two_contents", "give either content or content_base64, not both"))
        }
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_permission_bits() {
        for (text, bits) in [("0644", 0o644), ("755", 0o755), ("0", 0), ("00777", 0o777)] {
            assert_eq!(mode(text).ok(), Some(bits), "{text}");
        }
        for text in ["", "4755", "2755", "1777", "0888", "rw", "-644", "+644", "0o644", "000644", "٦٤٤"] {
            assert!(mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn operations_are_read_as_they_are_documented() {
        let to = TenantPath::parse("b").unwrap();
        let parsed = |op: &str, body: &str| Op::parse(Some(op), body.as_bytes()).ok();
        assert_eq!(parsed("move", r#"{"to":"/b"}"#), Some(Op::Move { to: to.clone(), target: Precondition::Absent }));
        assert_eq!(
            parsed("move", r#"{"to":"b","overwrite":true}"#),
            Some(Op::Move { to: to.clone(), target: Precondition::None })
        );
        assert_eq!(parsed("copy", r#"{"to":"b","overwrite":true}"#), Some(Op::Copy { to, overwrite: true }));
        assert_eq!(parsed("mkdir", ""), Some(Op::MakeDirectory));
        assert_eq!(parsed("mode", r#"{"mode":"0600"}"#), Some(Op::Mode(0o600)));
        for (op, body) in [
            ("move", ""),
            ("move", "{}"),
            ("move", r#"{"to":"../b"}"#),
            ("move", r#"{"to":"b","force":true}"#),
            ("move", r#"{"to":"b","to_hash":"00"}"#),
            ("mode", r#"{"mode":420}"#),
            ("chmod", "{}"),
        ] {
            assert_eq!(parsed(op, body), None, "{op} {body}");
        }
        assert!(Op::parse(None, b"{}").is_err());
    }
}
