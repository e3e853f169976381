//! What was there before: a small Node program with the same file API (`old_sidecar.mjs` says what it stands for). The same requests go to
//! it and to the sidecar, as many at once, by turns.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::load::{Load, Outcome, Requests};
use super::proc::{self, Cores};
use super::report::{Goal, Report, Row, Unit};
use super::{CONNECTIONS, Plan, disk, writes};
use crate::http::Client;
use crate::process::TEST_TOKEN;
use crate::sidecar::{Setup, Sidecar};

const PROGRAM: &str = include_str!("old_sidecar.mjs");

/// Multiples of its rates, and percent of its memory.
const READS: Goal = Goal::AtLeast(10.0);
const WRITES: Goal = Goal::AtLeast(2.0);
const MEMORY: Goal = Goal::AtMost(10.0);

/// Digits of the number with which every content begins.
const DIGITS: usize = 16;

const BESIDE: &str = "beside it: old_sidecar.mjs with Express 4 and chokidar 3 on the Node that the gateway needs, the same requests, by turns; best \
                      turns of both. Of writes, none that is durable can be faster than the bare loop";
const BESIDE_MEMORY: &str = "beside it: old_sidecar.mjs on the Node that the gateway needs, after the same requests";

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One file per connection, as JSON.
    Get,
    /// One file per connection, as JSON, with another content each time.
    Put,
}

struct Case {
    id: &'static str,
    label: &'static str,
    kind: Kind,
    connections: usize,
    goal: Option<Goal>,
}

const CASES: [Case; 4] = [
    Case {
        id: "get.8",
        label: "GET 4 KiB as JSON, 8 connections, one processor",
        kind: Kind::Get,
        connections: CONNECTIONS,
        goal: Some(READS),
    },
    Case {
        id: "get.1",
        label: "GET 4 KiB as JSON, 1 connection, one processor",
        kind: Kind::Get,
        connections: 1,
        goal: None,
    },
    Case {
        id: "put.8",
        label: "PUT 4 KiB as JSON, 8 writers, a file each",
        kind: Kind::Put,
        connections: CONNECTIONS,
        goal: Some(WRITES),
    },
    Case { id: "put.1", label: "PUT 4 KiB as JSON, 1 writer", kind: Kind::Put, connections: 1, goal: None },
];

/// Measures both.
pub(super) fn section(report: &mut Report, plan: Plan) -> Result<()> {
    report.begin("The old sidecar's jobs: durable here, not durable there")?;
    let Some(node) = find_node()? else {
        return report.note("SKIPPED: there is no node; set WINSTON_NODE_BIN to the directory with one");
    };
    let Some(modules) = std::env::var_os("WINSTON_PEER_MODULES").map(PathBuf::from) else {
        return report.note("SKIPPED: WINSTON_PEER_MODULES names no directory with express 4 and chokidar 3; ./check bench installs them");
    };
    let old = Old::start(&node, &modules)?;
    report.note(&format!("Node {}", old.version))?;
    let ours = Setup::new()?.start()?;
    let both = [Server::of(&ours), old.server()];
    let beside = ours.data().parent().context("the data directory has no parent")?.to_owned();
    for server in &both {
        server.prepare()?;
    }
    let fresh = [proc::settled_memory(both[0].pid)?, proc::settled_memory(both[1].pid)?];
    for case in &CASES {
        report.progress(case.label);
        report.row(measure(case, &both, &beside, plan)?);
    }
    report.end()?;
    let worked = [proc::settled_memory(both[0].pid)?, proc::settled_memory(both[1].pid)?];
    for (id, label, [ours, theirs], goal) in
        [("fresh", "before", fresh, None), ("worked", "after the same requests", worked, Some(MEMORY))]
    {
        report.row(memory_row(id, label, ours.rss, theirs.rss, goal));
    }
    report.end()
}

fn memory_row(id: &str, label: &str, ours: u64, theirs: u64, goal: Option<Goal>) -> Row {
    let row = Row::new(format!("old.memory.{id}"), format!("memory, {label}")).beside(BESIDE_MEMORY);
    let percent = ours as f64 / theirs as f64 * 100.0;
    let row = match goal {
        Some(goal) => row.goal("of the old one's", percent, Unit::Percent, goal),
        None => row.value("of the old one's", percent, Unit::Percent),
    };
    row.value("rss", ours as f64 / 1e6, Unit::Megabytes).value("the old one's", theirs as f64 / 1e6, Unit::Megabytes)
}

