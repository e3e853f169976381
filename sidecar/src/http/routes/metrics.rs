//! `GET /metrics` and `GET /version`: for programs that look after many tenants.

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use serde::Serialize;

use super::super::App;
use super::super::body::Body;
use super::super::metrics::{Kind, MEDIA_TYPE, Text};
use crate::sync::SyncReport;

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Serialize)]
struct Version {
    service: &'static str,
    version: &'static str,
    /// Version of the protocol with control.
    protocol: u32,
}

pub(in super::super) fn version(_: &App) -> Response<Body> {
    super::json(&Version { service: "winston-sidecar", version: VERSION, protocol: winston_wire::PROTOCOL_VERSION })
}

pub(in super::super) fn metrics(app: &App) -> Response<Body> {
    let mut text = Text::default();
    text.family("winston_build_info", Kind::Gauge, "Version of the sidecar.").value(&[("version", VERSION)], 1);
    let uptime = app.started.elapsed().as_secs_f64();
    text.single("winston_uptime_seconds", Kind::Gauge, "Time since the sidecar started.", uptime);
    journal(&mut text, app);
    watch(&mut text, app);
    sync(&mut text, &app.sync.report());
    gateway(&mut text, app);
    http(&mut text, app);
    front(&mut text, app);
    let mut response = Response::new(Body::full(text.finish()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response
}

fn journal(text: &mut Text, app: &App) {
    use Kind::{Counter, Gauge};
    let journal = app.edits.journal();
    let (head, acked) = (journal.head_seq(), journal.ledger().acked());
    text.single("winston_journal_head_seq", Gauge, "Number of the newest recorded change.", head);
    text.single("winston_journal_acked_seq", Gauge, "Newest change that control has committed.", acked);
    text.single("winston_journal_flushes_total", Counter, "Flushes of the journal to disk.", journal.flushes());
    text.single(
        "winston_journal_corrupt_records",
        Gauge,
        "Records that could not be read back at the last start.",
        journal.corrupt(),
    );
    let flushes = app.edits.data_flushes();
    text.single("winston_data_flushes_total", Counter, "Flushes of files and directories to disk.", flushes);
}

fn watch(text: &mut Text, app: &App) {
    use Kind::{Counter, Gauge};
    let watch = &app.watch;
    text.single("winston_watch_files", Gauge, "Tracked files.", app.edits.index().len());
    text.single("winston_watch_rescans_total", Counter, "Comparisons of the whole tree.", watch.rescans());
    text.single(
        "winston_watch_polling",
        Gauge,
        "1 while changes are found by comparing only.",
        u8::from(watch.polling()),
    );
    let halted = app.edits.withheld().halt().is_some();
    text.single("winston_watch_halted", Gauge, "1 while deletions are held back.", u8::from(halted));
}

fn sync(text: &mut Text, report: &SyncReport) {
    use Kind::Gauge;
    state(text, "winston_sync_state", "Present relation to control, as its label.", &report.state);
    let applied = report.applied_generation;
    text.single(
        "winston_sync_applied_generation",
        Gauge,
        "Last generation of pushed files that was worked through.",
        applied,
    );
    let desired = report.desired_generation;
    text.single("winston_sync_desired_generation", Gauge, "Newest generation that control told of.", desired);
    text.single("winston_sync_conflicts", Gauge, "Pushes that met a local edit and wait.", report.conflicts.len());
}

fn gateway(text: &mut Text, app: &App) {
    let status = app.gateway.status();
    state(text, "winston_gateway_state", "Present state of the gateway, as its label.", &status.state);
    text.single(
        "winston_gateway_restarts_total",
        Kind::Counter,
        "Starts of the gateway after the first.",
        status.restarts,
    );
    text.single(
        "winston_gateway_suppressed_channels",
        Kind::Gauge,
        "Channels that the gateway keeps silent because it crashed several times.",
        status.suppressed.len(),
    );
    text.single(
        "winston_gateway_channel_starts_total",
        Kind::Counter,
        "Accounts of such channels that were started again.",
        status.channel_starts,
    );
    let logs = app.gateway.logs_counts();
    let mut lines = text.family("winston_gateway_log_lines_total", Kind::Counter, "Lines of the gateway's output.");
    for (fate, count) in [("kept", logs.kept), ("dropped", logs.dropped), ("file_dropped", logs.file_dropped)] {
        lines.value(&[("fate", fate)], count);
    }
}

/// The present state as a label: a query need not know numbers for states, nor this place every state that there may be.
fn state(text: &mut Text, name: &str, help: &str, present: &impl Serialize) {
    if let Ok(serde_json::Value::String(word)) = serde_json::to_value(present) {
        text.family(name, Kind::Gauge, help).value(&[("state", &word)], 1);
    }
}

fn http(text: &mut Text, app: &App) {
    let mut answers = text.family("winston_http_answers_total", Kind::Counter, "Answers by class of status.");
    for (class, count) in app.counters.answers() {
        answers.value(&[("status", class)], count);
    }
    let mut running = text.family("winston_http_streams", Kind::Gauge, "Long answers that are being sent.");
    for (kind, count) in app.streams.running() {
        running.value(&[("kind", kind)], count);
    }
}

fn front(text: &mut Text, app: &App) {
    use Kind::{Counter, Gauge};
    let Some(front) = &app.front else { return };
    text.single("winston_front_connections", Gauge, "Open connections at the front door.", front.connections());
    text.single("winston_front_websockets", Gauge, "Open WebSockets to the gateway.", front.websockets());
    let mut answers = text.family(
        "winston_front_answers_total",
        Counter,
        "Answers at the front door by who gave them and class of status; 1xx are WebSockets.",
    );
    for (route, class, count) in front.answers() {
        answers.value(&[("route", route), ("status", class)], count);
    }
    let mut seconds = text.family(
        "winston_front_answer_seconds_total",
        Counter,
        "Time from the heads of requests to the heads of their answers.",
    );
    for (route, sum) in front.seconds() {
        seconds.value(&[("route", route)], sum);
    }
    let mut troubles =
        text.family("winston_front_refused_total", Counter, "What was turned away or failed, by reason.");
    for (reason, count) in front.troubles() {
        troubles.value(&[("reason", reason)], count);
    }
    text.single(
        "winston_front_approved_devices_total",
        Counter,
        "Devices of operators that were approved.",
        front.approvals(),
    );
}
