//! `/api/tenants/{id}/files`: the current files from history, and pushes.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;
use winston_wire::{ContentHash, MAX_PATH_BYTES};

use super::super::App;
use super::super::auth::Actor;
use super::super::error::Problem;
use super::super::extract::{Args, Raw, TenantFile, TenantId, json as parse_json, limit, too_large};
use crate::db::desired::{Expect, Outcome, Push};
use crate::db::{contents, desired, files, history, tenants};

const OCTETS: &str = "application/octet-stream";

#[derive(Deserialize)]
pub(in super::super) struct ListArgs {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    after: String,
    limit: Option<i64>,
}

/// Current files, by path.
pub(in super::super) async fn list(
    State(app): State<App>,
    TenantId(tenant): TenantId,
    Args(args): Args<ListArgs>,
) -> Result<Json<Value>, Problem> {
    let limit = limit(args.limit, 1000, 10_000)?;
    for text in [&args.prefix, &args.after] {
        if text.len() > MAX_PATH_BYTES || text.contains('\0') {
            return Err(Problem::bad("bad_query", "prefix and after must be paths"));
        }
    }
    let files = files::list(&app.db, tenant, &args.prefix, &args.after, limit).await?;
    if files.is_empty() && !tenants::exists(&app.db, tenant).await? {
        return Err(Problem::no_tenant());
    }
    let next = (files.len() as i64 == limit).then(|| files.last().map(|file| file.path.clone())).flatten();
    Ok(Json(json!({"count": files.len(), "files": files, "next": next})))
}

#[derive(Deserialize)]
pub(in super::super) struct ReadArgs {
    version: Option<i64>,
}

/// The version that a read answers with.
struct Found {
    hash: ContentHash,
    modified: Timestamp,
    source: String,
    version: Option<i64>,
    pending: bool,
}

/// One file, now or as it was in a version.
pub(in super::super) async fn read(
    State(app): State<App>,
    TenantFile(tenant, path): TenantFile,
    Args(args): Args<ReadArgs>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let found = match args.version {
        Some(id) => history::version(&app.db, tenant, &path, id).await?.and_then(|version| {
            Some(Found {
                hash: version.hash?,
                modified: version.modified,
                source: version.source,
                version: Some(version.id),
                pending: false,
            })
        }),
        None => current(&app, tenant, &path).await?,
    };
    let Some(found) = found else {
        return Err(if tenants::exists(&app.db, tenant).await? {
            Problem::not_found("File not found").with("path", path)
        } else {
            Problem::no_tenant()
        });
    };
    let etag = etag(&found.hash)?;
    if headers.get(header::IF_NONE_MATCH).is_some_and(|value| value == etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    let missing = || no_content(&path, Some(found.hash));
    let size = contents::size(&app.db, tenant, &found.hash).await?.ok_or_else(missing)?;
    let taken = app.budget.take(None, size).await?;
    let content = contents::get(&app.db, tenant, &found.hash).await?.ok_or_else(missing)?;
    let raw =
        headers.get_all(header::ACCEPT).iter().any(|value| value.to_str().is_ok_and(|accept| accept.contains(OCTETS)));
    if raw {
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static(OCTETS)),
            (header::ETAG, etag),
            // Tenant files are never to be run by a browser.
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        ];
        return Ok((headers, taken.answer(content)).into_response());
    }
    let mut body = json!({
        "path": path,
        "size": content.len(),
        "modified": found.modified,
        "hash": found.hash,
        "version": found.version,
        "source": found.source,
        "pending": found.pending,
    });
    match String::from_utf8(content) {
        Ok(text) => body["content"] = text.into(),
        Err(error) => body["content_base64"] = BASE64.encode(error.as_bytes()).into(),
    }
    let json = HeaderValue::from_static("application/json");
    let headers = [(header::ETAG, etag), (header::CONTENT_TYPE, json)];
    Ok((headers, taken.answer(body.to_string().into_bytes())).into_response())
}

