//! How long to wait before trying again. Pure.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(30);

/// Exponential backoff with full jitter: a random time up to a bound that doubles with every failure, so that many
/// sidecars whose control was away do not come back at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// It worked.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// It failed; how long to wait. `random` is uniform over all of `u32`.
    pub(super) fn next(&mut self, random: u32) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        // At least a tenth, so that a small draw does not become a busy loop.
        bound / 10 + (bound - bound / 10).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

/// A random number for [`Backoff::next`]; the middle when the system has none to give.
pub(super) fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_over() {
        let mut backoff = Backoff::default();
        let bounds: Vec<_> = (0..12).map(|_| backoff.next(u32::MAX)).collect();
        assert_eq!(bounds[0], FIRST);
        assert_eq!(bounds[1], FIRST * 2);
        assert_eq!(bounds[11], LONGEST);
        backoff.reset();
        assert_eq!(backoff.next(0), FIRST / 10);
    }
}
