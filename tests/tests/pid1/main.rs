//! The entrypoint as a real process: as PID 1 of its own namespaces, and as an ordinary subreaper.

mod processes;
mod signals;
mod start;
mod volume;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use winston_tests::process::{Mode, is_root, namespaces, skip};

/// A sidecar that runs until it is told to end. `sleep` in the background and `wait`, because a shell handles a trap
/// only between commands. The sleeper's output is closed: it must not look like a survivor.
const FOREVER: &str = "sleep 1000 >&- 2>&- &\necho ready\nwhile :; do wait; done";

/// Runs a test in both modes, or says why one is impossible.
fn in_both_modes(test: &str, body: impl Fn(Mode) -> Result<()>) -> Result<()> {
    body(Mode::Subreaper).context("as a subreaper")?;
    as_pid1(test, || body(Mode::Pid1).context("as PID 1"))
}

fn as_pid1(test: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    match namespaces() {
        Ok(_) => body(),
        Err(reason) => {
            skip(test, reason);
            Ok(())
        }
    }
}

fn as_root(test: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    if is_root() {
        return body();
    }
    skip(test, "only root can change owners and users");
    Ok(())
}

/// The message of a log line, which must be a JSON object with a level.
fn message(line: &str) -> Result<String> {
    let value: serde_json::Value = serde_json::from_str(line).context(line.to_owned())?;
    assert!(value["level"].is_string(), "{line}");
    Ok(value["message"].as_str().context("no message")?.to_owned())
}

fn mode_of(path: &Path) -> Result<u32> {
    let meta = std::fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    Ok(meta.permissions().mode() & 0o7777)
}
