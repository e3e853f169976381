//! Lines for the reader.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Prints lines with times, in colour only on a terminal.
#[derive(Debug)]
pub(super) struct Teller {
    colour: bool,
}

impl Teller {
    pub(super) fn new() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colour: std::io::stdout().is_terminal() && !plain }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Begins a part.
    pub(super) fn heading(&self, text: &str) {
        say(&format!("\n{}", self.paint("1", text)));
    }

    /// Something that has happened, and how long it took.
    pub(super) fn done(&self, since: Instant, text: &str) {
        say(&format!("  {} {:>8}  {text}", self.paint("32", "✓"), time(since.elapsed())));
    }

    /// Something that is about to take a while.
    pub(super) fn begin(&self, text: &str) {
        say(&format!("  {}", self.paint("2", text)));
    }

    /// A line without a time.
    pub(super) fn line(&self, text: &str) {
        say(&format!("  {text}"));
    }
}

/// Not `println!`, which panics when the terminal has gone: then things still have to be stopped.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Milliseconds below a second, seconds above.
fn time(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}
