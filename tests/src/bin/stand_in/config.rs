//! The configuration, and what `config validate` says about it.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

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
            _ => {
                println!("{}", json!({"valid": true, "warnings": []}));
                ExitCode::SUCCESS
            }
        },
    }
}
