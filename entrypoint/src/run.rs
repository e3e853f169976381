//! Runs sidecars, one after the other, until the tenant is to end: start, forward, reap, start again, exit code.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use rustix::process::{WaitId, WaitIdOptions, WaitOptions, WaitStatus};
use winston_wire::{EXIT_REPLACE, Reaped};

use crate::handover::Handover;
use crate::keeper::Keeper;
use crate::leftovers::{self, Manner};
use crate::log;
use crate::relief::Relief;
use crate::restart::{Ended, Restarts, Verdict};
use crate::settings::Settings;
use crate::signals::Signals;
use crate::stop::{Act, Phase};
use crate::vigil::{self, Main, Seen, Vigil};
use crate::{Failure, launch};

/// The exit code that a shell gives a process that was killed.
const KILLED: u8 = 128 + 9;

/// Starts the sidecar and returns the exit code of the container. `temporary`: the gateway's directory for temporary files.
pub(crate) fn run(settings: &Settings, signals: &Signals, temporary: Option<&Path>) -> Result<u8, Failure> {
    if std::process::id() != 1 {
        // Orphans of the tenant come to us, as they would to PID 1, and not to the machine's init.
        prctl::set_child_subreaper(true).map_err(refused("become the reaper of orphans"))?;
    }
    // Before there is anything open that must not outlive us.
    let keeper = match std::process::id() {
        1 => None,
        _ => Some(Keeper::start(settings.grace).map_err(refused("start the process that ends an ownerless gateway"))?),
    };
    let handover = Handover::open(settings.listen, settings.front).map_err(|error| {
        let error = Errno::from_raw(error.raw_os_error().unwrap_or_default());
        refused("open what is handed from one sidecar to the next")(error)
    })?;
    let mut watch = Watch {
        settings,
        temporary,
        signals,
        program: launch::program(settings),
        handover,
        keeper,
        phase: Phase::Running,
        sidecar: None,
        served: false,
        vigil: Vigil::new(Duration::ZERO, Instant::now()),
        start_at: None,
        restarts: Restarts::default(),
        relief: Relief::new(Instant::now()),
    };
    let started = watch.start().map_err(|error| launch::not_started(&watch.program, &error));
    let end = match started {
        Ok(()) => watch.until_end().map_err(refused("wait for signals")),
        Err(failure) => Err(failure),
    };
    watch.keeper.take().into_iter().for_each(Keeper::end);
    let end = end?;
    watch.handover.stop_listening();
    // A gateway that waits for room in its output would not end. A sidecar that was given up may still read.
    let (handover, mut relief, alone) = (watch.handover, watch.relief, watch.sidecar.is_none());
    let look = || {
        if alone {
            relief.look(Instant::now(), &handover);
        }
    };
    let in_order = leftovers::end(signals, end.manner, look).map_err(refused("end what was left"))?;
    Ok(match end.code {
        Some(code) => code,
        None if in_order => 0,
        None => KILLED,
    })
}

/// The end of all sidecars.
struct End {
    /// Exit code of the last one; `None` when a stop was asked while there was none.
    code: Option<u8>,
    manner: Manner,
}

/// A running sidecar.
#[derive(Clone, Copy)]
struct Sidecar {
    pid: Pid,
    started: Instant,
}

struct Watch<'a> {
    settings: &'a Settings,
    temporary: Option<&'a Path>,
    signals: &'a Signals,
    program: PathBuf,
    handover: Handover,
    /// Outside of containers.
    keeper: Option<Keeper>,
    phase: Phase,
    sidecar: Option<Sidecar>,
    /// The present sidecar has served its API.
    served: bool,
    /// Whether the present sidecar hangs.
    vigil: Vigil,
    /// When to start the next one, while there is none.
    start_at: Option<Instant>,
    restarts: Restarts,
    relief: Relief,
}