/// Both by turns, after a warm-up each: V8 compiles what it has seen often enough. Writes have the bare loop of durable ones as a third, in `dir`: more than
/// that no durable write can do on this disk.
fn measure(case: &Case, both: &[Server; 2], dir: &Path, plan: Plan) -> Result<Row> {
    let cores = if case.kind == Kind::Get { Cores::find()? } else { None };
    let mut requests = [Prepared::new(case), Prepared::new(case)];
    let mut sums: [Option<Outcome>; 2] = [None, None];
    let mut bare = 0.0_f64;
    let turns = std::iter::once((false, plan.load / 5)).chain((0..plan.turns).map(|_| (true, plan.load / plan.turns)));
    for (counts, time) in turns {
        for ((server, requests), sum) in both.iter().zip(&mut requests).zip(&mut sums) {
            let outcome = server.run(case, requests, time, cores.as_ref())?;
            if counts {
                *sum = Some(match sum.take() {
                    Some(sum) => sum.and(outcome),
                    None => outcome,
                });
            }
        }
        if counts && case.kind == Kind::Put {
            bare = bare.max(disk::replace(dir, case.connections, plan.calibration / plan.turns)?.best_rate());
        }
    }
    let [Some(ours), Some(theirs)] = sums else { bail!("nothing was measured") };
    let times = ours.best_rate() / theirs.best_rate();
    let row = Row::new(format!("old.{}", case.id), case.label).beside(BESIDE);
    let row = match case.goal {
        Some(goal) => row.goal("of the old one's rate", times, Unit::Times, goal),
        None => row.value("of the old one's rate", times, Unit::Times),
    };
    let row = row
        .value("best turn", ours.best_rate(), Unit::PerSecond)
        .value("the old one's", theirs.best_rate(), Unit::PerSecond)
        .value("processor time each", ours.server_micros(), Unit::Micros)
        .value("the old one's time", theirs.server_micros(), Unit::Micros);
    Ok(if case.kind == Kind::Put { row.value("durable bare loop's", bare, Unit::PerSecond) } else { row })
}

/// One of the two.
struct Server {
    address: SocketAddr,
    pid: u32,
}

impl Server {
    fn of(sidecar: &Sidecar) -> Self {
        Self { address: sidecar.address(), pid: sidecar.pid() }
    }

    /// Writes the files that are read, and looks whether it does what it is measured for.
    fn prepare(&self) -> Result<()> {
        let client = Client::new(self.address, TEST_TOKEN);
        let content = String::from_utf8(writes::content())?;
        let body = json!({ "content": content }).to_string();
        for connection in 0..CONNECTIONS {
            for kind in [Kind::Get, Kind::Put] {
                let headers = [("Content-Type", "application/json")];
                let put = client.call("PUT", &target(kind, connection), &headers, body.as_bytes())?;
                let put: Value = put.expect(200)?.json()?;
                let got: Value = client.get(&target(kind, connection))?;
                if got["content"] != content.as_str() || got["hash"] != put["hash"] || put["success"] != true {
                    bail!("a PUT was answered with {put}, the GET after it with {got}");
                }
            }
        }
        Ok(())
    }

    /// One turn. Reads have a processor for the server and one for the load, as the reads of the sidecar alone do.
    fn run(&self, case: &Case, requests: &mut Prepared, time: Duration, cores: Option<&Cores>) -> Result<Outcome> {
        let load = Load { address: self.address, pid: self.pid, connections: case.connections, time, body_bytes: None };
        if let Some(cores) = cores {
            cores.separate(self.pid)?;
        }
        let outcome = load.run(requests);
        if let Some(cores) = cores {
            cores.release(self.pid)?;
        }
        outcome
    }
}

fn target(kind: Kind, connection: usize) -> String {
    let kind = match kind {
        Kind::Get => "read",
        Kind::Put => "write",
    };
    format!("/files/workspace/bench/{kind}-{connection}.md")
}

/// Requests of which only the number in the content changes.
struct Prepared {
    requests: Vec<Vec<u8>>,
    /// Where the number is, counted from the end; `None` when nothing changes.
    number_from_end: Option<usize>,
    sent: u64,
}

