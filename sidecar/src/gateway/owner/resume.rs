//! From one sidecar to the next: what the owner notes, and how it goes on with what another one noted.

use std::time::Duration;

use tokio::time::Instant;
use winston_wire::{GatewayState, Timestamp};

use super::{Owner, STATUS_LIMIT};
use crate::gateway::adopt::{self, Found};
use crate::gateway::descendants;
use crate::gateway::exit::Exit;
use crate::gateway::process::{self, Process};
use crate::gateway::record::{Known, Order, Record};
use crate::gateway::state::{Event, Memory, Phase, Running, State, Then, Why};
use crate::gateway::{GatewayConfig, Heritage};

/// How a process that we have just started can be recognised.
pub(super) fn known(process: &Process, config: &GatewayConfig) -> Option<Known> {
    let pid = process.pid.as_raw_nonzero().get();
    let uid = config.identity.map_or_else(|| rustix::process::geteuid().as_raw(), |identity| identity.uid);
    let started = descendants::read_entry(pid)?.started;
    Some(Known { pid, started, uid, port: config.port, at: Timestamp::now(), ready: None })
}

impl Owner {
    /// Begins: with what an earlier sidecar has left, or from nothing.
    pub(super) async fn resume(&mut self) {
        let configured = process::has_config(&self.config);
        let Some(Heritage { store, reaped }) = &mut self.heritage else {
            return self.begin(configured).await;
        };
        let Some(record) = store.read() else {
            // The first one; or one that follows a sidecar that was killed between a start and its note.
            descendants::sweep(self.realm, self.config.limits.sweep).await;
            return self.begin(configured).await;
        };
        if let Some(known) = &record.process {
            reaped.watch(known.pid);
        }
        self.starts = record.starts;
        self.trouble = record.last_exit.as_ref().map(|exit| exit.meaning.clone()).unwrap_or_default();
        self.last_exit.clone_from(&record.last_exit);
        // Before anything is waited for: nobody is to take it for an end since.
        let restarts = self.starts.saturating_sub(1);
        self.shared.status.send_modify(|status| {
            (status.last_exit, status.restarts) = (record.last_exit.clone(), restarts);
            // Without it a gateway that nobody runs, and an old end of it, look like a configuration that has to be repaired.
            if record.process.is_some() {
                status.state = GatewayState::Adopted;
            }
        });
        let found = record.process.as_ref().map(|known| adopt::find(known, &self.config));
        match found {
            Some(Found::Process(process)) => {
                tracing::info!(pid = process.id(), "gateway of an earlier sidecar adopted");
                self.shared.logs.note(format!("gateway adopted (pid {})", process.id()));
                self.process = Some(process);
            }
            Some(Found::Gone) => {}
            Some(Found::Stranger(why)) => {
                tracing::warn!(why, "gateway of an earlier sidecar is not adopted; it is ended");
                return self.start_over(&record, configured).await;
            }
            None => return self.start_over(&record, configured).await,
        }
        self.go_on(&record, configured).await;
    }

    async fn begin(&mut self, configured: bool) {
        if configured {
            self.apply(Event::ConfigReady).await;
        } else {
            self.set_state(State::initial());
        }
        self.ask_next();
    }

    /// There is no process to take over. What the record does not know of must not live beside the next one.
    async fn start_over(&mut self, record: &Record, configured: bool) {
        self.sweep().await;
        self.apply(Event::Resumed(self.memory(record, configured, None))).await;
        self.ask_next();
    }

    /// Takes the recorded process over. If it is gone, its end comes right after, unless somebody had asked for that: then there is nothing left
    /// to be done but what was to follow.
    async fn go_on(&mut self, record: &Record, configured: bool) {
        let Some(known) = &record.process else { return };
        if self.process.is_none() && record.order != Order::Run {
            let exit = self.told_exit().await;
            self.judge(known.pid.unsigned_abs(), exit, Some(Why::Requested)).await;
            return self.start_over(record, configured).await;
        }
        let running = Running { age: since(known.at), ready_for: known.ready.map(since) };
        let now = Instant::now();
        self.spawned_at = now.checked_sub(running.age).unwrap_or(now);
        self.known = Some(known.clone());
        self.apply(Event::Resumed(self.memory(record, configured, Some(running)))).await;
        if self.process.is_none() {
            let exit = self.told_exit().await;
            self.exited(known.pid.unsigned_abs(), exit).await;
        }
        match record.order {
            Order::Run => {}
            Order::Stop => self.apply(Event::Stop).await,
            Order::Restart => self.apply(Event::Restart).await,
        }
        self.ask_next();
    }

    fn memory(&self, record: &Record, configured: bool, running: Option<Running>) -> Memory {
        let stopped = record.order == Order::Stop;
        // Whoever asks for a restart forgives, and without a process it is a start.
        let failures = if record.order == Order::Restart { 0 } else { record.failures };
        Memory { running, stopped, failures, configured }
    }

    /// The status of a process that has ended: a child's is known, an adopted one's is entrypoint's to tell.
    pub(super) async fn status_of(&mut self, process: &Process, exit: Exit) -> Exit {
        if process.is_adopted() { self.told_exit().await } else { exit }
    }

    async fn told_exit(&mut self) -> Exit {
        match &mut self.heritage {
            Some(heritage) => heritage.reaped.exit(STATUS_LIMIT).await,
            None => Exit::Unknown,
        }
    }

    /// Notes for the next sidecar what there is. A shutdown changes nothing any more: either nobody follows, or the process was
    /// left to whoever does.
    pub(super) fn remember(&mut self) {
        let Some(Heritage { store, .. }) = &mut self.heritage else { return };
        let order = match self.state.phase {
            Phase::ShutDown => return,
            Phase::Stopped | Phase::Stopping { then: Then::Stay, .. } => Order::Stop,
            Phase::Stopping { then: Then::Start, .. } => Order::Restart,
            _ => Order::Run,
        };
        store.write(Record {
            process: self.known.clone().filter(|_| self.process.is_some()),
            order,
            starts: self.starts,
            failures: self.state.failures(),
            last_exit: self.last_exit.clone(),
        });
    }
}

/// Time since then; none when the clock was set back.
fn since(then: Timestamp) -> Duration {
    Duration::try_from(Timestamp::now().duration_since(then)).unwrap_or_default()
}
