//! `/api/sidecar/contents`: bytes by hash, one in a request or many.

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use winston_wire::{ContentHash, ContentsAnswer, RefusedContent};

use super::super::App;
use super::super::budget::Kind;
use super::super::error::{Problem, sentence};
use super::super::extract::Raw;
use crate::db::contents;
use crate::db::tokens::Identity;

/// Why a content is not taken: it is not what its hash says.
const HASH_MISMATCH: &str = "hash_mismatch";
/// Why a content is not taken: it is over the limit for files.
const TOO_LARGE: &str = "too_large";

fn content_hash(text: &str) -> Result<ContentHash, Problem> {
    text.parse().map_err(|error: winston_wire::ParseHashError| Problem::bad("bad_hash", sentence(&error.to_string())))
}

fn hash_of(content: &[u8]) -> ContentHash {
    ContentHash::from_bytes(Sha256::digest(content).into())
}

/// Stores a content under its hash.
pub(in super::super) async fn put(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    Path(hash): Path<String>,
    Raw(body): Raw,
) -> Result<StatusCode, Problem> {
    let hash = content_hash(&hash)?;
    let actual = hash_of(&body);
    if actual != hash {
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, HASH_MISMATCH, "The body does not have this hash")
            .with("actual_hash", json!(actual)));
    }
    contents::put_upload(&app.db.client().await?, identity.tenant, &hash, &body).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Stores each content of a row of frames whose hash is right; all of them or, when something fails, none.
pub(in super::super) async fn put_many(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    Raw(body): Raw,
) -> Result<Json<ContentsAnswer>, Problem> {
    let frames =
        winston_wire::frames(&body).map_err(|error| Problem::bad("bad_frames", sentence(&error.to_string())))?;
    let (right, refused) = judge(frames, app.limits.max_file_bytes);
    contents::put_uploads(&app.db.client().await?, identity.tenant, &right).await?;
    Ok(Json(ContentsAnswer { stored: right.into_iter().map(|(hash, _)| hash).collect(), refused }))
}

/// What is to be stored, and what is not. A content that comes twice is stored once.
fn judge(frames: Vec<(ContentHash, &[u8])>, max_bytes: usize) -> (Vec<(ContentHash, &[u8])>, Vec<RefusedContent>) {
    let (mut right, mut refused) = (Vec::with_capacity(frames.len()), Vec::new());
    for (hash, content) in frames {
        let code = match content {
            _ if content.len() > max_bytes => TOO_LARGE,
            _ if hash_of(content) != hash => HASH_MISMATCH,
            _ => {
                right.push((hash, content));
                continue;
            }
        };
        refused.push(RefusedContent { hash, code: code.to_owned() });
    }
    // Two requests with the same contents in another order would wait for each other's rows.
    right.sort_unstable_by_key(|(hash, _)| *hash);
    right.dedup_by_key(|(hash, _)| *hash);
    (right, refused)
}

/// A content of this tenant.
pub(in super::super) async fn get(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    Path(hash): Path<String>,
) -> Result<Response, Problem> {
    let hash = content_hash(&hash)?;
    let missing = || Problem::not_found("There is no such content");
    let size = contents::size(&app.db, identity.tenant, &hash).await?.ok_or_else(missing)?;
    let taken = app.budget.take(Some((identity.tenant, Kind::Content)), size).await?;
    let content = contents::get(&app.db, identity.tenant, &hash).await?.ok_or_else(missing)?;
    let octets = HeaderValue::from_static("application/octet-stream");
    Ok(([(header::CONTENT_TYPE, octets)], taken.answer(content)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_its_hash_says_and_fits_is_stored_and_each_once() {
        let (one, two, large) = (b"one".as_slice(), b"two".as_slice(), b"larger".as_slice());
        let frames = vec![(hash_of(two), two), (hash_of(one), two), (hash_of(large), large), (hash_of(two), two)];
        let (right, refused) = judge(frames, 5);
        assert_eq!(right, [(hash_of(two), two)]);
        let refused: Vec<_> = refused.iter().map(|refused| (refused.hash, refused.code.as_str())).collect();
        assert_eq!(refused, [(hash_of(one), HASH_MISMATCH), (hash_of(large), TOO_LARGE)]);
    }
}
