//! `GET /changes`: the newest changes, the changes after a number, or those and all that come.

use std::sync::Arc;

use http::header::{ACCEPT, HeaderName};
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use serde::Serialize;
use uuid::Uuid;
use winston_wire::Change;

use super::super::body::Body;
use super::super::error::ApiError;
use super::super::history::{Page, PageError, Reader, in_old_words};
use super::super::query::Query;
use super::super::sse::{self, Events, event};
use super::super::{App, blocking};
use crate::edits::Edits;
use crate::fs::TenantPath;

const DEFAULT: usize = 100;
const MOST: usize = 1000;

/// Changes that a stream reads at once. With what waits for the client this is all the memory that a slow reader costs.
const AT_ONCE: usize = 64;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

#[derive(Serialize)]
struct Newest {
    changes: Vec<Change>,
}

#[derive(Serialize)]
struct Answer {
    epoch: Uuid,
    changes: Vec<Change>,
    lost: Vec<u64>,
    /// `after` of the next page.
    next: u64,
    head: u64,
}

pub(in super::super) async fn changes(app: &App, request: &Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let query = Query::parse(request.uri().query())?;
    let live = request.headers().get_all(ACCEPT).iter().any(|value| value.as_bytes().starts_with(b"text/event-stream"));
    if live {
        return stream(app, &query, request.headers()).await;
    }
    let limit = query.limit(DEFAULT, MOST);
    let Some(after) = query.number("after")? else { return Ok(newest(app, limit)) };
    let mut reader = Reader::new(epoch(app, &query)?, after, path(&query)?);
    let edits = Arc::clone(&app.edits);
    blocking(move || {
        let Page { changes, lost, next, head } = reader.page(edits.journal(), limit)?;
        super::json_or_error(&Answer { epoch: reader.epoch(), changes, lost, next, head })
    })
    .await
}

/// Newest first, in the words of the first sidecar.
fn newest(app: &App, limit: usize) -> Response<Body> {
    let newest = app.edits.journal().ledger().newest(limit);
    let mut changes: Vec<_> = newest.into_iter().flat_map(|change| in_old_words(change).into_iter().rev()).collect();
    changes.truncate(limit);
    super::json(&Newest { changes })
}

fn epoch(app: &App, query: &Query) -> Result<Uuid, ApiError> {
    Ok(named_epoch(query)?.unwrap_or_else(|| app.edits.journal().epoch()))
}

fn named_epoch(query: &Query) -> Result<Option<Uuid>, ApiError> {
    let bad = |_| ApiError::bad_request("bad_query", "epoch is a UUID");
    query.get("epoch").map(str::parse).transpose().map_err(bad)
}

fn path(query: &Query) -> Result<Option<TenantPath>, ApiError> {
    Ok(query.get("path").map(TenantPath::parse).transpose()?)
}

/// Where a stream begins: after the last event that the client has seen, after the number that it names, or now.
fn begin(app: &App, query: &Query, headers: &HeaderMap) -> Result<(Uuid, u64), ApiError> {
    if let Some(seen) = last_seen(headers)? {
        return Ok(seen);
    }
    let seq = query.number("after")?.unwrap_or_else(|| app.edits.journal().head_seq());
    Ok((epoch(app, query)?, seq))
}

/// The id of the last event that the client has seen, as [`event_id`] writes it.
fn last_seen(headers: &HeaderMap) -> Result<Option<(Uuid, u64)>, ApiError> {
    let mut ids = headers.get_all(&LAST_EVENT_ID).iter();
    let Some(id) = ids.next() else { return Ok(None) };
    let seen = || -> Option<(Uuid, u64)> {
        let (epoch, seq) = id.to_str().ok()?.split_once(':')?;
        Some((epoch.parse().ok()?, seq.parse().ok()?))
    };
    // Of two that differ neither is the last one.
    let seen = if ids.next().is_none() { seen() } else { None };
    seen.map(Some).ok_or_else(|| ApiError::bad_request("bad_query", "Last-Event-ID is <epoch>:<seq>, once"))
}

fn event_id(epoch: Uuid, seq: u64) -> String {
    format!("{epoch}:{seq}")
}

