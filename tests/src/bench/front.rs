//! The front door beside others that do the same: a plain hyper proxy, `http-proxy` on Node, and no proxy at all.
//!
//! All stand before one small server of ours and run on a processor of their own; the load and that server share the other one, so the figures say what the proxy costs, not what
//! the machine can do.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::figure::{Goal, Row, Unit};
use super::load::{Load, Outcome, Requests};
use super::proc::{self, Cores};
use super::report::Report;
use super::{CONNECTIONS, Plan};
use crate::process::bin;
use crate::sidecar::{Setup, Sidecar};

/// What the small server answers with.
const BODY_BYTES: usize = 1024;

/// WebSockets that say nothing.
const WEBSOCKETS: usize = 1_000;

/// The most used proxy of the npm registry, at its newest version.
const HTTP_PROXY: &str = "http-proxy@1.18.1";

/// A proxy with connections that are used again, as its documentation has it.
const NODE_PROXY: &str = "const http = require('http'); const proxy = require('http-proxy').createProxyServer({ \
    target: 'http://127.0.0.1:' + process.argv[1], ws: true, agent: new http.Agent({ keepAlive: true }) }); \
    proxy.on('error', (error, request, response) => response.destroy()); \
    const server = http.createServer((request, response) => proxy.web(request, response)); \
    server.listen(0, '127.0.0.1', () => console.log(server.address().port));";

/// A program that prints its port; killed when dropped.
struct Peer {
    child: Child,
    address: SocketAddr,
}

