//! The crash machine: callers, an agent and pushes work on one tenant while sidecar, control and database are killed; then an oracle that knows
//! everything that was done looks at what is left.
//!
//! [`oracle`] is pure and has the promises; `driver` makes the rounds; the others are what its rounds are made of.

mod agent;
mod callers;
pub mod config;
pub mod content;
mod driver;
mod faults;
mod log;
mod observe;
pub mod oracle;
mod pusher;
mod report;

pub use driver::{Options, run};
pub use report::Report;
