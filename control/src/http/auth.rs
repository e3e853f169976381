//! Who calls. People and programs present an API key, sidecars their token; neither opens the other's routes.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header;

use super::App;
use super::error::Problem;
use crate::db::{api_keys, tokens};
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

/// Lets sidecar tokens through.
pub(super) async fn sidecars(State(app): State<App>, mut request: Request, next: Next) -> Result<Response, Problem> {
    let identity = tokens::authenticate(&app.db, presented(&request)?)
        .await?
        .ok_or_else(|| Problem::unauthorized("The sidecar token is not valid"))?;
    request.extensions_mut().insert(identity);
    Ok(next.run(request).await)
}
