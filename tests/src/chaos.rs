//! A proxy between sidecar and control whose network can be made bad in many ways, one at a time.
//!
//! It takes one request per connection, whole, so that a fault hits exactly where it should. Changing the fault cuts every connection, as the
//! networks that have such faults do. Everything that arrives is noted with its time.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Longest that a thread of the proxy waits for a peer.
const LIMIT: Duration = Duration::from_secs(90);

/// Pause between two looks at the fault.
const LOOK: Duration = Duration::from_millis(5);

/// What happens to requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: they get through.
    None,
    /// Nobody listens.
    Refused,
    /// They are taken and never answered, and control does not see them.
    BlackHole,
    /// Control sees them; the answer is never delivered, the connection stays open.
    HalfOpen,
    /// The connection is reset in the middle of the request's body; control does not see it.
    ResetRequest,
    /// Control sees them; the connection is reset in the middle of the answer.
    ResetAnswer,
    /// The answer comes with one byte each second.
    Trickle,
    /// Each one that changes something arrives twice; the second answer is delivered.
    Twice,
    /// The answer comes so much later.
    Late(Duration),
    /// The answer is that of an earlier request to the same path; control sees nothing.
    Stale,
    /// This status, with `Retry-After` in seconds where there is one; control sees nothing.
    Status(u16, Option<u64>),
    /// An HTML page with this status, as a proxy has it; control sees nothing.
    Html(u16),
    /// Bytes that are no HTTP.
    Garbage,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When it was there wholly.
    pub at: Instant,
    /// `POST /api/sidecar/check-in`: method and path without the query. Hashes are left out.
    pub what: String,
    /// The fault that it met.
    pub fault: Fault,
}

struct State {
    upstream: SocketAddr,
    fault: Mutex<Fault>,
    /// The only requests that meet the fault; all of them when there is none.
    only: Mutex<Option<&'static str>>,
    seen: Mutex<Vec<Seen>>,
    last: Mutex<HashMap<String, Vec<u8>>>,
    live: Mutex<Vec<TcpStream>>,
    now: AtomicUsize,
    most: AtomicUsize,
    stop: AtomicBool,
}

/// A running proxy. Its threads end when it is dropped.
pub struct Chaos {
    address: SocketAddr,
    state: Arc<State>,
}

impl Chaos {
    /// In front of a server, without a fault.
    pub fn before(upstream: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            upstream,
            fault: Mutex::new(Fault::None),
            only: Mutex::default(),
            seen: Mutex::default(),
            last: Mutex::default(),
            live: Mutex::default(),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&state);
        std::thread::spawn(move || accept(&accepting, address, listener));
        Ok(Self { address, state })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this is wrong. Every connection is cut.
    pub fn set(&self, fault: Fault) {
        self.set_where(fault, None);
    }

    /// The same for one kind of request (see [`Seen::what`]); the others get through.
    pub fn set_for(&self, what: &'static str, fault: Fault) {
        self.set_where(fault, Some(what));
    }

    fn set_where(&self, fault: Fault, only: Option<&'static str>) {
        (*lock(&self.state.fault), *lock(&self.state.only)) = (fault, only);
        cut(&self.state);
    }

