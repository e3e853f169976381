//! Requests about whose end, target or host two readers could disagree. Behind each comes a request of somebody else, so to speak: it must
//! never be swallowed by the one before, and nothing that was smuggled may arrive at the gateway as a request of its own.

use anyhow::{Result, ensure};
use winston_tests::backend::Backend;
use winston_tests::wire::Wire;

use super::Door;

/// What is sent (`~` a line end), the statuses until the connection ends (`S` is the request behind), and what arrives at the gateway.
const ROWS: &[(&str, &str, &[&str])] = &[
    // What everybody sends.
    ("GET /a HTTP/1.1~Host: x~~", "200 S", &["GET /a"]),
    ("POST /a HTTP/1.1~Host: x~Content-Length: 3~~abc", "200 S", &["POST /a"]),
    ("POST /a HTTP/1.1~Host: x~Transfer-Encoding: chunked~~3~abc~0~~", "200 S", &["POST /a"]),
    ("POST /a HTTP/1.1~Host: x~Transfer-Encoding: Chunked~~3~a\n\n~0~~", "200 S", &["POST /a"]),
    ("GET /a HTTP/1.0~Host: x~~", "200", &["GET /a"]),
    ("GET /a HTTP/1.1~Host: x~~GET /b HTTP/1.1~Host: x~~", "200 200 S", &["GET /a", "GET /b"]),
    // Two lengths.
    (
        "POST /a HTTP/1.1~Host: x~Content-Length: 5~Transfer-Encoding: chunked~~0~~GET /evil HTTP/1.1~Host: x~~",
        "400",
        &[],
    ),
    (
        "POST /a HTTP/1.1~Host: x~Transfer-Encoding: chunked~Content-Length: 5~~0~~GET /evil HTTP/1.1~Host: x~~",
        "400",
        &[],
    ),
    ("POST /a HTTP/1.1~Host: x~Content-Length: 3~Content-Length: 3~~abc", "400", &[]),
    ("POST /a HTTP/1.1~Host: x~Content-Length: 3~Content-Length: 0~~abc", "400", &[]),
    ("POST /a HTTP/1.1~Host: x~Content-Length: 3, 3~~abc", "400", &[]),
    ("POST /a HTTP/1.1~Host: x~Content-Length: +3~~abc", "400", &[]),
    ("POST /a HTTP/1.1~Host: x~Content-Length: 0x3~~abc", "400", &[]),
    ("POST /a HTTP/1.1~Host: x~Content-Length: -1~~", "400", &[]),
    ("POST /a HTTP/1.1~Host: x~Content-Length:~~", "400", &[]),
    ("POST /a HTTP/1.1~Host: x~Content-Length: 99999999999999999999~~", "400", &[]),
    ("POST /a HTTP/1.1~Host: x~Content-Length : 3~~abc", "400", &[]),
    ("POST /a HTTP/1.1~Host: x~Content-Length\u{b}: 3~~abc", "400", &[]),
    // Encodings.
    ("POST /a HTTP/1.1~Host: x~Transfer-Encoding: chunked~Transfer-Encoding: chunked~~0~~", "400", &[]),
    ("POST /a HTTP/1.1~Host: x~Transfer-Encoding: chunked, chunked~~0~~", "400", &[]),
    ("POST /a HTTP/1.1~Host: x~Transfer-Encoding: gzip, chunked~~0~~", "400", &[]),
    ("POST /a HTTP/1.1~Host: x~Transfer-Encoding: xchunked~~0~~", "400", &[]),
    ("POST /a HTTP/1.1~Host: x~Transfer-Encoding: identity~~", "400", &[]),
    ("POST /a HTTP/1.1~Host: x~Transfer-Encoding : chunked~~0~~", "400", &[]),
    ("POST /a HTTP/1.1~Host: x~Transfer-Encoding:~ chunked~~0~~", "400", &[]),
    ("POST /a HTTP/1.1~Host: x~X: y\nTransfer-Encoding: chunked~~0~~", "400", &[]),
    ("POST /a HTTP/1.1~Host: x~Transfer-Encoding: \"chunked\"~~0~~", "400", &[]),
    ("POST /a HTTP/1.0~Host: x~Transfer-Encoding: chunked~~0~~", "400", &[]),
    // Line ends.
    ("GET /a HTTP/1.1\nHost: x\n\n", "400", &[]),
    ("GET /a HTTP/1.1~Host: x\n~", "400", &[]),
    ("GET /a HTTP/1.1~Host: x~X: a\rb~~", "400", &[]),
    ("GET /a HTTP/1.1~Host: x~X: a~ folded: b~~", "400", &[]),
    ("GET /a HTTP/1.1~Host: x~X: a~\tfolded~~", "400", &[]),
    ("GET /a HTTP/1.1~Host: x~X: a\0b~~", "400", &[]),
    (" GET /a HTTP/1.1~Host: x~~", "400", &[]),
    ("GET /a HTTP/1.1~ Host: x~~", "400", &[]),
    ("GET /a HTTP/1.1~: x~Host: x~~", "400", &[]),
    ("GET /a HTTP/1.1~Host: x~No colon~~", "400", &[]),
    // Targets and hosts.
    ("GET http://evil/a HTTP/1.1~Host: x~~", "400 S", &[]),
    ("GET https://x/a HTTP/1.1~Host: x~~", "400 S", &[]),
    ("GET evil:80 HTTP/1.1~Host: x~~", "400 S", &[]),
    ("CONNECT evil:80 HTTP/1.1~Host: x~~", "400 S", &[]),
    ("OPTIONS * HTTP/1.1~Host: x~~", "400 S", &[]),
    ("GET a HTTP/1.1~Host: x~~", "400 S", &[]),
    ("GET /a HTTP/1.1~~", "400 S", &[]),
    ("GET /a HTTP/1.1~Host: x~Host: evil~~", "400 S", &[]),
    ("GET /a HTTP/1.1~Host: x, evil~~", "400 S", &[]),
    ("GET /a HTTP/1.1~Host: evil@x~~", "400 S", &[]),
    ("GET /a HTTP/1.1~Host:~~", "400 S", &[]),
    ("GET /a\t/b HTTP/1.1~Host: x~~", "400", &[]),
    ("GET /a  HTTP/1.1~Host: x~~", "400", &[]),
    ("GET /a HTTP/1.1 ~Host: x~~", "400", &[]),
    ("GET /a HTTP/2.0~Host: x~~", "400", &[]),
    ("PRI * HTTP/2.0~~SM~~", "", &[]),
    // Another protocol on the same connection.
    (
        "GET /a HTTP/1.1~Host: x~Connection: Upgrade, HTTP2-Settings~Upgrade: h2c~HTTP2-Settings: AAMAAABk~~",
        "200",
        &["GET /a"],
    ),
    ("POST /a HTTP/1.1~Host: x~Connection: Upgrade~Upgrade: websocket~Content-Length: 3~~abc", "400", &[]),
    ("GET /a HTTP/1.1~Host: x~Connection: Upgrade~Upgrade: websocket~Transfer-Encoding: chunked~~0~~", "400", &[]),
    ("GET /a HTTP/1.0~Host: x~Connection: Upgrade~Upgrade: websocket~~", "400", &[]),
];

