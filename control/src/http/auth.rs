//! Who calls. People and programs present an API key, sidecars their token; neither opens the other's routes.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{StatusCode, header};
use uuid::Uuid;
use winston_wire::{SESSION_HEADER, SUPERSEDED};

use super::App;
use super::error::Problem;
use crate::db::sessions::Standing;
use crate::db::tokens::Identity;
use crate::db::{api_keys, sessions, tokens};
use crate::token::{TokenHash, bearer};

/// Longest name in `X-Winston-Actor`, in characters.
const MAX_ACTOR_CHARS: usize = 128;

/// Who is responsible for a request: the named person, or else the key.
#[derive(Debug, Clone)]
pub(crate) struct Actor(pub(crate) String);

fn presented(request: &Request) -> Result<TokenHash, Problem> {
    let mut values = request.headers().get_all(header::AUTHORIZATION).iter();
    let (value, second) = (values.next(), values.next());
    if second.is_some() {
        return Err(Problem::unauthorized("More than one Authorization header"));
    }
    bearer(value.and_then(|value| value.to_str().ok()))
        .map(TokenHash::of)
        .ok_or_else(|| Problem::unauthorized("An Authorization header with a bearer token is required"))
}

/// Lets API keys through.
pub(super) async fn people(State(app): State<App>, mut request: Request, next: Next) -> Result<Response, Problem> {
    let presented = presented(&request)?;
    let named = named_actor(&request)?;
    let key = api_keys::authenticate(&app.db, presented)
        .await?
        .ok_or_else(|| Problem::unauthorized("The API key is not valid"))?;
    request.extensions_mut().insert(Actor(named.unwrap_or(key)));
    Ok(next.run(request).await)
}

fn named_actor(request: &Request) -> Result<Option<String>, Problem> {
    let Some(value) = request.headers().get("x-winston-actor") else {
        return Ok(None);
    };
    std::str::from_utf8(value.as_bytes())
        .ok()
        .map(str::trim)
        .filter(|actor| {
            !actor.is_empty() && actor.chars().count() <= MAX_ACTOR_CHARS && !actor.chars().any(char::is_control)
        })
        .map(|actor| Some(actor.to_owned()))
        .ok_or_else(|| {
            Problem::bad("bad_actor", format!("X-Winston-Actor must be 1 to {MAX_ACTOR_CHARS} printable characters"))
        })
}

/// The sidecar process that a call comes from. A check-in says it in its body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Session(pub(super) Uuid);

/// 409 for a sidecar process that another one has taken over from.
pub(super) fn superseded() -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        SUPERSEDED,
        "Another sidecar process of this tenant checked in after this one and is served instead",
    )
}

fn session(request: &Request) -> Result<Uuid, Problem> {
    let mut values = request.headers().get_all(SESSION_HEADER).iter();
    let bad = || Problem::bad("bad_session", format!("The header {SESSION_HEADER} must be one UUID"));
    match (values.next(), values.next()) {
        (None, _) => Err(Problem::bad("missing_session", format!("The header {SESSION_HEADER} is required"))),
        (Some(value), None) => value.to_str().ok().and_then(|text| text.parse().ok()).ok_or_else(bad),
        (Some(_), Some(_)) => Err(bad()),
    }
}

/// Lets sidecar tokens through.
pub(super) async fn sidecars(State(app): State<App>, mut request: Request, next: Next) -> Result<Response, Problem> {
    identify(&app, &mut request).await?;
    Ok(next.run(request).await)
}

/// The same for every call but the check-in, and only for the process that is served.
pub(super) async fn sessions(State(app): State<App>, mut request: Request, next: Next) -> Result<Response, Problem> {
    let identity = identify(&app, &mut request).await?;
    let session = session(&request)?;
    if sessions::standing(&app.db.client().await?, identity.tenant, session).await? == Standing::Superseded {
        sessions::insisted(&app.db, identity.tenant, session).await?;
        return Err(superseded());
    }
    request.extensions_mut().insert(Session(session));
    Ok(next.run(request).await)
}

async fn identify(app: &App, request: &mut Request) -> Result<Identity, Problem> {
    let identity = tokens::authenticate(&app.db, presented(request)?)
        .await?
        .ok_or_else(|| Problem::unauthorized("The sidecar token is not valid"))?;
    request.extensions_mut().insert(identity);
    Ok(identity)
}
