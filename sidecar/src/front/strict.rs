//! Reading of requests with no two opinions about where one ends.
//!
//! hyper refuses most of what makes two readers of one connection disagree, and what it lets through is written anew for the gateway. Left are
//! line ends without CR, chunk extensions, lengths that are given twice, and spaces around sizes: all allowed by one rule or another, sent by
//! no client that means well, and read differently by some proxy in front of us. [`Framing`] follows a connection byte by byte, as far as
//! heads and sizes go, and replaces the first byte that is not strictly right by NUL, which hyper then refuses with a 400.
//!
//! ```text
//!  start ──► head ──┬─► start            no body
//!    ▲              ├─► body ──► start   one Content-Length
//!    │              ├─► size ─► data ─► size … trailers ──► start
//!    │              └─► raw              asks for an upgrade: no further request comes on this connection
//! ```

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

#[cfg(test)]
mod tests;

/// Beginning of a header line that is looked at; names and values that matter are shorter.
const LINE: usize = 160;

/// Digits of a length or size. More overflow nothing anybody sends.
const DIGITS: usize = 16;

/// From the first byte of a head to its last.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// Takes the place of a byte that is not right.
const NUL: u8 = 0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before a head; line ends are skipped.
    Start,
    /// In a line of a head.
    Head,
    /// In a body of known length: what is left.
    Body(u64),
    /// In the line of a chunk's size: value and digits.
    Size(u64, usize),
    /// Behind the digits' CR.
    SizeEnd(u64),
    Data(u64),
    /// Behind a chunk: its CR, then its LF.
    DataEnd(u8),
    /// In a line of the trailers.
    Trailers,
    /// Nothing more to check.
    Raw,
}

/// What the head so far says about its body.
#[derive(Debug, Clone, Copy, Default)]
struct Body {
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    /// HTTP/1.1; older ones know no chunks.
    chunks_known: bool,
}

/// Where in a connection we are.
#[derive(Debug)]
pub(crate) struct Framing {
    at: At,
    body: Body,
    /// Beginning of the present line.
    line: Vec<u8>,
    /// Bytes of the present line, its end not counted.
    length: usize,
    /// The first line of a head is the request itself.
    is_first: bool,
    after_cr: bool,
}

impl Default for Framing {
    fn default() -> Self {
        Self {
            at: At::Start,
            body: Body::default(),
            line: Vec::with_capacity(LINE),
            length: 0,
            is_first: true,
            after_cr: false,
        }
    }
}

