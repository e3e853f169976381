//! `GET /status`: everything that an operator wants to know at a glance.

use http::Response;
use serde::Serialize;
use uuid::Uuid;
use winston_wire::GatewayStatus;

use super::super::App;
use super::super::body::Body;
use crate::front::FrontReport;
use crate::sync::SyncReport;

#[derive(Serialize)]
struct Status {
    version: &'static str,
    uptime: f64,
    journal: Journal,
    watch: Watch,
    sync: SyncReport,
    gateway: GatewayStatus,
    /// `null` without a front door.
    front: Option<FrontReport>,
}

#[derive(Serialize)]
struct Journal {
    epoch: Uuid,
    head_seq: u64,
    acked_seq: u64,
    /// Flushes of the journal since the start, and of files and directories.
    flushes: u64,
    data_flushes: u64,
    corrupt_records: u64,
    /// Bytes of segments and contents, and contents that the cap on them has cost.
    bytes: u64,
    contents_dropped: u64,
}

#[derive(Serialize)]
struct Watch {
    /// Files with a history.
    files: usize,
    mode: &'static str,
    polling: bool,
    halted: bool,
    /// Why it is halted or polls.
    reason: Option<String>,
    /// Full listings, and names looked at in listings, since the start.
    rescans: u64,
    examined: u64,
    /// Files whose content was read to compare it, since the start.
    hashed: u64,
    /// In the last full listing.
    directories: u64,
    unwatched: u64,
}

pub(in super::super) fn status(app: &App) -> Response<Body> {
    let journal = app.edits.journal();
    super::json(&Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime: app.started.elapsed().as_secs_f64(),
        journal: Journal {
            epoch: journal.epoch(),
            head_seq: journal.head_seq(),
            acked_seq: journal.ledger().acked(),
            flushes: journal.flushes(),
            data_flushes: app.edits.data_flushes(),
            corrupt_records: journal.corrupt(),
            bytes: journal.bytes(),
            contents_dropped: journal.contents_dropped(),
        },
        watch: Watch {
            files: app.edits.index().len(),
            mode: app.watch.mode(),
            polling: app.watch.polling(),
            halted: app.edits.withheld().halt().is_some(),
            reason: app.watch.reason(app.edits.withheld()),
            rescans: app.watch.rescans(),
            examined: app.watch.examined(),
            hashed: app.edits.hashed(),
            directories: app.watch.directories(),
            unwatched: app.watch.unwatched(),
        },
        sync: app.sync.report(),
        gateway: app.gateway.status(),
        front: app.front.as_ref().map(|front| front.report()),
    })
}
