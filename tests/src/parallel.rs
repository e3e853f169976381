//! Cases of one test at the same time: most of them spend their time waiting.

use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};

/// Runs `work` for every case, so many at once; the error names each case that failed.
pub fn each<T: Debug + Send>(
    cases: impl IntoIterator<Item = T>,
    at_once: usize,
    work: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let cases = Mutex::new(cases.into_iter().collect::<Vec<_>>().into_iter());
    let next = || cases.lock().unwrap_or_else(PoisonError::into_inner).next();
    let failures: Vec<String> = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..at_once)
            .map(|_| {
                scope.spawn(|| {
                    let mut failures = Vec::new();
                    while let Some(case) = next() {
                        failures.extend(work(&case).err().map(|error| format!("{case:?}: {error:#}")));
                    }
                    failures
                })
            })
            .collect();
        let ended = lanes.into_iter().map(|lane| lane.join().unwrap_or_else(|_| vec!["a case panicked".to_owned()]));
        ended.flatten().collect()
    });
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_runs_and_every_failure_is_named() {
        let odd = |case: &u32| if case.is_multiple_of(2) { Ok(()) } else { bail!("is odd") };
        assert!(each(Vec::new(), 4, odd).is_ok() && each([2, 4, 6], 2, odd).is_ok());
        let mut failed: Vec<_> = each(1..6, 3, odd).unwrap_err().to_string().lines().map(str::to_owned).collect();
        failed.sort_unstable();
        assert_eq!(failed, ["1: is odd", "3: is odd", "5: is odd"]);
        let panics = each([1], 1, |_| panic!("as wanted"));
        assert_eq!(panics.unwrap_err().to_string(), "a case panicked");
    }
}
