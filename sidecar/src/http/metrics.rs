//! Figures in the Prometheus text format (version 0.0.4).
//!
//! There is no registry: whoever owns a figure keeps it, and [`Text`] writes what the handler has collected. Names begin with
//! `winston_`, counters end in `_total`, sizes are bytes and times are seconds.

use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;

/// Media type of the format.
pub(super) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a figure is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Only grows, from zero at each start.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A text in the making.
#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    /// Begins a figure; its values follow.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
        Family { text: self, name: name.to_owned() }
    }

    /// A figure with one value.
    pub(super) fn single(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help).value(&[], value);
    }

    /// The finished text.
    pub(super) fn finish(self) -> String {
        self.0
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing into a string cannot fail.
        let _ = writeln!(self.0, "{line}");
    }
}

/// One figure with its values.
pub(super) struct Family<'a> {
    text: &'a mut Text,
    name: String,
}

impl Family<'_> {
    /// Adds a value. Label values are escaped, label names and `value` are ours.
    pub(super) fn value(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let name = &self.name;
        self.text.line(format_args!("{name}{labels} {value}"));
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Classes of answers: 1xx to 5xx.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Counts answers.
#[derive(Default)]
pub(crate) struct HttpCounters([AtomicU64; CLASSES.len()]);

impl HttpCounters {
    /// Counts an answer.
    pub(super) fn count(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(counter) = self.0.get(class) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Answers so far by class of status.
    pub(super) fn answers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CLASSES.into_iter().zip(self.0.iter().map(|counter| counter.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_as_the_format_wants() {
        let mut text = Text::default();
        text.single("winston_a_total", Kind::Counter, "One.", 7);
        let mut family = text.family("winston_b", Kind::Gauge, "Two.");
        family.value(&[("state", "a\"b\\c\nd"), ("x", "y")], 1);
        family.value(&[("state", "z")], 0.5);
        let wanted = "# HELP winston_a_total One.\n# TYPE winston_a_total counter\nwinston_a_total 7\n\
            # HELP winston_b Two.\n# TYPE winston_b gauge\n\
            winston_b{state=\"a\\\"b\\\\c\\nd\",x=\"y\"} 1\nwinston_b{state=\"z\"} 0.5\n";
        assert_eq!(text.finish(), wanted);
    }

    #[test]
    fn answers_are_counted_by_class() {
        let counters = HttpCounters::default();
        for status in [StatusCode::OK, StatusCode::PARTIAL_CONTENT, StatusCode::NOT_FOUND] {
            counters.count(status);
        }
        let counted: Vec<_> = counters.answers().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("2xx", 2), ("4xx", 1)]);
    }
}
