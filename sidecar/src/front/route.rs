//! Whose a path is.
//!
//! | Path | Goes to |
//! |---|---|
//! | `/healthz` | us: the platform's question whether this container serves |
//! | `/winston/…` | the sidecar's own API |
//! | `/setup`, `/setup/…` | the operator's pages |
//! | a webhook of Telegram | the gateway's listener for it |
//! | a path that amounts to one of ours in another spelling | nobody |
//! | anything else | the gateway |

/// Where a webhook arrives and where the gateway listens for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Webhook {
    pub(super) path: String,
    /// On loopback.
    pub(super) port: u16,
}

/// Where OpenClaw listens for Telegram unless it is told otherwise.
pub(super) const TELEGRAM_PATH: &str = "/telegram-webhook";
pub(super) const TELEGRAM_PORT: u16 = 8787;

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Health,
    /// What follows `/winston`, with its slash.
    Winston(&'a str),
    /// What follows `/setup`, with its slash.
    Setup(&'a str),
    /// Port on loopback.
    Webhook(u16),
    Gateway,
    Nobody,
}

/// First components that are never the gateway's.
const OURS: [&str; 2] = ["winston", "setup"];

/// Decides about a path as it was sent, without its query.
pub(super) fn route<'a>(path: &'a str, webhooks: &[Webhook]) -> Route<'a> {
    if path == "/healthz" {
        return Route::Health;
    }
    let below = |name: &str| path.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    if let Some(rest) = below("/winston") {
        return Route::Winston(rest);
    }
    if let Some(rest) = below("/setup") {
        return Route::Setup(rest);
    }
    // Whatever another reader could take for one of ours goes nowhere: it would arrive with our caller's credentials.
    if amounts_to_ours(path) {
        return Route::Nobody;
    }
    match webhooks.iter().find(|webhook| webhook.path == path) {
        Some(webhook) => Route::Webhook(webhook.port),
        None => Route::Gateway,
    }
}

fn amounts_to_ours(path: &str) -> bool {
    let odd =
        path.bytes().any(|byte| matches!(byte, b'%' | b'\\' | b';')) || path.contains("//") || path.contains("/.");
    if !odd {
        return path.split('/').nth(1).is_some_and(is_ours);
    }
    let decoded = decoded(path);
    let mut components: Vec<&str> = Vec::new();
    for component in decoded.split(['/', '\\']) {
        match component.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(components.pop()),
            name => components.push(name),
        }
    }
    components.first().copied().is_some_and(is_ours)
}

fn is_ours(component: &str) -> bool {
    OURS.iter().any(|ours| component.eq_ignore_ascii_case(ours))
}

/// Percent-decoded until nothing changes, at most three times.
fn decoded(path: &str) -> String {
    let mut text = path.to_owned();
    for _ in 0..3 {
        let next = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned();
        if next == text {
            break;
        }
        text = next;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_one_owner() {
        let hooks = [
            Webhook { path: TELEGRAM_PATH.to_owned(), port: TELEGRAM_PORT },
            Webhook { path: "/hooks/second".to_owned(), port: 8788 },
        ];
        for (path, wanted) in [
            ("/healthz", Route::Health),
            ("/healthz/", Route::Gateway),
            ("/healthz2", Route::Gateway),
            ("/health", Route::Gateway),
            ("/readyz", Route::Gateway),
            ("/winston", Route::Winston("")),
            ("/winston/", Route::Winston("/")),
            ("/winston/files/", Route::Winston("/files/")),
            ("/winston/no/such", Route::Winston("/no/such")),
            ("/winston/..%2f..%2fv1/models", Route::Winston("/..%2f..%2fv1/models")),
            ("/winstonx", Route::Gateway),
            ("/setup", Route::Setup("")),
            ("/setup/api/status", Route::Setup("/api/status")),
            ("/setup/no/such", Route::Setup("/no/such")),
            ("/setups", Route::Gateway),
            ("/setup.html", Route::Gateway),
            ("/telegram-webhook", Route::Webhook(TELEGRAM_PORT)),
            ("/telegram-webhook/", Route::Gateway),
            ("/hooks/second", Route::Webhook(8788)),
            ("/hooks/agent", Route::Gateway),
            ("/", Route::Gateway),
            ("", Route::Gateway),
            ("/v1/chat/completions", Route::Gateway),
            ("/assets/winston/x.js", Route::Gateway),
            ("/a/../b", Route::Gateway),
            ("/..", Route::Gateway),
            ("/%", Route::Gateway),
            // Ours in disguise.
            ("//winston/files/", Route::Nobody),
            ("/./winston/files/", Route::Nobody),
            ("/x/../winston/files/", Route::Nobody),
            ("/x/%2e%2e/winston/files/", Route::Nobody),
            ("/%77inston/files/", Route::Nobody),
            ("/%2577inston/files/", Route::Nobody),
            ("/WINSTON/files/", Route::Nobody),
            ("/winston;a=b/files/", Route::Nobody),
            ("/winston%2ffiles/", Route::Nobody),
            ("/\\winston\\files", Route::Nobody),
            ("/Setup/api/status", Route::Nobody),
            ("/setup%2fapi/status", Route::Nobody),
            ("/a//../setup", Route::Nobody),
        ] {
            assert_eq!(route(path, &hooks), wanted, "{path}");
        }
    }

    #[test]
    fn a_webhook_cannot_take_what_is_ours() {
        let greedy = ["/healthz", "/winston/files/", "/setup", "/%77inston"]
            .map(|path| Webhook { path: path.to_owned(), port: 1 });
        for hook in &greedy {
            assert!(!matches!(route(&hook.path, &greedy), Route::Webhook(_)), "{}", hook.path);
        }
    }
}
