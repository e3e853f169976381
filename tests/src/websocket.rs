//! As much of a WebSocket client (RFC 6455) as a test of the gateway needs: text both ways, no fragments, no compression.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::process::PATIENCE;

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
/// Larger messages than any that a test asks for.
const LARGEST: u64 = 32 << 20;

/// An open connection.
pub struct WebSocket(BufReader<TcpStream>);

impl WebSocket {
    /// Opens one at `/`.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )?;
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            ensure!(reader.read_line(&mut head)? > 0, "closed after {head:?}");
        }
        ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
        Ok(Self(reader))
    }

    /// Sends a message.
    pub fn send(&mut self, message: &Value) -> Result<()> {
        let text = message.to_string();
        let length = u16::try_from(text.len())?;
        // Masked with zeros, which is a mask too.
        let mut frame = vec![0x80 | TEXT, 0x80 | 126];
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(text.as_bytes());
        Ok(self.0.get_mut().write_all(&frame)?)
    }

    /// The next message that fits; others are passed over.
    pub fn receive(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        loop {
            let message = self.message().with_context(|| format!("waiting for {what}"))?;
            if fits(&message) {
                return Ok(message);
            }
        }
    }

    fn message(&mut self) -> Result<Value> {
        loop {
            let [first, second] = self.bytes()?;
            let length = match second & 0x7f {
                126 => u64::from(u16::from_be_bytes(self.bytes()?)),
                127 => u64::from_be_bytes(self.bytes()?),
                short => u64::from(short),
            };
            ensure!(length <= LARGEST, "{length} bytes");
            let mut payload = vec![0; usize::try_from(length)?];
            self.0.read_exact(&mut payload)?;
            match first & 0x0f {
                TEXT => return Ok(serde_json::from_slice(&payload)?),
                CLOSE => bail!("closed: {}", String::from_utf8_lossy(payload.get(2..).unwrap_or_default())),
                _ => {}
            }
        }
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}
