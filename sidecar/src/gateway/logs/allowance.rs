//! How much may pass in a time: a token bucket. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// A bucket refills in whole portions, so that a flood is noted a few times a second and not per line.
const PORTION: Duration = Duration::from_millis(200);
const PORTIONS_PER_SECOND: u64 = 5;

/// Units per second, and how many may come at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    pub(super) per_second: u64,
    pub(super) burst: u64,
}

#[derive(Debug)]
pub(super) struct Allowance {
    rate: Rate,
    left: u64,
    refilled: Instant,
}

impl Allowance {
    pub(super) fn full(rate: Rate, now: Instant) -> Self {
        Self { rate, left: rate.burst, refilled: now }
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&mut self, now: Instant) -> bool {
        let portions = now.saturating_duration_since(self.refilled).as_millis() / PORTION.as_millis();
        if let Ok(portions) = u64::try_from(portions)
            && portions > 0
        {
            let more = portions.saturating_mul(self.rate.per_second / PORTIONS_PER_SECOND);
            self.left = self.left.saturating_add(more).min(self.rate.burst);
            self.refilled = now;
        }
        self.left == 0
    }

    /// Takes so many, or what is left of them. False: there was nothing left.
    pub(super) fn take(&mut self, amount: u64, now: Instant) -> bool {
        let empty = self.is_empty(now);
        self.left = self.left.saturating_sub(amount);
        !empty
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_refills_with_time() {
        let start = Instant::now();
        let mut allowance = Allowance::full(Rate { per_second: 500, burst: 2_000 }, start);
        let mut take = |at: u64, times: usize| -> usize {
            let at = start + Duration::from_millis(at);
            (0..times).filter(|_| allowance.take(1, at)).count()
        };
        assert_eq!(take(0, 2_010), 2_000);
        assert_eq!(take(199, 10), 0);
        assert_eq!(take(200, 1_000), 100);
        assert_eq!(take(1_200, 1_000), 500);
        assert_eq!(take(100_000, 4_000), 2_000);
    }

    #[test]
    fn what_is_larger_than_the_rest_takes_the_rest() {
        let now = Instant::now();
        let mut allowance = Allowance::full(Rate { per_second: 5, burst: 10 }, now);
        assert!(allowance.take(9, now) && allowance.take(100, now) && !allowance.take(1, now));
    }
}