async fn current(app: &App, tenant: Uuid, path: &str) -> Result<Option<Found>, Problem> {
    let Some(file) = files::current(&app.db.client().await?, tenant, path).await? else {
        return Ok(None);
    };
    let Some(hash) = file.hash else {
        return if file.content_omitted { Err(no_content(path, None)) } else { Ok(None) };
    };
    Ok(Some(Found { hash, modified: file.modified, source: file.source, version: file.version, pending: file.pending }))
}

fn no_content(path: &str, hash: Option<ContentHash>) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "content_omitted",
        "The file exists, but it was over the size limit, so its content is only on the tenant's disk",
    )
    .with("path", path)
    .with("hash", json!(hash))
}

fn etag(hash: &ContentHash) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(&format!("\"{hash}\"")).map_err(|_| Problem::bad("bad_hash", "The hash is not a hash"))
}

#[derive(Deserialize)]
pub(in super::super) struct PushArgs {
    #[serde(default)]
    force: bool,
    /// The body is a merge patch: keys that control owns from then on.
    #[serde(default)]
    merge: bool,
}

#[derive(Deserialize)]
struct PushBody {
    content: Option<String>,
    content_base64: Option<String>,
}

/// Pushes a file: it becomes a version here at once, and the sidecar puts it on disk.
pub(in super::super) async fn push(
    State(app): State<App>,
    Extension(Actor(actor)): Extension<Actor>,
    TenantFile(tenant, path): TenantFile,
    Args(args): Args<PushArgs>,
    headers: HeaderMap,
    Raw(body): Raw,
) -> Result<Json<Value>, Problem> {
    let expect = expect(&headers, args.force)?;
    let content = content(&headers, body)?;
    if content.len() > app.limits.max_file_bytes {
        return Err(too_large());
    }
    if args.merge {
        may_own(&path, expect)?;
        let patch: Result<Value, _> = serde_json::from_slice(&content);
        if !patch.is_ok_and(|patch| patch.is_object()) {
            return Err(Problem::bad("bad_patch", "A merge patch of owned keys is a JSON object"));
        }
    }
    let file = Push { path: &path, content: Some(&content), expect, merge: args.merge };
    answer(&app, tenant, &actor, file, content.len()).await
}

/// Pushes the absence of a file.
pub(in super::super) async fn push_delete(
    State(app): State<App>,
    Extension(Actor(actor)): Extension<Actor>,
    TenantFile(tenant, path): TenantFile,
    Args(args): Args<PushArgs>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    let mut expect = expect(&headers, args.force)?;
    if args.merge {
        may_own(&path, expect)?;
        let file = Push { path: &path, content: None, expect, merge: true };
        return answer(&app, tenant, &actor, file, 0).await;
    }
    // What does not exist needs no delete, and saying so is more use than a push without effect.
    let seen = files::known(&app.db.client().await?, tenant, &path).await?;
    if expect == Expect::Latest {
        if !seen.present {
            return Err(if tenants::exists(&app.db, tenant).await? {
                Problem::not_found("File not found").with("path", path)
            } else {
                Problem::no_tenant()
            });
        }
        expect = Expect::Present;
    }
    let file = Push { path: &path, content: None, expect, merge: false };
    answer(&app, tenant, &actor, file, 0).await
}

/// Keys are owned in the gateway's configuration only, whatever is in it.
fn may_own(path: &str, expect: Expect) -> Result<(), Problem> {
    if !path.ends_with("/openclaw.json") {
        return Err(Problem::bad("bad_path", "Keys can be owned in openclaw.json only"));
    }
    if expect != Expect::Latest {
        return Err(Problem::bad("bad_precondition", "Owned keys hold for every version of the file"));
    }
    Ok(())
}

