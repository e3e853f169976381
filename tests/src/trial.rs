//! A sidecar whose gateway is the stand-in (`src/bin/stand_in`), for trials of configurations.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::gateway::Gateway;
use crate::http::{Answer, free_address};
use crate::process::{bin, find_processes};
use crate::sidecar::{Setup, Sidecar};
use crate::wait::eventually;

/// Path of the configuration.
pub const CONFIG: &str = ".openclaw/openclaw.json";

/// Settings of a sidecar that runs the stand-in.
pub fn setup(base: Setup) -> Result<(Setup, u16)> {
    let port = free_address()?.port();
    let setup = base
        .env("WINSTON_GATEWAY", "on")
        .env("WINSTON_OPENCLAW_BIN", &bin("winston-stand-in")?.to_string_lossy())
        .env("OPENCLAW_GATEWAY_PORT", &port.to_string())
        .env("OPENCLAW_GATEWAY_TOKEN", "test-gateway-token-0123456789abcdef")
        .env("WINSTON_PROBATION_SECONDS", "1")
        .env("WINSTON_PROBATION_START_SECONDS", "30");
    for directory in [".openclaw", ".home"] {
        std::fs::create_dir_all(setup.data().join(directory))?;
    }
    Ok((setup, port))
}

/// A configuration that a running gateway takes over. `stand_in` says what the stand-in does with it.
#[must_use]
pub fn config(marker: &str, stand_in: &Value) -> String {
    format!("{:#}\n", value(marker, stand_in))
}

/// A configuration for which the gateway has to start anew.
#[must_use]
pub fn restarting(marker: &str, stand_in: &Value) -> String {
    let mut config = value(marker, stand_in);
    config["discovery"] = json!({"wideArea": marker});
    format!("{config:#}\n")
}

/// See [`config`].
#[must_use]
pub fn value(marker: &str, stand_in: &Value) -> Value {
    json!({
        "gateway": {"mode": "local", "bind": "loopback", "auth": {"mode": "token", "token": "${OPENCLAW_GATEWAY_TOKEN}"}},
        "ui": {"marker": marker},
        "tools": {"standIn": stand_in},
    })
}

/// The validations that run for this data directory, with everything that they started.
pub fn validations(data: &Path) -> Result<Vec<String>> {
    let home = format!("HOME={}", data.join(".home").display());
    let found = find_processes(|process| {
        let variables = &process.environment;
        let scratch =
            |variable: &String| variable.starts_with("OPENCLAW_CONFIG_PATH=") && variable.contains("winston-config-");
        variables.iter().any(scratch) && variables.contains(&home)
    })?;
    Ok(found.into_iter().map(|process| process.to_string()).collect())
}

/// A running sidecar with its gateway.
pub struct Host {
    /// The sidecar.
    pub sidecar: Sidecar,
    /// Its gateway.
    pub gateway: Gateway,
}

impl Host {
    /// Starts one whose gateway is ready with a configuration that is known to be good.
    pub fn start(setup: &Setup, content: &str) -> Result<Self> {
        std::fs::write(setup.data().join(CONFIG), content)?;
        let host = Self::of(setup.start()?);
        host.wait_until_good()?;
        Ok(host)
    }

    /// This sidecar.
    #[must_use]
    pub fn of(sidecar: Sidecar) -> Self {
        let gateway = Gateway::of(sidecar.client());
        Self { sidecar, gateway }
    }

    /// `GET /config`.
    pub fn report(&self) -> Result<Value> {
        self.sidecar.get("/config")?.expect(200)?.json()
    }

    /// Waits until what is on disk is known to be good, and kept as such.
    pub fn wait_until_good(&self) -> Result<()> {
        self.wait_for("the configuration is good", |report| {
            report["standing"] == "good" && report["activity"] == "idle"
        })
        .map(drop)
    }

    /// Waits for a report.
    pub fn wait_for(&self, what: &str, found: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(what, || {
            let report = self.report()?;
            if found(&report) { Ok(Some(report)) } else { bail!("{report} {}", self.gateway.status()?) }
        })
        .with_context(|| self.gateway.log_text(20).unwrap_or_default())
    }

    /// `PUT /config`, waiting for the verdict.
    pub fn put(&self, content: &str) -> Result<Answer> {
        let octets = [("Content-Type", "application/octet-stream")];
        self.sidecar.call("PUT", "/config", &octets, content.as_bytes())
    }

    /// The same without waiting.
    pub fn submit(&self, content: &str) -> Result<()> {
        let octets = [("Content-Type", "application/octet-stream")];
        self.sidecar.call("PUT", "/config?wait=false", &octets, content.as_bytes())?.expect(202).map(drop)
    }

    /// What is on disk.
    pub fn on_disk(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.sidecar.volume().join(CONFIG))?)
    }
}
