//! TEMP
#![allow(dead_code, reason = "nothing calls the supervisor yet")]
mod gateway;
mod sys;
fn main() {}
