//! `GET /changes?limit=`: the newest changes, newest first.

use http::Response;
use serde::Serialize;
use winston_wire::Change;

use super::super::App;
use super::super::body::Body;
use super::super::query::Query;

const DEFAULT: usize = 100;
const MOST: usize = 1000;

#[derive(Serialize)]
struct Changes {
    changes: Vec<Change>,
}

pub(in super::super) fn changes(app: &App, query: &Query) -> Response<Body> {
    super::json(&Changes { changes: app.edits.journal().ledger().newest(query.limit(DEFAULT, MOST)) })
}
