//! A server behind the front door that does what a test tells it to, and remembers every byte that it was sent.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::process::PATIENCE;

/// A request's head as it came.
#[derive(Debug, Clone)]
pub struct Head {
    /// Which connection it came on, from 0.
    pub connection: usize,
    /// Method and target, as in the first line.
    pub call: String,
    /// Names in lower case, with values, in order.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Every value of a header.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The one value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        match self.all(name)[..] {
            [value] => Some(value),
            _ => None,
        }
    }
}

/// One connection, for the script.
pub struct Peer {
    stream: TcpStream,
    ahead: Vec<u8>,
}

impl Peer {
    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        Ok(self.stream.write_all(bytes.as_ref())?)
    }

    /// A whole answer with a body.
    pub fn answer(&mut self, body: &str) -> Result<()> {
        self.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }

    /// Exactly this many bytes.
    pub fn exactly(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.ahead.len() < length {
            if !self.more()? {
                bail!("ended after {} of {length} bytes", self.ahead.len());
            }
        }
        Ok(self.ahead.drain(..length).collect())
    }

    /// Up to and with a mark.
    pub fn until(&mut self, mark: &str) -> Result<String> {
        // What has been looked at once is not looked at again, but for the beginning of a mark.
        let mut looked = 0;
        loop {
            let from = usize::saturating_sub(looked, mark.len());
            let found = self.ahead[from..].windows(mark.len()).position(|window| window == mark.as_bytes());
            if let Some(at) = found {
                let bytes: Vec<_> = self.ahead.drain(..from + at + mark.len()).collect();
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
            looked = self.ahead.len();
            if !self.more()? {
                bail!("ended within {:?}", String::from_utf8_lossy(&self.ahead));
            }
        }
    }

    /// The body that a head announces, as it came, chunks and all.
    pub fn body(&mut self, head: &Head) -> Result<Vec<u8>> {
        if head.header("transfer-encoding") == Some("chunked") {
            return Ok(self.until("\r\n\r\n")?.into_bytes());
        }
        let length = head.header("content-length").map_or(Ok(0), str::parse)?;
        self.exactly(length)
    }

    /// Waits for the other side to close; the bytes that still came.
    pub fn end(&mut self) -> Result<Vec<u8>> {
        while self.more()? {}
        Ok(std::mem::take(&mut self.ahead))
    }

    fn more(&mut self) -> Result<bool> {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => Ok(false),
            Ok(read) => {
                self.ahead.extend_from_slice(&piece[..read]);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(false),
            Err(error) => Err(error).context("waiting for the front door"),
        }
    }
}

/// Whether the connection is to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Read the next request.
    GoOn,
    /// Close.
    Close,
}

type Script = dyn Fn(&Head, &mut Peer) -> Result<Then> + Send + Sync;

/// The server. Its threads end with their connections, or with the process.
pub struct Backend {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<Head>>>,
    connections: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Backend {
    /// Listens on loopback; `script` answers each request, its body included.
    pub fn start(script: impl Fn(&Head, &mut Peer) -> Result<Then> + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let backend = Self {
            address: listener.local_addr()?,
            heads: Arc::default(),
            connections: Arc::default(),
            ended: Arc::default(),
            failures: Arc::default(),
        };
        let script: Arc<Script> = Arc::new(script);
        let (heads, failures) = (Arc::clone(&backend.heads), Arc::clone(&backend.failures));
        let (connections, ended) = (Arc::clone(&backend.connections), Arc::clone(&backend.ended));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, heads, failures) = (Arc::clone(&script), Arc::clone(&heads), Arc::clone(&failures));
                let ended = Arc::clone(&ended);
                let number = connections.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    if let Err(error) = serve(stream, number, &*script, &heads) {
                        failures.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{error:#}"));
                    }
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Ok(backend)
    }

    /// One that answers every request with `ok`.
    pub fn ok() -> Result<Self> {
        Self::start(|head, peer| {
            peer.body(head)?;
            peer.answer("ok")?;
            Ok(Then::GoOn)
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Every head so far.
    #[must_use]
    pub fn heads(&self) -> Vec<Head> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The newest head.
    pub fn last(&self) -> Result<Head> {
        self.heads().pop().context("nothing has arrived at the backend")
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Connections that the backend has closed.
    #[must_use]
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    /// What went wrong in scripts, and connections that ended within a head.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(stream: TcpStream, connection: usize, script: &Script, heads: &Mutex<Vec<Head>>) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(Duration::from_secs(120)))?;
    let mut peer = Peer { stream, ahead: Vec::new() };
    loop {
        if peer.ahead.is_empty() && !peer.more()? {
            return Ok(());
        }
        let text = peer.until("\r\n\r\n")?;
        let mut lines = text.trim_end().split("\r\n");
        let first = lines.next().unwrap_or_default();
        let call = first.strip_suffix(" HTTP/1.1").with_context(|| format!("not HTTP/1.1: {first:?}"))?.to_owned();
        let headers = lines
            .map(|line| line.split_once(':').with_context(|| format!("not a header: {line:?}")))
            .map(|header| header.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())))
            .collect::<Result<_>>()?;
        let head = Head { connection, call, headers };
        heads.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
        if script(&head, &mut peer)? == Then::Close {
            return Ok(());
        }
    }
}
