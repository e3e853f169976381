//! The story. Each line is printed when it has come true.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::stage::{Stage, Tenant};
use super::tell::Teller;
use crate::gateway::is_up;
use crate::http::request;
use crate::wait::within;

/// A first start extracts assets and fills caches; on a busy machine that takes its time.
const GATEWAY_START: Duration = Duration::from_secs(300);
const SYNC: Duration = Duration::from_secs(30);

/// The files that control generates.
const GENERATED: &[&str] = &[
    ".openclaw/openclaw.json",
    "workspace/SOUL.md",
    "workspace/AGENTS.md",
    "workspace/USER.md",
    "workspace/IDENTITY.md",
];

const SOUL: &str = "workspace/SOUL.md";
const NOTES: &str = "workspace/memory/notes.md";

pub(super) fn tell(stage: &Stage, teller: &Teller) -> Result<()> {
    let tenant = start_tenant(stage, teller)?;
    gateway_is_ready(stage, teller, &tenant)?;
    teller.heading("Files");
    operator_pushes(stage, teller, &tenant)?;
    agent_writes(stage, teller, &tenant)?;
    teller.heading("Failure");
    gateway_is_killed(stage, teller, &tenant)
}

fn start_tenant(stage: &Stage, teller: &Teller) -> Result<Tenant> {
    let started = Instant::now();
    let (id, new) = stage.find_or_create_tenant()?;
    let provisioned = !new && stage.api("GET", &format!("/api/tenants/{id}/instance"), &Value::Null)?.status == 200;
    if provisioned {
        stage.api("POST", &format!("/api/tenants/{id}/start"), &Value::Null)?.expect(200)?;
        let known = stage.api_get(&format!("/api/tenants/{id}/files"))?;
        teller.done(started, &format!("tenant {id} resumed with {} files", known["count"]));
        return stage.enter(&id);
    }
    teller.done(started, &format!("tenant created: {id}"));
    let started = Instant::now();
    let body = json!({
        "agentName": "Crumb",
        "personality": "A baker's apprentice who is proud of the sourdough.",
        "tone": "casual",
        "channels": {"webchat": true}
    });
    let answer = stage.api("POST", &format!("/api/tenants/{id}/provision"), &body)?.expect(200)?.json()?;
    for key in ["sidecarUrl", "sidecarToken", "gatewayToken", "url"] {
        answer[key].as_str().with_context(|| format!("{key} in the answer of provision"))?;
    }
    teller.done(started, "provisioned: token issued, entrypoint → sidecar → gateway started by the local provider");
    files_were_stored_first(stage, teller, &id)?;
    let tenant = stage.enter(&id)?;
    files_are_on_disk(stage, teller, &tenant)?;
    Ok(tenant)
}

fn files_were_stored_first(stage: &Stage, teller: &Teller, id: &str) -> Result<()> {
    let looked = Instant::now();
    for path in GENERATED {
        let versions = stage.api_get(&format!("/api/tenants/{id}/versions?path={path}"))?;
        let first = versions["versions"].as_array().and_then(|versions| versions.last()).context(*path)?;
        if first["source"] != "system" {
            bail!("the first version of {path} is not control's: {first}");
        }
    }
    teller.done(
        looked,
        &format!("{} config files generated and stored in file_snapshots before anything started", GENERATED.len()),
    );
    Ok(())
}

fn files_are_on_disk(stage: &Stage, teller: &Teller, tenant: &Tenant) -> Result<()> {
    let started = Instant::now();
    within(SYNC, "generated files on disk", || {
        if stage.is_interrupted() {
            bail!("interrupted");
        }
        for path in GENERATED {
            let wanted = stage.api_get(&format!("/api/tenants/{}/files/{path}", tenant.id))?;
            let found = fs::read_to_string(tenant.data.join(path)).with_context(|| (*path).to_owned())?;
            if wanted["content"] != found.as_str() {
                bail!("{path} is not what control generated");
            }
        }
        Ok(Some(()))
    })?;
    teller.done(started, &format!("… and on the tenant's disk: {}", tenant.data.display()));
    Ok(())
}

/// Waits for `ready` and returns the status; `not` is a process that must be gone.
fn wait_until_ready(stage: &Stage, tenant: &Tenant, not: Option<u64>) -> Result<Value> {
    within(GATEWAY_START, "the gateway is ready", || {
        if stage.is_interrupted() {
            return Ok(Some(Value::Null));
        }
        let status = stage.sidecar(tenant, "/gateway")?;
        let ready = is_up(&status) && status["pid"].as_u64() != not;
        if ready { Ok(Some(status)) } else { bail!("{status}") }
    })
    .and_then(|status| if status.is_null() { bail!("interrupted") } else { Ok(status) })
}

