//! The front door, in front of a server that a test scripts.
//!
//! | File | What |
//! |---|---|
//! | `routes` | who answers what, and what reaches whom |
//! | `streams` | bodies, trailers, `Expect`, aborts, slow readers |
//! | `smuggling` | requests about whose end one could disagree |
//! | `upgrades` | WebSockets |
//! | `setup` | operators |
//! | `limits` | connections, and the page while nobody serves |

mod limits;
mod routes;
mod setup;
mod smuggling;
mod streams;
mod upgrades;

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use winston_tests::backend::Backend;
use winston_tests::http::{Answer, request};
use winston_tests::sidecar::{Setup, Sidecar};

const PASSWORD: &str = "test-setup-password";

/// A sidecar with a front door, in front of a backend.
struct Door {
    sidecar: Sidecar,
    address: SocketAddr,
}

impl Door {
    fn setup(backend: u16) -> Result<Setup> {
        Ok(Setup::new()?.env("WINSTON_FRONT_LISTEN", "127.0.0.1:0").env("OPENCLAW_GATEWAY_PORT", &backend.to_string()))
    }

    fn open(setup: &Setup) -> Result<Self> {
        let sidecar = setup.start()?;
        let address = sidecar.status()?["front"]["address"].as_str().context("a front door")?.parse()?;
        Ok(Self { sidecar, address })
    }

    fn before(backend: &Backend) -> Result<Self> {
        Self::open(&Self::setup(backend.port())?)
    }

    fn get(&self, target: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        request(self.address, "GET", target, headers, b"")
    }

    /// A figure of `/metrics`.
    fn figure(&self, line: &str) -> Result<f64> {
        let text = self.sidecar.get("/metrics")?.expect(200)?.text();
        let value =
            text.lines().find_map(|found| found.strip_prefix(line)).with_context(|| format!("{line} in {text}"))?;
        Ok(value.trim().parse()?)
    }
}
