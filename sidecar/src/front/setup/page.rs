//! The page of `/setup`.

use super::super::client::Caller;
use super::super::server::Front;

pub(super) fn page(front: &Front, caller: &Caller) -> String {
    let known = front.shared.known();
    let gateway = front.app.gateway.status();
    let state = serde_json::to_value(gateway.state).ok().and_then(|word| word.as_str().map(str::to_owned));
    let missing: String = known.view.advice.iter().map(|line| format!("<li>{}</li>", escaped(line))).collect();
    let missing = if missing.is_empty() {
        String::new()
    } else {
        format!("<h2>To do</h2><p>In <code>openclaw.json</code>:</p><ul>{missing}</ul>")
    };
    let insecure = if caller.secure {
        ""
    } else {
        "<p><strong>This page did not come over TLS.</strong> Browsers give the control UI no device key without it, except on localhost.</p>"
    };
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Agent</title><style>:root{{color-scheme:light dark}}body{{font:16px/1.5 system-ui,sans-serif;max-width:42rem;\
         margin:8vh auto;padding:0 1.5rem}}</style></head><body><h1>Agent</h1>\
         <p>Gateway: <code>{}</code>. {}</p>{insecure}\
         <p>You are signed in for twelve hours. The first time that this browser opens the <a href=\"/\">control UI</a> and you give it the \
         gateway's token there, its device is approved by itself.</p>{missing}\
         <p><a href=\"/setup/export\">Download a backup</a></p></body></html>\n",
        escaped(&state.unwrap_or_default()),
        escaped(&gateway.reason),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