/// Wrong in the body: the head has arrived at the gateway by then, but no end of it, and nothing behind it.
const BODIES: &[&str] = &[
    "3;x=y~abc~0~~",
    "3;~abc~0~~",
    "3 ~abc~0~~",
    " 3~abc~0~~",
    "0x3~abc~0~~",
    "+3~abc~0~~",
    "-1~abc~0~~",
    "3\nabc\n0\n\n",
    "3~abc\n0~~",
    "3~abcd~0~~",
    "2~abc~0~~",
    "~abc~0~~",
    "fffffffffffffffff~abc~0~~",
    "10000000000000003~abc~0~~",
    "3~abc~0\n~",
    "3~abc~0;GET /evil~~",
];

const SENTINEL: &str = "GET /sentinel HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

fn statuses(door: &Door, sent: &[u8]) -> Result<String> {
    let mut wire = Wire::open(door.address)?;
    // A server may close before it has read everything; what it answered counts.
    let _ = wire.send(sent).and_then(|()| wire.send(SENTINEL.as_bytes()));
    let mut words = Vec::new();
    while let Some(answer) = wire.answer(false)? {
        words.push(if answer.text() == "sentinel" { "S".to_owned() } else { answer.status.to_string() });
        ensure!(words.len() < 20, "answers without end");
    }
    Ok(words.join(" "))
}