impl Framing {
    /// Follows what came next, and spoils the first byte that is not right.
    pub(crate) fn check(&mut self, bytes: &mut [u8]) {
        let mut next = 0;
        while next < bytes.len() {
            // What has a known length is not looked at.
            let skipped = match self.at {
                At::Raw => return,
                At::Body(left) | At::Data(left) => usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - next),
                _ => 0,
            };
            if skipped > 0 {
                next += skipped;
                self.skip(skipped as u64);
                continue;
            }
            let Some(byte) = bytes.get_mut(next) else { return };
            if !self.take(*byte) {
                *byte = NUL;
                self.at = At::Raw;
                return;
            }
            next += 1;
        }
    }

    /// Whether a head has begun and not ended.
    pub(crate) fn in_head(&self) -> bool {
        self.at == At::Head
    }

    fn skip(&mut self, skipped: u64) {
        self.at = match self.at {
            At::Body(left) if left > skipped => At::Body(left - skipped),
            At::Data(left) if left > skipped => At::Data(left - skipped),
            At::Data(_) => At::DataEnd(b'\r'),
            _ => At::Start,
        };
    }

    /// Whether this byte may come here.
    fn take(&mut self, byte: u8) -> bool {
        match self.at {
            At::Start => match (byte, self.after_cr) {
                (b'\n', true) => self.after_cr = false,
                (b'\r', false) => self.after_cr = true,
                (b'\r' | b'\n', _) | (_, true) => return false,
                _ => {
                    self.begin_head();
                    return self.take(byte);
                }
            },
            At::Head | At::Trailers => return self.take_of_line(byte),
            At::Size(value, digits) => match char::from(byte).to_digit(16) {
                Some(digit) if digits < DIGITS => self.at = At::Size((value << 4) | u64::from(digit), digits + 1),
                _ if byte == b'\r' && digits > 0 => self.at = At::SizeEnd(value),
                _ => return false,
            },
            At::SizeEnd(value) if byte == b'\n' => {
                self.at = if value == 0 { At::Trailers } else { At::Data(value) };
                self.begin_line();
            }
            At::DataEnd(wanted) if byte == wanted => {
                self.at = if wanted == b'\r' { At::DataEnd(b'\n') } else { At::Size(0, 0) };
            }
            At::SizeEnd(_) | At::DataEnd(_) => return false,
            // Skipped by the caller, unless nothing is left of them.
            At::Body(_) | At::Data(_) | At::Raw => {}
        }
        true
    }

    fn begin_head(&mut self) {
        self.at = At::Head;
        self.body = Body::default();
        self.is_first = true;
        self.begin_line();
    }

    fn begin_line(&mut self) {
        self.line.clear();
        self.length = 0;
        self.after_cr = false;
    }

    fn take_of_line(&mut self, byte: u8) -> bool {
        match byte {
            b'\n' if !self.after_cr => false,
            b'\n' => self.end_line(),
            _ if self.after_cr => false,
            b'\r' => {
                self.after_cr = true;
                true
            }
            // A continued line (obs-fold).
            b' ' | b'\t' if self.length == 0 => false,
            _ => {
                self.length += 1;
                if self.line.len() < LINE {
                    self.line.push(byte);
                }
                true
            }
        }
    }

    /// Whether the line that ends here is right, with what was said before.
    fn end_line(&mut self) -> bool {
        let is_right = match (self.at, self.length) {
            (At::Trailers, 0) => {
                self.at = At::Start;
                true
            }
            (At::Trailers, _) => true,
            (_, 0) => return self.end_head(),
            _ if self.is_first => {
                // Longer than what is kept: a target of that length belongs to a version that we know, or hyper refuses it.
                self.body.chunks_known = self.length > LINE || self.line.ends_with(b" HTTP/1.1");
                self.is_first = false;
                true
            }
            _ => self.body.learn(&self.line, self.length),
        };
        self.begin_line();
        is_right
    }

    fn end_head(&mut self) -> bool {
        self.begin_line();
        self.at = match self.body {
            Body { upgrade: true, .. } => At::Raw,
            Body { chunked: true, .. } => At::Size(0, 0),
            Body { length: Some(length @ 1..), .. } => At::Body(length),
            _ => At::Start,
        };
        true
    }
}

impl Body {
    /// Whether a header line goes with what was said before.
    fn learn(&mut self, line: &[u8], length: usize) -> bool {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            // A line of which the name alone is longer than what is kept, or one without a colon: none that matters here.
            return true;
        };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let is_whole = length == line.len();
        let bare_name = name.trim_ascii();
        if bare_name.eq_ignore_ascii_case(b"content-length") {
            let number = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let number = number.filter(|text| text.len() <= DIGITS).and_then(|text| text.parse().ok());
            let is_right = is_whole && name == bare_name && number.is_some() && self.length.is_none() && !self.chunked;
            self.length = number;
            is_right
        } else if bare_name.eq_ignore_ascii_case(b"transfer-encoding") {
            let is_right = is_whole
                && name == bare_name
                && value.eq_ignore_ascii_case(b"chunked")
                && self.length.is_none()
                && !self.chunked
                && self.chunks_known;
            self.chunked = true;
            is_right
        } else {
            self.upgrade |= bare_name.eq_ignore_ascii_case(b"upgrade");
            true
        }
    }
}

/// A connection whose requests are checked, and whose heads have a time.
pub(super) struct Strict {
    stream: TcpStream,
    framing: Framing,
    /// Until when the head that has begun must end; there only while one comes in pieces.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Strict {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, framing: Framing::default(), deadline: None }
    }

    /// The connection itself, when no more requests are to come.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }
}

impl AsyncRead for Strict {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if let Some(new) = buffer.filled_mut().get_mut(before..) {
            this.framing.check(new);
        }
        if !this.framing.in_head() {
            this.deadline = None;
        } else if read.is_pending() {
            let late =
                this.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + HEAD_TIME)));
            if late.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl AsyncWrite for Strict {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
