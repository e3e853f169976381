//! What was done, written down while it is done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::oracle::{Effect, Op, Outcome, Who};

/// Shared by everybody who does something.
#[derive(Debug)]
pub(super) struct Log {
    start: Instant,
    next: AtomicU64,
    ops: Mutex<Vec<Op>>,
}

impl Default for Log {
    fn default() -> Self {
        Self { start: Instant::now(), next: AtomicU64::new(1), ops: Mutex::default() }
    }
}

impl Log {
    /// Nanoseconds since the log was begun.
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A number for an operation or a block.
    pub(super) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Does something and writes down what, when and with which outcome.
    pub(super) fn run(&self, id: u64, who: Who, effects: Vec<Effect>, work: impl FnOnce() -> Outcome) -> Outcome {
        let begin = self.now();
        let outcome = work();
        let op = Op { id, who, begin, end: self.now(), outcome, effects };
        self.ops.lock().unwrap_or_else(PoisonError::into_inner).push(op);
        outcome
    }

    /// A copy of everything so far.
    pub(super) fn ops(&self) -> Vec<Op> {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The path has this version afterwards.
pub(super) fn becomes(path: &str, version: u64) -> Effect {
    Effect { path: path.to_owned(), version: Some(version) }
}

/// There is no file afterwards.
pub(super) fn goes(path: &str) -> Effect {
    Effect { path: path.to_owned(), version: None }
}
