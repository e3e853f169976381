//! A small blocking HTTP/1.1 client. It sends exactly what it is told to, so that bad requests can be made too.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Longest wait for one answer.
const TIME: Duration = Duration::from_secs(90);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header names in lower case, with values.
    pub headers: Vec<(String, String)>,
    /// Body, decoded from chunks where there were any.
    pub body: Vec<u8>,
}

impl Answer {
    /// First value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("{}: not JSON: {}", self.status, String::from_utf8_lossy(&self.body)))
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The answer itself if its status is this one.
    pub fn expect(self, status: u16) -> Result<Self> {
        if self.status != status {
            bail!("expected {status}, got {}: {}", self.status, self.text());
        }
        Ok(self)
    }
}

/// One server with one bearer token, and a connection for each call: a server that was started again in between makes no difference.
#[derive(Debug, Clone)]
pub struct Client {
    address: SocketAddr,
    bearer: String,
}

impl Client {
    /// For the server at `address`.
    #[must_use]
    pub fn new(address: SocketAddr, token: &str) -> Self {
        Self { address, bearer: format!("Bearer {token}") }
    }

    /// Where the server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A request with the token.
    pub fn call(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
        let mut all = vec![("Authorization", self.bearer.as_str())];
        all.extend_from_slice(headers);
        request(self.address, method, target, &all, body)
    }

    /// The JSON that a `GET` is answered with.
    pub fn get(&self, target: &str) -> Result<Value> {
        self.call("GET", target, &[], b"")?.expect(200)?.json()
    }
}

/// An address on loopback where nobody listens.
///
/// Not among the ports that the kernel gives to clients: one of the many connections of other tests could get it before it is used.
pub fn free_address() -> Result<SocketAddr> {
    const FIRST: u16 = 12_000;
    const COUNT: u64 = 20_000;
    for _ in 0..100 {
        let random = RandomState::new().build_hasher().finish() % COUNT;
        let address = SocketAddr::from(([127, 0, 0, 1], FIRST + u16::try_from(random)?));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port from {FIRST} on is free")
}

/// Sends one request on a connection of its own.
pub fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let sized = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if !sized && (!body.is_empty() || matches!(method, "PUT" | "POST" | "PATCH")) {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    send_raw(address, &bytes).with_context(|| format!("{method} {target}"))
}

/// Sends bytes as they are and reads one answer.
pub fn send_raw(address: SocketAddr, bytes: &[u8]) -> Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIME))?;
    stream.set_write_timeout(Some(TIME))?;
    // A server may answer and close before it has read everything; the answer is what counts then.
    let sent = stream.write_all(bytes);
    let mut received = Vec::new();
    let read = stream.read_to_end(&mut received);
    if received.is_empty() {
        sent.context("sending")?;
        read.context("receiving")?;
        bail!("the connection was closed without an answer");
    }
    parse(&received)
}

fn parse(received: &[u8]) -> Result<Answer> {
    let end = received.windows(4).position(|window| window == b"\r\n\r\n").context("the head has no end")?;
    let head = std::str::from_utf8(&received[..end])?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status line")?.parse()?;
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let rest = &received[end + 4..];
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let body = if chunked { dechunk(rest)? } else { rest.to_vec() };
    Ok(Answer { status, headers, body })
}

fn dechunk(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n").context("a chunk has no size")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line])?, 16)?;
        if size == 0 {
            return Ok(body);
        }
        rest = &rest[line + 2..];
        body.extend_from_slice(rest.get(..size).context("a chunk is cut off")?);
        rest = rest.get(size + 2..).context("a chunk has no end")?;
    }
}
