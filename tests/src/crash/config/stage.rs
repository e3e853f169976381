//! One tenant: a whole household with a gateway that does what its configuration says.

use std::collections::{BTreeMap, HashSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::actors::{Actors, Deeds};
use super::deed::{Act, Behaviour, Deed, Told, Verdict, config};
use super::kills::{kill_container, kills};
use super::operator::Database;
use super::oracle::{After, judge};
use super::plan::{Plan, Victim};
use crate::crash::driver::FAILPOINTS;
use crate::crash::observe::{Observer, disk, even, left, listed};
use crate::crash::oracle::{Finding, Kind, Seen};
use crate::household::{Home, Household};
use crate::process::{Mode, bin};
use crate::tenant::Tenant;
use crate::trial::CONFIG;
use crate::wait::eventually;

/// The file that comes with a set.
pub(super) const SOUL: &str = "workspace/SOUL.md";

/// What stays in `.winston/config` beside the good sets.
const KEPT: &[&str] = &["good", "mixed", "owned", "verdicts"];

/// A tenant and its processes.
pub(super) struct Stage {
    tenant: Tenant,
    database: Database,
    household: Household,
    home: Option<Home>,
    deeds: Deeds,
    observer: Observer,
    disturbed: HashSet<u64>,
    /// Of entrypoints that are gone.
    logs: String,
}

/// What a round adds to the figures.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) kills: Vec<Victim>,
    /// The sidecar died at its failpoint.
    pub(super) hit: bool,
}

impl Stage {
    /// A tenant with a good configuration, which nobody has started yet.
    pub(super) fn new(tenant: Tenant, database: Database) -> Result<Self> {
        let household = Household::new(Mode::Subreaper)?
            .token(&tenant.token)
            .env("WINSTON_CONTROL_URL", &format!("http://{}", tenant.control_address()))
            .env("OPENCLAW_GATEWAY_TOKEN", "test-gateway-token-0123456789abcdef")
            .env("WINSTON_PROBATION_SECONDS", "0")
            .env("WINSTON_PROBATION_START_SECONDS", "8");
        // The sidecar is the one that dies at a failpoint, once, when it is told so; then the one that is shipped.
        let script = format!(
            "#!/bin/sh\ncd \"${{0%/*}}\"\nif mv armed fired 2>&-; then\nWINSTON_FAILPOINTS=$(cat fired) exec {} # winston-sidecar\nfi\nexec {}\n",
            bin(FAILPOINTS)?.display(),
            bin("winston-sidecar")?.display()
        );
        crate::household::install_script(&script, household.sidecar())?;
        std::fs::write(household.data().join(CONFIG), config(0, Behaviour::Good))?;
        let deeds = Deeds::default();
        let id = deeds.next_id();
        let saved = Some(config(id, Behaviour::Good));
        deeds.note(Deed { id, act: Act::Put(Behaviour::Good), told: Told::Unknown, saved, round: u64::MAX });
        Ok(Self {
            tenant,
            database,
            household,
            home: None,
            deeds,
            observer: Observer::default(),
            disturbed: HashSet::new(),
            logs: String::new(),
        })
    }

    fn home(&self) -> Result<&Home> {
        self.home.as_ref().context("nobody is at home")
    }

    /// One round, and what is wrong after it.
    pub(super) fn round(&mut self, number: u64, plan: &Plan) -> Result<(Counts, Vec<Finding>)> {
        if plan.disturbs() {
            self.disturbed.insert(number);
        }
        if let Some((name, visit)) = &plan.failpoint {
            std::fs::write(self.household.sidecar().with_file_name("armed"), format!("{name}=kill@{visit}"))?;
        }
        let logged = self.logs.len();
        self.start()?;
        let mut counts = self.work(number, plan)?;
        if counts.kills.contains(&Victim::Container) {
            self.gone();
            self.start()?;
        }
        let mut restless = self.settle();
        if restless.is_none() {
            // Whatever the gateway runs with: on a new start it has what is on disk.
            let home = self.home()?;
            // The sidecar may die at its failpoint only here.
            eventually("a restart", || home.gateway.order("restart").map(Some))?;
            restless = self.settle();
        }
        let mine = counts.kills.iter().filter(|victim| **victim == Victim::Sidecar).count();
        let log = format!("{}{}", &self.logs[logged..], self.home()?.entrypoint.stderr());
        counts.hit = log.matches("ended by a signal").count() > mine;
        let after = self.look()?;
        let mut findings = judge(&self.deeds.all(), &after);
        findings.extend(restless.map(|what| Finding { kind: Kind::Stuck, what }));
        if findings.is_empty() {
            self.end(plan.hard_end)?;
        }
        Ok((counts, findings))
    }

