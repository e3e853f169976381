//! Looking at a running gateway, and what follows from what is seen.
//!
//! All of it happens at the pace of the question whether it is alive: nothing here has a timer of its own.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::sleep;
use winston_wire::Timestamp;

use super::Owner;
use crate::gateway::channels::{self, Revived};
use crate::gateway::condition::{Condition, Reading};
use crate::gateway::drain::{self, DrainError};
use crate::gateway::process::Process;
use crate::gateway::state::{Event, Phase, Probe};
use crate::gateway::{descendants, memory, port, probe};

/// Silent accounts that the reason names with what became of them.
const MOST_NAMED: usize = 3;

/// What a question brought.
#[derive(Debug, Default)]
pub(in crate::gateway) struct Look {
    /// The answer was 200.
    ok: bool,
    /// What it says of itself, if it was asked and could say.
    reading: Option<Reading>,
    /// Its resident size in bytes, where there is a limit on it.
    rss: Option<u64>,
}

/// Something that a ready gateway was asked for.
pub(super) enum Asked {
    /// To start its silent channels.
    Revive(Revived),
    /// To start anew once it is idle.
    Anew(Result<(), DrainError>),
}

/// The asking.
pub(super) type Errand = BoxFuture<'static, Asked>;

impl Owner {
    /// Keeps the question of the present phase going.
    pub(super) fn ask_next(&mut self) {
        let wanted = self.state.phase.probe();
        if self.probe.as_ref().map(|(kind, _)| *kind) == wanted {
            return;
        }
        let limits = &self.config.limits;
        let weighed = self.process.as_ref().map(Process::id).filter(|_| self.config.memory_limit.is_some());
        self.probe = wanted.map(|kind| {
            let (pause, path) = match kind {
                Probe::First => (Duration::ZERO, probe::STARTUP),
                Probe::Startup => (limits.probe_starting, probe::STARTUP),
                Probe::Health => (limits.probe_ready, probe::HEALTH),
                Probe::HealthAgain => (limits.probe_unresponsive, probe::HEALTH),
            };
            let (port, limit) = (self.config.port, limits.probe_limit);
            let ask = async move {
                sleep(pause).await;
                let ok = probe::answers(port, path, limit).await;
                if !ok || kind != Probe::Health {
                    return Look { ok, ..Look::default() };
                }
                Look { ok, reading: probe::condition(port, limit).await, rss: weighed.and_then(memory::rss) }
            };
            (kind, Box::pin(ask) as BoxFuture<'static, Look>)
        });
    }

    pub(super) async fn probed(&mut self, kind: Probe, look: Look) {
        match (kind, look.ok) {
            (Probe::Startup | Probe::First, true) if !self.answers_itself() => {
                // The gateway will find out by itself and end; until then it is not the one that answers.
                tracing::debug!(port = self.config.port, "another process answers on the gateway's port");
                self.apply(Event::NotYet).await;
            }
            (Probe::Startup | Probe::First, true) => {
                self.note_ready();
                self.apply(Event::Started).await;
            }
            (Probe::Startup | Probe::First, false) => self.apply(Event::NotYet).await,
            (Probe::Health | Probe::HealthAgain, true) => {
                self.apply(Event::Alive).await;
                self.examined(look).await;
            }
            (Probe::Health | Probe::HealthAgain, false) => self.apply(Event::Silent).await,
        }
    }

    /// Whether it is our process that answers. Of one that was ready before we know; else the whole process table has to be looked at.
    fn answers_itself(&self) -> bool {
        let was_ready = self.known.as_ref().is_some_and(|known| known.ready.is_some());
        let user = self.config.identity.map(|identity| identity.uid);
        was_ready || !port::held_by_another(self.config.port, &descendants::family(self.realm), user)
    }

    /// Since when it is ready, for the next sidecar, and how long that took, for everybody.
    fn note_ready(&mut self) {
        let Some(known) = self.known.as_mut().filter(|known| known.ready.is_none()) else { return };
        known.ready = Some(Timestamp::now());
        let took = u64::try_from(self.spawned_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.shared.status.send_modify(|status| status.ready_after_ms = Some(took));
    }

    /// What a living gateway shows of itself.
    async fn examined(&mut self, look: Look) {
        let Phase::Ready { since, .. } = self.state.phase else { return };
        if let Some(reading) = look.reading {
            self.condition.take(reading);
            let impaired = self.condition.is_impaired() || self.is_suspended();
            self.apply(if impaired { Event::Impaired } else { Event::Well }).await;
        }
        if self.shared.is_fenced() {
            // It takes no work, this included.
            return;
        }
        if self.errand.is_none() {
            self.revive_channels(since);
        }
        if self.errand.is_none() {
            self.weigh(look.rss);
        }
    }

    fn revive_channels(&mut self, ready_since: Duration) {
        let channels = self.condition.suppressed().to_vec();
        if channels.is_empty() {
            self.revival_trouble.clear();
        } else if self.revival.is_due(&self.config.limits, ready_since, self.origin.elapsed()) {
            tracing::info!(?channels, "starting channels that the gateway keeps silent");
            let start = channels::start(self.config.clone(), channels, self.shared.logs.clone());
            self.errand = Some(Box::pin(async { Asked::Revive(start.await) }));
        }
    }

    fn weigh(&mut self, rss: Option<u64>) {
        let (Some(rss), Some(limit), Some(process)) = (rss, self.config.memory_limit, &self.process) else { return };
        if !self.weight.is_too_much(rss, limit, self.origin.elapsed()) {
            return;
        }
        let why =
            format!("it takes {} MiB of memory, more than WINSTON_GATEWAY_MEMORY_LIMIT_MB={}", rss >> 20, limit >> 20);
        tracing::warn!(rss, limit, "gateway is asked to start anew once it is idle: too much memory");
        self.shared.logs.note(format!("gateway is asked to start anew once it is idle: {why}"));
        let ask = drain::ask_anew(self.config.clone(), process.id(), why.clone());
        self.asked_anew = Some(why);
        self.errand = Some(Box::pin(async { Asked::Anew(ask.await) }));
    }

    /// Something that the gateway was asked for came to its end.
    pub(super) fn asked(&mut self, asked: Asked) {
        match asked {
            Asked::Revive(Revived { started, failed }) => {
                self.channel_starts += u64::try_from(started.len()).unwrap_or(u64::MAX);
                if !started.is_empty() {
                    tracing::info!(?started, "silent channels started");
                    self.shared.logs.note(format!("silent channels started: {}", started.join(", ")));
                }
                self.revival_trouble.clear();
                if !failed.is_empty() {
                    let last = self.revival.is_exhausted();
                    tracing::warn!(?failed, last, "silent channels not started");
                    let mut words: Vec<String> =
                        failed.iter().take(MOST_NAMED).map(|(name, why)| format!("{name}: {why}")).collect();
                    if failed.len() > MOST_NAMED {
                        words.push(format!("and {} more", failed.len() - MOST_NAMED));
                    }
                    let next = if last { "not tried any more for now" } else { "tried again" };
                    self.revival_trouble = format!("they could not be started ({}) and are {next}", words.join("; "));
                }
                // The next reading tells what became of them; the counts are told at once.
                self.set_state(self.state.clone());
            }
            Asked::Anew(Ok(())) => {}
            Asked::Anew(Err(error)) => {
                let error = self.shared.logs.excerpt(&error.to_string());
                tracing::warn!(error, "gateway cannot be asked to start anew");
                self.asked_anew = None;
            }
        }
    }

    /// Nothing that was known about the last process holds for the next one.
    pub(super) fn forget_life(&mut self) {
        self.errand = None;
        self.condition = Condition::default();
        self.revival_trouble.clear();
        self.weight.begin();
        self.asked_anew = None;
    }
}
