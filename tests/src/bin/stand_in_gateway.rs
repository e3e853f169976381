//! `winston-stand-in-gateway gateway run`: what a supervisor sees of an OpenClaw gateway, and does what a test says.
//!
//! It answers probes on its port with 200, or with what the file `answer` in its home says (`hang`: not at all). Whoever sends
//! something else than a request there gives orders, one per line, each answered with a line: `say <text>` (a line of
//! output), `echo <text>`, `exit <code>`, `orphans <number>`. SIGTERM ends it with 0 and leaves a file `terminated`, unless there is
//! a file `stubborn`. Each start adds its process id to the file `starts`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stand-in gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let home = PathBuf::from(std::env::var_os("HOME").context("HOME")?);
    let mut starts = std::fs::OpenOptions::new().append(true).create(true).open(home.join("starts"))?;
    writeln!(starts, "{}", std::process::id())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let port: u16 = std::env::var("OPENCLAW_GATEWAY_PORT")?.parse()?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening");
    loop {
        tokio::select! {
            _ = terminate.recv() => {
                std::fs::write(home.join("terminated"), "")?;
                if !home.join("stubborn").exists() {
                    return Ok(());
                }
            }
            accepted = listener.accept() => {
                let home = home.clone();
                tokio::spawn(async move { serve(accepted?.0, &home).await });
            }
        }
    }
}

async fn serve(stream: TcpStream, home: &Path) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let answer = if line.starts_with("GET ") {
            let status = std::fs::read_to_string(home.join("answer")).unwrap_or_else(|_| "200".to_owned());
            if status == "hang" {
                std::future::pending::<()>().await;
            }
            while stream.read_line(&mut line).await? > 2 {}
            format!("HTTP/1.1 {status} Answer\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        } else {
            let (order, text) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
            format!("{}\n", obey(order, text)?)
        };
        stream.write_all(answer.as_bytes()).await?;
        line.clear();
    }
    Ok(())
}

fn obey(order: &str, text: &str) -> Result<String> {
    match order {
        "say" => println!("{text}"),
        "exit" => std::process::exit(text.parse()?),
        "orphans" => {
            let script = format!("i=0; while [ $i -lt {text} ]; do ( : & ); i=$((i + 1)); done");
            Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).status()?;
        }
        _ => {}
    }
    Ok(text.to_owned())
}
