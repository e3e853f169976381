//! An answer that is read piece by piece while it comes, such as a stream of events.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process::PATIENCE;

/// An answer whose head has been read.
pub struct Stream {
    /// Status code.
    pub status: u16,
    headers: Vec<(String, String)>,
    body: BufReader<TcpStream>,
    /// What is left of the present chunk.
    left: usize,
    ended: bool,
}

/// One server-sent event.
#[derive(Debug, Clone)]
pub struct Event {
    /// `id` line.
    pub id: String,
    /// `event` line.
    pub name: String,
    /// `data` line as JSON.
    pub data: Value,
}

impl Stream {
    /// Sends a `GET` with a bearer token and reads the head of the answer. The answer must be chunked, or an error.
    pub fn open(address: SocketAddr, token: &str, target: &str, headers: &[(&str, &str)]) -> Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // What is not read should wait at the server soon, and not in the kernel.
        rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 32 * 1024)?;
        let mut head = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        let mut body = BufReader::with_capacity(4096, stream);
        let mut lines = Vec::new();
        loop {
            let line = line(&mut body)?;
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let status = lines.first().and_then(|line| line.split(' ').nth(1)).context("no status line")?.parse()?;
        let headers: Vec<_> = lines
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Ok(Self { status, headers, body, left: 0, ended: false })
    }

    /// First value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The next line of an event stream; `None` when the stream has ended as it should.
    pub fn line(&mut self) -> Result<Option<String>> {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            if self.read(&mut byte)? == 0 {
                return if line.is_empty() { Ok(None) } else { bail!("the stream ends within a line") };
            }
            if byte == *b"\n" {
                return Ok(Some(String::from_utf8(line)?));
            }
            line.push(byte[0]);
        }
    }

    /// The next event, comments passed over; `None` when the stream has ended as it should.
    pub fn event(&mut self) -> Result<Option<Event>> {
        let mut event = Event { id: String::new(), name: String::new(), data: Value::Null };
        while let Some(line) = self.line()? {
            match line.split_once(": ") {
                Some(("id", id)) => id.clone_into(&mut event.id),
                Some(("event", name)) => name.clone_into(&mut event.name),
                Some(("data", data)) => event.data = serde_json::from_str(data)?,
                _ if line.is_empty() && !event.name.is_empty() => return Ok(Some(event)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// The next event, which must come.
    pub fn expect_event(&mut self, name: &str) -> Result<Event> {
        let event = self.event()?.with_context(|| format!("the stream ended, {name} was expected"))?;
        if event.name != name {
            bail!("expected {name}, got {event:?}");
        }
        Ok(event)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            let size = line(&mut self.body)?;
            self.left = usize::from_str_radix(&size, 16).map_err(|_| std::io::Error::other("not a chunk"))?;
            if self.left == 0 {
                self.ended = true;
                return Ok(0);
            }
        }
        let most = buffer.len().min(self.left);
        let read = self.body.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read;
        if self.left == 0 {
            // The line end after a chunk.
            line(&mut self.body)?;
        }
        Ok(read)
    }
}

fn line(reader: &mut impl BufRead) -> std::io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
