//! Whether the sidecar hangs: when to ask it, and what to think of no answer. Decisions, without the doing.
//!
//! ```text
//!           pause over: ask                 look after look without an answer, though it could run
//! Resting ───────────────────► Waiting ───────────────────────────────────────────────────────────► to be killed
//!    └────────── answered ────────┘ └─ it waits for the disk, was stopped, got no processor: does not count
//! ```
//!
//! The question goes over the handover, where nobody else can ask or be in the way, and the sidecar's event loop answers, which does
//! no work that could block: a flush that takes minutes delays no answer. All the same silence alone is not enough. A look counts only
//! when the sidecar's main thread could have run, and only for a sidecar that has answered before: an older one does not know the question.

use std::time::{Duration, Instant};

/// Looks without an answer that make a hang.
const LOOKS: u32 = 30;

/// What was found at a look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// It has served its API.
    pub(crate) served: bool,
    /// It has answered since the last look.
    pub(crate) answered: bool,
    /// How it does.
    pub(crate) main: Main,
}

/// The main thread of the sidecar, as `/proc/<pid>/stat` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Main {
    /// `R` runs or wants to, `S` sleeps, `D` waits for a device, `T` and `t` were stopped.
    pub(crate) state: char,
    /// Time on a processor.
    pub(crate) ran: Duration,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Nothing,
    Ask,
    Kill,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Resting,
    Waiting { looks: u32 },
}

/// What is known about one sidecar.
#[derive(Debug)]
pub(crate) struct Vigil {
    /// How long it may be silent; `None`: for ever.
    limit: Option<Duration>,
    phase: Phase,
    due: Instant,
    asked: Instant,
    /// It has answered once.
    answers: bool,
    before: Option<Main>,
}

impl Vigil {
    /// For a sidecar that was just started. `limit` of zero: it may be silent for ever.
    pub(crate) fn new(limit: Duration, now: Instant) -> Self {
        let limit = (!limit.is_zero()).then_some(limit);
        let due = now + limit.map_or(Duration::ZERO, look);
        Self { limit, phase: Phase::Resting, due, asked: now, answers: false, before: None }
    }

    /// When [`Vigil::look`] is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.limit.map(|_| self.due)
    }

    /// For how long there has been no answer.
    pub(crate) fn silent(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.asked)
    }

    /// Time to look.
    pub(crate) fn look(&mut self, now: Instant, seen: Seen) -> Act {
        let Some(limit) = self.limit else { return Act::Nothing };
        let (pause, look) = (limit, look(limit));
        let late = now.saturating_duration_since(self.due) > look;
        let before = self.before.replace(seen.main);
        self.due = now + look;
        match self.phase {
            // It has enough to do until it serves: reading a long journal, for one.
            Phase::Resting if !seen.served => Act::Nothing,
            Phase::Resting => {
                self.asked = now;
                self.phase = Phase::Waiting { looks: 0 };
                Act::Ask
            }
            Phase::Waiting { .. } if seen.answered || !self.answers => {
                self.answers |= seen.answered;
                self.phase = Phase::Resting;
                self.due = now + pause;
                Act::Nothing
            }
            Phase::Waiting { looks } => {
                let counts = !late && before.is_some_and(|before| could_run(before, seen.main, look));
                let looks = looks + u32::from(counts);
                self.phase = Phase::Waiting { looks };
                if looks >= LOOKS { Act::Kill } else { Act::Nothing }
            }
        }
    }
}

/// Time between two looks.
fn look(limit: Duration) -> Duration {
    limit / LOOKS
}

/// Whether it is its own doing that it did not answer. One that wants a processor and gets a tenth of the time or less cannot.
fn could_run(before: Main, now: Main, look: Duration) -> bool {
    match now.state {
        'D' | 'T' | 't' => false,
        'R' => now.ran.saturating_sub(before.ran) > look / 10,
        _ => true,
    }
}

