//! `winston-demo`: one tenant, its files live, with the real OpenClaw gateway. Started by `./demo`, which installs and builds what is needed.

use std::process::ExitCode;

use winston_tests::demo::{self, Options};

fn main() -> ExitCode {
    let options = match Options::parse() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("winston-demo: {error}; see ./demo --help");
            return ExitCode::from(64);
        }
    };
    match demo::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("winston-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
