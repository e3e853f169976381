//! How much one caller may hold at once, and how much all of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::network::subscriber;

/// Counts what each caller holds. An address is kept only while it holds something, so the table is bounded by what can be held.
#[derive(Debug, Clone)]
pub(super) struct Addresses {
    held: Arc<Mutex<HashMap<IpAddr, usize>>>,
    most: usize,
}

/// Something that is held; given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Option<(Addresses, IpAddr)>);

impl Place {
    /// Holds nothing: for what everybody may do at any time.
    pub(super) const fn none() -> Self {
        Self(None)
    }
}

impl Addresses {
    /// `most` for each caller.
    pub(super) fn new(most: usize) -> Self {
        Self { held: Arc::default(), most }
    }

    /// A place for this address; `None` when it holds as many as it may.
    pub(super) fn place(&self, address: IpAddr) -> Option<Place> {
        let address = subscriber(address);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(address).or_insert(0);
        if *count >= self.most {
            return None;
        }
        *count += 1;
        drop(held);
        Some(Place(Some((self.clone(), address))))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((addresses, address)) = self.0.take() else { return };
        let mut held = addresses.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                held.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_caller_has_his_own_places() {
        let addresses = Addresses::new(2);
        let (one, other) = ("2001:db8::1".parse().expect("v6"), "2001:db8:0:1::1".parse().expect("v6"));
        let held = [addresses.place(one), addresses.place("2001:db8::2".parse().expect("v6"))];
        assert!(held.iter().all(Option::is_some));
        assert!(addresses.place(one).is_none());
        assert!(addresses.place(other).is_some());
        drop(held);
        assert!(addresses.held.lock().expect("not poisoned").is_empty());
        assert!(addresses.place(one).is_some());
    }
}
