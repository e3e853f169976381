//! PID 1 of a tenant container, and the root of a tenant's process tree with the `local` provider.
//!
//! In order: read the environment and list every mistake, make the data directory ready, lay out first-boot seeds for
//! the sidecar, start the sidecar, then forward signals, reap, and start the sidecar again when it dies, until somebody asks
//! for the end. The exit code is the last sidecar's, or 128 + signal. Own exit codes follow `sysexits.h`:
//!
//! | Code | Meaning |
//! |---|---|
//! | 64 | the command line or the environment is wrong |
//! | 71 | the kernel refused something that PID 1 needs |
//! | 73 | a directory cannot be made: its parent is missing, or something else stands there |
//! | 74 | the data directory is read-only, full or failing |
//! | 77 | the data directory belongs to somebody else |
//! | 126, 127 | the sidecar's binary cannot be executed, or is not there |
//!
//! Everything happens on one thread. That is what makes reaping simple: nobody else waits for a child.

mod cli;
mod dir;
mod handover;
mod keeper;
mod launch;
mod leftovers;
mod locks;
mod log;
mod owner;
mod prepare;
mod relief;
mod restart;
mod run;
mod seed;
mod settings;
mod signals;
mod stop;
mod sys;
mod temp;
mod variables;
mod vigil;

use std::process::ExitCode;

use settings::{Privilege, Settings};

/// `EX_USAGE`: the command line or the environment is wrong.
const USAGE: u8 = 64;

/// Why the entrypoint ends without having run the sidecar.
#[derive(Debug)]
struct Failure {
    /// Exit code, see the table above.
    code: u8,
    /// One line: what, where, as whom, and what to do.
    message: String,
}

fn main() -> ExitCode {
    match cli::parse(lexopt::Parser::from_env()) {
        Ok(cli::Command::Run) => {}
        Ok(cli::Command::Print(text)) => return cli::print(&text),
        Err(error) => {
            eprintln!("winston-entrypoint: {error}\nTry `winston-entrypoint --help`.");
            return ExitCode::from(USAGE);
        }
    }
    seal();
    let privilege = Privilege { uid: rustix::process::geteuid().as_raw() };
    let settings = match Settings::parse(|name| std::env::var_os(name), privilege) {
        Ok(settings) => settings,
        Err(mistakes) => {
            for mistake in mistakes {
                log::error(&mistake, &[]);
            }
            return ExitCode::from(USAGE);
        }
    };
    match work(&settings) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            log::error(&failure.message, &[]);
            ExitCode::from(failure.code)
        }
    }
}

/// Keeps everybody but root out of our memory and environment, the agent too where it runs as the same user: the token is in both.
/// The descriptors that we hold for the sidecar are as closed.
fn seal() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        log::warn("the entrypoint's memory is not sealed", &[("error", error.desc().into())]);
    }
}

/// Everything after the checks; the exit code is the sidecar's.
fn work(settings: &Settings) -> Result<u8, Failure> {
    // First, so that a stop that comes while directories are prepared is not lost: PID 1 ignores what it does not
    // handle.
    let signals = signals::Signals::block().map_err(run::refused("block signals"))?;
    prepare::prepare(settings)?;
    // For as long as we live: two tenants' processes on one volume would undo each other's work.
    let held = locks::release(settings);
    let temporary = temp::prepare(settings, held.is_some());
    let code = run::run(settings, &signals, temporary.as_deref())?;
    if held.is_some() {
        temporary.as_deref().map(temp::remove);
    }
    Ok(code)
}
