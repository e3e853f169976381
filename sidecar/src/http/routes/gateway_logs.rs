//! `GET /gateway/logs`: the newest lines, the lines from some place on, or those and all that come.

use http::header::{ACCEPT, HeaderName};
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use serde::Serialize;
use winston_wire::Timestamp;

use super::super::body::Body;
use super::super::error::ApiError;
use super::super::query::Query;
use super::super::sse::{self, Events, event};
use super::super::{App, blocking};
use crate::gateway::{Level, LogLine, LogReader, LogsFrom, Piece};

const DEFAULT: usize = 100;
const MOST: usize = 1000;

/// Lines that a stream reads at once; long ones are fewer. About as many as the gateway can write before a reader is given its turn.
const AT_ONCE: usize = 1000;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

#[derive(Serialize)]
struct Lines {
    lines: Vec<LogLine>,
    /// `since` of the next page.
    next: u64,
    head: u64,
    /// Lines from `since` on that are not kept any more.
    missing: u64,
    /// Lines since the start of the sidecar that came faster than they are kept.
    dropped: u64,
}

pub(in super::super) async fn logs(app: &App, request: &Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let query = Query::parse(request.uri().query())?;
    let least = match query.get("level") {
        None => Level::Debug,
        Some(level) => Level::parse(level)
            .ok_or_else(|| ApiError::bad_request("bad_query", "level is debug, info, warn or error"))?,
    };
    let live = request.headers().get_all(ACCEPT).iter().any(|value| value.as_bytes().starts_with(b"text/event-stream"));
    if live || query.flag("follow")? {
        return stream(app, &query, request.headers(), least).await;
    }
    let limit = query.limit(DEFAULT, MOST);
    let gateway = app.gateway.clone();
    let dropped = gateway.logs_counts().dropped;
    let Some(from) = since(&query)? else {
        let head = gateway.logs_head();
        let answer = move |lines: Vec<LogLine>| {
            let next = lines.last().map_or(head, |line| line.seq.max(head));
            super::json_or_error(&Lines { lines, next, head: next, missing: 0, dropped })
        };
        // Looking through the files takes as long as a search, and has no place beside two of them; what is in memory
        // is there for everybody.
        return match (gateway.last_logs_in_memory(limit, least), app.streams.search()) {
            (Err(_), Ok(_place)) => blocking(move || answer(gateway.last_logs(limit, least))).await,
            (Ok(lines) | Err(lines), _) => answer(lines),
        };
    };
    let _place = app.streams.search()?;
    blocking(move || {
        let mut reader = gateway.read_logs(from, least);
        let (mut lines, mut missing) = (Vec::new(), 0);
        while lines.len() < limit && reader.cursor() < reader.head() {
            let before = reader.cursor();
            for piece in reader.page(limit - lines.len()) {
                match piece {
                    Piece::Line(line) => lines.push(line),
                    Piece::Missing { count, .. } => missing += count,
                }
            }
            if reader.cursor() == before && !reader.blocks() {
                break;
            }
        }
        super::json_or_error(&Lines { lines, next: reader.cursor(), head: reader.head(), missing, dropped })
    })
    .await
}

/// A number, or a time in RFC 3339.
fn since(query: &Query) -> Result<Option<LogsFrom>, ApiError> {
    let Some(text) = query.get("since") else { return Ok(None) };
    let number = text.parse().ok().map(LogsFrom::After);
    let from = number.or_else(|| text.parse::<Timestamp>().ok().map(LogsFrom::Time));
    from.map(Some)
        .ok_or_else(|| ApiError::bad_request("bad_query", "since is the number of a line or a time in RFC 3339"))
}

/// Where a stream begins: after the last event that the client has seen, where it says, or with what is new.
fn begin(query: &Query, headers: &HeaderMap, head: u64) -> Result<LogsFrom, ApiError> {
    let Some(id) = headers.get(&LAST_EVENT_ID) else { return Ok(since(query)?.unwrap_or(LogsFrom::After(head))) };
    let seen = id.to_str().ok().and_then(|id| id.parse().ok());
    seen.map(LogsFrom::After).ok_or_else(|| ApiError::bad_request("bad_query", "Last-Event-ID is the number of a line"))
}

async fn stream(app: &App, query: &Query, headers: &HeaderMap, least: Level) -> Result<Response<Body>, ApiError> {
    let head = app.gateway.logs_head();
    let from = begin(query, headers, head)?;
    let asked = query.get("limit").is_some() && from == LogsFrom::After(head);
    let place = app.streams.events()?;
    let gateway = app.gateway.clone();
    // As `tail -n` does it: the newest so many before what is new.
    let earlier = match asked.then(|| query.limit(DEFAULT, MOST)) {
        Some(limit) => {
            blocking(move || {
                let lines = gateway.last_logs(limit, least);
                Ok::<_, ApiError>(lines.into_iter().filter(|line| line.seq <= head).collect())
            })
            .await?
        }
        None => Vec::new(),
    };
    let reader = app.gateway.read_logs(from, least);
    let (events, response) = sse::stream(app.streams.stopping());
    tokio::spawn(async move {
        let _place = place;
        follow(reader, earlier, events).await;
    });
    Ok(response)
}

/// First event of a stream. Its id is where the stream begins, so that a client can resume before anything has happened.
#[derive(Serialize)]
struct Ready {
    head: u64,
}

#[derive(Serialize)]
struct Missing {
    missing: u64,
}

/// Sends lines as they come, until the client or the server goes. A client that is slower than the gateway is told how
/// many lines it has missed; nobody else notices.
async fn follow(mut reader: LogReader, earlier: Vec<LogLine>, mut events: Events) {
    let mut text = b"retry: 2000\n\n".to_vec();
    let ready = Ready { head: reader.head() };
    let begin = earlier.first().map_or(reader.cursor(), |line| line.seq - 1);
    if event(&mut text, &begin.to_string(), "ready", &ready).is_err() || !events.send(text).await {
        return;
    }
    for lines in earlier.chunks(AT_ONCE) {
        let pieces: Vec<_> = lines.iter().cloned().map(Piece::Line).collect();
        if !events.send(render(&pieces)).await {
            return;
        }
    }
    loop {
        let pieces = if reader.blocks() {
            let read = tokio::task::spawn_blocking(move || {
                let pieces = reader.page(AT_ONCE);
                (reader, pieces)
            });
            let Ok((returned, pieces)) = read.await else { return };
            reader = returned;
            pieces
        } else {
            reader.page(AT_ONCE)
        };
        let text = render(&pieces);
        if !text.is_empty() && !events.send(text).await {
            return;
        }
        if reader.cursor() >= reader.head() && !events.wait(reader.news()).await {
            return;
        }
    }
}

fn render(pieces: &[Piece]) -> Vec<u8> {
    let mut text = Vec::new();
    for piece in pieces {
        // Numbers and strings are all there is, and they can be written as JSON.
        let _ = match piece {
            Piece::Line(line) => event(&mut text, &line.seq.to_string(), "line", line),
            Piece::Missing { count, to } => event(&mut text, &to.to_string(), "missing", &Missing { missing: *count }),
        };
    }
    text
}
