//! `winston-bench`: what a sidecar costs, as figures beside their goals.

use std::process::ExitCode;

use lexopt::Arg::{Long, Short};
use winston_tests::bench::{self, Options};

/// `EX_USAGE`: wrong arguments.
const EXIT_USAGE: u8 = 64;

const HELP: &str = "winston-bench: measures winston-sidecar and its way to control

Usage: winston-bench [--quick] [--json] [--help]

  --quick   short runs: the order of magnitude in about half a minute
  --json    one JSON document on stdout, progress on stderr

First comes what the disk does without us; flushes are slow on one machine and free on the next, so writes are given as
multiples of that and as counts of flushes. A missed goal is marked and fails nothing. Data goes to a temporary
directory: set TMPDIR to measure another disk.

Variables:
  WINSTON_BIN_DIR        directory of the programs to measure; default: beside this one
  WINSTON_POSTGRES_BIN   directory of PostgreSQL's programs, for the figures with control
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
            Long("json") => options.json = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(options))
}
