//! Helpers that the end-to-end tests, the demo and the benchmarks share.

pub mod backend;
pub mod bench;
pub mod canary;
pub mod chaos;
pub mod control;
pub mod crash;
pub mod demo;
pub mod gateway;
pub mod household;
pub mod http;
pub mod parallel;
pub mod process;
pub mod script;
pub mod sidecar;
pub mod stream;
pub mod tenant;
pub mod trial;
pub mod wait;
pub mod websocket;
pub mod wire;