fn backend() -> Result<Backend> {
    Backend::start(|head, peer| {
        peer.body(head)?;
        peer.answer(if head.call == "GET /sentinel" { "sentinel" } else { "ok" })?;
        Ok(winston_tests::backend::Then::GoOn)
    })
}

fn calls(backend: &Backend, since: usize) -> Vec<String> {
    backend.heads().into_iter().skip(since).map(|head| head.call).filter(|call| call != "GET /sentinel").collect()
}

#[test]
fn the_gateway_gets_whole_requests_or_none() -> Result<()> {
    let backend = backend()?;
    let door = Door::before(&backend)?;
    let mut wrong = Vec::new();
    for (row, wanted, arrives) in ROWS {
        let before = backend.heads().len();
        let found = statuses(&door, row.replace('~', "\r\n").as_bytes()).unwrap_or_else(|error| format!("{error:#}"));
        let arrived = calls(&backend, before);
        if found != *wanted || arrived != *arrives {
            wrong.push(format!("{row:?}: wanted {wanted:?} {arrives:?}, got {found:?} {arrived:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), ROWS.len(), wrong.join("\n"));
    ensure!(backend.failures().is_empty(), "{:?}", backend.failures());
    Ok(())
}

#[test]
fn a_body_that_is_not_right_never_ends_well() -> Result<()> {
    let backend = backend()?;
    let door = Door::before(&backend)?;
    for (number, body) in BODIES.iter().enumerate() {
        let head = format!("POST /{number} HTTP/1.1~Host: x~Transfer-Encoding: chunked~~");
        let found = statuses(&door, (head + body).replace('~', "\r\n").as_bytes())?;
        ensure!(found == "400" || found.is_empty(), "{body:?}: {found:?}");
    }
    // A head may reach the gateway before its body turns out wrong, and is noted there when its turn comes: once, and nothing else is.
    let mut arrived: Vec<String> = backend.heads().into_iter().map(|head| head.call).collect();
    let known: Vec<String> = (0..BODIES.len()).map(|number| format!("POST /{number}")).collect();
    ensure!(arrived.iter().all(|call| known.contains(call)), "{arrived:?}");
    let all = arrived.len();
    arrived.sort();
    arrived.dedup();
    ensure!(arrived.len() == all, "{arrived:?} of {all}");
    Ok(())
}

#[test]
fn heads_have_a_limit() -> Result<()> {
    let backend = backend()?;
    let door = Door::before(&backend)?;
    let get = |headers: &str| format!("GET /a HTTP/1.1\r\nHost: x\r\n{headers}\r\n").into_bytes();
    for (what, sent, wanted) in [
        ("30 KB in one header", get(&format!("X: {}\r\n", "y".repeat(30_000))), "200 S"),
        ("200 KB in one header", get(&format!("X: {}\r\n", "y".repeat(200_000))), "431"),
        ("90 headers", get(&"X: y\r\n".repeat(90)), "200 S"),
        ("200 headers", get(&"X: y\r\n".repeat(200)), "431"),
        ("an endless line", vec![b'x'; 1 << 20], "431"),
    ] {
        ensure!(statuses(&door, &sent)? == wanted, "{what}");
    }
    Ok(())
}