async fn answer(app: &App, tenant: Uuid, actor: &str, file: Push<'_>, size: usize) -> Result<Json<Value>, Problem> {
    let (path, merge) = (file.path, file.merge);
    match desired::push(&app.db, tenant, actor, &[file]).await? {
        Outcome::Pushed(pushed) => {
            let pushed = pushed.first();
            Ok(Json(json!({
                "success": true,
                "path": path,
                "size": size,
                "hash": pushed.and_then(|pushed| pushed.hash),
                "generation": pushed.map(|pushed| pushed.generation),
                "version": pushed.and_then(|pushed| pushed.version),
                "merge": merge,
            })))
        }
        Outcome::Mismatch { current } => Err(Problem::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            "The file is not the version that the request names",
        )
        .with("current_hash", json!(current))
        .with("path", path)),
        Outcome::NoTenant => Err(Problem::no_tenant()),
    }
}

/// The bytes of a push: raw for an octet stream, otherwise a JSON object with one of two keys.
fn content(headers: &HeaderMap, body: Bytes) -> Result<Bytes, Problem> {
    let raw = headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(OCTETS.as_bytes()));
    if raw {
        return Ok(body);
    }
    let body: PushBody = parse_json(&body)?;
    decoded(body.content, body.content_base64)
}

/// The bytes that a JSON body gives in one of two ways.
pub(super) fn decoded(content: Option<String>, content_base64: Option<String>) -> Result<Bytes, Problem> {
    match (content, content_base64) {
        (Some(text), None) => Ok(text.into()),
        (None, Some(text)) => {
            BASE64.decode(text).map(Bytes::from).map_err(|_| Problem::bad("bad_json", "content_base64 is not base64"))
        }
        _ => Err(Problem::bad("bad_json", "The body must have either content or content_base64")),
    }
}

/// What the request says about the version that it replaces.
fn expect(headers: &HeaderMap, force: bool) -> Result<Expect, Problem> {
    let one = |name: &HeaderName| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => value.to_str().map(|text| Some(text.trim())).map_err(drop),
            _ => Err(()),
        }
    };
    let bad = |()| Problem::bad("bad_precondition", "If-Match must be one quoted hash or *, If-None-Match must be *");
    let if_match = one(&header::IF_MATCH).map_err(bad)?;
    let if_none_match = one(&header::IF_NONE_MATCH).map_err(bad)?;
    match (if_match, if_none_match, force) {
        (None, None, true) => Ok(Expect::Force),
        (None, None, false) => Ok(Expect::Latest),
        (Some("*"), None, false) => Ok(Expect::Present),
        (None, Some("*"), false) => Ok(Expect::Absent),
        (Some(tag), None, false) => tag
            .strip_prefix('"')
            .and_then(|tag| tag.strip_suffix('"'))
            .unwrap_or(tag)
            .parse()
            .map(Expect::Hash)
            .map_err(|_| bad(())),
        (_, _, true) => Err(Problem::bad("bad_precondition", "force and a precondition contradict each other")),
        _ => Err(bad(())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[test]
    fn preconditions_are_read_or_refused_but_never_ignored() {
        let hash = ContentHash::from_bytes([9; 32]);
        let quoted = format!("\"{hash}\"");
        type Headers<'a> = &'a [(&'static str, &'a str)];
        let cases: [(Headers<'_>, bool, Option<Expect>); 8] = [
            (&[], false, Some(Expect::Latest)),
            (&[], true, Some(Expect::Force)),
            (&[("if-match", &quoted)], false, Some(Expect::Hash(hash))),
            (&[("if-match", "*")], false, Some(Expect::Present)),
            (&[("if-none-match", "*")], false, Some(Expect::Absent)),
            (&[("if-match", "\"soon\"")], false, None),
            (&[("if-none-match", &quoted)], false, None),
            (&[("if-match", &quoted)], true, None),
        ];
        for (pairs, force, expected) in cases {
            assert_eq!(expect(&headers(pairs), force).ok(), expected, "{pairs:?}");
        }
    }
}
