//! Requests that wait for their outcome.

use super::state::{Phase, Then};
use super::{AnswerSender, GatewayError, Request, Shared};

/// Requests that may wait for their outcome at once; a stop takes seconds, and nobody needs more.
const MOST: usize = 64;

/// The waiting requests, oldest first.
#[derive(Default)]
pub(super) struct Tickets {
    waiting: Vec<(Request, AnswerSender)>,
}

impl Tickets {
    /// Takes a request in, or refuses it at once. A shutdown is never refused.
    pub(super) fn admit(&mut self, request: Request, answer: AnswerSender) -> bool {
        self.waiting.retain(|(_, answer)| !answer.is_closed());
        if self.waiting.len() >= MOST && !matches!(request, Request::Shutdown | Request::Release) {
            // Gone already: then nobody waits for the refusal.
            let _ = answer.send(Err(GatewayError::Busy));
            return false;
        }
        self.waiting.push((request, answer));
        true
    }

    /// Answers every request whose outcome this phase decides.
    pub(super) fn settle(&mut self, phase: Phase, shared: &Shared) {
        let waiting = std::mem::take(&mut self.waiting);
        for (request, answer) in waiting {
            match outcome(request, phase) {
                Outcome::Open => self.waiting.push((request, answer)),
                Outcome::Done => {
                    let _ = answer.send(Ok(shared.status.borrow().clone()));
                }
                Outcome::NotStarted => {
                    let reason = shared.status.borrow().reason.clone();
                    let _ = answer.send(Err(GatewayError::NotStarted(reason)));
                }
                Outcome::Refused(error) => {
                    let _ = answer.send(Err(error));
                }
            }
        }
    }
}

/// What a phase means for a request.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Open,
    Done,
    NotStarted,
    Refused(GatewayError),
}

fn outcome(request: Request, phase: Phase) -> Outcome {
    let wants_start = matches!(request, Request::Start | Request::Restart);
    match (phase, request) {
        (Phase::ShutDown, Request::Stop | Request::Shutdown | Request::Release) => Outcome::Done,
        (Phase::ShutDown, _) => Outcome::Refused(GatewayError::ShuttingDown),
        (_, Request::Shutdown | Request::Release) => Outcome::Open,
        (Phase::Stopped, Request::Stop) => Outcome::Done,
        (Phase::Stopping { then, .. }, _) => match then {
            Then::Start if wants_start => Outcome::Open,
            Then::Stay if request == Request::Stop => Outcome::Open,
            Then::End if request == Request::Stop => Outcome::Open,
            Then::End => Outcome::Refused(GatewayError::ShuttingDown),
            _ => Outcome::Refused(GatewayError::Overtaken),
        },
        (Phase::Stopped, _) | (_, Request::Stop) => Outcome::Refused(GatewayError::Overtaken),
        (Phase::WaitingForConfig, _) => Outcome::Refused(GatewayError::NoConfig),
        (Phase::Backoff { .. } | Phase::CrashLooping { .. }, _) => Outcome::NotStarted,
        (Phase::Adopted { .. } | Phase::Starting { .. } | Phase::Ready { .. } | Phase::Unresponsive { .. }, _) => {
            Outcome::Done
        }
    }
}