impl Watch<'_> {
    /// Forwards, reaps and starts again until the tenant is to end.
    fn until_end(&mut self) -> nix::Result<End> {
        loop {
            let deadlines = [self.phase.deadline(), self.start_at, self.vigil_due(), self.relief_due()];
            let deadline = deadlines.into_iter().flatten().min();
            let signal = self.signals.next(deadline)?;
            let now = Instant::now();
            let act = match signal {
                Some(Signal::SIGCHLD) => {
                    if let Some(status) = self.reap()
                        && let Some(end) = self.ended(status)
                    {
                        return Ok(end);
                    }
                    Act::Nothing
                }
                Some(signal) => self.phase.on_signal(signal, now, self.settings.grace),
                None if self.start_at.is_some_and(|at| at <= now) => {
                    self.start_again();
                    Act::Nothing
                }
                None if self.relief_due().is_some_and(|at| at <= now) => {
                    self.relief.look(now, &self.handover);
                    Act::Nothing
                }
                None if self.vigil_due().is_some_and(|at| at <= now) => {
                    self.look(now);
                    Act::Nothing
                }
                None => self.phase.on_deadline(now),
            };
            if let Some(end) = self.carry_out(act) {
                return Ok(end);
            }
        }
    }

    fn carry_out(&mut self, act: Act) -> Option<End> {
        let Some(sidecar) = self.sidecar else {
            return self.without_sidecar(act);
        };
        match act {
            Act::Nothing => {}
            Act::Forward(signal) => send(sidecar.pid, signal),
            Act::Refuse(why) => log::warn(why, &[]),
            Act::Kill => {
                log::warn("the sidecar did not stop in time, or was told to hurry: killed", &[]);
                send(sidecar.pid, Signal::SIGKILL);
            }
            Act::GiveUp => {
                log::error("the sidecar is stuck in the kernel and cannot be killed", &[]);
                return Some(End { code: Some(KILLED), manner: self.manner() });
            }
        }
        None
    }

    /// A signal between two sidecars: a stop is ours to carry out then, everything else has nobody to reach.
    fn without_sidecar(&self, act: Act) -> Option<End> {
        if let Act::Refuse(why) = act {
            log::warn(why, &[]);
        }
        if self.phase == Phase::Running {
            return None;
        }
        log::info("asked to stop while there is no sidecar: the gateway is stopped from here", &[]);
        Some(End { code: None, manner: self.manner() })
    }

    /// How the gateway is to be ended by us.
    fn manner(&self) -> Manner {
        match self.phase {
            Phase::Running => Manner::Short,
            Phase::Stopping(until) => Manner::InOrder(until),
            Phase::Killed(_) => Manner::Hurry,
        }
    }

    /// The sidecar has ended: `None` when another one follows.
    fn ended(&mut self, ended: Ended) -> Option<End> {
        let lived = self.sidecar.take().map_or(Duration::ZERO, |sidecar| sidecar.started.elapsed());
        let came_up = self.served | self.handover.came_up();
        self.keeper.iter().for_each(|keeper| keeper.tell(None));
        match ended {
            Ended::Signal(signal) => {
                log::error("the sidecar was ended by a signal", &[("signal", signal.into())]);
            }
            Ended::Code(_) | Ended::NotStarted => {
                log::info("the sidecar ended", &[("code", ended.exit_code().into())]);
            }
        }
        if self.phase != Phase::Running {
            // With 0 it has ended the gateway itself; what is left is a straggler.
            let manner = if ended == Ended::Code(0) { Manner::Short } else { self.manner() };
            return Some(End { code: Some(ended.exit_code()), manner });
        }
        self.follow(ended, came_up, lived)
    }

    fn follow(&mut self, ended: Ended, came_up: bool, lived: Duration) -> Option<End> {
        match self.restarts.ended(ended, came_up, lived) {
            Verdict::End(code) => Some(End { code: Some(code), manner: Manner::Short }),
            Verdict::Start(after) => {
                let delay = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                let fields = [("delay_ms", delay.into())];
                match ended {
                    Ended::Code(EXIT_REPLACE) => log::info("the sidecar makes room for its replacement", &fields),
                    Ended::Code(64 | 78 | 126 | 127) | Ended::NotStarted => log::error(
                        "the sidecar that lies there now does not run; a gateway goes on without it, and the start is tried again",
                        &[("program", self.program.display().to_string().into()), ("delay_ms", delay.into())],
                    ),
                    _ => log::warn("the sidecar is started again; a gateway goes on meanwhile", &fields),
                }
                let now = Instant::now();
                self.start_at = Some(now + after);
                self.relief.begin(now);
                if after.is_zero() {
                    self.start_again();
                }
                None
            }
        }
    }

    fn start_again(&mut self) {
        self.start_at = None;
        match self.start() {
            Ok(()) => {}
            Err(error) => {
                log::error(&launch::not_started(&self.program, &error).message, &[]);
                self.follow(Ended::NotStarted, false, Duration::ZERO);
            }
        }
    }

    fn start(&mut self) -> std::io::Result<()> {
        let started = Instant::now();
        self.relief.tell(started);
        let pid = launch::launch(&self.program, self.settings, self.temporary, &self.handover)?;
        self.keeper.iter().for_each(|keeper| keeper.tell(Some(pid)));
        self.sidecar = Some(Sidecar { pid, started });
        self.served = false;
        self.vigil = Vigil::new(self.settings.hang, started);
        Ok(())
    }

    /// When to look whether the gateway's output has room.
    fn relief_due(&self) -> Option<Instant> {
        self.sidecar.is_none().then(|| self.relief.due())
    }

    /// When to look whether the sidecar hangs. One that was asked to stop has a limit anyway.
    fn vigil_due(&self) -> Option<Instant> {
        let watched = self.phase == Phase::Running && self.sidecar.is_some();
        self.vigil.due().filter(|_| watched)
    }

    /// Looks whether the sidecar hangs, and ends it then: it is reaped and started again like any other.
    fn look(&mut self, now: Instant) {
        let Some(sidecar) = self.sidecar else { return };
        self.served |= self.handover.came_up();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", sidecar.pid)).unwrap_or_default();
        // What cannot be known is no reason to kill it.
        let unknown = Main { state: 'D', ran: Duration::ZERO };
        let main = vigil::main_thread(&stat, rustix::param::clock_ticks_per_second()).unwrap_or(unknown);
        let seen = Seen { served: self.served, answered: self.handover.answered(), main };
        match self.vigil.look(now, seen) {
            vigil::Act::Nothing => {}
            vigil::Act::Ask => self.handover.ask(),
            vigil::Act::Kill => {
                let seconds = self.vigil.silent(now).as_secs();
                let fields = [("pid", sidecar.pid.as_raw().into()), ("seconds", seconds.into())];
                log::error("the sidecar gives no sign of life, although it could: killed", &fields);
                send(sidecar.pid, Signal::SIGKILL);
            }
        }
    }

    /// Reaps everything that has ended; how the sidecar ended when it is among it.
    ///
    /// One `SIGCHLD` stands for any number of deaths, hence the loop. Ten thousand orphans are ten thousand rounds.
    fn reap(&self) -> Option<Ended> {
        let sidecar = self.sidecar.map(|sidecar| sidecar.pid);
        sidecar.into_iter().for_each(end_helpers);
        let mut ended = None;
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            if sidecar.is_some_and(|sidecar| sidecar.as_raw() == pid) {
                ended = how(status);
            } else {
                self.handover.note(Reaped { pid, status: status.as_raw() });
            }
        }
        ended
    }
}

