//! `GET` of a small file, with the sidecar on one processor and the load on another.

use anyhow::Result;

use super::load::{Load, Outcome, Requests};
use super::machine::Ticks;
use super::proc::Cores;
use super::report::{Goal, Report, Row, Unit};
use super::{CONNECTIONS, Plan, writes};
use crate::process::TEST_TOKEN;
use crate::sidecar::Sidecar;

const RATE: Goal = Goal::AtLeast(30_000.0);

/// Percent of the time from which on others have disturbed the figures.
const DISTURBED: f64 = 5.0;

/// The media type that asks for bytes instead of JSON.
const RAW: &str = "application/octet-stream";

/// A thing to read.
struct Case {
    id: &'static str,
    label: &'static str,
    connections: usize,
    /// What a connection asks for.
    target: fn(usize) -> String,
    accept: &'static str,
    goal: Option<Goal>,
}

const CASES: [Case; 4] = [
    Case {
        id: "json.8",
        label: "GET 4 KiB as JSON, 8 connections",
        connections: CONNECTIONS,
        target: file,
        accept: "*/*",
        goal: Some(RATE),
    },
    Case {
        id: "raw.8",
        label: "GET 4 KiB as bytes, 8 connections",
        connections: CONNECTIONS,
        target: file,
        accept: RAW,
        goal: Some(RATE),
    },
    Case {
        id: "json.1",
        label: "GET 4 KiB as JSON, 1 connection",
        connections: 1,
        target: file,
        accept: "*/*",
        goal: None,
    },
    Case {
        id: "health.8",
        label: "GET /health, 8 connections",
        connections: CONNECTIONS,
        target: |_| "/health".to_owned(),
        accept: "*/*",
        goal: None,
    },
];

fn file(number: usize) -> String {
    format!("/files/workspace/bench/read-{number}.md")
}

/// Requests that never change.
struct Gets(Vec<Vec<u8>>);

impl Requests for Gets {
    fn next(&mut self, connection: usize) -> Result<&[u8]> {
        self.0.get(connection).map(Vec::as_slice).ok_or_else(|| anyhow::anyhow!("no such connection"))
    }
}

/// Measures reads.
pub(super) fn section(report: &mut Report, sidecar: &Sidecar, plan: Plan) -> Result<()> {
    report.begin("Reads: the sidecar on one processor, the load on another")?;
    for number in 0..CONNECTIONS {
        sidecar.call("PUT", &file(number), &[("Content-Type", RAW)], &writes::content())?.expect(200)?;
    }
    let cores = Cores::find()?;
    if cores.is_none() {
        report.warn("there is one processor only: reads share it with the load generator")?;
    }
    let (mut costs, mut kept_waiting, ticks) = (Vec::new(), 0.0_f64, Ticks::now()?);
    for case in &CASES {
        if let Some(cores) = &cores {
            cores.separate(sidecar.pid())?;
        }
        let outcome = run(sidecar, case, plan);
        if let Some(cores) = &cores {
            cores.release(sidecar.pid())?;
        }
        let outcome = outcome?;
        kept_waiting = kept_waiting.max(outcome.kept_waiting_percent());
        let row = Row::new(format!("get.{}", case.id), case.label);
        let row = match case.goal {
            Some(goal) => row.goal("rate", outcome.rate(), Unit::PerSecond, goal),
            None => row.value("rate", outcome.rate(), Unit::PerSecond),
        };
        report.row(row.latencies(&outcome.latencies));
        costs.push(
            Row::new(format!("get.cost.{}", case.id), case.label)
                .value("processor time each", outcome.server_micros(), Unit::Micros)
                .value("a whole processor does", 1e6 / outcome.server_micros(), Unit::PerSecond)
                .value("sidecar busy", outcome.server_percent(), Unit::Percent)
                .value("kept waiting", outcome.kept_waiting_percent(), Unit::Percent)
                .value("load generator busy", outcome.client_percent(), Unit::Percent),
        );
    }
    report.end()?;
    costs.into_iter().for_each(|row| report.row(row));
    report.end()?;
    let stolen = Ticks::now()?.stolen_percent_since(ticks);
    if kept_waiting.max(stolen) > DISTURBED {
        report.warn(&format!(
            "others had the processors too (up to {kept_waiting:.0} % of the time here, {stolen:.0} % on the host): \
             here the processor time of a request tells more than the rate"
        ))?;
    }
    Ok(())
}

fn run(sidecar: &Sidecar, case: &Case, plan: Plan) -> Result<Outcome> {
    // One by hand tells how long every answer has to be.
    let answer = sidecar.call("GET", &(case.target)(0), &[("Accept", case.accept)], b"")?.expect(200)?;
    // What /health says grows with the uptime.
    let fixed = case.accept == RAW || answer.header("etag").is_some();
    let request = |connection| {
        let target = (case.target)(connection);
        let accept = case.accept;
        format!(
            "GET {target} HTTP/1.1\r\nHost: sidecar\r\nAuthorization: Bearer {TEST_TOKEN}\r\nAccept: {accept}\r\n\r\n"
        )
    };
    let mut requests = Gets((0..case.connections).map(|connection| request(connection).into_bytes()).collect());
    let load = Load {
        address: sidecar.address(),
        pid: sidecar.pid(),
        connections: case.connections,
        time: plan.load,
        body_bytes: fixed.then_some(answer.body.len()),
    };
    // The first tenth warms up caches and connections' buffers.
    load.lasting(plan.load / 10).run(&mut requests)?;
    load.run(&mut requests)
}
