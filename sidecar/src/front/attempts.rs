//! Wrong passwords: how many a caller may present before he has to wait.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::network::subscriber;

/// Wrong passwords in a row before the first wait.
const FREE: u32 = 5;

/// The first wait; each further wrong password doubles it, up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// After this time without a wrong password a caller is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(900);

/// Callers that are remembered; beyond it the one that was wrong longest ago is forgotten.
const MOST: usize = 1024;

struct Record {
    wrong: u32,
    last: Instant,
}

impl Record {
    fn wait(&self, now: Instant) -> Option<Duration> {
        let doublings = self.wrong.checked_sub(FREE)?.min(16);
        let wait = FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT);
        wait.checked_sub(now.duration_since(self.last)).filter(|left| !left.is_zero())
    }
}

/// The wrong passwords of late.
#[derive(Default)]
pub(super) struct Attempts(Mutex<HashMap<IpAddr, Record>>);

impl Attempts {
    /// How long this caller still has to wait.
    pub(super) fn wait(&self, caller: IpAddr, now: Instant) -> Option<Duration> {
        let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        records.get(&subscriber(caller))?.wait(now)
    }

    /// One more wrong password.
    pub(super) fn wrong(&self, caller: IpAddr, now: Instant) {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let caller = subscriber(caller);
        if records.len() >= MOST && !records.contains_key(&caller) {
            records.retain(|_, record| now.duration_since(record.last) < FORGOTTEN);
            if records.len() >= MOST
                && let Some(oldest) = records.iter().min_by_key(|(_, record)| record.last).map(|(address, _)| *address)
            {
                records.remove(&oldest);
            }
        }
        let record = records.entry(caller).or_insert(Record { wrong: 0, last: now });
        if now.duration_since(record.last) >= FORGOTTEN {
            record.wrong = 0;
        }
        record.wrong = record.wrong.saturating_add(1);
        record.last = now;
    }

    /// The right password: everything before is forgotten.
    pub(super) fn right(&self, caller: IpAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&subscriber(caller));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(number: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + number).to_be_bytes())
    }

    #[test]
    fn waits_grow_and_end() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        for _ in 1..FREE {
            attempts.wrong(caller(1), start);
            assert_eq!(attempts.wait(caller(1), start), None);
        }
        attempts.wrong(caller(1), start);
        assert_eq!(attempts.wait(caller(1), start), Some(FIRST_WAIT));
        assert_eq!(attempts.wait(caller(2), start), None, "somebody else");
        assert_eq!(attempts.wait(caller(1), start + FIRST_WAIT), None);
        for _ in 0..100 {
            attempts.wrong(caller(1), start);
        }
        assert_eq!(attempts.wait(caller(1), start), Some(LONGEST_WAIT));
        attempts.right(caller(1));
        assert_eq!(attempts.wait(caller(1), start), None);
    }

    #[test]
    fn a_caller_is_forgotten_after_a_while() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        for _ in 0..FREE {
            attempts.wrong(caller(1), start);
        }
        attempts.wrong(caller(1), start + FORGOTTEN);
        assert_eq!(attempts.wait(caller(1), start + FORGOTTEN), None);
    }

    #[test]
    fn the_table_does_not_grow() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        for number in 0..(2 * MOST as u32) {
            attempts.wrong(caller(number), start + Duration::from_millis(number.into()));
        }
        assert_eq!(attempts.0.lock().expect("not poisoned").len(), MOST);
    }
}
