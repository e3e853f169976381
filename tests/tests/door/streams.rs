//! Bodies, both ways, and what becomes of them when somebody goes away.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use winston_tests::backend::{Backend, Then};
use winston_tests::process::PATIENCE;
use winston_tests::wait::eventually;
use winston_tests::wire::Wire;

use super::Door;

/// A connection with a limit on each wait.
fn connect(door: &Door) -> Result<TcpStream> {
    let stream = TcpStream::connect(door.address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads until this has come.
fn read_until(stream: &mut TcpStream, mark: &str) -> Result<String> {
    let (mut text, mut piece) = (String::new(), [0; 4096]);
    while !text.contains(mark) {
        let read = stream.read(&mut piece)?;
        ensure!(read > 0, "ended after {text:?}, waiting for {mark:?}");
        text.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    Ok(text)
}

#[test]
fn an_answer_arrives_while_it_is_made() -> Result<()> {
    let (seen, told) = channel::<()>();
    let told = Mutex::new(told);
    let backend = Backend::start(move |_, peer| {
        peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        for number in 0..3 {
            peer.send(format!("9\r\ndata: {number}\n\n\r\n"))?;
            // The next event comes when the client has seen this one.
            told.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.recv_timeout(PATIENCE)?;
        }
        peer.send("0\r\n\r\n")?;
        Ok(Then::GoOn)
    })?;
    let door = Door::before(&backend)?;
    let mut stream = connect(&door)?;
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")?;
    for number in 0..3 {
        read_until(&mut stream, &format!("data: {number}"))?;
        seen.send(())?;
    }
    ensure!(backend.failures().is_empty(), "{:?}", backend.failures());
    Ok(())
}

#[test]
fn a_body_arrives_while_it_is_sent() -> Result<()> {
    let (arrived, seen) = channel::<String>();
    let backend = Backend::start(move |_, peer| {
        for word in ["one", "two"] {
            arrived.send(peer.until(word)?)?;
        }
        peer.until("0\r\n\r\n")?;
        peer.answer("done")?;
        Ok(Then::GoOn)
    })?;
    let door = Door::before(&backend)?;
    let mut stream = connect(&door)?;
    stream.write_all(b"POST /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")?;
    seen.recv_timeout(PATIENCE).context("the first piece")?;
    stream.write_all(b"3\r\ntwo\r\n")?;
    seen.recv_timeout(PATIENCE).context("the second piece")?;
    stream.write_all(b"0\r\n\r\n")?;
    read_until(&mut stream, "done")?;
    Ok(())
}

#[test]
fn trailers_go_both_ways() -> Result<()> {
    let sent = Arc::new(Mutex::new(String::new()));
    let noted = Arc::clone(&sent);
    let backend = Backend::start(move |_, peer| {
        *noted.lock().map_err(|_| anyhow::anyhow!("poisoned"))? = peer.until("\r\n\r\n")?;
        peer.send("HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: down\r\n\r\n")?;
        Ok(Then::GoOn)
    })?;
    let door = Door::before(&backend)?;
    let mut stream = connect(&door)?;
    stream.write_all(
        b"POST /t HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: TE\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: up\r\n\r\n",
    )?;
    let answer = read_until(&mut stream, "down\r\n\r\n")?;
    ensure!(answer.to_ascii_lowercase().contains("x-sum: down"), "{answer}");
    let sent = sent.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.to_ascii_lowercase();
    ensure!(sent.contains("x-sum: up"), "{sent}");
    Ok(())
}

#[test]
fn whoever_expects_to_be_told_is_told() -> Result<()> {
    let backend = Backend::ok()?;
    let door = Door::before(&backend)?;
    let mut stream = connect(&door)?;
    stream.write_all(b"PUT /x HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")?;
    read_until(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n")?;
    stream.write_all(b"ab")?;
    read_until(&mut stream, "HTTP/1.1 200 OK")?;
    ensure!(backend.last()?.all("expect").is_empty());
    Ok(())
}

#[test]
fn lengths_and_bodiless_answers_stay_what_they_are() -> Result<()> {
    let backend = Backend::start(|head, peer| {
        let body = peer.body(head)?;
        match head.call.as_str() {
            "HEAD /" => peer.send("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n")?,
            "GET /304" => peer.send("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n")?,
            "GET /204" => peer.send("HTTP/1.1 204 No Content\r\n\r\n")?,
            "GET /close" => {
                peer.send("HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\r\nuntil the end")?;
                return Ok(Then::Close);
            }
            "PUT /" => peer.answer(&format!("{} {}", body.len(), head.all("transfer-encoding").len()))?,
            "GET /two" => {
                peer.send("HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n")?
            }
            _ => peer.answer("?")?,
        }
        Ok(Then::GoOn)
    })?;
    let door = Door::before(&backend)?;
    let mut wire = Wire::open(door.address)?;
    let head = wire.exchange(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")?.expect(200)?;
    ensure!(head.header("content-length") == Some("7"), "{head:?}");
    wire.exchange(b"GET /304 HTTP/1.1\r\nHost: x\r\n\r\n")?.expect(304)?;
    wire.exchange(b"GET /204 HTTP/1.1\r\nHost: x\r\n\r\n")?.expect(204)?;
    let put = wire.exchange(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde")?.expect(200)?;
    ensure!(put.text() == "5 0", "{}", put.text());
    let two = wire.exchange(b"GET /two HTTP/1.1\r\nHost: x\r\n\r\n")?.expect(200)?;
    ensure!(two.headers.iter().filter(|(name, _)| name == "set-cookie").count() == 2, "{two:?}");
    let close = wire.exchange(b"GET /close HTTP/1.1\r\nHost: x\r\n\r\n")?.expect(200)?;
    ensure!(close.text() == "until the end" && close.header("x-hop").is_none() && close.header("keep-alive").is_none());
    Ok(())
}

#[test]
fn connections_to_the_gateway_are_used_again() -> Result<()> {
    let backend = Backend::ok()?;
    let door = Door::before(&backend)?;
    let mut wire = Wire::open(door.address)?;
    for _ in 0..50 {
        wire.exchange(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?.expect(200)?;
    }
    ensure!(backend.heads().len() == 50 && backend.connections() < 5, "{} connections", backend.connections());
    Ok(())
}

/// The gateway closes after each answer without saying so: no request is lost by that, whatever its method.
#[test]
fn a_connection_that_was_closed_meanwhile_costs_no_request() -> Result<()> {
    let backend = Backend::start(|head, peer| {
        peer.body(head)?;
        peer.answer("ok")?;
        Ok(Then::Close)
    })?;
    let door = Door::before(&backend)?;
    let mut wire = Wire::open(door.address)?;
    for number in 0..20 {
        wire.exchange(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na")?.expect(200)?;
        // Closed, as the kernel knows; the sidecar need not have been told yet.
        eventually("the connection is gone", || Ok((backend.ended() == number + 1).then_some(())))?;
    }
    Ok(())
}

#[test]
fn a_client_that_goes_away_is_missed_by_the_gateway() -> Result<()> {
    let (ended, end) = channel::<()>();
    let backend = Backend::start(move |head, peer| {
        if head.call == "GET /long" {
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n")?;
        }
        if head.call == "POST /half" {
            peer.until("begin")?;
        }
        peer.end()?;
        ended.send(())?;
        Ok(Then::Close)
    })?;
    let door = Door::before(&backend)?;
    for (sent, wait) in [
        ("GET /long HTTP/1.1\r\nHost: x\r\n\r\n", Some("begin")),
        ("GET /thinking HTTP/1.1\r\nHost: x\r\n\r\n", None),
        ("POST /half HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nbegin", None),
        ("POST /half HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n", None),
    ] {
        let before = backend.heads().len();
        let mut stream = connect(&door)?;
        stream.write_all(sent.as_bytes())?;
        match wait {
            Some(mark) => drop(read_until(&mut stream, mark)?),
            None => eventually("it arrives", || Ok((backend.heads().len() > before).then_some(())))?,
        }
        drop(stream);
        end.recv_timeout(PATIENCE).with_context(|| format!("the gateway was not told: {sent:?}"))?;
    }
    Ok(())
}

#[test]
fn a_gateway_that_breaks_off_is_not_taken_for_one_that_has_finished() -> Result<()> {
    let backend = Backend::start(|head, peer| {
        match head.call.as_str() {
            "GET /length" => peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")?,
            "GET /chunks" => peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")?,
            "GET /head" => peer.send("HTTP/1.1 200 OK\r\nX-")?,
            "GET /garbage" => peer.send("what is this?\r\n\r\n")?,
            _ => {}
        }
        Ok(Then::Close)
    })?;
    let door = Door::before(&backend)?;
    for target in ["/nothing", "/head", "/garbage"] {
        let answer = door.get(target, &[])?.expect(502)?;
        ensure!(answer.json()?["code"] == "bad_gateway", "{target}: {}", answer.text());
    }
    for target in ["/length", "/chunks"] {
        let mut wire = Wire::open(door.address)?;
        wire.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())?;
        ensure!(wire.answer(false).is_err(), "{target} looks finished");
    }
    ensure!(door.figure("winston_front_refused_total{reason=\"gateway\"}")? >= 3.0);
    Ok(())
}

/// A reader that takes nothing makes the gateway wait; it does not fill our memory.
#[test]
fn a_slow_reader_slows_the_gateway() -> Result<()> {
    const BYTES: usize = 64 << 20;
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let backend = Backend::start(move |_, peer| {
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n"))?;
        let piece = vec![b'x'; 64 << 10];
        for _ in 0..BYTES / piece.len() {
            peer.send(&piece)?;
            counter.fetch_add(piece.len(), std::sync::atomic::Ordering::SeqCst);
        }
        Ok(Then::GoOn)
    })?;
    let door = Door::before(&backend)?;
    let resident = || -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", door.sidecar.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    let before = resident()?;
    let mut stream = connect(&door)?;
    stream.write_all(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n")?;
    read_until(&mut stream, "200 OK")?;
    let mut last = usize::MAX;
    eventually("the gateway waits", || {
        std::thread::park_timeout(Duration::from_millis(200));
        let now = sent.load(std::sync::atomic::Ordering::SeqCst);
        Ok((std::mem::replace(&mut last, now) == now && now > 0).then_some(()))
    })?;
    ensure!(last < BYTES / 2, "{last} bytes were taken for a reader that takes none");
    let during = resident()?;
    ensure!(during < before + 8 * 1024, "{during} KiB, {before} before");
    let mut left = 0;
    let mut piece = vec![0; 1 << 20];
    while left < BYTES - (1 << 20) {
        let read = stream.read(&mut piece)?;
        ensure!(read > 0, "ended after {left}");
        left += read;
    }
    Ok(())
}