impl Peer {
    fn start(mut command: Command) -> Result<Self> {
        let mut child =
            command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().with_context(|| format!("{command:?}"))?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("its output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let port: u16 = line.trim().parse().with_context(|| format!("{command:?} said {line:?}"))?;
        Ok(Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)) })
    }

    fn ours(arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(bin("winston-bench-peer")?);
        command.args(arguments);
        Self::start(command)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Same(&'static [u8]);

impl Requests for Same {
    fn next(&mut self, _: usize) -> Result<&[u8]> {
        Ok(self.0)
    }
}

/// What a browser's script sends, more or less.
const GET: Same = Same(
    b"GET /api/things?limit=10 HTTP/1.1\r\nHost: tenant.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: */*\r\nAccept-Language: en\r\nAccept-Encoding: gzip\r\nX-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: tenant.example.com\r\n\r\n",
);

pub(super) fn section(report: &mut Report, plan: Plan) -> Result<()> {
    report.begin("Front door: 1 KiB from a small server behind it, the proxy on a processor of its own")?;
    let backend = Peer::ours(&["backend"])?;
    let port = backend.address.port().to_string();
    let plain = Peer::ours(&["proxy", &port])?;
    let sidecar = Setup::new()?
        .env("WINSTON_FRONT_LISTEN", "127.0.0.1:0")
        .env("OPENCLAW_GATEWAY_PORT", &port)
        .env("WINSTON_FRONT_MAX_PER_ADDRESS", "4096")
        .start()?;
    let front: SocketAddr = sidecar.status()?["front"]["address"].as_str().context("a front door")?.parse()?;
    let node = node_proxy(&port);

    let cores = Cores::find()?;
    let mut direct = Vec::new();
    let (mut of_plain, mut of_front, mut of_node) = (Vec::new(), Vec::new(), Vec::new());
    // In turns, so that what others do on the machine meets all of them.
    for _ in 0..plan.turns {
        let time = plan.load / plan.turns;
        direct.push(measure(backend.address, backend.child.id(), time, None)?);
        of_plain.push(measure(plain.address, plain.child.id(), time, cores.as_ref())?);
        of_front.push(measure(front, sidecar.pid(), time, cores.as_ref())?);
        if let Ok(node) = &node {
            of_node.push(measure(node.address, node.child.id(), time, cores.as_ref())?);
        }
    }
    let direct = Sums::of(direct)?;
    let of_plain = Sums::of(of_plain)?;
    let of_front = Sums::of(of_front)?;
    report.row(Row::new("front.direct", "no proxy").value("rate", direct.rate, Unit::PerSecond).value(
        "p50",
        direct.p50,
        Unit::Micros,
    ));
    let added = |sums: &Sums| sums.p50 - direct.p50;
    report.row(
        Row::new("front.plain", "plain hyper proxy")
            .value("rate", of_plain.rate, Unit::PerSecond)
            .value("added p50", added(&of_plain), Unit::Micros)
            .value("per request", of_plain.micros, Unit::Micros),
    );
    report.row(
        Row::new("front.ours", "front door")
            .value("rate", of_front.rate, Unit::PerSecond)
            .goal("added p50", added(&of_front), Unit::Micros, Goal::Below(150.0))
            .value("per request", of_front.micros, Unit::Micros)
            // Where others use the machine too, the second figure says more than the first.
            .goal("of plain", of_front.rate / of_plain.rate * 100.0, Unit::Percent, Goal::AtLeast(80.0))
            .value("by processor time", of_plain.micros / of_front.micros * 100.0, Unit::Percent),
    );
    match node {
        Ok(_) => {
            let of_node = Sums::of(of_node)?;
            report.row(
                Row::new("front.http-proxy", "http-proxy on Node")
                    .value("rate", of_node.rate, Unit::PerSecond)
                    .value("added p50", added(&of_node), Unit::Micros)
                    .value("per request", of_node.micros, Unit::Micros)
                    .goal("ours beside it", of_front.rate / of_node.rate, Unit::Times, Goal::AtLeast(2.0)),
            );
        }
        Err(error) => report.note(&format!("http-proxy on Node: not measured: {error:#}"))?,
    }
    websockets(report, &sidecar, front)?;
    report.end()
}

/// Load on several connections for the rate, on one for the time of a request.
fn measure(address: SocketAddr, pid: u32, time: Duration, cores: Option<&Cores>) -> Result<(Outcome, Outcome)> {
    if let Some(cores) = cores {
        cores.separate(pid)?;
    }
    let load = |connections, time| {
        Load { address, pid, connections, time, body_bytes: Some(BODY_BYTES) }.run(&mut Same(GET.0))
    };
    load(CONNECTIONS, time / 10)?;
    let outcomes = (load(CONNECTIONS, time)?, load(1, time)?);
    if let Some(cores) = cores {
        cores.release(pid)?;
    }
    Ok(outcomes)
}

struct Sums {
    rate: f64,
    /// Of one connection, in microseconds.
    p50: f64,
    /// Processor time of a request, in microseconds.
    micros: f64,
}

impl Sums {
    fn of(turns: Vec<(Outcome, Outcome)>) -> Result<Self> {
        let (many, one): (Vec<_>, Vec<_>) = turns.into_iter().unzip();
        let many = many.into_iter().reduce(Outcome::and).context("no turn")?;
        let one = one.into_iter().reduce(Outcome::and).context("no turn")?;
        let p50 = one.latencies.percentile(50).as_secs_f64() * 1e6;
        Ok(Self { rate: many.rate(), p50, micros: many.server_micros() })
    }
}

/// `http-proxy`, installed into the cache once.
fn node_proxy(backend: &str) -> Result<Peer> {
    let node =
        std::env::var_os("WINSTON_NODE_BIN").map_or_else(|| PathBuf::from("node"), |dir| Path::new(&dir).join("node"));
    let cache = std::env::var_os("WINSTON_CACHE_DIR").context("WINSTON_CACHE_DIR is not set; ./check bench sets it")?;
    let dir = Path::new(&cache).join(HTTP_PROXY.replace('@', "-"));
    if !dir.join("node_modules/http-proxy").is_dir() {
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("package.json"), "{ \"private\": true }")?;
        let npm =
            Command::new("npm").args(["install", "--no-audit", "--no-fund", HTTP_PROXY]).current_dir(&dir).output()?;
        ensure!(npm.status.success(), "npm: {}", String::from_utf8_lossy(&npm.stderr));
    }
    let mut command = Command::new(node);
    command.args(["--no-deprecation", "-e", NODE_PROXY, backend]).current_dir(&dir);
    Peer::start(command)
}

/// What a thousand WebSockets that say nothing cost.
fn websockets(report: &mut Report, sidecar: &Sidecar, front: SocketAddr) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard)?;
    let before = proc::settled_memory(sidecar.pid())?;
    let mut held = Vec::with_capacity(WEBSOCKETS);
    for _ in 0..WEBSOCKETS {
        let mut stream = TcpStream::connect(front)?;
        stream.write_all(b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        ensure!(head == *b"HTTP/1.1 101", "{}", String::from_utf8_lossy(&head));
        held.push(stream);
    }
    let during = proc::settled_memory(sidecar.pid())?;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    report.row(
        Row::new("front.websockets", format!("{WEBSOCKETS} idle WebSockets"))
            .value("before", megabytes(before.rss), Unit::Megabytes)
            .goal("resident", megabytes(during.rss), Unit::Megabytes, Goal::Below(30.0))
            .value("each", (during.rss.saturating_sub(before.rss)) as f64 / WEBSOCKETS as f64 / 1e6, Unit::Megabytes),
    );
    Ok(())
}
