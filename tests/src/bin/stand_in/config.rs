//! The configuration, and what `config validate` says about it.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// Pause between two looks for what a validation waits for.
const LOOK: Duration = Duration::from_millis(20);

/// Where the configuration is.
pub(crate) fn path() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("OPENCLAW_CONFIG_PATH")
        .unwrap_or_else(|| variable("OPENCLAW_STATE_DIR").unwrap_or_default().join("openclaw.json"))
}

/// Its text.
pub(crate) fn read() -> Option<String> {
    std::fs::read_to_string(path()).ok()
}

/// The configuration, or what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    let config: Value = serde_json::from_str(text).map_err(|error| format!("JSON5 parse failed: {error}"))?;
    if config.get("invalid").is_some() { Err("invalid: Unrecognized key".to_owned()) } else { Ok(config) }
}

/// What a configuration tells the stand-in.
pub(crate) fn says<'a>(config: &'a Value, key: &str) -> &'a str {
    config["tools"]["standIn"][key].as_str().unwrap_or_default()
}

/// `config validate --json`.
pub(crate) fn validate() -> ExitCode {
    let text = read().unwrap_or_default();
    let invalid = |message: &str| {
        println!("{}", json!({"ok": false, "valid": false, "issues": [{"path": "invalid", "message": message}]}));
        ExitCode::from(1)
    };
    match parse(&text) {
        Err(message) => invalid(&message),
        Ok(config) => match says(&config, "validate") {
            "invalid" => invalid("the stand-in was told to refuse it"),
            "hang" => crate::gateway::forever(),
            "garbage" => {
                println!("Segmentation fault, probably");
                ExitCode::from(139)
            }
            "fail" => ExitCode::from(1),
            "leave" => {
                leave_behind();
                valid()
            }
            "wait" => {
                leave_behind();
                // Not even the end of whoever reads the answer ends it.
                while !go().exists() {
                    std::thread::park_timeout(LOOK);
                }
                valid()
            }
            _ => valid(),
        },
    }
}

fn valid() -> ExitCode {
    println!("{}", json!({"valid": true, "warnings": []}));
    ExitCode::SUCCESS
}

/// A process in our session that nobody waits for.
fn leave_behind() {
    let mut command = Command::new("sleep");
    command.arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    if let Err(error) = command.spawn() {
        eprintln!("sleep: {error}");
    }
}

/// What a validation waits for.
fn go() -> PathBuf {
    PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join("go")
}
