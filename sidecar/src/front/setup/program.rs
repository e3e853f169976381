//! Commands of the console that OpenClaw's own program answers, and switching a plugin on.
//!
//! The program runs as the gateway does, beside it, one at a time: it takes seconds and some hundred megabytes.

use std::time::Duration;

use http::{Response, StatusCode};
use serde_json::json;
use winston_wire::{ConfigVerdict, Source, Verdict};

use super::super::answers::json;
use super::super::body::Answer;
use super::super::server::Front;
use super::console::output;
use crate::candidate::{NewFile, Origin, Submission};
use crate::edits::{Author, Edits, Look, Precondition};
use crate::fs::TenantPath;
use crate::gateway::{Said, Unsaid};
use crate::merge;

/// Longest time for an answer: the slowest, `doctor`, takes 17 s of one core.
const PATIENCE: Duration = Duration::from_secs(120);

/// Most characters of a key or of a plugin's name.
const LONGEST: usize = 256;

/// Who switches plugins on.
const ACTOR: &str = "setup";

/// `openclaw.doctor`: reads and reports; it repairs nothing.
pub(super) async fn doctor(front: &Front) -> Response<Answer> {
    run(front, &["doctor", "--lint"]).await
}

/// `openclaw.plugins.list`.
pub(super) async fn plugins(front: &Front) -> Response<Answer> {
    run(front, &["plugins", "list"]).await
}

/// `openclaw.config.get`. The program leaves secrets out.
pub(super) async fn config(front: &Front, key: Option<&str>) -> Response<Answer> {
    match key.map(str::trim) {
        None | Some("") => refuse("Missing config path"),
        Some(key) if is_key(key) => run(front, &["config", "get", key]).await,
        Some(_) => refuse("Invalid config path"),
    }
}

/// `openclaw.plugins.enable`: as `PUT /config` would, so it is validated, tried out and in history.
pub(super) async fn enable(front: &Front, plugin: Option<&str>) -> Response<Answer> {
    let plugin = match plugin.map(str::trim) {
        None | Some("") => return refuse("Missing plugin name"),
        Some(plugin) if is_plugin(plugin) => plugin,
        Some(_) => return refuse("Invalid plugin name"),
    };
    let edits = std::sync::Arc::clone(&front.app.edits);
    let (Some(configs), Some(path)) = (front.app.configs.clone(), front.app.edits.layout().config_file()) else {
        return failed("this sidecar does not run a gateway\n".to_owned());
    };
    let patch = json!({ "plugins": { "entries": { plugin: { "enabled": true } } } });
    let (reading, config) = (std::sync::Arc::clone(&edits), path.clone());
    let prepared = tokio::task::spawn_blocking(move || {
        let (content, over) = with(&reading, &path, &patch)?;
        Ok::<_, String>(NewFile { path, content: Some(content.into()), over })
    });
    let file = match prepared.await {
        Ok(Ok(file)) => file,
        Ok(Err(error)) => return failed(error + "\n"),
        Err(_) => return failed("shutting down\n".to_owned()),
    };
    let author = Author { source: Source::Admin, actor: Some(ACTOR.to_owned()), generation: None };
    let submission = Submission { origin: Origin::Local, author, files: vec![file], owned: None, pushed: None };
    // A task of its own: what has begun is finished, also when nobody waits for it.
    match tokio::spawn(async move { configs.submit(submission).await }).await {
        Ok(Ok(verdict)) if verdict.verdict == Verdict::Applied => {
            let name = plugin.to_owned();
            let is_on = tokio::task::spawn_blocking(move || is_on(&edits, &config, &name)).await;
            if is_on.unwrap_or_default() {
                output(StatusCode::OK, true, format!("Enabled plugin \"{plugin}\".\n"))
            } else {
                failed(format!(
                    "plugin \"{plugin}\" stays off: control owns that key, or somebody has changed it since\n"
                ))
            }
        }
        Ok(Ok(verdict)) => failed(front.app.gateway.redact(&told(&verdict))),
        Ok(Err(error)) => failed(format!("{error}\n")),
        Err(_) => failed("shutting down\n".to_owned()),
    }
}

