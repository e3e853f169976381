//! Helpers that the end-to-end tests, the demo and the benchmarks share.

pub mod bench;
pub mod chaos;
pub mod control;
pub mod crash;
pub mod demo;
pub mod gateway;
pub mod http;
pub mod process;
pub mod sidecar;
pub mod tenant;
pub mod wait;
