//! A whole tenant: a real entrypoint, a real sidecar, and a gateway that does what a test says.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::gateway::{Gateway, is_up};
use crate::http::{Client, free_address};
use crate::process::{Entrypoint, Mode, PATIENCE, Process, Running, TEST_TOKEN, bin, children, write_program};
use crate::wait::eventually;

/// How it is started.
pub struct Household {
    plan: Entrypoint,
    api: SocketAddr,
    gateway: SocketAddr,
    sidecar: PathBuf,
    token: String,
}

impl Household {
    /// With a configuration, so that the gateway starts at once. The sidecar is a copy that may be replaced.
    pub fn new(mode: Mode) -> Result<Self> {
        let (api, gateway) = (free_address()?, free_address()?);
        let plan = Entrypoint::new(mode, "")?;
        let sidecar = plan.dir().join("winston-sidecar");
        install(&bin("winston-sidecar")?, &sidecar)?;
        std::fs::create_dir_all(plan.data().join(".openclaw"))?;
        std::fs::write(plan.data().join(".openclaw/openclaw.json"), "{\"gateway\": {\"mode\": \"local\"}}")?;
        let plan = plan
            .env("WINSTON_SIDECAR_BIN", &sidecar.to_string_lossy())
            .env("WINSTON_SIDECAR_LISTEN", &api.to_string())
            .env("OPENCLAW_GATEWAY_PORT", &gateway.port().to_string())
            .env("WINSTON_OPENCLAW_BIN", &bin("winston-stand-in")?.to_string_lossy());
        Ok(Self { plan, api, gateway, sidecar, token: TEST_TOKEN.to_owned() })
    }

    /// Another token than [`TEST_TOKEN`]: one that a control has issued.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        token.clone_into(&mut self.token);
        self.env("WINSTON_SIDECAR_TOKEN", token)
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.plan = self.plan.env(name, value);
        self
    }

    /// The gateway's home, where its files lie.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.plan.data().join(".home")
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.plan.data()
    }

    /// Where the gateway listens.
    #[must_use]
    pub fn gateway(&self) -> SocketAddr {
        self.gateway
    }

    /// Where the sidecar's executable lies.
    #[must_use]
    pub fn sidecar(&self) -> &Path {
        &self.sidecar
    }

    /// Starts it.
    pub fn start(&self) -> Result<Home> {
        let client = Client::new(self.api, &self.token);
        Ok(Home {
            entrypoint: self.plan.start()?,
            gateway: Gateway::of(client.clone()),
            client,
            gateway_address: self.gateway,
            home: self.home(),
            data: self.plan.data(),
        })
    }
}

/// Puts a program in another one's place, whole. What is there is the program itself under another name: replace it, never write into it.
///
/// A copy would be open for writing for a while, and a process that another thread starts meanwhile would hold it open, so that it could not be run.
pub fn install(program: &Path, place: &Path) -> Result<()> {
    let staged = place.with_extension("new");
    let _ = std::fs::remove_file(&staged);
    if std::fs::hard_link(program, &staged).is_err() {
        std::fs::copy(program, &staged)?;
    }
    Ok(std::fs::rename(staged, place)?)
}

/// Puts a script in a program's place, whole.
pub fn install_script(script: &str, place: &Path) -> Result<()> {
    let staged = place.with_extension("new");
    write_program(&staged, script)?;
    Ok(std::fs::rename(staged, place)?)
}

/// A running tenant.
pub struct Home {
    /// PID 1 of it, with the output of the sidecars.
    pub entrypoint: Running,
    /// The sidecar's API.
    pub client: Client,
    /// The gateway as the sidecar sees it.
    pub gateway: Gateway,
    gateway_address: SocketAddr,
    home: PathBuf,
    data: PathBuf,
}

impl Home {
    /// The process id of the sidecar, as this process sees it.
    pub fn sidecar(&self) -> Result<Pid> {
        let sidecars = children(self.entrypoint.entrypoint()?)?.into_iter();
        let mut found = sidecars.filter(|pid| Process::of(pid.as_raw()).command.contains("winston-sidecar"));
        found.next().context("there is no sidecar")
    }