/// The configuration with a merge patch, and what it may replace.
fn with(edits: &Edits, path: &TenantPath, patch: &serde_json::Value) -> Result<(String, Precondition), String> {
    let unreadable = "openclaw.json cannot be read";
    let Ok(Look::File { hash, .. }) = edits.look(path) else { return Err(unreadable.to_owned()) };
    let text = edits.content(path, hash).ok().flatten().and_then(|text| String::from_utf8(text).ok());
    let patched = merge::patch(&text.ok_or(unreadable)?, patch).map_err(|error| error.to_string())?;
    if patched.comments_kept {
        Ok((patched.content, Precondition::Match(hash)))
    } else {
        Err("comments of openclaw.json would be lost: edit it by hand".to_owned())
    }
}

/// Whether the configuration says so now. The keys that control owns count for more than a patch.
fn is_on(edits: &Edits, path: &TenantPath, plugin: &str) -> bool {
    let Ok(Look::File { hash, .. }) = edits.look(path) else { return false };
    let text = edits.content(path, hash).ok().flatten().and_then(|text| String::from_utf8(text).ok());
    let config = text.and_then(|text| merge::value(&text).ok());
    config.is_some_and(|config| config["plugins"]["entries"][plugin]["enabled"] == true)
}

fn told(verdict: &ConfigVerdict) -> String {
    let issues = verdict.issues.iter().map(|issue| format!("{}: {}\n", issue.path, issue.message));
    let lines = verdict.lines.iter().map(|line| format!("{line}\n"));
    std::iter::once(format!("{}\n", verdict.reason)).chain(issues).chain(lines).collect()
}

async fn run(front: &Front, arguments: &[&str]) -> Response<Answer> {
    let Some(cli) = &front.app.cli else { return failed("this sidecar does not run a gateway\n".to_owned()) };
    let Ok(_turn) = front.console.try_acquire() else {
        return failed("another command still runs; try again in a minute\n".to_owned());
    };
    match cli.ask(arguments, &[], &cli.home, PATIENCE).await {
        Ok(Said { status, stdout, stderr }) => {
            let text = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
            let text = front.app.gateway.redact(&text);
            if status.success() { output(StatusCode::OK, true, text) } else { failed(text) }
        }
        Err(Unsaid::Late) => failed(format!("it did not end within {} s\n", PATIENCE.as_secs())),
        Err(Unsaid::Failed(error)) => failed(format!("{} could not be run: {error}\n", cli.program.display())),
    }
}

fn failed(text: String) -> Response<Answer> {
    output(StatusCode::INTERNAL_SERVER_ERROR, false, text)
}

fn refuse(error: &str) -> Response<Answer> {
    json(StatusCode::BAD_REQUEST, &json!({ "ok": false, "error": error }))
}

/// Dots and brackets, and no option.
fn is_key(text: &str) -> bool {
    text.len() <= LONGEST
        && !text.starts_with('-')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-[]\"'/@:*".contains(&byte))
}

fn is_plugin(text: &str) -> bool {
    text.len() <= LONGEST
        && !text.starts_with('-')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_names_and_never_options() {
        for key in ["gateway", "gateway.auth.token", "agents.list[0].id", "channels[\"a-b\"].x", "models.x/y"] {
            assert!(is_key(key), "{key}");
        }
        for key in ["--help", "-h", "a b", "a\nb", "a;b", "$(x)", "ä", &"a".repeat(257)] {
            assert!(!is_key(key), "{key}");
        }
        for (plugin, wanted) in [("telegram", true), ("a_b-1", true), ("-x", false), ("a.b", false), ("a/b", false)] {
            assert_eq!(is_plugin(plugin), wanted, "{plugin}");
        }
    }
}
