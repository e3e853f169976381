//! Helpers that the end-to-end tests, the demo and the benchmarks share.

pub mod process;
