//! Bounded waiting for a condition.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::process::PATIENCE;

/// Pause between two looks. Short against everything that is waited for.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks until `condition` gives a value, for at most [`PATIENCE`]. An error counts as "not yet"; the last one is told when time is up.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    within(PATIENCE, what, &mut condition)
}

/// Like [`eventually`], with a limit of its own.
pub fn within<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let last = match condition() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => String::new(),
            Err(error) => format!("; last error: {error:#}"),
        };
        if Instant::now() >= deadline {
            bail!("{what}: not within {} s{last}", limit.as_secs());
        }
        std::thread::park_timeout(PAUSE);
    }
}