/// Kills what an ended sidecar left in its process group: commands that it ran for itself, and a gateway that has not become the
/// leader of its own session yet. The group's number cannot be another's: the sidecar is not reaped yet.
fn end_helpers(sidecar: Pid) {
    let Some(pid) = rustix::process::Pid::from_raw(sidecar.as_raw()) else { return };
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    if let Ok(Some(_)) = rustix::process::waitid(WaitId::Pid(pid), look) {
        // An error means that there is nobody.
        let _ = killpg(sidecar, Signal::SIGKILL);
    }
}

fn how(status: WaitStatus) -> Option<Ended> {
    let code = status.exit_status().map(|code| Ended::Code(u8::try_from(code).unwrap_or(u8::MAX)));
    code.or_else(|| status.terminating_signal().map(Ended::Signal))
}

/// The pid cannot be another process's by now: the sidecar keeps it until [`Watch::reap`] has collected it.
fn send(sidecar: Pid, signal: Signal) {
    if let Err(error) = kill(sidecar, signal) {
        let fields = [("signal", signal.as_str().into()), ("error", error.desc().into())];
        log::warn("a signal could not be passed on", &fields);
    }
}

/// The line for a system call that cannot fail in a sane container.
pub(crate) fn refused(what: &'static str) -> impl Fn(Errno) -> Failure {
    move |error| Failure { code: 71, message: format!("the kernel refused to {what}: {}", error.desc()) }
}
