//! The load generator: some keep-alive connections, one request at a time on each, one thread.
//!
//! It must cost less than what it measures: requests are made of prepared bytes, sockets are only read when the kernel
//! says that there is something, and of an answer only status and length are looked at.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::epoll;
use rustix::time::Timespec;

use super::proc;
use super::stats::Latencies;

/// Longest wait for any answer at all.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// More than any answer here has.
const ANSWER_BYTES: usize = 64 * 1024;

/// Where requests come from.
pub(super) trait Requests {
    /// The whole next request of this connection.
    fn next(&mut self, connection: usize) -> Result<&[u8]>;
}

/// What to do to whom.
pub(super) struct Load {
    pub(super) address: SocketAddr,
    pub(super) pid: u32,
    pub(super) connections: usize,
    pub(super) time: Duration,
    /// Length that every body must have, if it is known.
    pub(super) body_bytes: Option<usize>,
}

/// What came of it.
pub(super) struct Outcome {
    pub(super) latencies: Latencies,
    elapsed: Duration,
    /// Requests per second of the best turn.
    best: f64,
    /// Processor time of the process that answered.
    server: Duration,
    /// Time in which its first thread could have run but another process had the processor.
    kept_waiting: Duration,
    /// Processor time of the generator.
    client: Duration,
}

impl Outcome {
    /// Both, as if they had been one.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            latencies: self.latencies.and(other.latencies),
            elapsed: self.elapsed + other.elapsed,
            best: self.best.max(other.best),
            server: self.server + other.server,
            kept_waiting: self.kept_waiting + other.kept_waiting,
            client: self.client + other.client,
        }
    }

    /// Requests.
    pub(super) fn count(&self) -> f64 {
        self.latencies.count() as f64
    }

    /// Requests per second.
    pub(super) fn rate(&self) -> f64 {
        self.count() / self.elapsed.as_secs_f64()
    }

    /// Requests per second of the best of its turns: what others took from the machine is in it least.
    pub(super) fn best_rate(&self) -> f64 {
        self.best
    }

    /// Processor time that one request cost the server, in microseconds.
    pub(super) fn server_micros(&self) -> f64 {
        self.server.as_secs_f64() * 1e6 / self.count()
    }

    /// Share of the time in which the server had a processor, in percent; more than 100 on several.
    pub(super) fn server_percent(&self) -> f64 {
        self.server.as_secs_f64() / self.elapsed.as_secs_f64() * 100.0
    }

    /// Share of the time in which it was ready but others had the processor, in percent. Much of it means that the
    /// rate says more about the machine than about the server.
    pub(super) fn kept_waiting_percent(&self) -> f64 {
        self.kept_waiting.as_secs_f64() / self.elapsed.as_secs_f64() * 100.0
    }

    /// Share of the time in which the generator had a processor, in percent. Near 100 it is the generator that was measured.
    pub(super) fn client_percent(&self) -> f64 {
        self.client.as_secs_f64() / self.elapsed.as_secs_f64() * 100.0
    }
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    sent: Instant,
}

impl Load {
    /// The same for another time.
    pub(super) fn lasting(&self, time: Duration) -> Self {
        Self { time, ..*self }
    }

    /// Runs it until the time is over and every request is answered.
    pub(super) fn run(&self, requests: &mut impl Requests) -> Result<Outcome> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut connections =
            (0..self.connections).map(|number| self.connect(&poll, number)).collect::<Result<Vec<_>>>()?;
        let mut events: Vec<epoll::Event> = Vec::with_capacity(self.connections);
        let mut durations = Vec::with_capacity(1 << 18);
        let before = (proc::processor_time(self.pid)?, proc::scheduled(self.pid)?, proc::own_processor_time()?);
        let started = Instant::now();
        let deadline = started + self.time;
        for (number, connection) in connections.iter_mut().enumerate() {
            connection.send(requests.next(number)?)?;
        }
        let mut open = self.connections;
        while open > 0 {
            events.clear();
            epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&PATIENCE))?;
            if events.is_empty() {
                bail!("no answer within {} s", PATIENCE.tv_sec);
            }
            for event in &events {
                let number = usize::try_from(event.data.u64())?;
                let connection = connections.get_mut(number).context("an event of no connection")?;
                if !connection.receive(self.body_bytes)? {
                    continue;
                }
                let now = Instant::now();
                durations.push(now - connection.sent);
                if now < deadline {
                    connection.send(requests.next(number)?)?;
                } else {
                    open -= 1;
                }
            }
        }
        let elapsed = started.elapsed();
        let (server, first) = (proc::processor_time(self.pid)? - before.0, proc::scheduled(self.pid)?);
        // On one processor the first thread also waits for the other threads of its own process.
        let own_threads = server.saturating_sub(first.ran - before.1.ran);
        Ok(Outcome {
            best: durations.len() as f64 / elapsed.as_secs_f64(),
            latencies: Latencies::of(durations),
            elapsed,
            server,
            kept_waiting: (first.waited - before.1.waited).saturating_sub(own_threads),
            client: proc::own_processor_time()? - before.2,
        })
    }

    fn connect(&self, poll: &OwnedFd, number: usize) -> Result<Connection> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        epoll::add(poll, &stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        Ok(Connection { stream, buffer: vec![0; ANSWER_BYTES], filled: 0, sent: Instant::now() })
    }
}

impl Connection {
    fn send(&mut self, request: &[u8]) -> Result<()> {
        self.filled = 0;
        self.sent = Instant::now();
        Ok(self.stream.write_all(request)?)
    }

    /// Reads what is there; whether that completes the answer.
    fn receive(&mut self, body_bytes: Option<usize>) -> Result<bool> {
        let read = self.stream.read(&mut self.buffer[self.filled..])?;
        if read == 0 {
            bail!("the connection was closed after {} bytes of an answer", self.filled);
        }
        self.filled += read;
        let received = &self.buffer[..self.filled];
        let Some(head) = received.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(false) };
        let body = content_length(&received[..head]).context("an answer without a length")?;
        if received.len() < head + 4 + body {
            return Ok(false);
        }
        if !received.starts_with(b"HTTP/1.1 200 ") || body_bytes.is_some_and(|expected| expected != body) {
            bail!("not the expected answer: {}", String::from_utf8_lossy(received));
        }
        Ok(true)
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let mut lines = head.split(|byte| *byte == b'\n');
    let line = lines.find(|line| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)))?;
    std::str::from_utf8(&line[NAME.len()..]).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::content_length;

    #[test]
    fn the_length_is_found_in_any_case() {
        assert_eq!(content_length(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\netag: x"), Some(12));
        assert_eq!(content_length(b"HTTP/1.1 200 OK\r\netag: x\r\ncontent-length:7"), Some(7));
        assert_eq!(content_length(b"HTTP/1.1 200 OK\r\nx-content-length: 7"), None);
    }
}