impl Prepared {
    fn new(case: &Case) -> Self {
        let content = format!("{:0DIGITS$} {}", 0, String::from_utf8_lossy(&writes::content()));
        let body = json!({ "content": content }).to_string();
        let number_from_end = body.find(&"0".repeat(DIGITS)).map(|at| body.len() - at);
        let request = |connection| {
            let target = target(case.kind, connection);
            match case.kind {
                Kind::Get => {
                    format!("GET {target} HTTP/1.1\r\nHost: sidecar\r\nAuthorization: Bearer {TEST_TOKEN}\r\n\r\n")
                }
                Kind::Put => format!(
                    "PUT {target} HTTP/1.1\r\nHost: sidecar\r\nAuthorization: Bearer {TEST_TOKEN}\r\n\
                     Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ),
            }
            .into_bytes()
        };
        let number_from_end = number_from_end.filter(|_| case.kind == Kind::Put);
        Self { requests: (0..case.connections).map(request).collect(), number_from_end, sent: 0 }
    }
}

impl Requests for Prepared {
    fn next(&mut self, connection: usize) -> Result<&[u8]> {
        let request = self.requests.get_mut(connection).context("no such connection")?;
        if let Some(number) = self.number_from_end {
            self.sent += 1;
            let start = request.len() - number;
            request[start..start + DIGITS].copy_from_slice(format!("{:0DIGITS$}", self.sent).as_bytes());
        }
        Ok(request)
    }
}

/// The program from Node's package that the gateway needs, or any other.
fn find_node() -> Result<Option<PathBuf>> {
    let chosen = std::env::var_os("WINSTON_NODE_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = chosen.into_iter().chain(std::env::split_paths(&path)).map(|dir| dir.join("node"));
    Ok(places.find(|program| program.is_file()))
}

/// The running Node program. Killed when dropped.
struct Old {
    child: Child,
    port: u16,
    version: String,
    _dir: TempDir,
}

impl Old {
    fn start(node: &Path, modules: &Path) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (script, data) = (dir.path().join("old_sidecar.mjs"), dir.path().join("data"));
        fs::write(&script, PROGRAM)?;
        fs::create_dir(&data)?;
        let version = Command::new(node).arg("--version").output()?;
        let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
        let child = Command::new(node)
            .arg(&script)
            .env_clear()
            .env("PEER_ROOT", &data)
            .env("PEER_MODULES", modules)
            .env("WINSTON_SIDECAR_TOKEN", TEST_TOKEN)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| node.display().to_string())?;
        let mut old = Self { child, port: 0, version, _dir: dir };
        let stdout = old.child.stdout.take().context("no pipe")?;
        let mut line = String::new();
        // It prints its port or ends.
        BufReader::new(stdout).read_line(&mut line)?;
        old.port = line.trim().parse().with_context(|| format!("old_sidecar.mjs printed {line:?}"))?;
        Ok(old)
    }

    fn server(&self) -> Server {
        Server { address: SocketAddr::from(([127, 0, 0, 1], self.port)), pid: self.child.id() }
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_put_is_another_content_of_the_same_length() -> Result<()> {
        let case = Case { id: "", label: "", kind: Kind::Put, connections: 1, goal: None };
        let mut prepared = Prepared::new(&case);
        let first = String::from_utf8(prepared.next(0)?.to_vec())?;
        let second = String::from_utf8(prepared.next(0)?.to_vec())?;
        let (head, body) = first.split_once("\r\n\r\n").context("no body")?;
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        let content = |request: &str| -> Result<String> {
            let body: Value = serde_json::from_str(request.split_once("\r\n\r\n").context("no body")?.1)?;
            Ok(body["content"].as_str().context("no content")?.to_owned())
        };
        assert!(content(&first)?.starts_with("0000000000000001 "));
        assert!(content(&second)?.starts_with("0000000000000002 "));
        Ok(())
    }

    #[test]
    fn gets_do_not_change() -> Result<()> {
        let mut prepared = Prepared::new(&Case { id: "", label: "", kind: Kind::Get, connections: 2, goal: None });
        let first = prepared.next(1)?.to_vec();
        assert!(first.starts_with(b"GET /files/workspace/bench/read-1.md HTTP/1.1\r\n"));
        assert_eq!(prepared.next(1)?, first);
        assert!(prepared.next(2).is_err());
        Ok(())
    }
}
