//! `gateway run`: starts, serves, and follows its configuration.

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use crate::config::{parse, path, read, says};
use crate::serve;

const EX_CONFIG: u8 = 78;

/// Pause between two looks at the configuration.
const LOOK: Duration = Duration::from_millis(20);

/// As long as the real one waits for its port: the process before may be about to end.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn run() -> ExitCode {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    note_start(&home);
    end_on_sigterm(home.clone());
    if let Ok(words) = std::fs::read_to_string(home.join("trouble")) {
        // Something around it is wrong; these are its last words.
        eprintln!("{words}");
        return ExitCode::from(EX_CONFIG);
    }
    let Some(known) = read() else {
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
        "restamp" => {
            restamp(config);
            eprintln!("Error: the stand-in crashes after it wrote its configuration");
            return ExitCode::from(1);
        }
        _ => {}
    }
    let listener = match listen() {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(1);
        }
    };
    std::thread::spawn(move || serve::all(&listener, &home));
    println!("[gateway] ready with {}", config["ui"]["marker"]);
    follow(known, &config)
}

/// Waits for its end.
pub(crate) fn forever() -> ! {
    loop {
        end_with_the_reader();
        std::thread::park_timeout(LOOK);
    }
}

fn note_start(home: &Path) {
    let pid = std::process::id().to_string();
    if let Ok(socket) = UnixDatagram::unbound() {
        // Only a test that wants to know listens there.
        let _ = socket.send_to(pid.as_bytes(), home.join("tell"));
    }
    let starts = std::fs::OpenOptions::new().append(true).create(true).open(home.join("starts"));
    if let Err(error) = starts.and_then(|mut starts| starts.write_all(format!("{pid}\n").as_bytes())) {
        eprintln!("starts: {error}");
    }
}

/// Takes SIGTERM out of every thread's hands but one.
fn end_on_sigterm(home: PathBuf) {
    let terminate = SigSet::from(Signal::SIGTERM);
    if terminate.thread_block().is_err() {
        return;
    }
    std::thread::spawn(move || {
        while terminate.wait().is_ok() {
            if let Err(error) = std::fs::write(home.join("terminated"), "") {
                eprintln!("terminated: {error}");
            }
            if !home.join("stubborn").exists() {
                std::process::exit(0);
            }
        }
    });
}

fn end_with_the_reader() {
    let stdout = std::io::stdout();
    let mut look = [PollFd::new(&stdout, PollFlags::empty())];
    if poll(&mut look, Some(&Timespec::default())).is_ok() && look[0].revents().contains(PollFlags::ERR) {
        std::process::exit(0);
    }
}

fn listen() -> Result<TcpListener, String> {
    let port = std::env::var("OPENCLAW_GATEWAY_PORT").ok().and_then(|port| port.parse::<u16>().ok()).unwrap_or(18789);
    let end = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => return Ok(listener),
            Err(error) if Instant::now() >= end => return Err(format!("port {port}: {error}")),
            Err(_) => std::thread::park_timeout(LOOK),
        }
    }
}

/// Looks at the configuration until something ends it.
fn follow(mut known: String, config: &Value) -> ExitCode {
    let mut crash = crash_time(config);
    loop {
        std::thread::park_timeout(LOOK);
        end_with_the_reader();
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
            "refuse" => {
                println!("[reload] config reload skipped (invalid config): the stand-in refuses it");
                continue;
            }
            "crash" => {
                eprintln!("Error: the stand-in crashes on reload");
                return ExitCode::from(1);
            }
            "restart" => println!("[reload] config change requires gateway restart (standIn) — deferring"),
            "exit" => return ExitCode::SUCCESS,
            "rewrite" => {
                known = rewrite(config.clone());
                println!("[reload] config hot reload applied (standIn)");
            }
            _ => println!("[reload] config hot reload applied (standIn)"),
        }
        crash = crash_time(&config);
    }
}

fn crash_time(config: &Value) -> Option<Instant> {
    config["tools"]["standIn"]["crashAfterMs"].as_u64().map(|ms| Instant::now() + Duration::from_millis(ms))
}

/// Another text at each start.
fn restamp(mut config: Value) {
    let starts = config["meta"]["starts"].as_u64().unwrap_or_default();
    config["meta"] = json!({"starts": starts + 1});
    write(&config);
}

/// As the real one stamps its configuration; the new text.
fn rewrite(mut config: Value) -> String {
    config["meta"] = json!({"lastTouchedVersion": "stand-in"});
    write(&config)
}

fn write(config: &Value) -> String {
    let text = format!("{config:#}\n");
    let new = path().with_extension("tmp");
    if std::fs::write(&new, &text).and_then(|()| std::fs::rename(&new, path())).is_err() {
        eprintln!("could not rewrite");
    }
    text
}
