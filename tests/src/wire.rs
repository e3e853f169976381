//! One connection on which bytes are sent exactly as they are, and any number of answers read.
//!
//! Nothing here knows what a valid request is: a target that a library would tidy up, two lengths in one head or half a request are all
//! just bytes. Each wait is bounded.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::http::Answer;

/// Longest wait for bytes of the server. Longer than each of its own limits, so that what runs into it is a hang.
pub const SILENCE: Duration = Duration::from_secs(90);

/// Largest answer, head included. Over it the server is not answering but flooding.
const MOST: usize = 64 << 20;

/// A connection and what has been read of it ahead of need.
pub struct Wire {
    stream: TcpStream,
    ahead: Vec<u8>,
    seen: Vec<u8>,
}

impl Wire {
    /// Connects.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, SILENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        Ok(Self { stream, ahead: Vec::new(), seen: Vec::new() })
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// No more will be sent; answers can still be read.
    pub fn finish(&self) -> Result<()> {
        Ok(self.stream.shutdown(std::net::Shutdown::Write)?)
    }

    /// The next answer, `None` when the server closed the connection (or reset it) before one began. `head_only` says that the request was
    /// a `HEAD`, whose answer announces a body that does not come.
    pub fn answer(&mut self, head_only: bool) -> Result<Option<Answer>> {
        self.seen.clone_from(&self.ahead);
        loop {
            let Some(end) = self.ahead.windows(4).position(|window| window == b"\r\n\r\n") else {
                if self.more()? {
                    continue;
                }
                if self.ahead.is_empty() {
                    return Ok(None);
                }
                bail!("the connection ended within a head: {:?}", String::from_utf8_lossy(&self.ahead));
            };
            let head: Vec<u8> = self.ahead.drain(..end + 4).collect();
            let (status, headers) = parse_head(&head)?;
            if (100..200).contains(&status) {
                continue;
            }
            let mut answer = Answer { status, headers, body: Vec::new() };
            if !head_only && status != 204 && status != 304 {
                answer.body = self.body(&answer)?;
            }
            return Ok(Some(answer));
        }
    }

    /// Everything that came since the last answer was asked for, as it came, also when that answer was cut short.
    #[must_use]
    pub fn seen(&self) -> &[u8] {
        &self.seen
    }

    /// Sends a request and reads its answer.
    pub fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        self.send(request)?;
        self.answer(request.starts_with(b"HEAD "))?.context("the connection was closed without an answer")
    }

    /// Whether the server has closed the connection; waits for that, at most [`SILENCE`]. What it still sends is dropped.
    pub fn is_closed(&mut self) -> Result<bool> {
        while self.more()? {
            self.ahead.clear();
        }
        Ok(true)
    }

    fn body(&mut self, answer: &Answer) -> Result<Vec<u8>> {
        if answer.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            let mut body = Vec::new();
            loop {
                let line = self.until(b"\r\n")?;
                let digits = std::str::from_utf8(&line)?.split(';').next().unwrap_or_default().trim().to_owned();
                let size =
                    usize::from_str_radix(&digits, 16).with_context(|| format!("size of a chunk: {digits:?}"))?;
                let mut piece = self.exactly(size + 2)?;
                piece.truncate(size);
                if size == 0 {
                    return Ok(body);
                }
                body.append(&mut piece);
            }
        }
        match answer.header("content-length") {
            Some(length) => self.exactly(length.parse()?),
            None => {
                while self.more()? {}
                Ok(std::mem::take(&mut self.ahead))
            }
        }
    }

    fn until(&mut self, mark: &[u8]) -> Result<Vec<u8>> {
        loop {
            if let Some(at) = self.ahead.windows(mark.len()).position(|window| window == mark) {
                let mut line: Vec<u8> = self.ahead.drain(..at + mark.len()).collect();
                line.truncate(at);
                return Ok(line);
            }
            if !self.more()? {
                bail!("the connection ended within a line");
            }
        }
    }

    fn exactly(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.ahead.len() < length {
            if !self.more()? {
                bail!("the body ended after {} of {length} bytes", self.ahead.len());
            }
        }
        Ok(self.ahead.drain(..length).collect())
    }

    /// Reads what comes next; `false` at the end of the connection.
    fn more(&mut self) -> Result<bool> {
        if self.ahead.len() > MOST {
            bail!("an answer of more than {MOST} bytes");
        }
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => Ok(false),
            Ok(read) => {
                self.ahead.extend_from_slice(&piece[..read]);
                self.seen.extend_from_slice(&piece[..read]);
                Ok(true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(error).context("waiting for the server"),
        }
    }
}

fn parse_head(head: &[u8]) -> Result<(u16, Vec<(String, String)>)> {
    let head = std::str::from_utf8(head)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status line")?.parse()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok((status, headers))
}
