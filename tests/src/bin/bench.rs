//! `winston-bench`: what a sidecar costs, as figures beside their goals.

use std::process::ExitCode;

use lexopt::Arg::{Long, Short};
use winston_tests::bench::{self, Options};

/// `EX_USAGE`: wrong arguments.
const EXIT_USAGE: u8 = 64;

const HELP: &str = "winston-bench: measures winston-sidecar and its way to control

Usage: winston-bench [--quick] [--supervise] [--json] [--help]

  --quick      short runs and a tenth of the files: the order of magnitude in a good minute
  --supervise  only the figures of supervision: deaths of the gateway and of the sidecar, refused configurations, a flood of output, starts of
               the real gateway
  --json       one JSON document on stdout, progress on stderr

First comes what the disk does without us; flushes are slow on one machine and free on the next, so writes are given as
shares of that and as counts of flushes. What else depends on the machine is set against a peer that does the same job by
turns with the sidecar: find, sha256sum, a Node program with the same file API; s6, supervisord and pm2, which come
through apt, pip and npm; the real gateway started by hand. A missed goal is marked, the end of the report says what it
was set against, and it fails nothing. Data (5 GB; 0.5 GB with --quick) goes to a temporary directory: set TMPDIR to
measure another disk. What takes long is told on stderr.

Variables:
  WINSTON_BIN_DIR        directory of the programs to measure; default: beside this one
  WINSTON_POSTGRES_BIN   directory of PostgreSQL's programs, for the figures with control
  WINSTON_NODE_BIN       directory of Node, for the comparison with the old sidecar; default: the one on PATH
  WINSTON_PEER_MODULES   directory with Express 4 and chokidar 3, for the same
  WINSTON_OPENCLAW_BIN   the real gateway, for its start
  TMPDIR                 where the data directories are made

Examples:
  ./check bench
  ./check bench --quick
  TMPDIR=/mnt/volume winston-bench --json > figures.json

Exit codes: 0 measured, 1 something could not be measured, 64 wrong arguments.
";

fn main() -> ExitCode {
    let options = match options(lexopt::Parser::from_env()) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("winston-bench: {error}; see --help");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match bench::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("winston-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `None` asks for the help text.
fn options(mut arguments: lexopt::Parser) -> Result<Option<Options>, lexopt::Error> {
    let mut options = Options::default();
    while let Some(argument) = arguments.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Long("quick") => options.quick = true,
            Long("supervise") => options.supervise = true,
            Long("json") => options.json = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(options))
}
