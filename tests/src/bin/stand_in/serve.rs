//! Its port: probes, and orders of the test.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Bytes of one write of a flood: a pipe takes as many at once.
const PIECE: usize = 64 * 1024;

/// Answers every connection, each in a thread of its own.
pub(crate) fn all(listener: &TcpListener, home: &Path) {
    for stream in listener.incoming().flatten() {
        let home = home.to_owned();
        std::thread::spawn(move || {
            if let Err(error) = one(&stream, &home)
                && error.kind() == std::io::ErrorKind::InvalidInput
            {
                eprintln!("stand-in: {error}");
            }
        });
    }
}

fn one(stream: &TcpStream, home: &Path) -> std::io::Result<()> {
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        let answer = if line.starts_with("GET ") {
            let status = std::fs::read_to_string(home.join("answer")).unwrap_or_else(|_| "200".to_owned());
            if status == "hang" {
                loop {
                    std::thread::park();
                }
            }
            while reader.read_line(&mut line)? > 2 {}
            let head = format!("HTTP/1.1 {status} Answer\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
            return writer.write_all(head.as_bytes());
        } else {
            let (order, text) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
            format!("{}\n", obey(order, text)?)
        };
        writer.write_all(answer.as_bytes())?;
        line.clear();
    }
    Ok(())
}

fn obey(order: &str, text: &str) -> std::io::Result<String> {
    let wrong = |_| std::io::Error::new(std::io::ErrorKind::InvalidInput, format!("{order} {text}"));
    match order {
        "say" => println!("{text}"),
        "exit" => std::process::exit(text.parse().map_err(wrong)?),
        "orphans" => {
            let script = format!("i=0; while [ $i -lt {text} ]; do ( : & ); i=$((i + 1)); done");
            Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).status()?;
        }
        "flood" => {
            let (bytes, length) = text.split_once(' ').unwrap_or((text, "0"));
            return flood(bytes.parse().map_err(wrong)?, length.parse().map_err(wrong)?);
        }
        _ => {}
    }
    Ok(text.to_owned())
}

/// Writes at least so many bytes past the buffer of `stdout`, so that every write is one of the kernel's.
fn flood(bytes: usize, length: usize) -> std::io::Result<String> {
    let mut out = std::fs::File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let (mut written, mut lines, mut longest) = (0, 0_u64, Duration::ZERO);
    let mut piece = Vec::with_capacity(PIECE + length);
    let start = Instant::now();
    while written < bytes {
        piece.clear();
        while piece.len() < PIECE {
            if length == 0 {
                piece.resize(PIECE, b'x');
            } else {
                lines += 1;
                let text = format!("flood {lines:012} ");
                piece.extend_from_slice(text.as_bytes());
                piece.resize(piece.len() + length.saturating_sub(text.len() + 1), b'.');
                piece.push(b'\n');
            }
        }
        let before = Instant::now();
        out.write_all(&piece)?;
        longest = longest.max(before.elapsed());
        written += piece.len();
    }
    if length == 0 {
        out.write_all(b"\n")?;
        (written, lines) = (written + 1, 1);
    }
    Ok(format!("{written} {lines} {} {}", start.elapsed().as_nanos(), longest.as_nanos()))
}