fn gateway_is_ready(stage: &Stage, teller: &Teller, tenant: &Tenant) -> Result<()> {
    let started = Instant::now();
    teller.begin("the gateway starts; the first time takes longer …");
    let status = wait_until_ready(stage, tenant, None)?;
    let address = tenant.gateway.trim_start_matches("http://").parse()?;
    let own = within(SYNC, "the gateway's own readiness", || {
        let answer = request(address, "GET", "/readyz", &[], b"")?;
        if answer.status == 200 { Ok(Some(answer)) } else { bail!("{}: {}", answer.status, answer.text()) }
    })?;
    if own.json()?["ready"] != true {
        bail!("the gateway says {}", own.text());
    }
    teller.done(started, &format!("gateway ready (pid {}), says its own /readyz", status["pid"]));
    Ok(())
}

fn operator_pushes(stage: &Stage, teller: &Teller, tenant: &Tenant) -> Result<()> {
    let content = format!("# Soul\n\nYou are Crumb. You answer in one sentence. ({})\n", now());
    let started = Instant::now();
    let target = format!("/api/tenants/{}/files/{SOUL}?force=true", tenant.id);
    stage.api("PUT", &target, &json!({ "content": content }))?.expect(200)?;
    teller.done(started, &format!("operator pushes a new {SOUL}"));
    let disk = tenant.data.join(SOUL);
    within(SYNC, "the pushed file is on disk", || Ok((fs::read_to_string(&disk)? == content).then_some(())))?;
    teller.done(started, "… and it is on disk");
    wait_for_change(stage, tenant, SOUL, "system", &content)?;
    teller.done(started, "… and confirmed in control, author system, by demo");
    Ok(())
}

fn agent_writes(stage: &Stage, teller: &Teller, tenant: &Tenant) -> Result<()> {
    let path = tenant.data.join(NOTES);
    let started = Instant::now();
    let content = append(&path, &format!("- {}: the oven runs hot on the left side\n", now()))?;
    teller.done(started, &format!("the \"agent\" appends to {NOTES}"));
    wait_for_change(stage, tenant, NOTES, "agent", &content)?;
    teller.done(started, "… and the change is in control, author agent, with its content");
    Ok(())
}

/// Appends as the agent's tools would, past our API, and returns the whole content.
fn append(path: &Path, line: &str) -> Result<String> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = fs::File::options().create(true).append(true).open(path)?;
    file.write_all(line.as_bytes())?;
    Ok(fs::read_to_string(path)?)
}

/// Waits until control's newest change of a path is this author's and its version has this content.
fn wait_for_change(stage: &Stage, tenant: &Tenant, path: &str, source: &str, content: &str) -> Result<()> {
    within(SYNC, &format!("{path} by {source} in control"), || {
        let changes = stage.api_get(&format!("/api/tenants/{}/changes?path={path}&limit=1", tenant.id))?;
        let change = &changes["changes"][0];
        if change["source"] != source {
            bail!("the newest change is {change}");
        }
        let target = format!("/api/tenants/{}/files/{path}?version={}", tenant.id, change["version"]);
        let version = stage.api_get(&target)?;
        if version["content"] == content { Ok(Some(())) } else { bail!("its content is {}", version["content"]) }
    })
}

fn gateway_is_killed(stage: &Stage, teller: &Teller, tenant: &Tenant) -> Result<()> {
    let before = stage.sidecar(tenant, "/gateway")?;
    let pid = before["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).context("the gateway's pid")?;
    let started = Instant::now();
    kill(Pid::from_raw(pid), Signal::SIGKILL).context("kill -9 of the gateway")?;
    teller.done(started, &format!("gateway (pid {pid}) killed with SIGKILL"));
    let status = wait_until_ready(stage, tenant, u64::try_from(pid).ok())?;
    teller.done(
        started,
        &format!("… and it is back (pid {}): {}", status["pid"], status["last_exit"]["meaning"].as_str().unwrap_or("")),
    );
    let disk = fs::read_to_string(tenant.data.join(NOTES))?;
    if !disk.contains("oven") {
        bail!("{NOTES} lost its content");
    }
    Ok(())
}

/// Seconds since 1970: makes each run's contents differ.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
