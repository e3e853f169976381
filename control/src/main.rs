//! `winston-control`: the API that hosts OpenClaw tenants.

mod app;
mod cluster;
mod config;
mod configgen;
mod data_dir;
mod db;
mod http;
mod lifecycle;
mod notify;
mod path;
mod provision;
mod token;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use winston_wire::env;

use crate::config::{Config, VARIABLES};

/// Exit code for a command line or an environment that cannot be used (`EX_USAGE`).
const EXIT_USAGE: u8 = 64;
/// Exit code when control cannot work: database, address or disk (`EX_UNAVAILABLE`).
const EXIT_UNAVAILABLE: u8 = 69;
/// Exit code when another control holds the data directory (`EX_CANTCREAT`).
const EXIT_LOCKED: u8 = 73;

fn main() -> ExitCode {
    match command() {
        Ok(Some(text)) => {
            // Not `println!`: a closed pipe is no reason to panic.
            let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Ok(None) => {}
        Err(error) => {
            eprintln!("winston-control: {error}; see winston-control --help");
            return ExitCode::from(EXIT_USAGE);
        }
    }
    let config = match Config::from_env(|name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(mistakes) => {
            for mistake in mistakes {
                eprintln!("winston-control: {mistake}");
            }
            return ExitCode::from(EXIT_USAGE);
        }
    };
    start_logging(&config);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime");
            return ExitCode::from(EXIT_UNAVAILABLE);
        }
    };
    let result = runtime.block_on(app::run(config));
    // Nothing that is still blocked may hold up the end.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "control stops");
            if error.is::<data_dir::Locked>() { ExitCode::from(EXIT_LOCKED) } else { ExitCode::from(EXIT_UNAVAILABLE) }
        }
    }
}

/// What to print instead of serving, if anything.
fn command() -> Result<Option<String>, lexopt::Error> {
    use lexopt::Arg::{Long, Short, Value};
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        return Ok(Some(match argument {
            Long("help") | Short('h') => help(),
            Long("version") | Short('V') => {
                format!("winston-control {}\n", env!("CARGO_PKG_VERSION"))
            }
            Long("variables") => env::markdown(VARIABLES),
            Value(command) if command == "serve" => continue,
            other => return Err(other.unexpected()),
        }));
    }
    Ok(None)
}

fn help() -> String {
    format!(
        "winston-control {version}: hosts OpenClaw tenants

Usage: winston-control [serve]
       winston-control --help | --version | --variables

Serves the control API until SIGTERM or SIGINT. Local tenants keep running when control stops.

Environment:
{variables}
Examples:
  winston-control
      Everything below ./.winston-control, with a private PostgreSQL.
  WINSTON_CONTROL_DATA_DIR=/var/lib/winston DATABASE_URL=postgres://winston@db/winston winston-control
      An existing PostgreSQL.
  curl -H \"Authorization: Bearer $(cat .winston-control/admin-api-key)\" http://127.0.0.1:3001/api/tenants
      First call.

Exit codes: 0 stopped on request, 64 bad command line or environment, 69 database, address or disk
cannot be used, 73 another control uses the data directory.
",
        version = env!("CARGO_PKG_VERSION"),
        variables = env::help(VARIABLES),
    )
}

/// Lines for people on a terminal, JSON for everything else.
fn start_logging(config: &Config) {
    let registry = tracing_subscriber::registry().with(config.log.clone());
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        registry.with(layer).init();
    } else {
        registry.with(layer.json().flatten_event(true).with_span_list(false)).init();
    }
}
