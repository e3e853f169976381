//! Uploaded archives: from a stream of bytes to vetted entries.

mod entries;
#[cfg(test)]
mod fuzz;
mod stream;
mod vet;

pub(super) use entries::{Entry, each_entry};
pub(super) use stream::{Received, channel};
pub(super) use vet::Refused;
