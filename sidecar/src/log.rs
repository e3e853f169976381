//! Where log lines go: people get text, platforms get one JSON object per line with `level` and `message` at the top.

use std::io::IsTerminal;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging to standard output.
pub(crate) fn start(filter: Targets) {
    let registry = tracing_subscriber::registry().with(filter);
    if std::io::stdout().is_terminal() {
        registry.with(tracing_subscriber::fmt::layer().with_target(false)).init();
    } else {
        registry.with(tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(false)).init();
    }
}
