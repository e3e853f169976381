//! How long to wait before the next start.

use std::time::Duration;

/// A random fraction of one, handed in by whoever has a source of randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Jitter(pub(super) u16);

/// Exponential delays with jitter over their whole range.
///
/// The delay after failure `n` (from 0) is uniform between `min` and `min * 2^(n + 1)`, the latter never above `max`.
/// Spreading over the whole range keeps a host full of tenants from starting all its gateways in the same second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
}

impl Backoff {
    /// Other bounds, for tests. `None` unless `0 < min <= max`: a delay of nothing would be a busy loop.
    #[cfg(test)]
    pub(crate) const fn new(min: Duration, max: Duration) -> Option<Self> {
        if min.is_zero() || min.as_nanos() > max.as_nanos() {
            return None;
        }
        Some(Self { min, max })
    }

    /// One second to one minute.
    pub(crate) const STANDARD: Self = Self { min: Duration::from_secs(1), max: Duration::from_secs(60) };

    /// The delay after `failures` earlier failures in a row.
    pub(super) fn delay(&self, failures: u32, jitter: Jitter) -> Duration {
        let factor = 2u32.saturating_pow(failures.saturating_add(1));
        let ceiling = self.min.saturating_mul(factor).min(self.max);
        let spread = ceiling.saturating_sub(self.min);
        self.min + spread.mul_f64(f64::from(jitter.0) / f64::from(u16::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn nonsense_cannot_be_built() {
        assert_eq!(Backoff::new(Duration::ZERO, SECOND), None);
        assert_eq!(Backoff::new(SECOND * 2, SECOND), None);
        assert!(Backoff::new(SECOND, SECOND).is_some());
    }

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum() {
        let ceilings: Vec<u64> =
            (0..8).map(|failures| Backoff::STANDARD.delay(failures, Jitter(u16::MAX)).as_secs()).collect();
        assert_eq!(ceilings, [2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(Backoff::STANDARD.delay(7, Jitter(0)), SECOND);
    }

    proptest! {
        #[test]
        fn every_delay_is_within_bounds(failures: u32, jitter: u16, min in 1u64..100_000, extra in 0u64..10_000_000) {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(min + extra));
            let delay = Backoff::new(min, max).expect("valid").delay(failures, Jitter(jitter));
            prop_assert!(min <= delay && delay <= max);
        }
    }
}
