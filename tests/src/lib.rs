//! Harness of the end-to-end tests.

pub mod control;
pub mod http;
pub mod wait;
