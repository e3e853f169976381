//! Sync with control: changes go up, pushed files come down.
//!
//! State, not events (see `docs/ARCHITECTURE.md`): each loop compares what it has with what the other side says it has, and works off
//! the difference. A lost answer, a restart on either side or a control that was restored from a backup only make a difference that is worked
//! off again.

mod applied;
mod apply;
mod backoff;
mod body;
mod client;
mod conflicts;
mod engine;
mod entropy;
mod give;
mod identity;
mod reconcile;
mod status;
mod trials;
mod upload;

pub(crate) use client::ControlClient;
pub(crate) use conflicts::{Resolve, ResolveError};
pub(crate) use engine::Engine;
pub(crate) use status::{SyncReport, SyncStatus};
