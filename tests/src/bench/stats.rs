//! Percentiles.

use std::time::Duration;

/// Durations of single operations, in order of size.
pub(super) struct Latencies(Vec<Duration>);

impl Latencies {
    /// Sorts what was measured.
    pub(super) fn of(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        Self(durations)
    }

    /// Both together.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        Self::of(self.0)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The duration that this many percent do not exceed (nearest rank); zero when nothing was measured.
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).or(self.0.last()).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let millis = |range: std::ops::RangeInclusive<u64>| range.rev().map(Duration::from_millis).collect();
        let hundred = Latencies::of(millis(1..=100));
        assert_eq!(hundred.percentile(50), Duration::from_millis(50));
        assert_eq!(hundred.percentile(99), Duration::from_millis(99));
        assert_eq!(hundred.percentile(100), Duration::from_millis(100));
        let three = Latencies::of(millis(1..=3));
        assert_eq!(three.percentile(50), Duration::from_millis(2));
        assert_eq!(three.percentile(99), Duration::from_millis(3));
        assert_eq!(Latencies::of(Vec::new()).percentile(99), Duration::ZERO);
    }
}
