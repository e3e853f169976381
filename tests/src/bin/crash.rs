//! `winston-crash`: kills everything at every moment and looks whether a word was lost.

use std::process::ExitCode;

use lexopt::Arg::{Long, Short};
use lexopt::ValueExt as _;
use winston_tests::crash::{self, Options};

/// `EX_USAGE`: wrong arguments.
const EXIT_USAGE: u8 = 64;

/// Rounds of configurations: they take longer.
const CONFIG_ROUNDS: u64 = 30;

const HELP: &str = "winston-crash: kills sidecar, control and database at random moments and at every failpoint, and judges what is left

Usage: winston-crash [--config] [--rounds N] [--seed S] [--json] [--help]

  --config     changes of the gateway's configuration instead of files: sidecar, gateway or the whole container are killed
  --rounds N   how many rounds of kills and a judgement; default 50, with --config 30
  --seed S     draws what is done and killed; default: another one each time, printed in the last line of a failed run
  --json       one JSON document on stdout, progress on stderr

From 1000 rounds on (with --config 250), a failpoint at which the sidecar never died fails the run too. When a promise is broken, the run ends and keeps a copy
of the data directory, the logs and the list of operations; the text says where.

Variables:
  WINSTON_BIN_DIR        directory of the programs; default: beside this one. winston-sidecar-failpoints must be there too
  WINSTON_POSTGRES_BIN   directory of PostgreSQL's programs
  TMPDIR                 where the data directories are made; a real disk, not tmpfs

Examples:
  ./check crash
  ./check crash --rounds 2000
  ./check crash --rounds 20 --seed 7
  ./check crash --config --rounds 500

Exit codes: 0 every promise was kept, 1 one was broken or the machine could not go on, 64 wrong arguments.
";

fn main() -> ExitCode {
    let options = match options(lexopt::Parser::from_env()) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("winston-crash: {error}; see --help");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let run = if options.config { crash::config::run } else { crash::run };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("winston-crash: seed {}: {error:#}", options.seed);
            ExitCode::FAILURE
        }
    }
}

/// `None` asks for the help text.
fn options(mut arguments: lexopt::Parser) -> Result<Option<Options>, lexopt::Error> {
    let (mut options, mut rounds) = (Options::default(), None);
    while let Some(argument) = arguments.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Long("rounds") => rounds = Some(arguments.value()?.parse()?),
            Long("seed") => options.seed = arguments.value()?.parse()?,
            Long("json") => options.json = true,
            Long("config") => options.config = true,
            other => return Err(other.unexpected()),
        }
    }
    options.rounds = rounds.unwrap_or(if options.config { CONFIG_ROUNDS } else { options.rounds });
    Ok(Some(options))
}
