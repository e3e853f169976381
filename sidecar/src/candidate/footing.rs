//! Which process a candidate met when it was swapped in, and which ends are about it: pure.

use winston_wire::{GatewayState, GatewayStatus, Timestamp};

use super::trial::Standing;

/// What was there in the moment when the set was in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footing {
    pub(super) standing: Standing,
    /// The last end that was known by then.
    pub(super) seen_exit: Option<Timestamp>,
    /// Number of the process whose end is yet to be told and was certain by then. A living process that nobody was ending is not meant: it may
    /// take the set over while it runs, and end because of it.
    pub(super) earlier: Option<u64>,
}

impl Footing {
    /// `lives`: the process of this status had not ended when the set was in place.
    pub(super) fn of(status: &GatewayStatus, lives: bool) -> Self {
        let standing = Standing::of(status.state);
        // Of an adopted gateway that is gone already the end comes right after.
        let gone = match status.pid {
            Some(_) => !lives,
            None => status.state == GatewayState::Adopted,
        };
        let ending = gone || standing == Standing::Ending;
        Self {
            standing: if ending { Standing::Ending } else { standing },
            seen_exit: status.last_exit.as_ref().map(|exit| exit.at),
            earlier: ending.then_some(status.restarts),
        }
    }
}

/// Number of the process that the last end in this status is about: processes are numbered in the order of their starts.
pub(super) fn last_ended(status: &GatewayStatus) -> u64 {
    status.restarts.saturating_sub(u64::from(status.pid.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use GatewayState::{
        Adopted, Backoff, CrashLooping, Ready, Starting, Stopped, Stopping, Unresponsive, WaitingForConfig,
    };

    fn status(state: GatewayState, pid: Option<u32>, restarts: u64) -> GatewayStatus {
        GatewayStatus { state, pid, restarts, ..crate::gateway::disabled().status() }
    }

    #[test]
    fn the_end_of_a_process_that_lives_on_is_the_candidates() {
        for state in [Adopted, Starting, Ready, Unresponsive] {
            let footing = Footing::of(&status(state, Some(7), 3), true);
            assert_eq!((footing.standing, footing.earlier), (Standing::of(state), None), "{state:?}");
        }
    }

    #[test]
    fn the_end_of_a_process_that_never_read_it_is_not() {
        // Nobody was told yet that it has ended; or it is being ended, whoever wants that.
        for state in [Adopted, Starting, Ready, Unresponsive, Stopping] {
            let footing = Footing::of(&status(state, Some(7), 3), false);
            assert_eq!((footing.standing, footing.earlier), (Standing::Ending, Some(3)), "{state:?}");
        }
        let footing = Footing::of(&status(Stopping, Some(7), 3), true);
        assert_eq!((footing.standing, footing.earlier), (Standing::Ending, Some(3)));
        let footing = Footing::of(&status(Adopted, None, 3), true);
        assert_eq!((footing.standing, footing.earlier), (Standing::Ending, Some(3)));
    }

    #[test]
    fn without_a_process_no_end_is_to_come() {
        for state in [WaitingForConfig, Backoff, CrashLooping, Stopped] {
            let footing = Footing::of(&status(state, None, 3), true);
            assert_eq!((footing.standing, footing.earlier), (Standing::of(state), None), "{state:?}");
        }
    }

    #[test]
    fn an_end_is_of_the_process_before_or_of_the_one_that_is_gone() {
        // The fourth process, then its end, then the fifth, which has ended as well when somebody looks again.
        assert_eq!(last_ended(&status(Ready, Some(7), 3)), 2);
        assert_eq!(last_ended(&status(Backoff, None, 3)), 3);
        assert_eq!(last_ended(&status(Starting, Some(8), 4)), 3);
        assert_eq!(last_ended(&status(Backoff, None, 4)), 4);
    }
}
