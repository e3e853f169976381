//! A stand-in for `openclaw`: takes the gateway's place where a test needs it to do something that the real one does not do on demand.
//!
//! What it does is written in the configuration that it reads, under `tools.standIn`:
//!
//! | Key | Value | What happens |
//! |---|---|---|
//! | `validate` | `invalid`, `hang`, `garbage`, `fail` | what `config validate --json` does instead of saying that it is valid |
//! | `start` | `refuse`, `crash`, `hang` | the start ends with 78, with 1, or never gets ready |
//! | `reload` | `refuse`, `crash`, `restart`, `exit`, `rewrite` | what a running gateway does when it finds this configuration |
//! | `crashAfterMs` | a number | it ends with 1 so long after it was ready |
//!
//! A configuration that is not JSON, has a key `invalid`, or has no `gateway.mode` is refused as by the real one: the validation sees the first two.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

const EX_CONFIG: u8 = 78;

/// Pause between two looks at the configuration.
const LOOK: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["config", "validate", "--json"] => validate(),
        ["gateway", "run"] => gateway(),
        other => {
            eprintln!("stand-in: {other:?}");
            ExitCode::from(64)
        }
    }
}

fn path() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("OPENCLAW_CONFIG_PATH")
        .unwrap_or_else(|| variable("OPENCLAW_STATE_DIR").unwrap_or_default().join("openclaw.json"))
}

fn read() -> Option<String> {
    std::fs::read_to_string(path()).ok()
}

/// The configuration, or what is wrong with it.
fn parse(text: &str) -> Result<Value, String> {
    let config: Value = serde_json::from_str(text).map_err(|error| format!("JSON5 parse failed: {error}"))?;
    if config.get("invalid").is_some() { Err("invalid: Unrecognized key".to_owned()) } else { Ok(config) }
}

fn says<'a>(config: &'a Value, key: &str) -> &'a str {
    config["tools"]["standIn"][key].as_str().unwrap_or_default()
}

fn validate() -> ExitCode {
    let text = read().unwrap_or_default();
    let invalid = |message: &str| {
        println!("{}", json!({"ok": false, "valid": false, "issues": [{"path": "invalid", "message": message}]}));
        ExitCode::from(1)
    };
    match parse(&text) {
        Err(message) => invalid(&message),
        Ok(config) => match says(&config, "validate") {
            "invalid" => invalid("the stand-in was told to refuse it"),
            "hang" => forever(),
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

fn forever() -> ! {
    loop {
        ends_with_its_reader();
        std::thread::park_timeout(LOOK);
    }
}

/// Like the real one, it does not outlive the reader of its output.
fn ends_with_its_reader() {
    let stdout = std::io::stdout();
    let mut look = [PollFd::new(&stdout, PollFlags::empty())];
    if poll(&mut look, Some(&Timespec::default())).is_ok() && look[0].revents().contains(PollFlags::ERR) {
        std::process::exit(0);
    }
}

fn gateway() -> ExitCode {
    let Some(mut known) = read() else {
        eprintln!("no configuration");
        return ExitCode::from(EX_CONFIG);
    };
    let config = match parse(&known) {
        Ok(config) => config,
        Err(message) => {
            eprintln!("Config invalid: {message}");
            return ExitCode::from(EX_CONFIG);
        }
    };
    if config["gateway"]["mode"] != "local" || says(&config, "start") == "refuse" {
        eprintln!("Gateway start blocked: the stand-in refuses secret {}", config["tools"]["standIn"]["apiKey"]);
        return ExitCode::from(EX_CONFIG);
    }
    match says(&config, "start") {
        "crash" => {
            eprintln!("Error: the stand-in crashes");
            return ExitCode::from(1);
        }
        "hang" => forever(),
        _ => {}
    }
    let port = std::env::var("OPENCLAW_GATEWAY_PORT").ok().and_then(|port| port.parse::<u16>().ok()).unwrap_or(18789);
    // As long as the real one: the process before may be about to end.
    let patience = Instant::now() + Duration::from_secs(10);
    let listener = loop {
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => break listener,
            Err(error) if Instant::now() >= patience => {
                eprintln!("port {port}: {error}");
                return ExitCode::from(1);
            }
            Err(_) => std::thread::park_timeout(LOOK),
        }
    };
    std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
    println!("[gateway] ready with {}", config["ui"]["marker"]);
    let ready = Instant::now();
    let mut crash = config["tools"]["standIn"]["crashAfterMs"].as_u64().map(|ms| ready + Duration::from_millis(ms));
    loop {
        std::thread::park_timeout(LOOK);
        ends_with_its_reader();
        if crash.is_some_and(|crash| Instant::now() >= crash) {
            eprintln!("Error: the stand-in crashes after a while");
            return ExitCode::from(1);
        }
        let Some(text) = read().filter(|text| *text != known) else { continue };
        known.clone_from(&text);
        let config = match parse(&text) {
            Ok(config) => config,
            Err(message) => {
                println!("[reload] config reload skipped (invalid config): {message}");
                continue;
            }
        };
        match says(&config, "reload") {
            "refuse" => println!("[reload] config reload skipped (invalid config): the stand-in refuses it"),
            "crash" => {
                eprintln!("Error: the stand-in crashes on reload");
                return ExitCode::from(1);
            }
            "restart" => println!("[reload] config change requires gateway restart (standIn) — deferring"),
            "exit" => return ExitCode::SUCCESS,
            "rewrite" => {
                let mut rewritten = config.clone();
                rewritten["meta"] = json!({"lastTouchedVersion": "stand-in"});
                known = format!("{rewritten:#}\n");
                let new = path().with_extension("tmp");
                if std::fs::write(&new, &known).and_then(|()| std::fs::rename(&new, path())).is_err() {
                    eprintln!("could not rewrite");
                }
                println!("[reload] config hot reload applied (standIn)");
            }
            _ => println!("[reload] config hot reload applied (standIn)"),
        }
        crash =
            config["tools"]["standIn"]["crashAfterMs"].as_u64().map(|ms| Instant::now() + Duration::from_millis(ms));
    }
}

fn answer(mut stream: std::net::TcpStream) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 8192 && matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}");
}
