//! Whether a new version of `openclaw.json` is news for the supervisor: pure.
//!
//! A new configuration ends a pause after a bad one. The gateway and its agent can write one in each of their lives, and a loop of such lives
//! must not be one without pauses: what they wrote before the end of the last process was swept up is not new since then.

use winston_wire::{GatewayState, GatewayStatus, Timestamp};

/// Who wrote a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    /// The agent, or the gateway itself, or a person in the tenant's files: nobody can tell which. When, by the file's own times, if they are known.
    Tenant(Option<Timestamp>),
    /// Anybody else, through us.
    Other,
}

/// Whether the gateway is to be told. The status is of now, and what is paused is paused since the last process was swept up.
pub(super) fn is_news(status: &GatewayStatus, writer: Writer) -> bool {
    match (writer, status.state) {
        (Writer::Other, _) | (Writer::Tenant(_), GatewayState::WaitingForConfig) => true,
        (Writer::Tenant(at), GatewayState::Backoff | GatewayState::CrashLooping) => {
            at.is_none_or(|at| status.last_exit.is_none() || at > status.since)
        }
        (Writer::Tenant(_), _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use GatewayState::{
        Adopted, Backoff, CrashLooping, Degraded, Ready, Starting, Stopped, Stopping, Unresponsive, WaitingForConfig,
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    fn status(state: GatewayState) -> GatewayStatus {
        let handle = crate::gateway::disabled();
        let mut status = handle.status();
        (status.state, status.since) = (state, at(100));
        status.last_exit = Some(winston_wire::GatewayExit {
            at: at(90),
            code: Some(1),
            signal: None,
            meaning: String::new(),
            cause: winston_wire::ExitCause::Failed,
            likely: None,
            evidence: None,
        });
        status
    }

    #[test]
    fn what_the_ended_process_may_have_written_ends_no_pause() {
        for state in [Backoff, CrashLooping] {
            // Before its end was noticed, while it was swept up, and after.
            for (written, expected) in [(80, false), (95, false), (100, false), (101, true)] {
                assert_eq!(is_news(&status(state), Writer::Tenant(Some(at(written)))), expected, "{state:?} {written}");
            }
            assert!(is_news(&status(state), Writer::Tenant(None)), "it cannot be told");
            // No process was there: the program could not be started.
            let never = GatewayStatus { last_exit: None, ..status(state) };
            assert!(is_news(&never, Writer::Tenant(Some(at(80)))));
        }
        assert!(is_news(&status(WaitingForConfig), Writer::Tenant(Some(at(80)))), "without it nothing ever starts");
    }

    #[test]
    fn a_living_process_notices_by_itself_and_others_are_always_heard() {
        for state in [Adopted, Starting, Ready, Degraded, Unresponsive, Stopping, Stopped] {
            assert!(!is_news(&status(state), Writer::Tenant(Some(at(200)))), "{state:?}");
            assert!(is_news(&status(state), Writer::Other), "{state:?}");
        }
        for state in [Backoff, CrashLooping, WaitingForConfig] {
            assert!(is_news(&status(state), Writer::Other), "{state:?}");
        }
    }
}
