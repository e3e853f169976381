//! What a caller is told while the gateway does not serve: no path, no word of its log, no secret, but what is happening and when to come again.

use http::header::ACCEPT;
use http::{HeaderMap, Response, StatusCode};
use serde_json::json;
use winston_wire::GatewayState;

use super::answers;
use super::body::Answer;

/// Whether requests are sent to the gateway in this state. In doubt they are: then the connection tells.
pub(super) fn serves(state: GatewayState) -> bool {
    !matches!(
        state,
        GatewayState::WaitingForConfig
            | GatewayState::Stopped
            | GatewayState::Starting
            | GatewayState::Stopping
            | GatewayState::Backoff
            | GatewayState::CrashLooping
    )
}

/// One sentence for people, and seconds until it is worth coming again.
fn story(state: GatewayState) -> (&'static str, u64) {
    match state {
        GatewayState::WaitingForConfig => {
            ("The agent has no configuration yet. It starts as soon as there is one.", 10)
        }
        GatewayState::Stopped => ("The agent was stopped by its operator.", 30),
        GatewayState::Starting => {
            ("The agent is starting. That takes about ten seconds, after an update up to some minutes.", 2)
        }
        GatewayState::Stopping => ("The agent is stopping or restarting.", 3),
        GatewayState::Backoff => ("The agent ended unexpectedly and is started again in a moment.", 2),
        GatewayState::CrashLooping => (
            "The agent ended several times soon after its start. Its operator has to look; it is tried again from time to time.",
            30,
        ),
        GatewayState::Disabled => ("No agent runs here at present.", 30),
        _ => ("The agent does not answer at present.", 3),
    }
}

/// 503: a page for browsers, JSON for programs.
pub(super) fn answer(state: GatewayState, wants_page: bool, request_id: &str) -> Response<Answer> {
    let (reason, seconds) = story(state);
    let word = serde_json::to_value(state).unwrap_or_default();
    let response = if wants_page {
        answers::page(StatusCode::SERVICE_UNAVAILABLE, page(word.as_str().unwrap_or_default(), reason, seconds))
    } else {
        let body = json!({
            "error": reason, "code": "gateway_not_ready", "state": word, "retry_after": seconds, "request_id": request_id,
        });
        answers::json(StatusCode::SERVICE_UNAVAILABLE, &body)
    };
    answers::retry_after(response, seconds)
}

/// Browsers name HTML when they go to a page; their scripts, and programs, do not.
pub(super) fn wants_page(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.any(|value| value.contains("text/html"))
}

/// `state` and `reason` are words of ours.
fn page(state: &str, reason: &str, seconds: u64) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"refresh\" content=\"{seconds}\"><title>One moment</title><style>\
         :root{{color-scheme:light dark}}body{{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:18vh auto;padding:0 1.5rem}}\
         small{{opacity:.7}}</style></head><body><h1>One moment</h1><p>{reason}</p>\
         <p><small>State: <code>{state}</code>. This page looks again by itself every {seconds} seconds.</small></p></body></html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http::header::{CONTENT_TYPE, RETRY_AFTER};

    fn told(accept: &'static str) -> Response<Answer> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        answer(GatewayState::Starting, wants_page(&headers), "r1")
    }

    #[test]
    fn browsers_get_a_page_and_programs_json() {
        for (accept, media_type) in [
            ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
            ("*/*", "application/json"),
            ("application/json", "application/json"),
        ] {
            let response = told(accept);
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()[CONTENT_TYPE], media_type, "{accept}");
            assert_eq!(response.headers()[RETRY_AFTER], "2");
        }
    }
}
