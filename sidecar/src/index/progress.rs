//! Up to which record the index is exact. Pure.
//!
//! Writers bring the index up to their records after the journal has them, and may do so in another order than the journal's. The index says
//! exactly what the journal says up to `through` whenever nothing behind that is in it yet.

use std::ops::RangeInclusive;

#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Everything up to here is in the index.
    through: u64,
    /// What is in it behind a gap.
    ahead: Vec<RangeInclusive<u64>>,
}

impl Progress {
    /// Starts over behind a record.
    pub(super) fn start(&mut self, through: u64) {
        *self = Self { through, ahead: Vec::new() };
    }

    /// Some records are in the index now.
    pub(super) fn applied(&mut self, records: RangeInclusive<u64>) {
        self.ahead.push(records);
        while let Some(next) = self.ahead.iter().position(|range| *range.start() == self.through + 1) {
            self.through = *self.ahead.swap_remove(next).end();
        }
    }

    /// Everything up to here is in the index.
    pub(super) fn through(&self) -> u64 {
        self.through
    }

    /// Nothing behind [`Progress::through`] is in the index.
    pub(super) fn is_exact(&self) -> bool {
        self.ahead.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_waited_for() {
        let mut progress = Progress::default();
        progress.start(10);
        progress.applied(13..=13);
        progress.applied(14..=20);
        assert_eq!((progress.through(), progress.is_exact()), (10, false));
        progress.applied(11..=12);
        assert_eq!((progress.through(), progress.is_exact()), (20, true));
    }
}
