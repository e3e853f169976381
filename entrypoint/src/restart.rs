//! Whether an ended sidecar is started again, and when: a pure function over how it ended.
//!
//! | It ended | nobody ever served the API | the API was served once |
//! |---|---|---|
//! | with 0 | the container ends: somebody asked it to stop | the same |
//! | with 79 | started again: it wants to be replaced | the same |
//! | with another code | the container ends with it, so that the platform sees a start that failed | started again |
//! | by a signal | started again, a few times | started again, for ever |
//!
//! The first start after a while of running comes at once; quick ends in a row wait longer and longer.

use std::time::Duration;

use winston_wire::EXIT_REPLACE;

/// A sidecar that lived for less ended quickly.
const QUICK: Duration = Duration::from_secs(10);
/// The first wait, doubled with each quick end.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);
/// Starts that may end by a signal before any has served the API.
const ATTEMPTS: u32 = 5;

/// How a sidecar ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself.
    Code(u8),
    /// By a signal.
    Signal(i32),
    /// It could not even be started.
    NotStarted,
}

impl Ended {
    /// The exit code that a shell gives it.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
            Self::NotStarted => 127,
        }
    }
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Start the next one after this time.
    Start(Duration),
    /// The container ends with this code.
    End(u8),
}

/// What is remembered from one sidecar to the next.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    /// Some sidecar has served its API.
    ever_up: bool,
    quick_ends: u32,
}

impl Restarts {
    /// A sidecar ended that nobody had asked to. `came_up`: it has served its API; `lived`: since its start.
    pub(crate) fn ended(&mut self, ended: Ended, came_up: bool, lived: Duration) -> Verdict {
        self.ever_up |= came_up;
        self.quick_ends = if lived < QUICK { self.quick_ends.saturating_add(1) } else { 0 };
        match ended {
            Ended::Code(0) => return Verdict::End(0),
            // Its work is done; a successor that does the same at once waits like any other.
            Ended::Code(EXIT_REPLACE) if came_up => {
                self.quick_ends = 0;
                return Verdict::Start(Duration::ZERO);
            }
            Ended::Code(EXIT_REPLACE) | Ended::NotStarted => {}
            Ended::Code(code) if !self.ever_up => return Verdict::End(code),
            Ended::Signal(_) if !self.ever_up && self.quick_ends >= ATTEMPTS => return Verdict::End(ended.exit_code()),
            Ended::Code(_) | Ended::Signal(_) => {}
        }
        Verdict::Start(self.delay())
    }

    fn delay(&self) -> Duration {
        match self.quick_ends {
            0 | 1 => Duration::ZERO,
            ends => SHORTEST.saturating_mul(2u32.saturating_pow(ends - 2)).min(LONGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: Ended = Ended::Signal(9);
    const MOMENT: Duration = Duration::from_millis(30);

    fn delays(restarts: &mut Restarts, ended: Ended, times: u32) -> Vec<u64> {
        (0..times)
            .map(|_| match restarts.ended(ended, false, MOMENT) {
                Verdict::Start(after) => u64::try_from(after.as_millis()).unwrap(),
                Verdict::End(code) => panic!("ended with {code}"),
            })
            .collect()
    }

    fn served() -> Restarts {
        let mut restarts = Restarts::default();
        assert_eq!(restarts.ended(KILLED, true, QUICK), Verdict::Start(Duration::ZERO));
        restarts
    }

    #[test]
    fn quick_ends_wait_longer_and_longer_and_never_give_up() {
        for ended in [KILLED, Ended::Code(69), Ended::Code(64), Ended::NotStarted] {
            let mut restarts = served();
            let found = delays(&mut restarts, ended, 12);
            assert_eq!(found, [0, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
            assert!(delays(&mut restarts, ended, 1_000).iter().all(|delay| *delay == 30_000));
            assert_eq!(restarts.ended(ended, true, QUICK), Verdict::Start(Duration::ZERO), "a while of running");
        }
    }

    #[test]
    fn a_first_start_that_fails_is_the_platforms_to_see() {
        for code in [1, 64, 69, 78, 126] {
            assert_eq!(Restarts::default().ended(Ended::Code(code), false, MOMENT), Verdict::End(code));
        }
        let mut restarts = Restarts::default();
        assert_eq!(delays(&mut restarts, Ended::Signal(11), ATTEMPTS - 1), [0, 100, 200, 400]);
        assert_eq!(restarts.ended(Ended::Signal(11), false, MOMENT), Verdict::End(139));
    }

    #[test]
    fn a_stop_that_somebody_asked_the_sidecar_for_is_one() {
        assert_eq!(served().ended(Ended::Code(0), true, MOMENT), Verdict::End(0));
        assert_eq!(Restarts::default().ended(Ended::Code(0), false, MOMENT), Verdict::End(0));
    }

    #[test]
    fn a_replacement_comes_at_once_unless_it_only_leaves() {
        let mut restarts = served();
        let replace = Ended::Code(EXIT_REPLACE);
        assert_eq!(delays(&mut restarts, KILLED, 2), [0, 100]);
        assert_eq!(restarts.ended(replace, true, MOMENT), Verdict::Start(Duration::ZERO));
        assert_eq!(delays(&mut restarts, replace, 3), [0, 100, 200]);
    }
}
