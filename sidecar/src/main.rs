//! TEMP
#![allow(dead_code, unused_imports, reason = "nothing calls the supervisor yet")]
mod gateway;
mod sys;
fn main() {}
