//! The command line. There is little: a container sets everything through its environment.

use std::io::Write as _;
use std::process::ExitCode;

use winston_wire::env;

use crate::variables::VARIABLES;

/// What the command line asks for.
pub(crate) enum Command {
    /// Be PID 1.
    Run,
    /// Print this text and end.
    Print(String),
}

/// Reads the command line.
pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Command, lexopt::Error> {
    use lexopt::Arg::{Long, Short};
    let command = match parser.next()? {
        None => return Ok(Command::Run),
        Some(Long("help") | Short('h')) => Command::Print(help()),
        Some(Long("version") | Short('V')) => {
            Command::Print(format!("winston-entrypoint {}\n", env!("CARGO_PKG_VERSION")))
        }
        Some(Long("variables")) => Command::Print(env::markdown(VARIABLES)),
        Some(other) => return Err(other.unexpected()),
    };
    match parser.next()? {
        None => Ok(command),
        Some(other) => Err(other.unexpected()),
    }
}

/// Prints to stdout. A reader that has gone away (`| head`) is no failure.
pub(crate) fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

fn help() -> String {
    format!(
        "\
PID 1 of a tenant container: checks the environment, prepares the data directory, runs the sidecar and starts it
again when it dies. The gateway goes on meanwhile.

Usage: winston-entrypoint [--help | --version | --variables]

Options:
  -h, --help       Print this text
  -V, --version    Print the version
      --variables  Print the variables as rows of a Markdown table

Examples:
  In a container, as its ENTRYPOINT:
    docker run --env WINSTON_TENANT_ID=t1 --env WINSTON_SIDECAR_TOKEN=... --volume t1:/data winston-tenant
  Without a container, as an ordinary user:
    WINSTON_TENANT_ID=t1 WINSTON_SIDECAR_TOKEN=$(openssl rand -hex 32) WINSTON_DATA_DIR=$PWD/t1 winston-entrypoint

Signals:
  TERM, INT   forwarded; the second one, or the end of the grace time, kills the sidecar
  HUP         forwarded: the sidecar makes room for what lies at its path now
  QUIT, USR2  refused: they would end the sidecar; POST /gateway/restart restarts the gateway
  USR1        refused: it would open a debugger in the gateway

Exit code: the sidecar's, or 128 + the signal that ended it. Without a stop that was asked for, only a first start
that fails ends the container. Own codes: 64 usage or environment, 71 system,
73 cannot create, 74 read-only or full, 77 no permission, 126 and 127 no sidecar to run.

Variables (an empty value counts as unset):
{}",
        env::help(VARIABLES)
    )
}