async fn stream(app: &App, query: &Query, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    let (epoch, seq) = begin(app, query, headers)?;
    let place = app.streams.events()?;
    let mut reader = Reader::new(epoch, seq, path(query)?);
    // The first page is read before the answer begins: what is wrong with the beginning is said by the status.
    let (edits, journal) = (Arc::clone(&app.edits), Arc::clone(&app.edits));
    let (reader, first) = blocking(move || {
        let page = reader.page(journal.journal(), AT_ONCE)?;
        Ok::<_, ApiError>((reader, page))
    })
    .await?;
    let (events, response) = sse::stream(app.streams.stopping());
    tokio::spawn(async move {
        let _place = place;
        let ready = Ready { epoch, head: first.head };
        follow(edits, reader, first, &ready, seq, events).await;
    });
    Ok(response)
}

/// First event of a stream. Its id is where the stream begins, so that a client can resume before anything has happened.
#[derive(Serialize)]
struct Ready {
    epoch: Uuid,
    head: u64,
}

#[derive(Serialize)]
struct Lost<'a> {
    lost: &'a [u64],
}

/// Sends changes as they come, until the client or the server goes or the journal does not go on.
async fn follow(edits: Arc<Edits>, reader: Reader, first: Page, ready: &Ready, seq: u64, mut events: Events) {
    let mut head = edits.journal().head();
    let epoch = reader.epoch();
    let mut text = b"retry: 2000\n\n".to_vec();
    if event(&mut text, &event_id(epoch, seq), "ready", ready).is_err() || !events.send(text).await {
        return;
    }
    let (mut reader, mut page, mut reached) = (reader, first, seq);
    loop {
        let text = render(epoch, &page).unwrap_or_default();
        if !text.is_empty() && !events.send(text).await {
            return;
        }
        // A record that is there and cannot be read yet is waited for like one that is not there.
        if page.next >= page.head || page.next == reached {
            let known = page.head;
            let news = async {
                if head.wait_for(|head| *head > known).await.is_err() {
                    // The journal is closed: there is nothing to come, and the server is about to end.
                    std::future::pending::<()>().await;
                }
            };
            if !events.wait(news).await {
                return;
            }
        }
        reached = page.next;
        let edits = Arc::clone(&edits);
        let read = tokio::task::spawn_blocking(move || {
            let page = reader.page(edits.journal(), AT_ONCE);
            (reader, page)
        });
        let Ok((returned, read)) = read.await else { return };
        reader = returned;
        page = match read {
            Ok(page) => page,
            Err(error) => {
                if let Some(text) = farewell(epoch, &error) {
                    events.send(text).await;
                }
                return;
            }
        };
    }
}

/// Changes and lost numbers of a page as events, in order.
fn render(epoch: Uuid, page: &Page) -> serde_json::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut lost = page.lost.as_slice();
    for change in &page.changes {
        let before = lost.partition_point(|seq| *seq < change.seq);
        render_lost(&mut text, epoch, &lost[..before])?;
        lost = &lost[before..];
        event(&mut text, &event_id(epoch, change.seq), "change", change)?;
    }
    render_lost(&mut text, epoch, lost)?;
    Ok(text)
}

fn render_lost(text: &mut Vec<u8>, epoch: Uuid, lost: &[u64]) -> serde_json::Result<()> {
    match lost.last() {
        Some(last) => event(text, &event_id(epoch, *last), "lost", &Lost { lost }),
        None => Ok(()),
    }
}

/// The last event of a stream that cannot go on; resuming from its id goes on behind the gap, or is told of the other journal.
fn farewell(epoch: Uuid, error: &PageError) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    match error {
        PageError::Trimmed { first_seq } => {
            let id = event_id(epoch, first_seq.saturating_sub(1));
            event(&mut text, &id, "gap", &serde_json::json!({ "first_seq": first_seq })).ok()?;
        }
        PageError::OtherEpoch { epoch: other, head } => {
            let data = serde_json::json!({ "epoch": other, "head": head });
            event(&mut text, &event_id(*other, 0), "other_epoch", &data).ok()?;
        }
        PageError::Journal(error) => {
            tracing::error!(%error, "a stream of changes ends: the journal cannot be read");
            return None;
        }
    }
    Some(text)
}

#[cfg(test)]
#[path = "changes_fuzz.rs"]
mod fuzz;
