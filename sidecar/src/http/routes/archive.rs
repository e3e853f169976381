//! `GET /archive/<directory>`: a part of the tree as a tar stream.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::super::body::Body;
use super::super::error::ApiError;
use super::super::pack::pack;
use super::super::query::Query;
use super::super::{App, blocking};
use super::content;
use crate::edits::Edits;
use crate::fs::TenantPath;

/// Size of a piece, in bytes.
const PIECE: usize = 64 * 1024;

/// Pieces that wait for the client.
const WAITING: usize = 2;

#[derive(Debug, Clone, Copy)]
enum Format {
    Tar,
    Gzip,
    Zstd,
}

impl Format {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "tar" => Some(Self::Tar),
            "tar.gz" => Some(Self::Gzip),
            "tar.zst" => Some(Self::Zstd),
            _ => None,
        }
    }

    const fn media_type(self) -> &'static str {
        match self {
            Self::Tar => "application/x-tar",
            Self::Gzip => "application/gzip",
            Self::Zstd => "application/zstd",
        }
    }
}

pub(in super::super) async fn archive(
    app: &App,
    encoded: &str,
    request: &Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let query = Query::parse(request.uri().query())?;
    let name = query.get("format").unwrap_or("tar");
    let format =
        Format::parse(name).ok_or_else(|| ApiError::bad_request("bad_query", "format is tar, tar.gz or tar.zst"))?;
    let all = query.flag("all")?;
    let path = TenantPath::from_url(encoded)?;
    content::permit(&app.edits, &path)?;
    let (edits, wanted) = (Arc::clone(&app.edits), path.clone());
    // What is not there is said before the first byte.
    blocking(move || edits.root().open_dir(&wanted).map(drop))
        .await
        .map_err(|error| error.not_found_as("Directory not found").about(&path))?;

    let file_name = path.split().map_or("data", |(_, name)| name);
    let (pieces, waiting) = mpsc::channel(WAITING);
    let mut response = Response::new(Body::stream(waiting));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let plain = |byte: char| if byte.is_ascii_alphanumeric() || "._-".contains(byte) { byte } else { '_' };
    let file_name: String = file_name.chars().map(plain).collect();
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{file_name}.{name}\"")) {
        headers.insert(CONTENT_DISPOSITION, value);
    }
    if request.method() == Method::GET {
        let (place, edits) = (app.streams.archive()?, Arc::clone(&app.edits));
        tokio::task::spawn_blocking(move || {
            let _place = place;
            let out = Pieces { pieces: pieces.clone(), piece: Vec::with_capacity(PIECE) };
            match write(&edits, &path, all, format, out) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                Err(error) => {
                    tracing::warn!(path = %path, %error, "an archive could not be finished");
                    // Cuts the connection: what was sent must not be taken for the whole.
                    drop(pieces.blocking_send(Err(error)));
                }
            }
        });
    }
    Ok(response)
}

fn write(edits: &Edits, path: &TenantPath, all: bool, format: Format, out: Pieces) -> io::Result<()> {
    let mut out = match format {
        Format::Tar => pack(edits, path, all, out)?,
        Format::Gzip => pack(edits, path, all, GzEncoder::new(out, Compression::default()))?.finish()?,
        Format::Zstd => pack(edits, path, all, zstd::Encoder::new(out, 3)?)?.finish()?,
    };
    out.flush()
}

/// Cuts what is written into pieces and waits while the client is behind.
struct Pieces {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        // Nobody takes it: the client has gone.
        self.pieces.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
