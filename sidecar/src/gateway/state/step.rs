//! The transitions of the diagram, one method for each kind of event.

use std::time::Duration;

use super::{Action, End, Event, Limits, Memory, Moment, Phase, State, StopStep, Then, Why};

/// The transition function.
pub(in crate::gateway) fn step(limits: &Limits, state: &State, event: Event, moment: Moment) -> (State, Vec<Action>) {
    let mut step = Step { limits, moment, state: state.clone(), actions: Vec::new() };
    if state.phase != Phase::ShutDown {
        step.take(event);
    }
    (step.state, step.actions)
}

/// One transition in the making.
struct Step<'a> {
    limits: &'a Limits,
    moment: Moment,
    state: State,
    actions: Vec<Action>,
}

impl Step<'_> {
    fn take(&mut self, event: Event) {
        match event {
            Event::Start => self.start(),
            Event::Stop => self.stop(Why::Requested, Then::Stay),
            Event::Restart => self.restart(),
            Event::Shutdown => self.stop(Why::Requested, Then::End),
            Event::Release => self.state.phase = Phase::ShutDown,
            Event::Resumed(memory) => self.resumed(memory),
            Event::ConfigReady => self.config_ready(),
            Event::SpawnFailed => self.failed(),
            Event::Exited(end) => self.exited(end),
            Event::Started | Event::NotYet | Event::Alive | Event::Silent => self.probed(event),
            Event::Well | Event::Impaired => self.examined(event == Event::Impaired),
            Event::DrainRefused => self.drain_refused(),
            Event::Deadline => self.deadline(),
        }
    }

    fn start(&mut self) {
        self.state.failures = 0;
        match &mut self.state.phase {
            phase if phase.probe().is_some() => {}
            Phase::Stopping { then, .. } => queue(then, Then::Start),
            _ => self.launch(),
        }
    }

    fn restart(&mut self) {
        match self.state.phase {
            phase if phase.probe().is_some() => {
                self.state.failures = 0;
                self.stop(Why::Requested, Then::Start);
            }
            _ => self.start(),
        }
    }

    fn stop(&mut self, why: Why, after: Then) {
        let now = self.moment.now;
        let limits = self.limits.stop(after == Then::End);
        let (step, step_ends) = match &mut self.state.phase {
            Phase::Stopping { then, step, step_ends, .. } => {
                if after == Then::End {
                    // There may be less time than when it began.
                    *step_ends = (*step_ends).min(match step {
                        StopStep::Draining => now + limits.drain_step,
                        StopStep::Terminating => now + limits.term,
                        StopStep::Killing => now + self.limits.kill_wait,
                    });
                }
                return queue(then, after);
            }
            Phase::Ready { .. } | Phase::Adopted { ready_since: Some(_), .. } if why == Why::Requested => {
                self.actions.push(Action::Drain);
                (StopStep::Draining, now + limits.drain_step)
            }
            // Too early or too late for the RPC: its listener is not up yet, or does not answer.
            phase if phase.probe().is_some() => {
                self.actions.push(Action::Terminate);
                (StopStep::Terminating, now + limits.term)
            }
            _ => {
                self.state.phase = if after == Then::End { Phase::ShutDown } else { Phase::Stopped };
                return;
            }
        };
        self.forgive_if_it_ran_well();
        self.state.phase = Phase::Stopping { why, then: after, step, step_ends };
    }

    /// Goes on where the sidecar before us was.
    fn resumed(&mut self, memory: Memory) {
        let now = self.moment.now;
        self.state.configured = memory.configured;
        self.state.failures = memory.failures;
        self.state.phase = match memory.running {
            Some(running) => Phase::Adopted {
                ready_since: running.ready_for.map(|time| now.saturating_sub(time)),
                // One that has used its budget up still gets a question.
                budget_ends: now
                    + self.limits.start_budget.saturating_sub(running.age).max(self.limits.probe_limit * 2),
            },
            None if memory.stopped => Phase::Stopped,
            None if memory.failures == 0 || !memory.configured => return self.launch(),
            None => self.pause(memory.failures),
        };
    }

    /// A new configuration deserves a fresh count, whatever the old one did. A process that lives has yet to show what it does with it, and may
    /// have written it itself.
    fn config_ready(&mut self) {
        self.state.configured = true;
        match &mut self.state.phase {
            Phase::WaitingForConfig | Phase::Backoff { .. } | Phase::CrashLooping { .. } => {
                self.state.failures = 0;
                self.launch();
            }
            // We gave up on it: the pause after its end would be ended by this.
            Phase::Stopping { then: then @ Then::Recover, .. } => {
                self.state.failures = 0;
                *then = Then::Start;
            }
            _ => {}
        }
    }

    fn probed(&mut self, event: Event) {
        let now = self.moment.now;
        self.state.phase = match (self.state.phase, event) {
            (Phase::Adopted { ready_since, .. }, Event::Started) => ready(ready_since.unwrap_or(now)),
            (Phase::Adopted { ready_since: Some(ready_since), .. }, Event::NotYet) => {
                Phase::Unresponsive { ready_since, budget_ends: now + self.limits.liveness_budget }
            }
            (Phase::Adopted { ready_since: None, budget_ends }, Event::NotYet) => Phase::Starting { budget_ends },
            (Phase::Starting { .. }, Event::Started) => ready(now),
            (Phase::Ready { since, .. }, Event::Silent) => {
                Phase::Unresponsive { ready_since: since, budget_ends: now + self.limits.liveness_budget }
            }
            (Phase::Unresponsive { ready_since, .. }, Event::Alive) => ready(ready_since),
            // The answer to a question from an earlier phase.
            (phase, _) => phase,
        };
    }

    /// What a ready gateway says of itself is shown, and nothing follows from it.
    fn examined(&mut self, impaired: bool) {
        if let Phase::Ready { degraded, .. } = &mut self.state.phase {
            *degraded = impaired;
        }
    }

    fn drain_refused(&mut self) {
        if let Phase::Stopping { step, .. } = self.state.phase
            && step == StopStep::Draining
        {
            self.escalate();
        }
    }

    fn deadline(&mut self) {
        let due = |at| at <= self.moment.now;
        if !self.state.phase.deadline().is_some_and(due) {
            return;
        }
        match self.state.phase {
            Phase::Starting { .. } | Phase::Adopted { .. } => self.stop(Why::NeverReady, Then::Recover),
            Phase::Unresponsive { .. } => self.stop(Why::Unresponsive, Then::Recover),
            Phase::Stopping { .. } => self.escalate(),
            Phase::Backoff { .. } | Phase::CrashLooping { .. } => self.launch(),
            _ => {}
        }
    }

    /// The next step of a stop.
    fn escalate(&mut self) {
        let now = self.moment.now;
        let Phase::Stopping { then, step, step_ends, .. } = &mut self.state.phase else {
            return;
        };
        match step {
            StopStep::Draining => {
                let term = self.limits.stop(*then == Then::End).term;
                (*step, *step_ends) = (StopStep::Terminating, now + term);
                self.actions.push(Action::Terminate);
            }
            // Not even SIGKILL ended it, so it hangs in the kernel. We may leave; the kernel finishes the job.
            StopStep::Killing if *then == Then::End => {
                self.state.phase = Phase::ShutDown;
                self.actions.push(Action::Sweep);
            }
            StopStep::Terminating | StopStep::Killing => {
                (*step, *step_ends) = (StopStep::Killing, now + self.limits.kill_wait);
                self.actions.push(Action::Kill);
            }
        }
    }

    fn exited(&mut self, end: End) {
        self.actions.push(Action::Sweep);
        if end == End::NoConfig {
            self.state.configured = false;
        }
        match self.state.phase {
            Phase::Stopping { then, .. } => match then {
                Then::Stay => self.state.phase = Phase::Stopped,
                Then::Start => self.launch(),
                Then::Recover => self.failed(),
                Then::End => self.state.phase = Phase::ShutDown,
            },
            Phase::Ready { .. } | Phase::Unresponsive { .. } | Phase::Adopted { ready_since: Some(_), .. } => {
                self.forgive_if_it_ran_well();
                if end == End::Clean && self.state.failures == 0 {
                    self.state.failures = 1;
                    self.launch();
                } else {
                    self.failed();
                }
            }
            _ if end == End::NoConfig => self.state.phase = Phase::WaitingForConfig,
            // Once more, in case the reason was another process that is about to end; then the wait for a change. Each refused start counts
            // in the gateway's own breaker, which silences the channels of the start that succeeds.
            _ if end == End::Refused => {
                self.state.failures = self.state.failures.max(self.limits.quick_ends.saturating_sub(2));
                self.failed();
            }
            _ => self.failed(),
        }
    }

    /// The count of failures starts anew once a process has been ready for a good while.
    fn forgive_if_it_ran_well(&mut self) {
        let ready_since = match self.state.phase {
            Phase::Ready { since, .. } => since,
            Phase::Unresponsive { ready_since, .. } | Phase::Adopted { ready_since: Some(ready_since), .. } => {
                ready_since
            }
            _ => return,
        };
        if self.moment.now.saturating_sub(ready_since) >= self.limits.ran_well {
            self.state.failures = 0;
        }
    }

    fn failed(&mut self) {
        self.state.failures = self.state.failures.saturating_add(1);
        self.state.phase = self.pause(self.state.failures);
    }

    /// The wait after so many ends in a row, the last one included.
    fn pause(&self, failures: u32) -> Phase {
        let now = self.moment.now;
        if failures >= self.limits.quick_ends {
            Phase::CrashLooping { retry_at: now + self.limits.crash_loop_retry }
        } else {
            Phase::Backoff { until: now + self.limits.backoff.delay(failures.saturating_sub(1), self.moment.jitter) }
        }
    }

    fn launch(&mut self) {
        if self.state.configured {
            self.actions.push(Action::Spawn);
            self.state.phase = Phase::Starting { budget_ends: self.moment.now + self.limits.start_budget };
        } else {
            self.state.phase = Phase::WaitingForConfig;
        }
    }
}

/// Well until it says otherwise.
fn ready(since: Duration) -> Phase {
    Phase::Ready { since, degraded: false }
}

/// Changes what follows a stop; nothing follows a shutdown.
fn queue(then: &mut Then, next: Then) {
    if *then != Then::End {
        *then = next;
    }
}
