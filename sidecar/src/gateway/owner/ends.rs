//! The end of a gateway process: what it means, what probably made it, and sweeping up.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;
use winston_wire::{ExitCause, GatewayExit, LikelyCause, Timestamp};

use super::Owner;
use crate::gateway::exit::{self, Exit, Findings};
use crate::gateway::logs::Stream;
use crate::gateway::memory::OomWatch;
use crate::gateway::state::{End, Event, Phase, Why};
use crate::gateway::{GatewayConfig, descendants, likely, port, process};

/// Longest time for looking at the disk after a failed start, and for reading the last output.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// Its last lines that may tell why.
const LAST_LINES: usize = 60;

/// A process that has ended, until everything is known about it.
pub(super) struct Ended {
    pid: u32,
    exit: Exit,
    findings: Findings,
    /// It served before.
    was_ready: bool,
    /// Somebody wanted it to end.
    asked: bool,
}

impl Owner {
    /// There is a new process: nothing that was known about the last one holds.
    pub(super) fn begin_life(&mut self) {
        self.forget_life();
        self.oom = OomWatch::begin();
        self.first_line = self.shared.logs.head();
    }

    pub(super) async fn exited(&mut self, pid: u32, exit: Exit) {
        let stopping = match self.state.phase {
            Phase::Stopping { why, .. } => Some(why),
            _ => None,
        };
        let end = self.judge(pid, exit, stopping).await;
        self.apply(Event::Exited(end)).await;
    }

    /// What an end means; published with the next change of state. `stopping` is why we were stopping it, if we were.
    pub(super) async fn judge(&mut self, pid: u32, exit: Exit, stopping: Option<Why>) -> End {
        // Why is told when its last words have been read.
        tracing::info!(pid, ?exit, "gateway process ended");
        self.drain = None;
        let was_ready = self.known.take().is_some_and(|known| known.ready.is_some());
        let mut findings = match (exit, stopping) {
            (Exit::Code(exit::CONFIG | 1), _) | (_, Some(Why::NeverReady)) => {
                investigate(self.config.clone(), pid).await
            }
            (Exit::Signal(exit::SIGKILL), _) => Findings { oom: self.oom.seen(), ..Findings::default() },
            _ => Findings::default(),
        };
        self.trouble = exit::meaning(exit, &findings, stopping);
        if stopping.is_none()
            && let (Exit::Code(0), Some(why)) = (exit, self.asked_anew.take())
        {
            self.trouble = format!("it ended in order, as asked: {why}");
        }
        self.forget_life();
        let (code, signal) = match exit {
            Exit::Code(code) => (Some(code), None),
            Exit::Signal(signal) => (None, Some(signal)),
            Exit::Unknown => (None, None),
        };
        // Published with the next change of state, so that nobody sees the one without the other.
        let (at, meaning) = (Timestamp::now(), self.trouble.clone());
        let cause = exit::cause(exit, &findings, stopping);
        self.last_exit = Some(GatewayExit { at, code, signal, meaning, cause, likely: None, evidence: None });
        let end = exit::end(exit, &findings);
        findings.no_config |= end == End::NoConfig;
        self.ended = Some(Ended { pid, exit, findings, was_ready, asked: stopping.is_some() });
        end
    }

    /// Ends whatever the last process left behind, and reads its output to the end: nothing of it may reach into the
    /// life of the next one.
    pub(super) async fn sweep(&mut self) {
        descendants::sweep(self.realm, self.config.limits.sweep).await;
        let Some(ended) = self.ended.take() else { return };
        self.output.settle(LOOK_LIMIT).await;
        self.explain(&ended);
        let (pid, likely) = (ended.pid, self.last_exit.as_ref().and_then(|exit| exit.likely));
        let (code, signal) = self.last_exit.as_ref().map_or((None, None), |exit| (exit.code, exit.signal));
        tracing::info!(pid, code, signal, ?likely, meaning = %self.trouble, "gateway ended");
        self.shared.logs.note(format!("gateway ended (pid {pid}): {}", self.trouble));
    }

    /// Finds out what probably made it end. Only after the sweep: what it left behind may have held its port, and its last words
    /// have to be read.
    fn explain(&mut self, ended: &Ended) {
        if ended.asked || ended.findings.no_config {
            return;
        }
        // The next start waits for this: only what can tell something is looked at.
        let (exit, was_ready) = (ended.exit, ended.was_ready);
        let mut findings = ended.findings.clone();
        if likely::asks_for_port(exit, was_ready) {
            findings.port_taken = Some(self.config.port).filter(|port| port::is_taken(*port));
        }
        let mut lines = Vec::new();
        if likely::asks_for_lines(exit, was_ready) {
            lines = self.shared.logs.tail(LAST_LINES);
            lines.retain(|line| line.seq > self.first_line && line.stream != Stream::Winston);
        }
        let lines: Vec<String> = lines.into_iter().map(|line| line.line).collect();
        let Some(found) = likely::likely(exit, &findings, was_ready, &lines) else { return };
        self.trouble = found.sentence;
        if let Some(exit) = &mut self.last_exit {
            exit.meaning.clone_from(&self.trouble);
            (exit.likely, exit.evidence) = (Some(found.cause), found.evidence);
            if exit.cause == ExitCause::BadConfig
                && found.cause != LikelyCause::BadConfig
                && !likely::names_the_config(&lines)
            {
                // Its code is that of a configuration that it refuses, and of more.
                exit.cause = ExitCause::Failed;
            }
        }
    }
}

async fn investigate(config: GatewayConfig, pid: u32) -> Findings {
    let look = spawn_blocking(move || process::investigate(&config, pid));
    match timeout(LOOK_LIMIT, look).await {
        Ok(Ok(findings)) => findings,
        _ => Findings::default(),
    }
}