    fn start(&mut self) -> Result<()> {
        let home = self.household.start()?;
        let first = self.home.is_none() && self.logs.is_empty();
        let ready = home.ready().map(drop);
        let home = self.home.insert(home);
        ready?;
        if first {
            // Without a good set there is none to go back to.
            eventually("the first configuration is good", || {
                Ok((home.client.get("/config")?["standing"] == "good").then_some(()))
            })?;
        }
        Ok(())
    }

    /// Everybody acts while the killer waits for its moment.
    fn work(&self, number: u64, plan: &Plan) -> Result<Counts> {
        let home = self.home()?;
        let before = serde_json::from_slice(&std::fs::read(self.household.data().join(CONFIG))?)?;
        let actors = Actors {
            tenant: &self.tenant,
            database: &self.database,
            sidecar: &home.client,
            data: self.household.data(),
            deeds: &self.deeds,
            round: number,
            before: &before,
        };
        std::thread::scope(|scope| {
            let acting: Vec<_> = plan.acts.iter().map(|acts| scope.spawn(|| actors.play(acts))).collect();
            let kills = kills(home, plan);
            for actor in acting {
                actor.join().map_err(|_| anyhow::anyhow!("an actor panicked"))??;
            }
            Ok(Counts { kills: kills?, hit: false })
        })
    }

    /// Waits until nothing is under way on either side; what is, when that does not come.
    fn settle(&self) -> Option<String> {
        let quiet = eventually("quiet", || {
            let home = self.home()?;
            let (status, report, gateway) =
                (home.client.get("/status")?, home.client.get("/config")?, home.gateway.status()?);
            if gateway["state"] != "ready" || report["activity"] != "idle" || !report["open"].is_null() {
                bail!("{gateway} {report}");
            }
            // Owned keys that cannot be had on top of what the agent broke are tried again and again, with growing pauses.
            let owns = &report["owned"];
            let hopeless = !owns["problem"].is_null() || owns["contested"] == true;
            if (report["standing"] == "unknown" && !hopeless) || !report["trouble"].is_null() {
                bail!("{report}");
            }
            even(&self.tenant, &status, &disk_of(&self.household.data())?)?;
            // Keys with which the gateway could not be are not owned.
            let owned = self.tenant.get("/config")?["owned"].take();
            let text = std::fs::read(self.household.data().join(CONFIG))?;
            let there: Value = serde_json::from_slice(&text)?;
            let (wanted, level) = (&owned["patch"]["logging"]["level"], &there["logging"]["level"]);
            let is_owned = owns["generation"] == owned["generation"] && wanted.is_string();
            if is_owned && !hopeless && level != wanted {
                bail!("control owns {wanted}, on disk is {level}");
            }
            ensure!(status["sync"]["repairs"] == 0, "control had to be repaired: {}", status["sync"]);
            Ok(Some(()))
        });
        quiet.err().map(|error| format!("{error:#}"))
    }

