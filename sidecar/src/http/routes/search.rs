//! `GET /search?q=`: lines of tracked text files that contain a text.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Response;
use serde::Serialize;

use super::super::body::Body;
use super::super::error::ApiError;
use super::super::query::Query;
use super::super::search::{Line, Needle};
use super::super::{App, blocking};
use super::content;
use crate::edits::Edits;
use crate::fs::{Class, EntryKind, Found, TenantPath, Walk};

/// Matching lines in one answer.
const DEFAULT: usize = 100;
const MOST: usize = 1000;

/// Longest text to look for, in bytes.
const MOST_TEXT: usize = 256;

/// What one search may cost.
const MOST_ENTRIES: usize = 200_000;
const MOST_FILES: usize = 20_000;
const MOST_BYTES: u64 = 256 * 1024 * 1024;
const MOST_TIME: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct Answer {
    matches: Vec<Match>,
    /// What ended the search before everything was looked at: `matches`, `files`, `bytes` or `time`.
    truncated: Option<&'static str>,
}

#[derive(Serialize)]
struct Match {
    path: String,
    /// From 1.
    line: usize,
    /// Character in the line, from 1.
    column: usize,
    text: String,
}

pub(in super::super) async fn search(app: &App, query: &Query) -> Result<Response<Body>, ApiError> {
    let text = query.get("q").unwrap_or("");
    if text.is_empty() || text.len() > MOST_TEXT || text.contains(['\n', '\r', '\0']) {
        let message = format!("q is the text to look for: 1 to {MOST_TEXT} bytes of one line");
        return Err(ApiError::bad_request("bad_query", message));
    }
    let needle = Needle::new(text, query.flag("case")?);
    let (path, limit) = (TenantPath::parse(query.get("path").unwrap_or(""))?, query.limit(DEFAULT, MOST));
    content::permit(&app.edits, &path)?;
    let place = app.streams.search()?;
    let (edits, about) = (Arc::clone(&app.edits), path.clone());
    blocking(move || {
        let _place = place;
        let mut search = Search::new(&edits, &needle, limit);
        search.run(&path)?;
        super::json_or_error(&Answer { matches: search.matches, truncated: search.truncated })
    })
    .await
    .map_err(|error| error.not_found_as("Directory not found").about(&about))
}

struct Search<'a> {
    edits: &'a Edits,
    needle: &'a Needle,
    limit: usize,
    end: Instant,
    entries: usize,
    files: usize,
    bytes: u64,
    matches: Vec<Match>,
    truncated: Option<&'static str>,
}

impl<'a> Search<'a> {
    fn new(edits: &'a Edits, needle: &'a Needle, limit: usize) -> Self {
        let end = Instant::now() + MOST_TIME;
        Self { edits, needle, limit, end, entries: 0, files: 0, bytes: 0, matches: Vec::new(), truncated: None }
    }

    fn run(&mut self, path: &TenantPath) -> Result<(), ApiError> {
        let edits = self.edits;
        let descends = |path: &TenantPath, _| edits.layout().descends(path);
        let mut visit = |found: &Found<'_>| self.visit(found);
        Walk { root: edits.root(), wanted: usize::MAX, descends: &descends, visit: &mut visit }.run(path, b"")?;
        Ok(())
    }

    fn visit(&mut self, found: &Found<'_>) -> ControlFlow<()> {
        self.entries += 1;
        if self.entries > MOST_ENTRIES {
            return self.stop("files");
        }
        if Instant::now() >= self.end {
            return self.stop("time");
        }
        let tracked = |path: &&TenantPath| self.edits.layout().class(path) == Class::Tracked;
        match found.path.filter(tracked) {
            Some(path) if found.stat.kind == EntryKind::File => self.file(path, found.stat.size),
            _ => ControlFlow::Continue(()),
        }
    }

    fn file(&mut self, path: &TenantPath, size: u64) -> ControlFlow<()> {
        if size < self.needle.bytes() || size > self.edits.max_file_bytes() {
            return ControlFlow::Continue(());
        }
        if self.files == MOST_FILES {
            return self.stop("files");
        }
        if self.bytes + size > MOST_BYTES {
            return self.stop("bytes");
        }
        self.files += 1;
        self.bytes += size;
        // What cannot be read now, or is no text, has no lines.
        let opened = self.edits.root().open_file(path);
        let Ok(Some(content)) = opened.and_then(|mut opened| opened.read(self.edits.max_file_bytes())) else {
            return ControlFlow::Continue(());
        };
        if content.contains(&0) {
            return ControlFlow::Continue(());
        }
        let Ok(text) = std::str::from_utf8(&content) else { return ControlFlow::Continue(()) };
        for Line { line, column, text } in self.needle.lines(text) {
            if self.matches.len() == self.limit {
                return self.stop("matches");
            }
            self.matches.push(Match { path: path.as_str().to_owned(), line, column, text });
        }
        ControlFlow::Continue(())
    }

    fn stop(&mut self, why: &'static str) -> ControlFlow<()> {
        self.truncated = Some(why);
        ControlFlow::Break(())
    }
}
