//! Runs the sidecar to its end: start, forward, reap, exit code.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{WaitOptions, WaitStatus};

use crate::leftovers;
use crate::log;
use crate::settings::{Settings, seed_variables};
use crate::signals::Signals;
use crate::stop::{Act, Phase};
use crate::{Failure, sys};

const SIDECAR: &str = "winston-sidecar";

/// Starts the sidecar and returns the exit code of the container.
pub(crate) fn run(settings: &Settings, signals: &Signals) -> Result<u8, Failure> {
    if std::process::id() != 1 {
        // Orphans of the tenant come to us, as they would to PID 1, and not to the machine's init.
        prctl::set_child_subreaper(true).map_err(refused("become the reaper of orphans"))?;
    }
    let sidecar = start(settings)?;
    let (code, phase) = watch(signals, sidecar, settings).map_err(refused("wait for signals"))?;
    let hurry = matches!(phase, Phase::Killed(_));
    leftovers::end(signals, hurry).map_err(refused("end what was left"))?;
    Ok(code)
}

fn start(settings: &Settings) -> Result<Pid, Failure> {
    let program = settings.sidecar.clone().unwrap_or_else(beside_us);
    let mut command = Command::new(&program);
    command
        .stdin(Stdio::null())
        .envs(settings.exports())
        // Seeds are files by now; a hundred kilobytes of environment would be copied into every process of the agent.
        .envs_remove(seed_variables());
    let id = sys::spawn(&mut command).map_err(|error| not_started(&program, &error))?;
    log::info(
        "started the sidecar",
        &[
            ("pid", id.as_raw().into()),
            ("tenant", settings.tenant.as_str().into()),
            ("data_dir", settings.data_dir.display().to_string().into()),
            ("program", program.display().to_string().into()),
        ],
    );
    Ok(id)
}

/// Forwards and reaps until the sidecar has ended.
fn watch(signals: &Signals, sidecar: Pid, settings: &Settings) -> nix::Result<(u8, Phase)> {
    let mut phase = Phase::Running;
    loop {
        let signal = signals.next(phase.deadline())?;
        let now = Instant::now();
        let act = match signal {
            Some(Signal::SIGCHLD) => {
                if let Some(code) = reap(sidecar) {
                    return Ok((code, phase));
                }
                Act::Nothing
            }
            Some(signal) => phase.on_signal(signal, now, settings.grace),
            None => phase.on_deadline(now),
        };
        match act {
            Act::Nothing => {}
            Act::Forward(signal) => send(sidecar, signal),
            Act::Refuse => log::warn("SIGUSR1 is not passed on: it would open a debugger", &[]),
            Act::Kill => {
                log::warn("the sidecar did not stop in time, or was told to hurry: killed", &[]);
                send(sidecar, Signal::SIGKILL);
            }
            Act::GiveUp => {
                log::error("the sidecar is stuck in the kernel and cannot be killed", &[]);
                return Ok((ended_by(Signal::SIGKILL as i32), phase));
            }
        }
    }
}

/// Reaps everything that has ended; the container's exit code when the sidecar is among it.
///
/// One `SIGCHLD` stands for any number of deaths, hence the loop. Ten thousand orphans are ten thousand rounds.
fn reap(sidecar: Pid) -> Option<u8> {
    let mut code = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid.as_raw_nonzero().get() == sidecar.as_raw() {
            code = exit_code(status);
        }
    }
    code
}

fn exit_code(status: WaitStatus) -> Option<u8> {
    if let Some(code) = status.exit_status() {
        log::info("the sidecar ended", &[("code", code.into())]);
        return Some(u8::try_from(code).unwrap_or(u8::MAX));
    }
    let signal = status.terminating_signal()?;
    log::error("the sidecar was ended by a signal", &[("signal", signal.into())]);
    Some(ended_by(signal))
}

/// The exit code that a shell gives a process ended by a signal.
fn ended_by(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// The pid cannot be another process's by now: the sidecar keeps it until [`reap`] has collected it.
fn send(sidecar: Pid, signal: Signal) {
    if let Err(error) = kill(sidecar, signal) {
        let fields = [("signal", signal.as_str().into()), ("error", error.desc().into())];
        log::warn("a signal could not be passed on", &fields);
    }
}

fn beside_us() -> PathBuf {
    let ours = std::env::current_exe();
    let beside = ours.ok().map(|path| path.with_file_name(SIDECAR));
    beside.unwrap_or_else(|| SIDECAR.into())
}

fn not_started(program: &Path, error: &std::io::Error) -> Failure {
    let (code, reason) = match error.kind() {
        ErrorKind::NotFound => (127, "not found".to_owned()),
        _ => (126, error.to_string()),
    };
    Failure {
        code,
        message: format!(
            "the sidecar {} cannot be started: {reason}; set WINSTON_SIDECAR_BIN to its executable",
            program.display()
        ),
    }
}

/// The line for a system call that cannot fail in a sane container.
pub(crate) fn refused(what: &'static str) -> impl Fn(Errno) -> Failure {
    move |error| Failure { code: 71, message: format!("the kernel refused to {what}: {}", error.desc()) }
}

/// `env_remove` for several names.
trait EnvsRemove {
    fn envs_remove<'a>(&mut self, names: impl Iterator<Item = &'a str>) -> &mut Self;
}

impl EnvsRemove for Command {
    fn envs_remove<'a>(&mut self, names: impl Iterator<Item = &'a str>) -> &mut Self {
        for name in names {
            self.env_remove(name);
        }
        self
    }
}
