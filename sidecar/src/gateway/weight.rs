//! Whether a gateway has become too large to go on: a pure decision over readings of its resident size.

use std::time::Duration;

/// Readings in a row above the limit before it counts: what a turn takes for a moment is given back.
const ENOUGH: u32 = 3;

/// Shortest time between two restarts for this reason. A limit below what the gateway takes at rest must not make a loop.
const PAUSE: Duration = Duration::from_secs(60 * 60);

/// What the readings amount to. Outlives the process, because the pause does.
#[derive(Debug, Default)]
pub(super) struct Weight {
    above: u32,
    /// When it was last asked to start anew, as a duration since the caller's origin.
    asked: Option<Duration>,
}

impl Weight {
    /// Takes a reading in and says whether the gateway is to be asked to start anew.
    pub(super) fn is_too_much(&mut self, rss: u64, limit: u64, now: Duration) -> bool {
        self.above = if rss > limit { self.above.saturating_add(1) } else { 0 };
        let rested = self.asked.is_none_or(|asked| now.saturating_sub(asked) >= PAUSE);
        if self.above < ENOUGH || !rested {
            return false;
        }
        (self.above, self.asked) = (0, Some(now));
        true
    }

    /// There is another process.
    pub(super) fn begin(&mut self) {
        self.above = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1000;

    fn asks(weight: &mut Weight, readings: &[u64], now: Duration) -> Vec<bool> {
        readings.iter().map(|rss| weight.is_too_much(*rss, LIMIT, now)).collect()
    }

    #[test]
    fn only_what_stays_above_is_too_much() {
        let mut weight = Weight::default();
        let now = Duration::ZERO;
        assert_eq!(asks(&mut weight, &[LIMIT; 9], now), [false; 9], "the limit itself is allowed");
        assert_eq!(asks(&mut weight, &[1001, 1001, 1000, 1001, 1001], now), [false; 5], "a moment");
        weight.begin();
        assert_eq!(asks(&mut weight, &[1001, 1001], now), [false; 2], "another process");
        assert_eq!(asks(&mut weight, &[1001], now), [true]);
    }

    #[test]
    fn a_limit_that_is_too_low_makes_no_loop() {
        let mut weight = Weight::default();
        let start = Duration::from_secs(5);
        assert_eq!(asks(&mut weight, &[2000; 3], start), [false, false, true]);
        assert_eq!(asks(&mut weight, &[2000; 9], start + PAUSE - Duration::from_secs(1)), [false; 9]);
        assert_eq!(asks(&mut weight, &[2000], start + PAUSE), [true]);
    }
}
