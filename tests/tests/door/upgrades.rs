//! WebSockets: two connections that carry each other's bytes.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use anyhow::{Context as _, Result, ensure};
use winston_tests::backend::{Backend, Head, Peer, Then};
use winston_tests::http::request;
use winston_tests::process::PATIENCE;
use winston_tests::wait::eventually;

use super::{Door, PASSWORD};

const HELLO: &str = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: a\r\n";

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Says hello at once, then everything that comes back in capitals.
fn shout(head: &Head, peer: &mut Peer) -> Result<Then> {
    if head.call != "GET /ws" {
        peer.answer("ok")?;
        return Ok(Then::GoOn);
    }
    peer.send(format!("{SWITCH}hello\n"))?;
    loop {
        let Ok(line) = peer.until("\n") else { return Ok(Then::Close) };
        peer.send(line.to_ascii_uppercase())?;
    }
}

fn switched(door: &Door, more: &str) -> Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect(door.address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{HELLO}{more}\r\n").as_bytes())?;
    let text = read_until(&mut stream, "hello\n")?;
    Ok((stream, text))
}

fn read_until(stream: &mut TcpStream, mark: &str) -> Result<String> {
    let (mut text, mut byte) = (String::new(), [0]);
    while !text.ends_with(mark) {
        ensure!(stream.read(&mut byte)? == 1, "ended after {text:?}");
        text.push(char::from(byte[0]));
    }
    Ok(text)
}

#[test]
fn a_websocket_goes_through() -> Result<()> {
    let backend = Backend::start(shout)?;
    let door = Door::before(&backend)?;
    let (mut stream, text) = switched(&door, "X-Forwarded-User: root\r\n")?;
    let lower = text.to_ascii_lowercase();
    ensure!(text.starts_with("HTTP/1.1 101 "), "{text}");
    for header in ["connection: upgrade", "upgrade: websocket", "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="] {
        ensure!(lower.contains(header), "{header} in {text}");
    }
    let head = backend.last()?;
    for (name, value) in [
        ("connection", Some("Upgrade")),
        ("upgrade", Some("websocket")),
        ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZQ==")),
        ("sec-websocket-extensions", Some("permessage-deflate")),
        ("sec-websocket-protocol", Some("a")),
        ("x-forwarded-for", Some("192.0.2.1")),
        ("x-forwarded-user", None),
    ] {
        ensure!(head.header(name) == value, "{name}: {head:?}");
    }
    // Neither heads nor anything else is looked for in it.
    for line in ["one\n", "GET / HTTP/1.1\n", "\r\r\0\n"] {
        stream.write_all(line.as_bytes())?;
        ensure!(read_until(&mut stream, "\n")? == line.to_ascii_uppercase());
    }
    ensure!(door.figure("winston_front_websockets")? == 1.0);
    let much = "x".repeat(4 << 20) + "\n";
    let mut writer = stream.try_clone()?;
    let sent = much.clone();
    let writing = std::thread::spawn(move || writer.write_all(sent.as_bytes()));
    let mut back = vec![0; much.len()];
    stream.read_exact(&mut back)?;
    ensure!(back == much.to_ascii_uppercase().as_bytes());
    writing.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    // An end of one side is passed on, and ends the other.
    stream.shutdown(Shutdown::Write)?;
    ensure!(stream.read(&mut [0; 16])? == 0);
    eventually("it is counted no more", || Ok((door.figure("winston_front_websockets")? == 0.0).then_some(())))
}

#[test]
fn a_refused_websocket_is_an_ordinary_answer() -> Result<()> {
    let backend = Backend::start(|_, peer| {
        peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")?;
        Ok(Then::GoOn)
    })?;
    let door = Door::before(&backend)?;
    let mut stream = TcpStream::connect(door.address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{HELLO}\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    ensure!(text.starts_with("HTTP/1.1 403 ") && text.ends_with("no"), "{text}");
    Ok(())
}

#[test]
fn no_other_protocol_is_switched_to() -> Result<()> {
    let backend = Backend::start(shout)?;
    let door = Door::before(&backend)?;
    for protocol in ["h2c", "TLS/1.0", "websocket2"] {
        let headers = [("Connection", "Upgrade"), ("Upgrade", protocol), ("HTTP2-Settings", "AA")];
        let answer = request(door.address, "GET", "/x", &headers, b"")?.expect(200)?;
        ensure!(answer.header("connection") == Some("close"), "{answer:?}");
        ensure!(backend.last()?.all("upgrade").is_empty(), "{protocol}");
    }
    Ok(())
}

#[test]
fn both_ends_learn_that_the_other_has_gone() -> Result<()> {
    let backend = Backend::start(|_, peer| {
        peer.send(format!("{SWITCH}hello\n"))?;
        peer.until("bye\n")?;
        Ok(Then::Close)
    })?;
    let door = Door::before(&backend)?;
    let (mut stream, _) = switched(&door, "")?;
    stream.write_all(b"bye\n")?;
    ensure!(stream.read(&mut [0; 16])? == 0, "the client is told");
    let (stream, _) = switched(&door, "")?;
    drop(stream);
    eventually("the gateway is told", || Ok((!backend.failures().is_empty()).then_some(())))?;
    ensure!(backend.failures()[0].contains("ended within"), "{:?}", backend.failures());
    Ok(())
}

/// The first frames of an operator's WebSocket are looked at; nothing is changed by that, whatever they are.
#[test]
fn what_an_operator_says_arrives_as_it_was_said() -> Result<()> {
    let backend = Backend::start(shout)?;
    let setup =
        Door::setup(backend.port())?.env("SETUP_PASSWORD", PASSWORD).env("OPENCLAW_GATEWAY_TOKEN", "test-token");
    let door = Door::open(&setup)?;
    let page = door.get("/setup", &[("Authorization", "Basic OnRlc3Qtc2V0dXAtcGFzc3dvcmQ=")])?.expect(200)?;
    let cookie = page.header("set-cookie").context("a session")?;
    ensure!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let pair = cookie.split(';').next().unwrap_or_default().to_owned();
    let (mut stream, _) = switched(&door, &format!("Cookie: {pair}\r\n"))?;
    let head = backend.last()?;
    ensure!(head.all("cookie").is_empty() && head.all("sec-websocket-extensions").is_empty(), "{head:?}");
    for line in ["not a frame\n", "\u{1}\u{7f}\n", "more\n"] {
        stream.write_all(line.as_bytes())?;
        ensure!(read_until(&mut stream, "\n")? == line.to_ascii_uppercase());
    }
    Ok(())
}

#[test]
fn a_stopping_sidecar_ends_websockets() -> Result<()> {
    let backend = Backend::start(shout)?;
    let door = Door::before(&backend)?;
    let (mut stream, _) = switched(&door, "")?;
    let mut sidecar = door.sidecar;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(sidecar.pid().try_into()?), nix::sys::signal::Signal::SIGTERM)?;
    let _ = stream.read(&mut [0; 16]);
    eventually("it has stopped", || sidecar.ended())?;
    Ok(())
}
