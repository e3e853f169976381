//! A tenant with the hostile agent in the gateway's place, seen from outside.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use winston_tests::http::{Client, free_address};
use winston_tests::process::{Entrypoint, Mode, Running, TEST_TOKEN, bin, children, write_program};
use winston_tests::wait::eventually;

use crate::attempts::{Class, Note, order};

pub(crate) struct Stage {
    entrypoint: Running,
    client: Client,
    ports: Vec<u16>,
    /// As we see it: the mount namespace may be another one.
    data: PathBuf,
    /// As the tenant sees it.
    named: PathBuf,
    set_user_id: PathBuf,
}

/// Where the tenant runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    In(Container),
    /// As this user, in no container.
    AsUser(u32),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Container {
    /// With the capabilities that containers usually have.
    Usual,
    /// With all of them.
    Privileged,
}

/// What only we may change: inode, owner and mode of each path, and the contents that stay the same.
pub(crate) type Protected = BTreeMap<PathBuf, (u64, u32, u32)>;

impl Stage {
    /// `agent`: `WINSTON_GATEWAY_UID`.
    pub(crate) fn set(place: Place, agent: Option<u32>) -> Result<Self> {
        let (api, front, gateway) = (free_address()?, free_address()?, free_address()?);
        let mut plan = match place {
            Place::In(Container::Usual) => Entrypoint::new(Mode::Pid1, "")?,
            Place::In(Container::Privileged) => Entrypoint::new(Mode::Pid1, "")?.privileged(),
            Place::AsUser(_) => Entrypoint::new(Mode::Subreaper, "")?,
        };
        let dir = plan.dir().to_owned();
        let copied = |program: &Path, name: &str, mode: u32| -> Result<PathBuf> {
            let copy = dir.join(name);
            // By a process of its own, as `write_program` does.
            ensure!(std::process::Command::new("cp").arg(program).arg(&copy).status()?.success(), "{name}");
            std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(mode))?;
            Ok(copy)
        };
        let sidecar = copied(&bin("winston-sidecar")?, "winston-sidecar", 0o755)?;
        copied(&std::env::current_exe()?, "agent", 0o755)?;
        let set_user_id = copied(Path::new("/usr/bin/id"), "id", 0o4755)?;
        let openclaw = dir.join("openclaw");
        let script = "exec \"${0%/*}/agent\" --ignored --exact the_agent --nocapture --test-threads 1";
        write_program(&openclaw, &format!("#!/bin/sh\n{script}\n"))?;
        let data = plan.data();
        std::fs::create_dir_all(data.join(".openclaw"))?;
        std::fs::create_dir_all(data.join(".home"))?;
        std::fs::write(data.join(".openclaw/openclaw.json"), "{}")?;
        if let Place::AsUser(user) = place {
            for path in ["", ".openclaw", ".openclaw/openclaw.json", ".home"] {
                std::os::unix::fs::chown(data.join(path), Some(user), Some(user))?;
            }
            plan = plan.user(user)?;
        }
        let leaks = [
            "INVOCATION_ID",
            "JOURNAL_STREAM",
            "SYSTEMD_EXEC_PID",
            "OPENCLAW_SYSTEMD_UNIT",
            "OPENCLAW_NO_RESPAWN",
            "NODE_COMPILE_CACHE",
            "NODE_OPTIONS",
            "BASH_ENV",
            "ENV",
            "DATABASE_URL",
            "RAILWAY_TOKEN",
            "NOTIFY_SOCKET",
            "LD_LIBRARY_PATH",
            "LD_PRELOAD",
        ];
        for leak in leaks {
            plan = plan.env(leak, "leaked-for-the-test");
        }
        let agent = agent.map(|uid| uid.to_string()).unwrap_or_default();
        let plan = plan
            .env("WINSTON_GATEWAY_UID", &agent)
            .env("WINSTON_SIDECAR_BIN", &sidecar.to_string_lossy())
            .env("WINSTON_SIDECAR_LISTEN", &api.to_string())
            .env("WINSTON_FRONT_LISTEN", &front.to_string())
            .env("SETUP_PASSWORD", "password-of-the-test")
            .env("OPENCLAW_GATEWAY_PORT", &gateway.port().to_string())
            .env("WINSTON_OPENCLAW_BIN", &openclaw.to_string_lossy());
        let (entrypoint, client) = (plan.start()?, Client::new(api, TEST_TOKEN));
        let ports = vec![api.port(), front.port()];
        let stage = Self { entrypoint, client, ports, named: data.clone(), data, set_user_id };
        // A journal with contents, and a large one in a file of its own.
        eventually("the sidecar answers", || stage.client.get("/status").map(Some))?;
        for (path, content) in [("workspace/SOUL.md", "soul".to_owned()), ("workspace/large.md", "x".repeat(200_000))] {
            let body = json!({ "content": content }).to_string();
            let headers = [("Content-Type", "application/json")];
            stage.client.call("PUT", &format!("/files/{path}"), &headers, body.as_bytes())?.expect(200)?;
        }
        eventually("the agent is ready", || {
            let status: Value = stage.client.get("/gateway")?;
            if status["state"] == "ready" { Ok(Some(())) } else { bail!("{status}") }
        })
        .with_context(|| stage.entrypoint.stderr())?;
        Ok(stage)
    }

    /// Everything in `.winston`, and the directories around it.
    pub(crate) fn protected(&self) -> Result<Protected> {
        let mut found = Protected::new();
        for path in
            [self.data.clone(), self.data.join(".winston")].into_iter().chain(below(&self.data.join(".winston"))?)
        {
            let meta = std::fs::symlink_metadata(&path)?;
            found.insert(path, (meta.ino(), meta.uid(), meta.mode()));
        }
        Ok(found)
    }

    /// Lets the agent do its worst; what it wrote down.
    pub(crate) fn play(&self, classes: &[Class], gentle: bool) -> Result<Vec<Note>> {
        let ours = below(&self.data.join(".winston"))?;
        ensure!(ours.len() > 5, "{ours:?}");
        let renamed = |path: &PathBuf| Ok(self.named.join(path.strip_prefix(&self.data)?));
        let ours = ours.iter().map(renamed).collect::<Result<Vec<_>>>()?;
        let order = order(classes, &ours, &self.ports, &self.set_user_id, TEST_TOKEN, gentle);
        let home = self.data.join(".home");
        std::fs::write(home.join("order.new"), order.to_string())?;
        std::fs::set_permissions(home.join("order.new"), std::fs::Permissions::from_mode(0o644))?;
        std::fs::rename(home.join("order.new"), home.join("order"))?;
        let notes =
            eventually("the agent has tried everything", || Ok(Some(std::fs::read_to_string(home.join("notes"))?)));
        let notes = notes.with_context(|| {
            let so_far = std::fs::read_to_string(home.join("notes.new")).unwrap_or_default();
            format!("so far:\n{so_far}\n{}", self.entrypoint.stderr())
        })?;
        notes.lines().map(Note::read).collect()
    }

    /// Nothing of ours has changed hands or is gone, both processes are the same, and everything works.
    pub(crate) fn unharmed(&self, before: &Protected) -> Result<()> {
        let after = self.protected()?;
        for (path, was) in before {
            // What is replaced by a rename in everyday use has another inode.
            let now = after.get(path).with_context(|| format!("{} is gone", path.display()))?;
            ensure!((now.1, now.2) == (was.1, was.2), "{}: {was:?} became {now:?}", path.display());
        }
        ensure!(after.values().all(|(_, uid, _)| *uid == 0), "somebody else's: {after:?}");
        let status = self.client.get("/status")?;
        ensure!(status["gateway"]["restarts"] == 0 || status["gateway"].is_null(), "{status}");
        // What the agent put into its workspace leads nowhere.
        let loot = self.client.call("GET", "/files/workspace/loot/epoch", &[], b"")?;
        ensure!(loot.status >= 400, "{}: {}", loot.status, loot.text());
        for route in ["/gateway/signal", "/gateway/usr1", "/gateway/SIGUSR1", "/signal"] {
            let answer = self.client.call("POST", route, &[], b"{\"signal\":\"USR1\"}")?;
            ensure!([404, 405].contains(&answer.status), "{route}: {}", answer.status);
        }
        let body = json!({ "content": "still here" }).to_string();
        self.client
            .call("PUT", "/files/workspace/SOUL.md", &[("Content-Type", "application/json")], body.as_bytes())?
            .expect(200)?;
        let entrypoint = self.entrypoint.entrypoint()?;
        ensure!(children(entrypoint)?.len() == 1, "the sidecar is the only child: no other was started");
        self.forgeries_are_marked()
    }

    /// Each line that the agent forged is in the log as a line of the gateway.
    fn forgeries_are_marked(&self) -> Result<()> {
        let mut left = 4;
        while left > 0 {
            let line = self.entrypoint.line()?;
            ensure!(!line.contains('\r') && !line.contains('\u{1b}') && !line.contains('\0'), "{line:?}");
            let value: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
            ensure!(value["message"].as_str().is_none_or(|message| message != "forged stopped"), "{line}");
            if line.contains("forged") {
                ensure!(
                    value["stream"] == "stdout" && value["source"] == "gateway" || value["target"] == "gateway",
                    "{line}"
                );
                left -= 1;
            }
        }
        Ok(())
    }

    /// Waits for a line of the sidecar's log.
    pub(crate) fn said(&self, part: &str) -> Result<()> {
        loop {
            if self.entrypoint.line()?.contains(part) {
                return Ok(());
            }
        }
    }
}

/// Every path below a directory.
fn below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(below(&entry.path())?);
        }
        found.push(entry.path());
    }
    Ok(found)
}
