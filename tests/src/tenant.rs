//! One tenant of a real control, seen through the operators' API. Blocking, like the sidecar's harness.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use winston_wire::ContentHash;

use crate::control::Control;
use crate::http::{Answer, Client};
use crate::sidecar::{Setup, Sidecar};
use crate::wait::eventually;

/// What has to be the same in the sidecar's journal and in control, change by change.
const SAME: &[&str] = &["seq", "path", "source", "action", "actor", "hash", "previous_hash", "size", "generation"];

/// Most changes that one answer has.
const PAGE: usize = 1000;

/// Runs something of the control harness, which is asynchronous, from a blocking test.
pub fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(future))
}

/// The hash of a content, as the APIs write it.
#[must_use]
pub fn hash(content: impl AsRef<[u8]>) -> String {
    ContentHash::from_bytes(Sha256::digest(content).into()).to_string()
}

/// A tenant. It knows control's address, so control must keep it over a restart: see [`Tenant::control`].
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its id in control.
    pub id: String,
    /// The token of its sidecar.
    pub token: String,
    client: Client,
}

impl Tenant {
    /// A control that listens on the same address whenever it is started.
    pub fn control() -> Result<Control> {
        let address = crate::http::free_address()?.to_string();
        block_on(Control::start(&[("WINSTON_CONTROL_LISTEN", &address)]))
    }

    /// Creates a tenant and a token for its sidecar.
    pub fn create(control: &Control, email: &str) -> Result<Self> {
        let (id, sidecar) = block_on(control.tenant(email))?;
        let admin = control.admin();
        let key = admin.token().context("an API key")?;
        let token = sidecar.token().context("a sidecar token")?.to_owned();
        Ok(Self { id, token, client: Client::new(admin.authority().parse()?, key) })
    }

    /// Where control listens.
    #[must_use]
    pub fn control_address(&self) -> SocketAddr {
        self.client.address()
    }

    /// A sidecar of this tenant, on an empty data directory and without a gateway.
    pub fn sidecar(&self) -> Result<Setup> {
        let url = format!("http://{}", self.control_address());
        Ok(Setup::new()?.token(&self.token).env("WINSTON_CONTROL_URL", &url))
    }

    /// A call as an operator; `rest` is what comes after `/api/tenants/<id>`.
    pub fn call(&self, method: &str, rest: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
        self.client.call(method, &format!("/api/tenants/{}{rest}", self.id), headers, body)
    }

    /// The JSON that a `GET` is answered with.
    pub fn get(&self, rest: &str) -> Result<Value> {
        self.call("GET", rest, &[], b"")?.expect(200)?.json()
    }

    /// A `POST` of JSON.
    pub fn post(&self, rest: &str, body: &Value) -> Result<Answer> {
        self.call("POST", rest, &[], body.to_string().as_bytes())
    }

    /// Pushes a file; the generation. `path` may have a query.
    pub fn push(&self, path: &str, content: &str) -> Result<u64> {
        let answer = self.push_with(path, content, &[])?.expect(200)?.json()?;
        ensure!(answer["hash"] == hash(content), "{answer}");
        answer["generation"].as_u64().context("generation")
    }

    /// Pushes a file with headers.
    pub fn push_with(&self, path: &str, content: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        self.call("PUT", &format!("/files/{path}"), headers, json!({ "content": content }).to_string().as_bytes())
    }

    /// What control says about a path in its list of files; `null` when it is not there.
    pub fn listed(&self, path: &str) -> Result<Value> {
        let list = self.get(&format!("/files?prefix={path}"))?;
        let found = list["files"].as_array().and_then(|files| files.iter().find(|file| file["path"] == path));
        Ok(found.cloned().unwrap_or_default())
    }

    /// The hashes of all versions of a path, oldest first.
    pub fn versions(&self, path: &str) -> Result<Vec<String>> {
        let answer = self.get(&format!("/versions?path={path}&limit={PAGE}"))?;
        let versions = answer["versions"].as_array().context("versions")?;
        Ok(versions.iter().rev().map(|version| version["hash"].as_str().unwrap_or("none").to_owned()).collect())
    }

    /// The changes that control has of the newest journal, in order.
    pub fn changes(&self) -> Result<Vec<Value>> {
        let answer = self.get(&format!("/changes?after=0&limit={PAGE}"))?;
        answer["changes"].as_array().cloned().context("changes")
    }

    /// The content of the version that a change made.
    pub fn content_of(&self, change: &Value) -> Result<Vec<u8>> {
        let path = change["path"].as_str().context("path")?;
        let target = format!("/files/{path}?version={}", change["version"]);
        Ok(self.call("GET", &target, &[("Accept", "application/octet-stream")], b"")?.expect(200)?.body)
    }

    /// Waits until control has everything that the journal has, and knows that the sidecar has everything that was pushed. Then the two histories must be the
    /// same, change by change, and control must have the content of every change. Gives the changes.
    pub fn wait_until_even(&self, sidecar: &Sidecar) -> Result<Vec<Value>> {
        eventually("control and sidecar have the same", || {
            let (status, seen) = (sidecar.status()?, self.get("/health")?["health"][0].take());
            let (journal, sync) = (&status["journal"], &status["sync"]);
            let even = journal["acked_seq"] == journal["head_seq"]
                && sync["state"] == "connected"
                && sync["applied_generation"] == seen["generation"]
                && seen["applied_generation"] == seen["generation"];
            if even { Ok(Some(())) } else { bail!("{journal} {sync} {seen}") }
        })?;
        let (local, here) = (sidecar.changes()?, self.changes()?);
        ensure!(local.len() < PAGE, "too many changes for one answer");
        ensure!(local.len() == here.len(), "{} changes in the journal, {} in control", local.len(), here.len());
        for (index, (local, here)) in local.iter().zip(&here).enumerate() {
            ensure!(here["seq"] == index + 1, "change {} has number {}", index + 1, here["seq"]);
            let differs = SAME.iter().find(|key| local[**key] != here[**key]);
            ensure!(differs.is_none(), "{differs:?} differs: {local} in the journal, {here} in control");
            let omitted = here["content_omitted"] == true;
            ensure!(omitted == (local["content_omitted"] == true), "a content is lost: {local}, {here}");
            if here["hash"].is_string() && !omitted {
                ensure!(here["hash"] == hash(self.content_of(here)?), "the content of {here} is another one");
            }
        }
        Ok(here)
    }
}
