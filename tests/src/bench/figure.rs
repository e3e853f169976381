//! Figures and their goals.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::stats::Latencies;

/// What a value is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// A plain number.
    Count,
    /// 10^6 bytes.
    Megabytes,
    /// Milliseconds.
    Millis,
    /// Microseconds.
    Micros,
    /// 10^6 bytes per second.
    MegabytesPerSecond,
    /// Per second.
    PerSecond,
    /// Multiples of something.
    Times,
    /// Hundredths of something.
    Percent,
}

impl Unit {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Count => "",
            Self::Megabytes => " MB",
            Self::Millis => " ms",
            Self::Micros => " µs",
            Self::MegabytesPerSecond => " MB/s",
            Self::PerSecond => "/s",
            Self::Times => "×",
            Self::Percent => " %",
        }
    }

    fn show(self, value: f64) -> String {
        let decimals = match self {
            Self::Percent if value > 0.0 && value < 1.0 => 3,
            Self::Percent if value > 0.0 && value < 20.0 => 1,
            Self::PerSecond | Self::MegabytesPerSecond | Self::Percent => 0,
            Self::Micros => 1,
            Self::Count if value.fract() == 0.0 => 0,
            Self::Millis if value >= 100.0 => 0,
            Self::Millis if value >= 10.0 => 1,
            Self::Count | Self::Megabytes | Self::Millis | Self::Times => 2,
        };
        format!("{value:.decimals$}{}", self.as_str())
    }
}

/// What a value should be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Goal {
    Below(f64),
    AtMost(f64),
    AtLeast(f64),
    /// To two decimals.
    Exactly(f64),
}

impl Goal {
    fn met_by(self, value: f64) -> bool {
        match self {
            Self::Below(limit) => value < limit,
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
            Self::Exactly(wanted) => (value - wanted).abs() < 0.005,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Below(limit) => write!(f, "< {limit}"),
            Self::AtMost(limit) => write!(f, "≤ {limit}"),
            Self::AtLeast(limit) => write!(f, "≥ {limit}"),
            Self::Exactly(wanted) => write!(f, "= {wanted}"),
        }
    }
}

/// One value of a row.
pub(super) struct Measure {
    name: &'static str,
    value: f64,
    unit: Unit,
    goal: Option<Goal>,
}

impl Measure {
    /// Whether its goal is reached, if it has one.
    pub(super) fn met(&self) -> Option<bool> {
        Some(self.goal?.met_by(self.value))
    }

    /// `rate 12/s ✓ (≥ 10)`.
    pub(super) fn show(&self) -> String {
        let value = self.unit.show(self.value);
        match self.goal {
            None => format!("{} {value}", self.name),
            Some(goal) => format!("{} {value} {} ({goal})", self.name, tick(goal.met_by(self.value))),
        }
    }
}

fn tick(met: bool) -> char {
    if met { '✓' } else { '✗' }
}

/// One line: a thing that was measured, with its values.
pub(super) struct Row {
    id: String,
    label: String,
    measures: Vec<Measure>,
    beside: Option<&'static str>,
}

impl Row {
    /// `id` names the row in JSON and stays the same; `label` is for people.
    pub(super) fn new(id: impl Into<String>, label: impl Into<String>) -> Self {
        Self { id: id.into(), label: label.into(), measures: Vec::new(), beside: None }
    }

    /// What was measured beside it in the same run, and so what a missed goal of this row means.
    pub(super) fn beside(mut self, what: &'static str) -> Self {
        self.beside = Some(what);
        self
    }

    /// The label.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// The values, in order.
    pub(super) fn measures(&self) -> &[Measure] {
        &self.measures
    }

    /// What a missed goal of this row means.
    pub(super) fn meaning(&self) -> &'static str {
        self.beside.unwrap_or("not set against anything: what it says depends on the machine above")
    }

    /// Adds a value.
    pub(super) fn value(self, name: &'static str, value: f64, unit: Unit) -> Self {
        self.push(name, value, unit, None)
    }

    /// Adds a value that has a goal.
    pub(super) fn goal(self, name: &'static str, value: f64, unit: Unit, goal: Goal) -> Self {
        self.push(name, value, unit, Some(goal))
    }

    /// Adds the usual percentiles.
    pub(super) fn latencies(self, latencies: &Latencies) -> Self {
        self.value("p50", millis(latencies.percentile(50)), Unit::Millis).tail(latencies, None)
    }

    /// Adds the usual percentiles, with a goal for the 99th.
    pub(super) fn latencies_p99(self, latencies: &Latencies, goal: Goal) -> Self {
        self.value("p50", millis(latencies.percentile(50)), Unit::Millis).tail(latencies, Some(goal))
    }

    fn tail(self, latencies: &Latencies, goal: Option<Goal>) -> Self {
        self.value("p95", millis(latencies.percentile(95)), Unit::Millis)
            .push("p99", millis(latencies.percentile(99)), Unit::Millis, goal)
            .value("max", millis(latencies.percentile(100)), Unit::Millis)
    }

    fn push(mut self, name: &'static str, value: f64, unit: Unit, goal: Option<Goal>) -> Self {
        self.measures.push(Measure { name, value, unit, goal });
        self
    }

    /// As JSON.
    pub(super) fn json(&self) -> Value {
        let measures = self.measures.iter().map(|measure| {
            let mut fields = json!({ "value": measure.value, "unit": measure.unit.as_str().trim() });
            if let Some(goal) = measure.goal {
                fields["goal"] = goal.to_string().into();
                fields["met"] = goal.met_by(measure.value).into();
            }
            (measure.name.to_owned(), fields)
        });
        let measures = measures.collect::<Map<_, _>>();
        json!({ "id": self.id, "label": self.label, "measures": measures, "beside": self.beside })
    }
}

/// Milliseconds with their fraction.
pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_judged_at_their_edges() {
        assert!(Goal::Below(8.0).met_by(7.99) && !Goal::Below(8.0).met_by(8.0));
        assert!(Goal::AtMost(1.3).met_by(1.3) && !Goal::AtMost(1.3).met_by(1.31));
        assert!(Goal::AtLeast(30_000.0).met_by(30_000.0) && !Goal::AtLeast(30_000.0).met_by(29_999.9));
        assert!(Goal::Exactly(2.0).met_by(2.004) && !Goal::Exactly(2.0).met_by(2.01));
    }

    #[test]
    fn small_shares_are_not_rounded_to_nothing() {
        assert_eq!(Unit::Percent.show(0.0123), "0.012 %");
        assert_eq!(Unit::Percent.show(9.87), "9.9 %");
        assert_eq!(Unit::Percent.show(81.4), "81 %");
        assert_eq!(Unit::Percent.show(0.0), "0 %");
    }

    #[test]
    fn what_a_row_is_set_against_is_told() {
        let row = Row::new("a", "A").goal("of it", 70.0, Unit::Percent, Goal::AtLeast(80.0)).beside("a bare loop");
        assert_eq!(row.meaning(), "a bare loop");
        assert_eq!(row.measures()[0].met(), Some(false));
        assert_eq!(row.measures()[0].show(), "of it 70 % ✗ (≥ 80)");
        let json = row.json();
        assert_eq!(json["beside"], "a bare loop");
        assert_eq!(json["measures"]["of it"]["met"], false);
    }
}
