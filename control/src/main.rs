//! `winston-control`: the API that hosts OpenClaw tenants.

mod app;
mod cluster;
mod config;
mod configgen;
mod data_dir;
mod db;
mod http;
mod keys;
mod lifecycle;
mod manifest;
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

/// Exit code when there is no such key.
const EXIT_FAILED: u8 = 1;
/// Exit code for a command line or an environment that cannot be used (`EX_USAGE`).
const EXIT_USAGE: u8 = 64;
/// Exit code when control cannot work: database, address or disk (`EX_UNAVAILABLE`).
const EXIT_UNAVAILABLE: u8 = 69;
/// Exit code when another control holds the data directory (`EX_CANTCREAT`).
const EXIT_LOCKED: u8 = 73;
/// Longest name of a key.
const MAX_KEY_NAME_CHARS: usize = 128;

fn main() -> ExitCode {
    let key = match command() {
        Ok(Task::Print(text)) => {
            print(&text);
            return ExitCode::SUCCESS;
        }
        Ok(Task::Serve) => None,
        Ok(Task::Key(command)) => Some(command),
        Err(error) => {
            eprintln!("winston-control: {error}; see winston-control --help");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let config = match Config::from_env(|name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(mistakes) => {
            for mistake in mistakes {
                eprintln!("winston-control: {mistake}");
            }
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if key.is_none() {
        start_logging(&config);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("winston-control: cannot start the runtime: {error}");
            return ExitCode::from(EXIT_UNAVAILABLE);
        }
    };
    if let Some(command) = key {
        return match runtime.block_on(keys::run(&config, command)) {
            Ok(text) => {
                print(&text);
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("winston-control: {error:#}");
                ExitCode::from(if error.is::<keys::NoSuchKey>() { EXIT_FAILED } else { EXIT_UNAVAILABLE })
            }
        };
    }
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

/// What the command line asks for.
enum Task {
    /// Say something.
    Print(String),
    /// Be the server.
    Serve,
    /// Work on keys.
    Key(keys::Command),
}

fn command() -> Result<Task, lexopt::Error> {
    use lexopt::Arg::{Long, Short, Value};
    let mut parser = lexopt::Parser::from_env();
    let mut words = Vec::new();
    while let Some(argument) = parser.next()? {
        return Ok(Task::Print(match argument {
            Long("help") | Short('h') => help(),
            Long("version") | Short('V') => {
                format!("winston-control {}\n", env!("CARGO_PKG_VERSION"))
            }
            Long("variables") => env::markdown(VARIABLES),
            Value(word) => {
                words.push(word.into_string()?);
                continue;
            }
            other => return Err(other.unexpected()),
        }));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Ok(match words[..] {
        [] | ["serve"] => Task::Serve,
        ["key", "list"] => Task::Key(keys::Command::List),
        ["key", "add", name] if is_key_name(name) => Task::Key(keys::Command::Add(name.to_owned())),
        ["key", "add", _] => {
            return Err(format!("a key's name is 1 to {MAX_KEY_NAME_CHARS} printable characters").into());
        }
        ["key", "revoke", id] => match id.parse() {
            Ok(id) => Task::Key(keys::Command::Revoke(id)),
            Err(_) => return Err(format!("{id:?} is not the id of a key").into()),
        },
        ["key", ..] => return Err("key wants one of: add <name>, list, revoke <id>".into()),
        [first, ..] => return Err(format!("unexpected argument {first:?}").into()),
    })
}

fn is_key_name(name: &str) -> bool {
    !name.trim().is_empty() && name.chars().count() <= MAX_KEY_NAME_CHARS && !name.chars().any(char::is_control)
}

/// Not `println!`: a closed pipe is no reason to panic.
fn print(text: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
}

fn help() -> String {
    format!(
        "winston-control {version}: hosts OpenClaw tenants

Usage: winston-control [serve]
       winston-control key add <name> | key list | key revoke <id>
       winston-control --help | --version | --variables

Serves the control API until SIGTERM or SIGINT. Local tenants keep running when control stops.

`key` works on the API keys of the control that runs with the same data directory, or of DATABASE_URL. `add` prints the
new key, once; `list` prints ids, names and times; `revoke` ends a key at once.

Environment:
{variables}
Examples:
  winston-control
      Everything below ./.winston-control, with a private PostgreSQL.
  WINSTON_CONTROL_DATA_DIR=/var/lib/winston DATABASE_URL=postgres://winston@db/winston winston-control
      An existing PostgreSQL.
  curl -H \"Authorization: Bearer $(cat .winston-control/admin-api-key)\" http://127.0.0.1:3001/api/tenants
      First call.
  winston-control key add deploy > deploy-key
      Another API key, in a file.
  winston-control key list
      The keys, with the ids that `winston-control key revoke <id>` takes.

Exit codes: 0 done or stopped on request, 1 no such key, 64 bad command line or environment, 69 database, address or disk
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