    /// Everything that the oracle wants to know.
    fn look(&mut self) -> Result<After> {
        let data = self.household.data();
        let history = self.observer.history(&self.tenant)?.to_vec();
        let mut verdicts = BTreeMap::new();
        let told = self.tenant.get("/config/verdicts?limit=500")?;
        for verdict in told["verdicts"].as_array().into_iter().flatten() {
            let said = verdict["verdict"].as_str().and_then(Verdict::parse);
            verdicts.extend(verdict["generation"].as_u64().zip(said));
        }
        let log = self.home()?.gateway.logs(1000)?;
        let ready = log.iter().rev().find_map(|line| line["line"].as_str()?.strip_prefix("[gateway] ready with "));
        let serves = ready.map(|marker| marker.trim_matches('"').to_owned());
        let mut left = left(&data)?;
        for entry in std::fs::read_dir(data.join(".winston/config"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !KEPT.contains(&name.as_str()) {
                left.push(format!(".winston/config/{name}"));
            }
        }
        for entry in std::fs::read_dir(data.join(".winston/config/good"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.parse::<u64>().is_err() {
                left.push(format!(".winston/config/good/{name}"));
            }
        }
        let seen = Seen { history, disk: disk_of(&data)?, listed: listed(&self.tenant)?, left, ..Seen::default() };
        Ok(After { seen, verdicts, serves, disturbed: self.disturbed.clone() })
    }

    /// The container ends: in order, and then nothing is left, or by its death.
    fn end(&mut self, hard: bool) -> Result<()> {
        if hard {
            kill_container(self.home()?)?;
            self.gone();
            return Ok(());
        }
        let mut home = self.home.take().context("nobody is at home")?;
        home.entrypoint.signal(Signal::SIGTERM)?;
        let code = home.entrypoint.wait()?;
        self.logs.push_str(&home.entrypoint.stderr());
        ensure!(code == 0, "entrypoint ended with {code}: {}", home.entrypoint.stderr());
        let left = home.gateways()?;
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }

    /// Forgets a container that was killed.
    fn gone(&mut self) {
        if let Some(mut home) = self.home.take() {
            let _ = home.entrypoint.wait();
            self.logs.push_str(&home.entrypoint.stderr());
        }
    }

    /// Verdicts by what they were about.
    pub(super) fn verdicts(&self) -> Result<BTreeMap<String, u64>> {
        let mut counts = BTreeMap::new();
        let told = self.tenant.get("/config/verdicts?limit=500")?;
        let pushes = told["verdicts"].as_array().into_iter().flatten().map(|verdict| {
            let who = if verdict["generation"].is_null() { "here" } else { "pushed" };
            format!("{who} {}", verdict["verdict"].as_str().unwrap_or("?"))
        });
        for name in pushes {
            *counts.entry(name).or_default() += 1;
        }
        Ok(counts)
    }

    /// Records of the history so far.
    pub(super) fn records(&mut self) -> Result<u64> {
        Ok(self.observer.history(&self.tenant)?.len() as u64)
    }

    /// Copies what a post-mortem needs out of the temporary directory.
    pub(super) fn keep(&self, round: u64, plan: &Plan, findings: &[Finding]) -> Result<PathBuf> {
        let kept = std::env::temp_dir().join(format!("winston-crash-config-{}-{round}", std::process::id()));
        std::fs::create_dir_all(&kept)?;
        let data = self.household.data();
        let around = data.parent().context("a data directory in a directory")?;
        let copied =
            std::process::Command::new("cp").arg("-a").arg(around.join(".")).arg(kept.join("tenant")).status()?;
        ensure!(copied.success(), "cp: {copied}");
        let mut text = std::fs::File::create(kept.join("deeds.txt"))?;
        writeln!(text, "{plan:#?}\n{findings:#?}")?;
        for deed in self.deeds.all() {
            writeln!(text, "{deed:?}")?;
        }
        if let Some(home) = &self.home {
            std::fs::write(kept.join("gateway.log"), home.gateway.log_text(1000).unwrap_or_default())?;
            std::fs::write(kept.join("sidecar.log"), home.entrypoint.untaken())?;
            std::fs::write(kept.join("entrypoint.log"), format!("{}{}", self.logs, home.entrypoint.stderr()))?;
        }
        if let Ok(verdicts) = self.tenant.get("/config/verdicts?limit=500") {
            std::fs::write(kept.join("verdicts.json"), format!("{verdicts:#}"))?;
        }
        if let Ok(changes) = self.tenant.get("/changes?after=0&limit=1000") {
            std::fs::write(kept.join("history.json"), format!("{changes:#}"))?;
        }
        Ok(kept)
    }
}

/// What both sides speak about: the gateway's own files are nobody's.
fn disk_of(data: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = disk(data)?;
    found.retain(|path, _| path == CONFIG || path.starts_with("workspace/"));
    Ok(found)
}
