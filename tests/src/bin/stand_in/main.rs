//! `winston-stand-in`: a stand-in for `openclaw`, for what the real one does not do on demand.
//!
//! It is run as the real one is: `config validate --json` and `gateway run`. What it does follows from three places.
//!
//! **The configuration** that it reads, under `tools.standIn`:
//!
//! | Key | Value | What happens |
//! |---|---|---|
//! | `validate` | `invalid`, `hang`, `garbage`, `fail` | what `config validate --json` does instead of saying that it is valid |
//! | | `leave`, `wait` | it leaves a process behind, and `wait` says that it is valid only when there is a file `go` in its home |
//! | `start` | `refuse`, `crash`, `hang` | the start ends with 78, with 1, or never gets ready |
//! | | `restamp` | it writes something else into its configuration and ends with 1 |
//! | `reload` | `refuse`, `crash`, `restart`, `exit`, `rewrite` | what a running gateway does when it finds this configuration |
//! | `crashAfterMs` | a number | it ends with 1 so long after it was ready |
//!
//! A configuration that is not JSON, has a key `invalid`, or has no `gateway.mode` is refused as by the real one: the validation sees the first two.
//!
//! **Files in its home:**
//!
//! | File | What happens |
//! |---|---|
//! | `answer` | the status of the answer to a probe; `hang`: there is none. Without the file 200 |
//! | `stubborn` | SIGTERM does not end it. Without the file it ends with 0 |
//! | `tell` | a datagram socket: each start sends its process id there, first of all |
//!
//! It leaves two itself: each start adds its process id to `starts`, and each SIGTERM makes `terminated`.
//!
//! **Orders** on its port, from whoever sends something else than a request: one per line, each answered with a line, which is its text unless the table says
//! another one.
//!
//! | Order | What happens |
//! |---|---|
//! | `say <text>` | a line of output |
//! | `echo <text>` | nothing |
//! | `exit <code>` | it ends, without an answer |
//! | `orphans <number>` | so many children of a child that has ended |
//! | `flood <bytes> <length>` | numbered lines of this length, as fast as they are taken; 0: one line without an end. Answer: bytes, lines, nanoseconds, and those of the longest write |
//!
//! Like the real one it does not outlive the reader of its output.

mod config;
mod gateway;
mod serve;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["config", "validate", "--json"] => config::validate(),
        ["gateway", "run"] => gateway::run(),
        other => {
            eprintln!("stand-in: {other:?}");
            ExitCode::from(64)
        }
    }
}