    /// Kills the sidecar; its id.
    pub fn kill_sidecar(&self) -> Result<Pid> {
        let sidecar = eventually("a sidecar", || self.sidecar().map(Some))?;
        kill(sidecar, Signal::SIGKILL)?;
        Ok(sidecar)
    }

    /// Waits until another sidecar than this one answers.
    pub fn another_sidecar(&self, before: Pid) -> Result<Pid> {
        eventually("another sidecar answers", || {
            self.client.get("/gateway")?;
            let now = self.sidecar()?;
            Ok((now != before).then_some(now))
        })
    }

    /// A connection to the gateway.
    pub fn connect(&self) -> Result<Orders> {
        let stream = eventually("the gateway listens", || Ok(Some(TcpStream::connect(self.gateway_address)?)))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Orders(BufReader::new(stream)))
    }

    /// The ids of all gateways so far, as they saw themselves.
    pub fn starts(&self) -> Result<Vec<String>> {
        let starts = std::fs::read_to_string(self.home.join("starts")).unwrap_or_default();
        Ok(starts.lines().map(str::to_owned).collect())
    }

    /// Whether the gateway was asked to end.
    #[must_use]
    pub fn was_terminated(&self) -> bool {
        self.home.join("terminated").exists()
    }

    /// The gateways that live, with everything that they started.
    pub fn gateways(&self) -> Result<Vec<String>> {
        crate::gateway::processes_of(&self.data.join(".openclaw"))
    }

    /// The ids of the gateways that live.
    pub fn gateway_pids(&self) -> Result<Vec<i32>> {
        let mut pids: Vec<i32> = self.starts()?.iter().filter_map(|pid| pid.parse().ok()).collect();
        // An id may be another process's by now.
        pids.retain(|pid| {
            Process::of(*pid).environment.iter().any(|variable| variable.contains(&*self.data.to_string_lossy()))
        });
        Ok(pids)
    }

    /// Waits until the gateway is ready; its status.
    pub fn ready(&self) -> Result<Value> {
        self.gateway.wait_for("the gateway is ready", is_up)
    }

    /// Waits until the gateway's log has this line; the gateway's last lines, with their numbers.
    pub fn logged(&self, line: &str) -> Result<Vec<(u64, String)>> {
        eventually(&format!("{line:?} in the log"), || {
            let lines = self.gateway.logs(1000)?;
            let lines = lines.iter().filter(|line| line["stream"] == "stdout");
            let numbered = |line: &Value| Some((line["seq"].as_u64()?, line["line"].as_str()?.to_owned()));
            let lines: Vec<_> = lines.filter_map(numbered).collect();
            if lines.iter().any(|(_, found)| found == line) { Ok(Some(lines)) } else { bail!("{lines:?}") }
        })
    }

    /// Waits for this message on the output of the sidecars; the whole line.
    pub fn sidecar_said(&self, message: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        loop {
            let line: Value = serde_json::from_str(&self.entrypoint.line()?).unwrap_or_default();
            if line["message"] == message && fits(&line) {
                return Ok(line);
            }
        }
    }
}

/// A connection by which the gateway is told what to do.
pub struct Orders(BufReader<TcpStream>);

impl Orders {
    /// Gives an order and waits until it is carried out.
    pub fn give(&mut self, order: &str) -> Result<()> {
        self.send(order)?;
        let mut answer = String::new();
        self.0.read_line(&mut answer)?;
        let expected = order.split_once(' ').map_or("", |(_, text)| text);
        ensure!(answer.trim_end() == expected, "{order}: {answer:?}");
        Ok(())
    }

    /// In one piece: the second of two would wait until the first is acknowledged.
    fn send(&mut self, order: &str) -> Result<()> {
        Ok(self.0.get_mut().write_all(format!("{order}\n").as_bytes())?)
    }

    /// Gives an order; what is answered.
    pub fn ask(&mut self, order: &str) -> Result<String> {
        self.send(order)?;
        let mut answer = String::new();
        self.0.read_line(&mut answer)?;
        Ok(answer.trim_end().to_owned())
    }

    /// Gives an order that ends the gateway.
    pub fn last(mut self, order: &str) -> Result<()> {
        self.send(order)?;
        let mut answer = String::new();
        // Closed, or reset.
        let _ = self.0.read_line(&mut answer);
        ensure!(answer.is_empty(), "{order}: {answer:?}");
        Ok(())
    }
}