/// The main thread in a line of `/proc/<pid>/stat`, given the length of a tick.
pub(crate) fn main_thread(stat: &str, ticks_per_second: u64) -> Option<Main> {
    let (_, after) = stat.rsplit_once(')')?;
    let fields: Vec<_> = after.split_ascii_whitespace().collect();
    let ticks = |field: usize| fields.get(field)?.parse::<u64>().ok();
    let ran = ticks(11)?.checked_add(ticks(12)?)?.checked_mul(1000)?.checked_div(ticks_per_second)?;
    Some(Main { state: fields.first()?.chars().next()?, ran: Duration::from_millis(ran) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(300);
    const LOOK: Duration = Duration::from_secs(10);
    const SLEEPS: Main = Main { state: 'S', ran: Duration::ZERO };

    struct Rig {
        vigil: Vigil,
        now: Instant,
    }

    impl Rig {
        /// One that has answered its first question.
        fn new() -> Self {
            let now = Instant::now();
            let mut rig = Self { vigil: Vigil::new(LIMIT, now), now };
            assert_eq!(rig.look(false, SLEEPS), Act::Ask);
            assert_eq!(rig.look(true, SLEEPS), Act::Nothing);
            rig
        }

        fn look(&mut self, answered: bool, main: Main) -> Act {
            self.now = self.vigil.due().unwrap();
            self.vigil.look(self.now, Seen { served: true, answered, main })
        }
    }

    #[test]
    fn silence_of_one_that_could_answer_is_a_hang() {
        let mut rig = Rig::new();
        let rested = rig.now;
        assert_eq!(rig.look(false, SLEEPS), Act::Ask);
        assert_eq!(rig.now - rested, LIMIT, "asked seldom");
        for _ in 1..LOOKS {
            assert_eq!(rig.look(false, SLEEPS), Act::Nothing);
        }
        assert_eq!(rig.look(false, SLEEPS), Act::Kill);
        assert_eq!(rig.vigil.silent(rig.now), LIMIT);
    }

    #[test]
    fn a_late_answer_is_one() {
        let mut rig = Rig::new();
        rig.look(false, SLEEPS);
        for _ in 1..LOOKS {
            assert_eq!(rig.look(false, SLEEPS), Act::Nothing);
        }
        assert_eq!(rig.look(true, SLEEPS), Act::Nothing);
        assert_eq!(rig.look(false, SLEEPS), Act::Ask, "after a rest");
    }

    #[test]
    fn the_disk_a_stop_and_a_busy_machine_are_no_hang() {
        for state in ['D', 'T', 't', 'R'] {
            let mut rig = Rig::new();
            rig.look(false, SLEEPS);
            for _ in 0..10_000 {
                assert_eq!(rig.look(false, Main { state, ran: Duration::ZERO }), Act::Nothing, "{state}");
            }
            assert_eq!(rig.look(true, SLEEPS), Act::Nothing);
        }
    }

    #[test]
    fn one_that_turns_in_a_circle_hangs() {
        let mut rig = Rig::new();
        rig.look(false, SLEEPS);
        let acts: Vec<_> = (1..=LOOKS).map(|n| rig.look(false, Main { state: 'R', ran: LOOK * n })).collect();
        assert_eq!(acts.last(), Some(&Act::Kill));
    }

    #[test]
    fn time_in_which_we_did_not_run_ourselves_does_not_count() {
        let mut rig = Rig::new();
        rig.look(false, SLEEPS);
        for _ in 0..100 {
            rig.now = rig.vigil.due().unwrap() + LOOK * 2;
            let seen = Seen { served: true, answered: false, main: SLEEPS };
            assert_eq!(rig.vigil.look(rig.now, seen), Act::Nothing);
        }
    }

    #[test]
    fn one_that_never_answered_or_does_not_serve_yet_is_left_alone() {
        let now = Instant::now();
        let mut rig = Rig { vigil: Vigil::new(LIMIT, now), now };
        for _ in 0..1000 {
            let seen = Seen { served: false, answered: false, main: SLEEPS };
            rig.now = rig.vigil.due().unwrap();
            assert_eq!(rig.vigil.look(rig.now, seen), Act::Nothing);
        }
        for _ in 0..1000 {
            assert_ne!(rig.look(false, SLEEPS), Act::Kill, "an older sidecar");
        }
        assert_eq!(Vigil::new(Duration::ZERO, now).due(), None);
    }

    #[test]
    fn the_main_thread_is_found_behind_any_command() {
        let stat = "7 (a) R 9 (b) D 3 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 9 1 1";
        assert_eq!(main_thread(stat, 100), Some(Main { state: 'D', ran: Duration::from_secs(3) }));
        assert_eq!(main_thread("7 (sh) S 1", 100), None);
        assert_eq!(main_thread("", 100), None);
    }
}
