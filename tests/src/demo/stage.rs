//! What runs: control with its database and one local tenant.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::Options;
use super::control::{self, Control};
use super::tell::Teller;
use crate::http::{Answer, request};
use crate::process::find_processes;
use crate::wait::within;

/// First start of a database, on a slow machine.
const CONTROL_START: Duration = Duration::from_secs(120);

/// E-mail address of the demo's tenant; its name in control.
const EMAIL: &str = "demo@winston.test";

/// Everything that was started.
pub(super) struct Stage {
    dir: PathBuf,
    control: Mutex<Option<Control>>,
    address: SocketAddr,
    key: String,
    interrupted: Arc<AtomicBool>,
    tenant: Mutex<Option<Tenant>>,
}

/// The tenant, once it is known.
#[derive(Debug, Clone)]
pub(super) struct Tenant {
    /// Id in control.
    pub(super) id: String,
    /// Its data directory.
    pub(super) data: PathBuf,
    /// File with its secrets.
    pub(super) environment: PathBuf,
    /// Its sidecar.
    pub(super) sidecar: SocketAddr,
    /// Its sidecar's token.
    pub(super) token: String,
    /// Its gateway, as a URL.
    pub(super) gateway: String,
}

impl Stage {
    /// Starts control. On every way out but the last one it is stopped again.
    pub(super) fn set(options: &Options, teller: &Teller, interrupted: Arc<AtomicBool>) -> Result<Self> {
        let dir = options.dir.clone();
        let data = dir.join("control");
        if let Some(other) = control::in_use(&data) {
            bail!(other);
        }
        if options.reset && data.exists() {
            control::clear(&data)?;
            fs::remove_dir_all(&data).with_context(|| format!("removing {}", data.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        teller.heading("Starting");
        let started = Instant::now();
        if !data.join("postgres").exists() {
            teller.begin("control starts and makes its private PostgreSQL cluster …");
        }
        let mut control = Control::start(&dir)?;
        let ready = within(CONTROL_START, "control answers", || {
            if interrupted.load(Ordering::Acquire) {
                return Ok(Some(Err("interrupted".to_owned())));
            }
            if let Some(reason) = control.end()? {
                return Ok(Some(Err(reason)));
            }
            let address: SocketAddr =
                fs::read_to_string(data.join("address"))?.trim().trim_start_matches("http://").parse()?;
            let healthy = request(address, "GET", "/api/health", &[], b"")?.status == 200;
            Ok(healthy.then_some(Ok(address)))
        });
        let address = match ready? {
            Ok(address) => address,
            Err(error) => bail!(error),
        };
        teller.done(started, &format!("control with its private PostgreSQL cluster: http://{address}"));
        let key = fs::read_to_string(data.join("admin-api-key")).context("the admin API key")?.trim().to_owned();
        let (control, tenant) = (Mutex::new(Some(control)), Mutex::new(None));
        Ok(Self { dir, control, address, key, interrupted, tenant })
    }

    /// A call to control, with the admin key.
    pub(super) fn api(&self, method: &str, target: &str, body: &Value) -> Result<Answer> {
        if self.is_interrupted() {
            bail!("interrupted");
        }
        let bearer = format!("Bearer {}", self.key);
        let headers =
            [("Authorization", bearer.as_str()), ("Content-Type", "application/json"), ("X-Winston-Actor", "demo")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        request(self.address, method, target, &headers, body.as_bytes())
    }

    /// `GET` from control.
    pub(super) fn api_get(&self, target: &str) -> Result<Value> {
        self.api("GET", target, &Value::Null)?.expect(200)?.json()
    }

    /// The tenant of an earlier run, or a new one; and whether it is new.
    pub(super) fn find_or_create_tenant(&self) -> Result<(String, bool)> {
        let tenants = self.api_get("/api/tenants")?;
        let known = tenants["tenants"].as_array().into_iter().flatten().find(|tenant| tenant["email"] == EMAIL);
        if let Some(id) = known.and_then(|tenant| tenant["id"].as_str()) {
            return Ok((id.to_owned(), false));
        }
        let body = json!({"name": "Demo Bakery", "email": EMAIL, "industry": "bakery", "website_url": "https://bakery.example"});
        let created = self.api("POST", "/api/tenants", &body)?.expect(201)?.json()?;
        let id = created["tenant"]["id"].as_str().context("the id of the tenant")?;
        Ok((id.to_owned(), true))
    }

    /// Learns where the tenant's parts are, from control and from the local provider's directory.
    pub(super) fn enter(&self, id: &str) -> Result<Tenant> {
        let instance = self.api_get(&format!("/api/tenants/{id}/instance"))?;
        let url =
            |key: &str| instance[key].as_str().map(str::to_owned).with_context(|| format!("{key} of the instance"));
        let home = self.dir.join("control/tenants").join(id);
        let environment = home.join("environment");
        let secrets = fs::read_to_string(&environment).with_context(|| environment.display().to_string())?;
        let token = secrets.lines().find_map(|line| line.strip_prefix("WINSTON_SIDECAR_TOKEN="));
        let tenant = Tenant {
            id: id.to_owned(),
            data: home.join("data"),
            environment,
            sidecar: url("sidecar_url")?.trim_start_matches("http://").parse()?,
            token: token.context("the sidecar's token")?.to_owned(),
            gateway: url("url")?,
        };
        *self.tenant.lock().unwrap_or_else(PoisonError::into_inner) = Some(tenant.clone());
        Ok(tenant)
    }

    /// A call to the tenant's sidecar, with its token.
    pub(super) fn sidecar(&self, tenant: &Tenant, target: &str) -> Result<Value> {
        if self.is_interrupted() {
            bail!("interrupted");
        }
        let bearer = format!("Bearer {}", tenant.token);
        request(tenant.sidecar, "GET", target, &[("Authorization", &bearer)], b"")?.expect(200)?.json()
    }

    /// Somebody pressed Ctrl-C: every wait of the story ends soon.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }

    /// Says what there is to try.
    pub(super) fn farewell(&self, teller: &Teller) {
        let tenant = self.tenant.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(tenant) = tenant else { return };
        let key = self.dir.join("control/admin-api-key");
        teller.heading("Yours to try");
        for line in [
            format!("control   http://{}    API key in {}", self.address, key.display()),
            format!("sidecar   http://{}    token in {}", tenant.sidecar, tenant.environment.display()),
            format!("gateway   {}    token in the same file", tenant.gateway),
            format!("files     {}", tenant.data.join("workspace").display()),
            String::new(),
            format!("KEY=$(cat {}); . {}", key.display(), tenant.environment.display()),
            format!("API=http://{}/api/tenants/{}; SIDECAR=http://{}", self.address, tenant.id, tenant.sidecar),
            "curl -H \"Authorization: Bearer $KEY\" $API/files".to_owned(),
            "curl -H \"Authorization: Bearer $KEY\" -X PUT -d '{\"content\":\"Speak only in rhymes.\"}' $API/files/workspace/SOUL.md"
                .to_owned(),
            "curl -H \"Authorization: Bearer $KEY\" \"$API/changes?limit=5\"".to_owned(),
            "curl -H \"Authorization: Bearer $WINSTON_SIDECAR_TOKEN\" $SIDECAR/files/workspace/SOUL.md".to_owned(),
            "curl -H \"Authorization: Bearer $WINSTON_SIDECAR_TOKEN\" $SIDECAR/status".to_owned(),
            String::new(),
            "Ctrl-C stops everything; the next ./demo goes on with the same tenant.".to_owned(),
        ] {
            teller.line(&line);
        }
    }

    /// Stops the tenant and control, and makes sure that nothing is left.
    pub(super) fn strike(&self, teller: &Teller) -> Result<()> {
        let started = Instant::now();
        let stopped = self.stop_tenant();
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut control) = control {
            control.stop()?;
        }
        stopped?;
        let left = within(Duration::from_secs(10), "every process ends", || {
            let left = left_behind(&self.dir)?;
            if left.is_empty() { Ok(Some(left)) } else { bail!("still there: {left:?}") }
        });
        left?;
        teller.done(started, "tenant, control and database are stopped; no process is left");
        Ok(())
    }

    fn stop_tenant(&self) -> Result<()> {
        // Not through `api`, which refuses after an interrupt.
        let bearer = format!("Bearer {}", self.key);
        let headers = [("Authorization", bearer.as_str())];
        let tenants = request(self.address, "GET", "/api/tenants", &headers, b"")?.expect(200)?.json()?;
        let known = tenants["tenants"].as_array().into_iter().flatten().find(|tenant| tenant["email"] == EMAIL);
        let Some(id) = known.and_then(|tenant| tenant["id"].as_str()) else { return Ok(()) };
        let answer = request(self.address, "POST", &format!("/api/tenants/{id}/stop"), &headers, b"")?;
        // A tenant that was never provisioned has nothing to stop.
        if matches!(answer.status, 200 | 404 | 409) { Ok(()) } else { bail!("stopping: {}", answer.text()) }
    }
}

/// Processes that belong to this demo: their environment or working directory points into its directory.
fn left_behind(dir: &Path) -> Result<Vec<String>> {
    let dir = dir.join("control");
    let left = find_processes(|process| process.belongs_to(&dir))?;
    Ok(left.iter().map(ToString::to_string).collect())
}
