//! How many connections there may be, and what is said while nobody serves.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Result, ensure};
use winston_tests::backend::{Backend, Then};
use winston_tests::http::{free_address, request};
use winston_tests::process::PATIENCE;
use winston_tests::wait::eventually;
use winston_tests::wire::Wire;

use super::Door;

#[test]
fn while_nobody_serves_everybody_is_told() -> Result<()> {
    let door = Door::open(&Door::setup(free_address()?.port())?)?;
    let browser = door.get("/", &[("Accept", "text/html,application/xhtml+xml")])?.expect(503)?;
    let page = browser.text();
    ensure!(browser.header("retry-after").is_some() && browser.header("cache-control") == Some("no-store"));
    ensure!(page.contains("http-equiv=\"refresh\"") && page.contains("disabled") && !page.contains("src="), "{page}");
    let program = request(door.address, "POST", "/v1/chat/completions", &[("Accept", "*/*")], b"{}")?.expect(503)?;
    ensure!(program.json()?["code"] == "gateway_not_ready" && program.header("retry-after").is_some());
    ensure!(door.get("/telegram-webhook", &[])?.status == 503);
    // Which is no reason to take the container away.
    let health = door.get("/healthz", &[])?.expect(200)?.json()?;
    ensure!(health["ok"] == true && health["gateway"]["reachable"] == false, "{health}");
    Ok(())
}

#[test]
fn a_gateway_without_a_configuration_is_waited_for() -> Result<()> {
    let setup = Door::setup(free_address()?.port())?
        .env("WINSTON_GATEWAY", "on")
        .env("WINSTON_OPENCLAW_BIN", "/nowhere/openclaw");
    let door = Door::open(&setup)?;
    let answer = door.get("/", &[])?.expect(503)?.json()?;
    ensure!(answer["state"] == "waiting_for_config", "{answer}");
    std::fs::write(door.sidecar.data().join(".openclaw/openclaw.json"), "{}")?;
    eventually("another state", || {
        let answer = door.get("/", &[])?.expect(503)?.json()?;
        Ok((answer["state"] != "waiting_for_config").then_some(()))
    })?;
    let answer = door.get("/", &[])?.text();
    ensure!(!answer.contains("nowhere"), "a path is told to anybody: {answer}");
    Ok(())
}

/// Health is green on a volume that takes no byte more.
#[test]
fn a_full_volume_is_no_reason_to_be_unhealthy() -> Result<()> {
    const TEST: &str = "a_full_volume_is_no_reason_to_be_unhealthy";
    let backend = Backend::ok()?;
    let fill = "mkdir .winston && dd if=/dev/zero of=fill bs=1k count=1500 2>/dev/null";
    let setup = match Door::setup(backend.port())?.volume("2m", fill)? {
        Ok(setup) => setup,
        Err(reason) => {
            winston_tests::process::skip(TEST, &reason);
            return Ok(());
        }
    };
    let door = Door::open(&setup)?;
    let _ = std::fs::write(door.sidecar.volume().join("more"), vec![b'x'; 4 << 20]);
    door.get("/healthz", &[])?.expect(200)?;
    door.get("/", &[])?.expect(200)?;
    Ok(())
}

fn idle(door: &Door) -> Result<TcpStream> {
    let stream = TcpStream::connect(door.address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A connection that has had its turn; or the status by which it was turned away.
fn answered(stream: &mut TcpStream) -> Result<String> {
    // Who is turned away may not even be able to ask.
    let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    Ok(String::from_utf8_lossy(&head[9..]).into_owned())
}

#[test]
fn connections_are_counted_for_each_address_and_for_all() -> Result<()> {
    let backend = Backend::ok()?;
    // Nobody is a proxy: everybody is one address.
    for (variable, proxies, status, reason) in [
        ("WINSTON_FRONT_MAX_PER_ADDRESS", "10.0.0.0/8", "429", "address"),
        ("WINSTON_FRONT_MAX_CONNECTIONS", "127.0.0.0/8", "503", "full"),
    ] {
        let setup = Door::setup(backend.port())?.env(variable, "20").env("WINSTON_TRUSTED_PROXIES", proxies);
        let door = Door::open(&setup)?;
        let mut held = Vec::new();
        for _ in 0..20 {
            let mut stream = idle(&door)?;
            ensure!(answered(&mut stream)? == "200");
            held.push(stream);
        }
        ensure!(answered(&mut idle(&door)?)? == status, "{variable}");
        ensure!(door.figure(&format!("winston_front_refused_total{{reason=\"{reason}\"}}"))? >= 1.0);
        drop(held);
        eventually("there is room again", || Ok((answered(&mut idle(&door)?)? == "200").then_some(())))?;
    }
    Ok(())
}

/// Behind a proxy each caller has his own share, and the proxy is none.
#[test]
fn requests_are_counted_for_each_caller_behind_a_proxy() -> Result<()> {
    let backend = Backend::start(|head, peer| {
        if head.call == "GET /slow" {
            peer.end()?;
            return Ok(Then::Close);
        }
        peer.answer("ok")?;
        Ok(Then::GoOn)
    })?;
    let door = Door::open(&Door::setup(backend.port())?.env("WINSTON_FRONT_MAX_PER_ADDRESS", "5"))?;
    let mut held = Vec::new();
    for number in 1..=5 {
        let mut wire = Wire::open(door.address)?;
        wire.send(b"GET /slow HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.1\r\n\r\n")?;
        held.push(wire);
        eventually("it is on its way", || Ok((backend.heads().len() == number).then_some(())))?;
    }
    let refused = door.get("/x", &[("X-Forwarded-For", "198.51.100.1")])?.expect(429)?;
    ensure!(refused.json()?["code"] == "too_many_requests" && refused.header("retry-after") == Some("1"));
    door.get("/healthz", &[("X-Forwarded-For", "198.51.100.1")])?.expect(200)?;
    door.get("/x", &[("X-Forwarded-For", "198.51.100.2")])?.expect(200)?;
    drop(held);
    eventually("there is room again", || {
        Ok((door.get("/x", &[("X-Forwarded-For", "198.51.100.1")])?.status == 200).then_some(()))
    })
}

/// A head that comes in pieces has ten seconds; a whole connection that says nothing has more, for it costs little.
#[test]
fn a_head_that_does_not_end_is_given_up() -> Result<()> {
    const TEST: &str = "a_head_that_does_not_end_is_given_up";
    if std::env::var_os("WINSTON_LONG").is_none_or(|value| value != "1") {
        winston_tests::process::skip(TEST, "takes ten seconds; WINSTON_LONG is not set");
        return Ok(());
    }
    let backend = Backend::ok()?;
    let door = Door::before(&backend)?;
    let mut stream = idle(&door)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    ensure!(backend.heads().is_empty());
    Ok(())
}
