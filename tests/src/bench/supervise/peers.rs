//! The same program below supervisors that others use, each from its ordinary package client and in the cache.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::figure::{Row, Unit, millis};
use super::super::report::Report;
use super::super::stats::Latencies;
use super::{LIFE, Starts};
use crate::household::install_script;
use crate::http::free_address;
use crate::process::bin;
use crate::wait::eventually;

/// Packages of Debian that `s6-supervise` needs; libraries by their prefix, because their names have their version.
const S6: &[&str] = &["s6", "libs6-", "libskarnet", "libexecline", "execline"];

const SUPERVISOR: &str = "supervisor==4.3.0";
const PM2: &str = "pm2@7.0.4";

/// How a supervisor is started, from the cache, with a directory of its own and the program.
type Launch = fn(&Path, &Path, &Path) -> Result<Command>;

const PEERS: [(&str, Launch); 3] = [("s6", s6), ("supervisord", supervisord), ("pm2", pm2)];

/// A supervisor. Ended in order, or killed, when dropped.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let ended = eventually("the end of the supervisor", || Ok(self.0.try_wait()?));
        if ended.is_err() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// A row for each one that can be had here; the usual time of the fastest.
pub(super) fn rows(report: &mut Report, times: usize) -> Result<Option<Duration>> {
    let mut best: Option<Duration> = None;
    for (name, launch) in PEERS {
        report.progress(&format!("the same below {name}"));
        match measure(launch, times) {
            Ok(times) => {
                let usual = times.percentile(50);
                best = Some(best.map_or(usual, |best| best.min(usual)));
                report.row(
                    Row::new(
                        format!("supervise.peer.{name}"),
                        format!("{name}, the same program killed: started again"),
                    )
                    .value("p50", millis(usual), Unit::Millis)
                    .value("max", millis(times.percentile(100)), Unit::Millis),
                );
            }
            Err(error) => report.note(&format!("{name}: not measured: {error:#}"))?,
        }
    }
    Ok(best)
}

fn measure(launch: Launch, times: usize) -> Result<Latencies> {
    let cache = std::env::var_os("WINSTON_CACHE_DIR").context("WINSTON_CACHE_DIR is not set; ./check bench sets it")?;
    let dir = tempfile::tempdir()?;
    let (home, state) = (dir.path().join("home"), dir.path().join("state"));
    std::fs::create_dir_all(&state)?;
    std::fs::write(state.join("openclaw.json"), r#"{"gateway": {"mode": "local"}}"#)?;
    let starts = Starts::listen(&home)?;
    let program = dir.path().join("program");
    let script = format!(
        "#!/bin/sh\nexport HOME={} OPENCLAW_STATE_DIR={} OPENCLAW_GATEWAY_PORT={}\nexec {} gateway run\n",
        home.display(),
        state.display(),
        free_address()?.port(),
        bin("winston-stand-in")?.display()
    );
    install_script(&script, &program)?;
    let log = std::fs::File::create(dir.path().join("log"))?;
    let mut command = launch(Path::new(&cache), dir.path(), &program)?;
    let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().context("not started")?;
    let peer = Peer(child);
    let said = || std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    let mut running = starts.next().with_context(said)?;
    let mut found = Vec::new();
    for _ in 0..times {
        std::thread::sleep(LIFE);
        let (time, next) = starts.kill(running).with_context(said)?;
        found.push(time);
        running = next;
    }
    drop(peer);
    // Some leave what they have started.
    let _ = kill(running, Signal::SIGKILL);
    Ok(Latencies::of(found))
}

/// Downloaded with `apt-get download` and unpacked beside each other, so that nothing is installed.
fn s6(cache: &Path, dir: &Path, program: &Path) -> Result<Command> {
    let root = once(&cache.join("s6"), |place| {
        let listed =
            run(Command::new("apt-cache").args(["depends", "--recurse", "--no-recommends", "--no-suggests", "s6"]))?;
        let ours = |name: &&str| {
            S6.iter().any(|wanted| name == wanted || (wanted.starts_with("lib") && name.starts_with(wanted)))
        };
        let packages: std::collections::BTreeSet<_> = listed.lines().filter(ours).collect();
        ensure!(packages.contains("s6"), "apt knows no s6");
        run(Command::new("apt-get").arg("download").args(packages).current_dir(place))?;
        for package in std::fs::read_dir(place)?.collect::<Result<Vec<_>, _>>()? {
            run(Command::new("dpkg-deb").arg("--extract").arg(package.path()).arg(place))?;
        }
        Ok(())
    })?;
    let service = dir.join("service");
    std::fs::create_dir(&service)?;
    std::fs::copy(program, service.join("run"))?;
    let libraries: Vec<_> = ["usr/lib", "lib"]
        .iter()
        .flat_map(|lib| std::fs::read_dir(root.join(lib)).into_iter().flatten().flatten())
        .map(|entry| entry.path().display().to_string())
        .collect();
    let supervise = ["usr/bin/s6-supervise", "bin/s6-supervise"].map(|path| root.join(path));
    let supervise = supervise.iter().find(|path| path.exists()).context("no s6-supervise in the package")?;
    let mut command = Command::new(supervise);
    command.arg(service).env("LD_LIBRARY_PATH", libraries.join(":"));
    Ok(command)
}

fn supervisord(cache: &Path, dir: &Path, program: &Path) -> Result<Command> {
    let root = once(&cache.join(SUPERVISOR.replace("==", "-")), |place| {
        run(Command::new("python3")
            .args(["-m", "pip", "install", "--disable-pip-version-check", "--target"])
            .arg(place)
            .args([SUPERVISOR, "setuptools<81"]))
        .map(drop)
    })?;
    let settings = dir.join("supervisord.conf");
    let mut file = std::fs::File::create(&settings)?;
    writeln!(
        file,
        "[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={}/pid",
        dir.display()
    )?;
    writeln!(file, "[program:gateway]\ncommand={}\nautorestart=true\nstdout_logfile=NONE", program.display())?;
    let mut command = Command::new("python3");
    command.args(["-m", "supervisor.supervisord", "--configuration"]).arg(settings).env("PYTHONPATH", root);
    Ok(command)
}

fn pm2(cache: &Path, dir: &Path, program: &Path) -> Result<Command> {
    let node = std::env::var_os("WINSTON_NODE_BIN")
        .map_or_else(|| PathBuf::from("node"), |dir| PathBuf::from(dir).join("node"));
    let root = once(&cache.join(PM2.replace('@', "-")), |place| {
        std::fs::write(place.join("package.json"), "{ \"private\": true }")?;
        run(Command::new("npm").args(["install", "--no-audit", "--no-fund", PM2]).current_dir(place)).map(drop)
    })?;
    let mut command = Command::new(node);
    command
        .arg(root.join("node_modules/pm2/bin/pm2-runtime"))
        .args(["start", "--interpreter", "none"])
        .arg(program)
        .env("PM2_HOME", dir.join("pm2"));
    Ok(command)
}

/// Fills a directory of the cache, once; half a directory is none.
fn once(place: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let mark = place.join(".complete");
    if !mark.exists() {
        let _ = std::fs::remove_dir_all(place);
        std::fs::create_dir_all(place)?;
        fill(place)?;
        std::fs::write(mark, "")?;
    }
    Ok(place.to_owned())
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", command.get_program().to_string_lossy(), said.trim().lines().last().unwrap_or("failed"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
