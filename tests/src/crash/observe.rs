//! Looking at a tenant from outside, once it is quiet.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::oracle::{Op, Record, Seen, Who};
use crate::sidecar::Sidecar;
use crate::tenant::{Tenant, hash};
use crate::wait::eventually;

/// Most records of one answer.
const PAGE: usize = 1000;

/// What control said so far about one tenant; a record never changes.
#[derive(Debug, Default)]
pub(super) struct Observer {
    history: Vec<Record>,
    epoch: Option<String>,
}

impl Observer {
    /// Waits until both sides say that they have everything and the disk is what control lists. When that does not come, what there is has
    /// to be judged: the text says what was waited for.
    pub(super) fn settle(&self, tenant: &Tenant, sidecar: &Sidecar) -> Option<String> {
        let quiet = eventually("quiet", || even(tenant, &sidecar.status()?, &disk(sidecar.data())?).map(Some));
        quiet.err().map(|error| format!("{error:#}"))
    }

    /// Everything that the oracle wants to know.
    pub(super) fn look(&mut self, tenant: &Tenant, sidecar: &Sidecar, ops: &[Op]) -> Result<Seen> {
        self.read_history(tenant)?;
        let sync = sidecar.status()?["sync"].take();
        let conflicts = sync["conflicts"].as_array().into_iter().flatten();
        let conflicts =
            conflicts.filter_map(|c| Some((c["path"].as_str()?.to_owned(), c["generation"].as_u64()?))).collect();
        let pushed: HashSet<_> =
            ops.iter().filter(|op| op.who == Who::Push).flat_map(|op| &op.effects).map(|effect| &effect.path).collect();
        let mut versions = HashMap::new();
        for path in pushed {
            let list = tenant.get(&format!("/versions?path={path}&limit={PAGE}"))?;
            let actors = list["versions"].as_array().into_iter().flatten();
            versions.insert(
                path.clone(),
                actors.filter_map(|version| version["actor"].as_str().map(str::to_owned)).collect(),
            );
        }
        Ok(Seen {
            history: self.history.clone(),
            disk: disk(sidecar.data())?,
            listed: listed(tenant)?,
            left: left(sidecar.data())?,
            versions,
            conflicts,
        })
    }

    /// Reads what is new in control's history; all of it.
    pub(super) fn history(&mut self, tenant: &Tenant) -> Result<&[Record]> {
        self.read_history(tenant)?;
        Ok(&self.history)
    }

    fn read_history(&mut self, tenant: &Tenant) -> Result<()> {
        loop {
            let after = self.history.last().map_or(0, |record| record.seq);
            let answer = tenant.get(&format!("/changes?after={after}&limit={PAGE}"))?;
            let changes = answer["changes"].as_array().context("changes")?;
            for change in changes {
                let text = |key: &str| change[key].as_str().map(str::to_owned);
                let epoch = text("epoch");
                if self.epoch.is_some() && self.epoch != epoch {
                    bail!("the journal has become another one: {:?}, then {epoch:?}", self.epoch);
                }
                self.epoch = epoch;
                let content = if change["hash"].is_string() { tenant.content_of(change).ok() } else { None };
                self.history.push(Record {
                    seq: change["seq"].as_u64().context("seq")?,
                    path: text("path").context("path")?,
                    previous_path: text("previous_path"),
                    source: text("source").context("source")?,
                    actor: text("actor"),
                    hash: text("hash"),
                    previous_hash: text("previous_hash"),
                    generation: change["generation"].as_u64(),
                    content,
                });
            }
            if changes.len() < PAGE {
                return Ok(());
            }
        }
    }
}

/// Whether both sides say that they have everything, with this status of the sidecar, and the disk is what control lists. The error names what
/// differs.
pub(super) fn even(tenant: &Tenant, status: &Value, disk: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let seen = tenant.get("/health")?["health"][0].take();
    let (journal, sync) = (&status["journal"], &status["sync"]);
    let even = journal["acked_seq"] == journal["head_seq"]
        && sync["state"] == "connected"
        && sync["applied_generation"] == seen["generation"]
        && seen["applied_generation"] == seen["generation"];
    if !even {
        bail!("{journal} {sync} {seen}");
    }
    let disk: BTreeMap<_, _> = disk.iter().map(|(path, bytes)| (path.clone(), hash(bytes))).collect();
    let listed = listed(tenant)?;
    if disk != listed {
        let differs = |path: &&String| disk.get(*path) != listed.get(*path);
        let paths: HashSet<_> = disk.keys().chain(listed.keys()).filter(differs).collect();
        bail!("disk and control differ in {paths:?}");
    }
    Ok(())
}

/// Control's list of files.
pub(super) fn listed(tenant: &Tenant) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut after = String::new();
    loop {
        let mut page = tenant.get(&format!("/files?limit={PAGE}&after={after}"))?;
        for file in page["files"].as_array().context("files")? {
            // What was pushed and met a local edit is listed with the local file's hash; a pushed file that is nowhere else has none.
            let (Some(path), Some(hash)) = (file["path"].as_str(), file["hash"].as_str()) else { continue };
            found.insert(path.to_owned(), hash.to_owned());
        }
        match page["next"].take() {
            Value::String(next) => after = next,
            _ => return Ok(found),
        }
    }
}

/// Every file below the data directory, but for `.winston`.
pub(super) fn disk(data: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![data.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            let path = entry.path();
            let below = path.strip_prefix(data)?.to_string_lossy().into_owned();
            if below == ".winston" {
                continue;
            }
            if entry.file_type()?.is_dir() {
                directories.push(path);
            } else {
                found.insert(below, std::fs::read(&path)?);
            }
        }
    }
    Ok(found)
}

/// What waits in `.winston/staging`, and temporary names of contents and segments. The fixed names beside `index`, `acked` and `applied` are
/// not counted: a kill can leave each of them once, and the next writing of that file takes it over.
pub(super) fn left(data: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in ["staging", "changes", "objects"] {
        let Ok(entries) = std::fs::read_dir(data.join(".winston").join(name)) else { continue };
        for entry in entries {
            let file = entry?.file_name().to_string_lossy().into_owned();
            if name == "staging" || file.ends_with(".new") || file.ends_with(".tmp") {
                found.push(format!(".winston/{name}/{file}"));
            }
        }
    }
    Ok(found)
}
