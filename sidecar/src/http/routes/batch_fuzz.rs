//! Fuzz target of the body of `POST /batch` (see [`crate::fuzz`]).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::{Operations, Step};
use crate::edits::Precondition;
use crate::fs::TenantPath;
use crate::fuzz::fuzz;

const HASH: &str = "\"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881\"";

/// The steps of a body; `None` when it is refused.
fn steps(body: &[u8]) -> Option<Vec<Step>> {
    let request: Operations<'_> = serde_json::from_slice(body).ok()?;
    request.operations.iter().map(|operation| operation.understood().ok()).collect()
}

fn with_precondition(mut printed: Value, precondition: Precondition) -> Value {
    match precondition {
        Precondition::None => {}
        Precondition::Present => printed["if_match"] = "*".into(),
        Precondition::Absent => printed["if_none_match"] = "*".into(),
        Precondition::Match(hash) => printed["if_match"] = hash.to_string().into(),
        Precondition::Force => panic!("a request is no push"),
    }
    printed
}

fn print(step: &Step) -> Value {
    match step {
        Step::Put { path, content, precondition, mode } => {
            let mut printed = json!({ "op": "put", "path": path.as_str() });
            match std::str::from_utf8(content) {
                Ok(text) => printed["content"] = text.into(),
                Err(_) => printed["content_base64"] = BASE64.encode(content).into(),
            }
            if let Some(mode) = mode {
                printed["mode"] = format!("{mode:04o}").into();
            }
            with_precondition(printed, *precondition)
        }
        Step::Delete { path, precondition } => {
            with_precondition(json!({ "op": "delete", "path": path.as_str() }), *precondition)
        }
        Step::Move { from, to, source, target } => {
            let mut printed = json!({ "op": "move", "path": from.as_str(), "to": to.as_str() });
            printed["overwrite"] = (*target != Precondition::Absent).into();
            if let Precondition::Match(hash) = target {
                printed["to_hash"] = hash.to_string().into();
            }
            with_precondition(printed, *source)
        }
    }
}

#[test]
fn batches() {
    let words = [
        "\"op\":\"put\"",
        "\"op\":\"delete\"",
        "\"op\":\"move\"",
        "\"path\":\"a/../../b\"",
        "\"path\":\"\\u0000\"",
        "\"content\":\"x\"",
        "\"content_base64\":\"AA==\"",
        "\"mode\":\"4755\"",
        "\"overwrite\":true",
        "\"to_hash\":",
        "\"if_match\":\"*\"",
        "\"if_none_match\":\"*\"",
        HASH,
        "{\"operations\":[",
        "]}",
        "null",
        ",",
    ];
    fuzz("batch", &words, |input| {
        let Some(steps) = steps(input) else { return };
        for step in &steps {
            let (paths, mode): (Vec<&TenantPath>, _) = match step {
                Step::Put { path, mode, .. } => (vec![path], *mode),
                Step::Delete { path, .. } => (vec![path], None),
                Step::Move { from, to, .. } => (vec![from, to], None),
            };
            assert!(
                paths.iter().all(|path| path.components().all(|part| !matches!(part, "" | "." | ".."))),
                "{step:?}"
            );
            assert!(mode.is_none_or(|mode| mode <= 0o777), "{step:?}");
        }
        // Printed and parsed, it says the same.
        let printed = json!({ "operations": steps.iter().map(print).collect::<Vec<_>>() });
        assert_eq!(self::steps(printed.to_string().as_bytes()).as_ref(), Some(&steps), "{printed}");
    });
}
