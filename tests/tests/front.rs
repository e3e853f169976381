//! The front of the HTTP server against clients that mean no good, or do not know better.
//!
//! Each row of the table is what a client sends; behind it comes one more request, marked. The answers up to the end of the connection are
//! compared as a whole, so a server and a client that do not agree where a request ends show at once. `bad_input.rs` has what is wrong with a
//! single well-formed request, `limits.rs` what slow readers can hold.
//!
//! `WINSTON_LONG=1` adds what takes a minute: bodies that never end.

use std::io::Write as _;
use std::net::TcpStream;

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use winston_tests::http::request;
use winston_tests::process::{TEST_TOKEN, skip};
use winston_tests::sidecar::{Setup, Sidecar};
use winston_tests::wait::eventually;
use winston_tests::wire::Wire;

/// What is sent (`A` alone in a line is the token's header, `~` a line end), and the statuses of the answers until the connection ends; `S`
/// is the request behind it.
const ROWS: &[(&str, &str)] = &[
    // What everybody sends.
    ("GET /health HTTP/1.1~Host: x~~", "200 S"),
    ("~~GET /health HTTP/1.1~Host: x~~", "200 S"),
    ("GET /health HTTP/1.1~Host: x~~GET /nothing HTTP/1.1~Host: x~A~~GET /health HTTP/1.1~Host: x~~", "200 404 200 S"),
    ("PUT /files/a.md HTTP/1.1~A~Content-Length: 15~~{\"content\":\"a\"}GET /files/a.md HTTP/1.1~A~~", "200 200 S"),
    ("PUT /files/a.md HTTP/1.1~A~Transfer-Encoding: chunked~~f~{\"content\":\"a\"}~0~~", "200 S"),
    ("PUT /files/a.md HTTP/1.1~A~Transfer-Encoding: chunked~~F;x=y~{\"content\":\"a\"}~0~Trailer: x~~", "200 S"),
    ("PUT /files/a.md HTTP/1.1~A~Expect: 100-continue~Content-Length: 15~~{\"content\":\"a\"}", "200 S"),
    ("GET /health HTTP/1.1~Host: x~Connection: Upgrade~Upgrade: websocket~~", "200 S"),
    ("GET /health HTTP/1.1~Host: x~Connection: Upgrade, HTTP2-Settings~Upgrade: h2c~HTTP2-Settings: AA~~", "200 S"),
    // Other versions.
    ("GET /health HTTP/1.0~~", "200"),
    ("GET /health HTTP/1.0~Connection: keep-alive~~", "200 S"),
    ("GET /health~~", "400"),
    ("GET /health HTTP/1.2~~", "400"),
    ("GET /health HTTP/2.0~~", "400"),
    ("GET /health HTTP/11~~", "400"),
    ("GET /health http/1.1~~", "400"),
    ("PRI * HTTP/2.0~~SM~~", ""),
    ("\x16\x03\x01\x02", "400"),
    // Methods.
    ("BREW /changes HTTP/1.1~A~~", "405 S"),
    ("TRACE /health HTTP/1.1~Host: x~~", "405 S"),
    ("OPTIONS /health HTTP/1.1~Host: x~~", "405 S"),
    ("PROPFIND /files/a.md HTTP/1.1~A~~", "405 S"),
    ("CONNECT x:80 HTTP/1.1~A~~", "404 S"),
    ("G\u{e9}T /health HTTP/1.1~~", "400"),
    (" /health HTTP/1.1~~", "400"),
    // One request or two: lengths that do not agree.
    ("PUT /files/a.md HTTP/1.1~A~Content-Length: 15~Content-Length: 15~~{\"content\":\"a\"}", "200 S"),
    ("PUT /files/a.md HTTP/1.1~A~Content-Length: 15~Content-Length: 0~~{\"content\":\"a\"}", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Content-Length: 0~Content-Length: 15~~{\"content\":\"a\"}", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Content-Length: 15, 15~~{\"content\":\"a\"}", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Content-Length: +15~~{\"content\":\"a\"}", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Content-Length: -1~~{\"content\":\"a\"}", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Content-Length: 0x0f~~{\"content\":\"a\"}", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Content-Length: 15 15~~{\"content\":\"a\"}", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Content-Length:~~{\"content\":\"a\"}", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Content-Length: 18446744073709551616~~", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Content-Length : 15~~{\"content\":\"a\"}", "400"),
    ("GET /health HTTP/1.1~Content-Length: 28~~GET /files/a.md HTTP/1.1~~", "200 S"),
    ("PUT /files/a.md HTTP/1.1~A~Content-Length: 5~Transfer-Encoding: chunked~~0~~GET /nothing HTTP/1.1~A~~", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Transfer-Encoding: chunked~Content-Length: 5~~0~~GET /nothing HTTP/1.1~A~~", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Transfer-Encoding: chunked, identity~~0~~", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Transfer-Encoding: identity~Content-Length: 15~~{\"content\":\"a\"}", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Transfer-Encoding: xchunked~~0~~", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Transfer-Encoding: gzip~~0~~", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Transfer-Encoding: chunked~Transfer-Encoding: identity~~0~~", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Transfer-Encoding : chunked~~0~~", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Transfer-Encoding:~ chunked~~0~~", "400"),
    ("PUT /files/a.md HTTP/1.0~A~Transfer-Encoding: chunked~~f~{\"content\":\"a\"}~0~~", "400"),
    // Chunks.
    ("PUT /files/a.md HTTP/1.1~A~Transfer-Encoding: chunked~~zz~{\"content\":\"a\"}~0~~", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Transfer-Encoding: chunked~~-1~~0~~", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Transfer-Encoding: chunked~~ffffffffffffffff1~x~0~~", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Transfer-Encoding: chunked~~e~{\"content\":\"a\"}~0~~", "400"),
    ("PUT /files/a.md HTTP/1.1~A~Transfer-Encoding: chunked~~f\n{\"content\":\"a\"}\n0\n\n", "400"),
    // Bodies that nobody reads are no requests.
    (
        "PUT /files/a.md HTTP/1.1~Content-Length: 66~~GET /files/a.md HTTP/1.1~X-Pad: 12345678901234567890123456789~~",
        "401 S",
    ),
    ("PUT /files/a.md HTTP/1.1~A~Content-Length: 10737418240~~GET /health HTTP/1.1~~", "413"),
    ("PUT /files/a.md HTTP/1.1~Content-Length: 10737418240~~GET /health HTTP/1.1~~", "401"),
    ("PUT /files/a.md HTTP/1.1~A~Expect: 100-continue~Content-Length: 10737418240~~", "413"),
    ("POST /health HTTP/1.1~Content-Length: 10737418240~~GET /health HTTP/1.1~~", "405"),
    // Heads.
    ("GET /health HTTP/1.1~No colon here~~", "400"),
    ("GET /health HTTP/1.1~: empty name~~", "400"),
    ("GET /health HTTP/1.1~X: a\0b~~", "400"),
    ("GET /health HTTP/1.1~X: a\rb~~", "400"),
    ("GET /health HTTP/1.1~X: a~ folded~~", "400"),
    ("GET /health HTTP/1.1~X\u{e9}: a~~", "400"),
    ("GET /health HTTP/1.1\nHost: x\n\n", "200 S"),
    ("GET /health HTTP/1.1~X-Request-Id: \u{e9}~~", "200 S"),
    ("GET /health HTTP/1.1~X-Request-Id: a b~~", "200 S"),
    ("GET /files/a.md HTTP/1.1~A~Accept: \u{e9}\u{e9}~If-None-Match: \u{e9}~~", "400 S"),
    ("PUT /files/a.md HTTP/1.1~A~X-Winston-Actor: \u{e9}~Content-Length: 15~~{\"content\":\"a\"}", "400 S"),
];

const SENTINEL: &str = "GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: sentinel\r\nConnection: close\r\n\r\n";

fn bytes(row: &str) -> Vec<u8> {
    // Spelled so that a row can have bytes over 127 and line ends of its own.
    row.replace("~A~", &format!("~Authorization: Bearer {TEST_TOKEN}~")).replace('~', "\r\n").into_bytes()
}

/// The statuses of all answers until the connection ends.
fn answers(sidecar: &Sidecar, sent: &[u8]) -> Result<String> {
    let mut wire = Wire::open(sidecar.address())?;
    // A server may close before it has read everything; what it answered counts.
    let _ = wire.send(sent).and_then(|()| wire.send(SENTINEL.as_bytes()));
    let mut words = Vec::new();
    while let Some(answer) = wire.answer(false)? {
        let marked = answer.header("x-request-id") == Some("sentinel");
        words.push(if marked { "S".to_owned() } else { answer.status.to_string() });
        ensure!(words.len() < 100, "answers without end");
    }
    Ok(words.join(" "))
}

#[test]
fn where_a_request_ends_is_never_in_doubt() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("a.md", "old")?.expect(200)?;
    let mut wrong = Vec::new();
    for (row, wanted) in ROWS {
        match answers(&sidecar, &bytes(row)) {
            Ok(found) if found == *wanted => {}
            Ok(found) => wrong.push(format!("{row:?}: wanted {wanted:?}, got {found:?}")),
            Err(error) => wrong.push(format!("{row:?}: {error:#}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), ROWS.len(), wrong.join("\n"));
    Ok(())
}

#[test]
fn heads_have_a_limit() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let get = |headers: &str| format!("GET /health HTTP/1.1\r\nHost: x\r\n{headers}\r\n").into_bytes();
    for (what, sent, wanted) in [
        ("60 KB in one header", get(&format!("X: {}\r\n", "y".repeat(60_000))), "200 S"),
        ("200 KB in one header", get(&format!("X: {}\r\n", "y".repeat(200_000))), "431"),
        ("90 headers", get(&"X: y\r\n".repeat(90)), "200 S"),
        ("200 headers", get(&"X: y\r\n".repeat(200)), "431"),
        ("a megabyte of headers", get(&format!("X: {}\r\n", "y".repeat(1000)).repeat(1000)), "431"),
        ("60 KB of target", format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(60_000)).into_bytes(), "401 S"),
        ("a method of 60 KB", format!("{} / HTTP/1.1\r\n\r\n", "X".repeat(60_000)).into_bytes(), "401 S"),
        ("an endless line", vec![b'x'; 1 << 20], "431"),
    ] {
        assert_eq!(answers(&sidecar, &sent)?, wanted, "{what}");
    }
    Ok(())
}

#[test]
fn many_requests_in_one_piece_are_answered_in_order() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let mut sent = Vec::new();
    for number in 0..200 {
        let body = format!("{{\"content\":\"{number}\"}}");
        sent.extend_from_slice(&bytes(&format!(
            "PUT /files/a.md HTTP/1.1~A~X-Request-Id: put{number}~Content-Length: {}~~{body}GET /files/a.md HTTP/1.1~A~X-Request-Id: get{number}~~",
            body.len()
        )));
    }
    let mut wire = Wire::open(sidecar.address())?;
    wire.send(&sent)?;
    for number in 0..200 {
        let put = wire.answer(false)?.context("an answer is missing")?.expect(200)?;
        assert_eq!(put.header("x-request-id"), Some(format!("put{number}").as_str()));
        let get = wire.answer(false)?.context("an answer is missing")?.expect(200)?;
        assert_eq!(get.json()?["content"], number.to_string());
    }
    Ok(())
}

/// A line of `/proc/<pid>/status` in KiB.
fn resident_kib(sidecar: &Sidecar) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sidecar.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn descriptors(sidecar: &Sidecar) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", sidecar.pid()))?.count())
}

/// Connections that say nothing, or half a head, or half a body: everybody else is served, in bounded memory, and all is given back.
#[test]
fn a_thousand_idle_connections_hold_nobody_up() -> Result<()> {
    const TEST: &str = "a_thousand_idle_connections_hold_nobody_up";
    const MANY: usize = 1_000;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < 2 * MANY as u64 || setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard).is_err() {
        skip(TEST, &format!("{MANY} connections need more than {hard} file descriptors"));
        return Ok(());
    }
    let sidecar = Setup::new()?.start()?;
    sidecar.put("a.md", "a")?.expect(200)?;
    let (before, open_before) = (resident_kib(&sidecar)?, descriptors(&sidecar)?);
    let half_head =
        format!("GET /files/a.md HTTP/1.1\r\nAuthorization: Bearer {TEST_TOKEN}\r\nX: {}", "y".repeat(10_000));
    let mut held = Vec::new();
    for number in 0..MANY {
        let mut stream = TcpStream::connect(sidecar.address())?;
        if number % 2 == 1 {
            stream.write_all(half_head.as_bytes())?;
        }
        held.push(stream);
    }
    // Behind all of them in the queue: answered when the first have had their time.
    request(sidecar.address(), "GET", "/health", &[], b"")?.expect(200)?;
    let during = resident_kib(&sidecar)?;
    sidecar.put("a.md", "b")?.expect(200)?;
    drop(held);
    eventually("descriptors are given back", || {
        let open = descriptors(&sidecar)?;
        Ok((open <= open_before + 4).then_some(()))
    })?;
    println!("{MANY} connections: {before} KiB before, {during} KiB while they were held");
    // 512 connections with 10 KB each of a head, and their tasks; not a thousand of them, and no buffers of megabytes.
    assert!(during < before + 40 * 1024, "{during} KiB, {before} KiB before");
    Ok(())
}

/// A body of which a byte comes now and then ends after its time, and does not keep others from writing.
#[test]
fn a_body_that_never_ends_is_given_up() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let half_body = bytes("PUT /files/a.md HTTP/1.1~A~Content-Length: 100~~{\"content\":\"");
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut wire = Wire::open(sidecar.address())?;
        wire.send(&half_body)?;
        held.push(wire);
    }
    sidecar.put("b.md", "b")?.expect(200)?;
    assert!(!sidecar.data().join("a.md").exists());
    if std::env::var_os("WINSTON_LONG").is_some_and(|value| value == "1") {
        for wire in &mut held {
            let answer = wire.answer(false)?.context("closed without an answer")?.expect(408)?;
            assert_eq!(answer.json()?["code"], "body_timeout");
        }
    }
    Ok(())
}
