//! The real, unmodified OpenClaw gateway below a sidecar, seen from outside.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::http::{Answer, Client};
use crate::process::{find_processes, skip};
use crate::wait::within;

/// Longest wait for a start. The first one extracts assets and fills caches, and other tests may run beside it.
const START: Duration = Duration::from_secs(120);

/// A gateway takes a core and a gigabyte for its start.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The real program, and the right to run it while the guard lives. Without it the test is skipped.
pub fn openclaw(test: &str) -> Option<(PathBuf, MutexGuard<'static, ()>)> {
    let Some(program) = std::env::var_os("WINSTON_OPENCLAW_BIN").filter(|program| !program.is_empty()) else {
        skip(test, "WINSTON_OPENCLAW_BIN is not set; ./check test sets it");
        return None;
    };
    // A test that failed leaves nothing that the next one could stumble over.
    Some((program.into(), ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// The gateway of a sidecar.
#[derive(Debug, Clone)]
pub struct Gateway {
    sidecar: Client,
}

impl Gateway {
    /// Behind this sidecar.
    #[must_use]
    pub fn of(sidecar: Client) -> Self {
        Self { sidecar }
    }

    /// `GET /gateway`.
    pub fn status(&self) -> Result<Value> {
        self.sidecar.get("/gateway")
    }

    /// Waits for a status, for as long as a start may take.
    pub fn wait_for(&self, what: &str, found: impl Fn(&Value) -> bool) -> Result<Value> {
        within(START, what, || {
            let status = self.status()?;
            if found(&status) { Ok(Some(status)) } else { bail!("{status}") }
        })
        .with_context(|| self.log_text(20).unwrap_or_default())
    }

    /// Waits until a gateway has started and answers, another one than `not`; its pid. On a busy machine it may say that its event loop
    /// is behind.
    pub fn wait_until_ready(&self, not: Option<i32>) -> Result<i32> {
        let status = self
            .wait_for("the gateway is ready", |status| is_up(status) && status["pid"].as_i64() != not.map(i64::from))?;
        pid(&status)
    }

    /// `POST /gateway/<order>`.
    pub fn order(&self, order: &str) -> Result<Answer> {
        self.sidecar.call("POST", &format!("/gateway/{order}"), &[], b"")
    }

    /// The last lines of its log.
    pub fn logs(&self, limit: usize) -> Result<Vec<Value>> {
        let answer = self.sidecar.get(&format!("/gateway/logs?limit={limit}"))?;
        answer["lines"].as_array().cloned().context("lines")
    }

    /// The same as text.
    pub fn log_text(&self, limit: usize) -> Result<String> {
        let lines = self.logs(limit)?;
        Ok(lines.iter().filter_map(|line| line["line"].as_str()).collect::<Vec<_>>().join("\n"))
    }
}

/// Whether a status is that of a gateway that has started and answers.
#[must_use]
pub fn is_up(status: &Value) -> bool {
    status["state"] == "ready" || status["state"] == "degraded"
}

/// The pid in a status.
pub fn pid(status: &Value) -> Result<i32> {
    let pid = status["pid"].as_i64().with_context(|| format!("no pid in {status}"))?;
    Ok(i32::try_from(pid)?)
}

/// The processes of the gateway with this state directory: whoever has it in the environment and is none of ours.
pub fn processes_of(state_dir: &std::path::Path) -> Result<Vec<String>> {
    let mine = format!("OPENCLAW_STATE_DIR={}", state_dir.display());
    let found = find_processes(|process| {
        process.environment.contains(&mine)
            && !process.environment.iter().any(|variable| variable.starts_with("WINSTON_SIDECAR_TOKEN="))
    })?;
    Ok(found.into_iter().map(|process| process.to_string()).collect())
}

/// A configuration that the real gateway takes, for this port.
#[must_use]
pub fn configuration(port: u16) -> Value {
    json!({
        "gateway": {
            "mode": "local",
            "port": port,
            "bind": "loopback",
            "auth": {"mode": "token", "token": "${OPENCLAW_GATEWAY_TOKEN}"},
        },
        "agents": {"defaults": {"skipBootstrap": true}},
        "update": {"checkOnStart": false},
        "discovery": {"mdns": {"mode": "off"}},
    })
}