    /// What arrived so far, in order.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.state.seen).clone()
    }

    /// Forgets the most that were under way at once.
    pub fn forget_most(&self) {
        self.state.most.store(0, Ordering::Relaxed);
    }

    /// Most requests that were under way at once.
    #[must_use]
    pub fn most(&self) -> usize {
        self.state.most.load(Ordering::Relaxed)
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        cut(&self.state);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cut(state: &State) {
    for stream in lock(&state.live).drain(..) {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn accept(state: &Arc<State>, address: SocketAddr, listener: TcpListener) {
    let mut listener = Some(listener);
    while !state.stop.load(Ordering::Relaxed) {
        if *lock(&state.fault) == Fault::Refused {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(address).ok();
        }
        let accepted =
            listener.as_ref().map(|listener| listener.set_nonblocking(true).and_then(|()| listener.accept()));
        match accepted {
            Some(Ok((stream, _))) => {
                let state = Arc::clone(state);
                std::thread::spawn(move || {
                    let most = state.now.fetch_add(1, Ordering::Relaxed) + 1;
                    state.most.fetch_max(most, Ordering::Relaxed);
                    // A peer that goes away is what this is about.
                    let _ = serve(&state, stream);
                    state.now.fetch_sub(1, Ordering::Relaxed);
                });
            }
            _ => std::thread::park_timeout(LOOK),
        }
    }
}

/// One request and what becomes of it.
fn serve(state: &State, mut stream: TcpStream) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    lock(&state.live).push(stream.try_clone()?);
    let mut request = Vec::new();
    let (head, length) = read_head(&mut stream, &mut request)?;
    let what = what(&request);
    let only = *lock(&state.only);
    let fault = if only.is_none_or(|only| only == what) { *lock(&state.fault) } else { Fault::None };
    if fault == Fault::ResetRequest {
        lock(&state.seen).push(Seen { at: Instant::now(), what, fault });
        read_up_to(&mut stream, &mut request, head + length / 2)?;
        return reset(&stream);
    }
    read_up_to(&mut stream, &mut request, head + length)?;
    lock(&state.seen).push(Seen { at: Instant::now(), what: what.clone(), fault });
    let answer = match fault {
        Fault::BlackHole => return wait_for_end(&mut stream),
        Fault::Status(status, retry_after) => {
            let header = retry_after.map(|seconds| format!("Retry-After: {seconds}\r\n")).unwrap_or_default();
            made(
                status,
                &format!("Content-Type: application/json\r\n{header}"),
                r#"{"error":"chaos","code":"chaos","request_id":"0"}"#,
            )
        }
        Fault::Html(status) => made(status, "Content-Type: text/html\r\n", "<html><body>Bad gateway</body></html>"),
        Fault::Garbage => b"\x00\xff\x16\x03 this is not HTTP\r\n\r\n".to_vec(),
        Fault::Stale => match lock(&state.last).get(&what) {
            Some(answer) => answer.clone(),
            None => made(503, "", ""),
        },
        Fault::Twice if !what.starts_with("GET") => {
            forward(state, &request)?;
            forward(state, &request)?
        }
        _ => forward(state, &request)?,
    };
    match fault {
        Fault::HalfOpen => return wait_for_end(&mut stream),
        Fault::ResetAnswer => {
            stream.write_all(&answer[..answer.len() / 2])?;
            return reset(&stream);
        }
        Fault::Trickle => {
            for byte in &answer {
                stream.write_all(std::slice::from_ref(byte))?;
                std::thread::park_timeout(Duration::from_secs(1));
            }
        }
        Fault::Late(time) => std::thread::park_timeout(time),
        Fault::None => {
            lock(&state.last).insert(what, answer.clone());
        }
        _ => {}
    }
    Ok(stream.write_all(&answer)?)
}

fn made(status: u16, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} Chaos\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        .into_bytes()
}

/// Reads up to the end of the head, perhaps more; where the head ends, and how long the body is.
fn read_head(stream: &mut TcpStream, request: &mut Vec<u8>) -> Result<(usize, usize)> {
    loop {
        if let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            return Ok((end + 4, length.unwrap_or(0)));
        }
        read_some(stream, request)?;
    }
}

fn read_up_to(stream: &mut TcpStream, request: &mut Vec<u8>, length: usize) -> Result<()> {
    while request.len() < length {
        read_some(stream, request)?;
    }
    Ok(())
}

fn read_some(stream: &mut TcpStream, into: &mut Vec<u8>) -> Result<()> {
    let mut buffer = [0; 8192];
    match stream.read(&mut buffer)? {
        0 => bail!("the peer has gone"),
        count => into.extend_from_slice(&buffer[..count]),
    }
    Ok(())
}

/// Method and path; what differs from request to request is left out.
fn what(request: &[u8]) -> String {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let path = path.find("/contents/").map_or(path, |at| &path[..at + "/contents".len()]);
    format!("{method} {path}")
}

/// Sends a request on a connection of its own and reads the answer to its end.
fn forward(state: &State, request: &[u8]) -> Result<Vec<u8>> {
    let mut upstream = TcpStream::connect(state.upstream).context("control")?;
    upstream.set_read_timeout(Some(LIMIT))?;
    lock(&state.live).push(upstream.try_clone()?);
    let line = request.windows(2).position(|window| window == b"\r\n").context("no request line")? + 2;
    upstream.write_all(&[&request[..line], b"Connection: close\r\n", &request[line..]].concat())?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer)?;
    if answer.is_empty() {
        bail!("control has gone");
    }
    Ok(answer)
}

/// Holds a connection until the peer, or a new fault, ends it.
fn wait_for_end(stream: &mut TcpStream) -> Result<()> {
    let mut buffer = [0; 64];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Ends a connection with RST instead of FIN.
fn reset(stream: &TcpStream) -> Result<()> {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
    Ok(())
}
