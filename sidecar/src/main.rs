//! `winston-sidecar`: the daemon beside one OpenClaw gateway.
//!
//! File API with a bearer token, durable journal of every change, sync with control, supervision of the gateway. See
//! `docs/ARCHITECTURE.md` for the whole and the modules for their parts.

mod app;
mod candidate;
mod edits;
mod failpoint;
mod front;
mod fs;
#[cfg(test)]
mod fuzz;
mod gateway;
mod handover;
mod health;
mod http;
mod index;
mod journal;
mod log;
mod merge;
mod seeds;
mod settings;
mod sync;
mod sys;
mod upgrade;
mod variables;
mod watch;

use std::process::ExitCode;
use std::time::Duration;

use lexopt::Arg::{Long, Short};
use winston_wire::{EXIT_REPLACE, env};

use app::Ending;
use handover::Handover;
use settings::Settings;
use variables::VARIABLES;

/// `EX_USAGE`: wrong arguments or settings.
const EXIT_USAGE: u8 = 64;
/// `EX_UNAVAILABLE`: something that is needed cannot be had.
const EXIT_UNAVAILABLE: u8 = 69;

/// The event loop does no blocking work, so one thread serves everything; blocking work has its own threads, which end when idle.
const BLOCKING_THREADS: usize = 32;
const STACK_BYTES: usize = 512 * 1024;

/// How long a thread for blocking work waits for more. Short, so that a heartbeat wakes the machine once and not again when its threads end.
const THREAD_IDLE: Duration = Duration::from_millis(250);

/// How long the end waits for the last log lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

enum Command {
    Run,
    Health,
    Print(String),
}

fn main() -> ExitCode {
    match command(lexopt::Parser::from_env()) {
        Ok(Command::Run) => run(),
        Ok(Command::Health) => health::check(),
        Ok(Command::Print(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("winston-sidecar: {error}; see --help");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn command(mut arguments: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let mut command = Command::Run;
    while let Some(argument) = arguments.next()? {
        command = match argument {
            Short('h') | Long("help") => Command::Print(help()),
            Short('V') | Long("version") => Command::Print(format!("winston-sidecar {}\n", env!("CARGO_PKG_VERSION"))),
            Long("variables") => Command::Print(env::markdown(VARIABLES)),
            Long("health") => Command::Health,
            other => return Err(other.unexpected()),
        };
    }
    Ok(command)
}

fn help() -> String {
    format!(
        "winston-sidecar {}: file API, journal, sync and supervision for one OpenClaw gateway

Usage: winston-sidecar [--health | --help | --version | --variables]

  (no option)   run until SIGTERM or SIGINT
  --health      ask the sidecar on this machine whether it answers; exit 0 or 1
  --variables   print the variables as rows of docs/CONFIGURATION.md

Examples:
  WINSTON_SIDECAR_TOKEN=$(openssl rand -hex 32) WINSTON_DATA_DIR=/srv/tenant winston-sidecar
  curl -H \"Authorization: Bearer $WINSTON_SIDECAR_TOKEN\" http://127.0.0.1:18790/files?path=workspace

Variables:
{}
Signals: TERM and INT stop the gateway and this process; HUP, below winston-entrypoint, makes room for another binary
while the gateway goes on.

Exit codes: 0 stopped as asked, 64 wrong arguments or settings, 69 volume or port not available, 79 made room for another
binary.
",
        env!("CARGO_PKG_VERSION"),
        env::help(VARIABLES)
    )
}

fn run() -> ExitCode {
    sys::prepare_allocator();
    let own: Vec<_> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let settings = match Settings::from_env(&own) {
        Ok(settings) => settings,
        Err(mistakes) => {
            for mistake in mistakes {
                eprintln!("winston-sidecar: {mistake}");
            }
            return ExitCode::from(EXIT_USAGE);
        }
    };
    // Where there is no gateway there is no agent, and whoever runs us may look.
    if settings.gateway.is_some() {
        sys::seal();
    }
    // Before anything else opens a descriptor.
    let handover = match settings.handover.as_ref().map(Handover::take).transpose() {
        Ok(handover) => handover,
        Err(mistake) => {
            eprintln!("winston-sidecar: {mistake}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let outlet = match log::start(settings.log.clone()) {
        Ok(outlet) => outlet,
        Err(error) => {
            eprintln!("winston-sidecar: cannot start logging: {error}");
            return ExitCode::from(EXIT_UNAVAILABLE);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_stack_size(STACK_BYTES)
        .thread_keep_alive(THREAD_IDLE)
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(app::run(settings, handover)),
        Err(error) => Err(app::RunError::Other(format!("cannot start the event loop: {error}"))),
    };
    if let Err(error) = &outcome {
        tracing::error!(%error, "cannot run");
    }
    outlet.drain(LAST_LINES);
    match outcome {
        Ok(Ending::Stopped) => ExitCode::SUCCESS,
        Ok(Ending::Replaced) => ExitCode::from(EXIT_REPLACE),
        Err(error) => {
            say_at_last(format!("winston-sidecar: {error}"));
            ExitCode::from(EXIT_UNAVAILABLE)
        }
    }
}

/// A line on standard error, which may be as stuck as the log.
fn say_at_last(line: String) {
    let (said, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        eprintln!("{line}");
        let _ = said.send(());
    });
    let _ = end.recv_timeout(LAST_LINES);
}
