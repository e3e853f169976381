//! Figures, their goals, and the two ways to print them.

use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::Options;
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
            Self::PerSecond => "/s",
            Self::Times => "×",
            Self::Percent => " %",
        }
    }

    fn show(self, value: f64) -> String {
        let decimals = match self {
            Self::PerSecond | Self::Percent => 0,
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
    AtLeast(f64),
    /// To two decimals.
    Exactly(f64),
}

impl Goal {
    fn met_by(self, value: f64) -> bool {
        match self {
            Self::Below(limit) => value < limit,
            Self::AtLeast(limit) => value >= limit,
            Self::Exactly(wanted) => (value - wanted).abs() < 0.005,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Below(limit) => write!(f, "< {limit}"),
            Self::AtLeast(limit) => write!(f, "≥ {limit}"),
            Self::Exactly(wanted) => write!(f, "= {wanted}"),
        }
    }
}

struct Measure {
    name: &'static str,
    value: f64,
    unit: Unit,
    goal: Option<Goal>,
}

impl Measure {
    fn show(&self) -> String {
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
}

impl Row {
    /// `id` names the row in JSON and stays the same; `label` is for people.
    pub(super) fn new(id: impl Into<String>, label: impl Into<String>) -> Self {
        Self { id: id.into(), label: label.into(), measures: Vec::new() }
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

    fn json(&self) -> Value {
        let measures = self.measures.iter().map(|measure| {
            let mut fields = json!({ "value": measure.value, "unit": measure.unit.as_str().trim() });
            if let Some(goal) = measure.goal {
                fields["goal"] = goal.to_string().into();
                fields["met"] = goal.met_by(measure.value).into();
            }
            (measure.name.to_owned(), fields)
        });
        json!({ "id": self.id, "label": self.label, "measures": measures.collect::<Map<_, _>>() })
    }
}

/// Milliseconds with their fraction.
pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Collects rows and prints them section by section, or as one document at the end.
pub(super) struct Report {
    options: Options,
    started: Instant,
    facts: Map<String, Value>,
    rows: Vec<Row>,
    /// Where the section starts that is being measured.
    section: usize,
}

impl Report {
    pub(super) fn new(options: Options) -> Self {
        Self { options, started: Instant::now(), facts: Map::new(), rows: Vec::new(), section: 0 }
    }

    /// Something to know about the run.
    pub(super) fn fact(&mut self, name: &str, value: impl Into<Value>) -> Result<()> {
        let value = value.into();
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.line(&format!("  {name:<12} {shown}"))?;
        self.facts.insert(name.replace(' ', "_"), value);
        Ok(())
    }

    /// A reason to doubt the figures.
    pub(super) fn warn(&mut self, text: &str) -> Result<()> {
        let warnings = self.facts.entry("warnings").or_insert_with(|| json!([]));
        if let Some(warnings) = warnings.as_array_mut() {
            warnings.push(text.into());
        }
        self.line(&format!("  WARNING: {text}"))
    }

    /// A remark.
    pub(super) fn note(&self, text: &str) -> Result<()> {
        self.line(&format!("  {text}"))
    }

    /// Begins a section; its rows are printed when it ends.
    pub(super) fn begin(&mut self, title: &str) -> Result<()> {
        self.section = self.rows.len();
        self.line(&format!("\n{title}"))
    }

    /// Adds a row to the section.
    pub(super) fn row(&mut self, row: Row) {
        if self.options.json && std::io::stderr().is_terminal() {
            eprintln!("  {}", row.label);
        }
        self.rows.push(row);
    }

    /// Ends a section: its rows, in columns.
    pub(super) fn end(&mut self) -> Result<()> {
        let rows = self.rows.get(self.section..).unwrap_or_default();
        let lines: Vec<(&str, Vec<String>)> =
            rows.iter().map(|row| (row.label.as_str(), row.measures.iter().map(Measure::show).collect())).collect();
        for line in columns(&lines) {
            self.line(&line)?;
        }
        self.section = self.rows.len();
        Ok(())
    }

    /// The last lines, or the document.
    pub(super) fn finish(&mut self) -> Result<()> {
        // Rows of a section that failed half way.
        self.end()?;
        let goals = self.rows.iter().flat_map(|row| row.measures.iter().map(move |measure| (row, measure)));
        let judged: Vec<_> =
            goals.filter_map(|(row, measure)| Some((row, measure, measure.goal?.met_by(measure.value)))).collect();
        let met = judged.iter().filter(|(_, _, met)| *met).count();
        let seconds = self.started.elapsed().as_secs_f64();
        let mut lines = vec![format!("\n{met} of {} goals reached, in {seconds:.0} s", judged.len())];
        lines.extend(
            judged
                .iter()
                .filter(|(_, _, met)| !met)
                .map(|(row, measure, _)| format!("  ✗ {}: {}", row.label, measure.show())),
        );
        for line in lines {
            self.line(&line)?;
        }
        if self.options.json {
            let mut document = self.facts.clone();
            document.insert("quick".to_owned(), self.options.quick.into());
            document.insert("seconds".to_owned(), seconds.into());
            document.insert("figures".to_owned(), self.rows.iter().map(Row::json).collect());
            let text = serde_json::to_string_pretty(&document)?;
            writeln!(std::io::stdout().lock(), "{text}")?;
        }
        Ok(())
    }

    /// A line for people: the result itself, or progress beside the document.
    fn line(&self, text: &str) -> Result<()> {
        if self.options.json {
            writeln!(std::io::stderr().lock(), "{text}")?;
        } else {
            writeln!(std::io::stdout().lock(), "{text}")?;
        }
        Ok(())
    }
}

/// Lines whose cells begin at the same places.
fn columns(rows: &[(&str, Vec<String>)]) -> Vec<String> {
    let width = |text: &str| text.chars().count();
    let label = rows.iter().map(|(label, _)| width(label)).max().unwrap_or(0);
    let count = rows.iter().map(|(_, cells)| cells.len()).max().unwrap_or(0);
    let cells = |column: usize| rows.iter().filter_map(move |(_, cells)| cells.get(column));
    let widths: Vec<_> = (0..count).map(|column| cells(column).map(|cell| width(cell)).max().unwrap_or(0)).collect();
    let line = |(name, cells): &(&str, Vec<String>)| {
        let mut line = format!("  {name:<label$}");
        for (cell, width) in cells.iter().zip(&widths) {
            line.push_str(&format!("   {cell:<width$}"));
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_judged_at_their_edges() {
        assert!(Goal::Below(8.0).met_by(7.99) && !Goal::Below(8.0).met_by(8.0));
        assert!(Goal::AtLeast(30_000.0).met_by(30_000.0) && !Goal::AtLeast(30_000.0).met_by(29_999.9));
        assert!(Goal::Exactly(2.0).met_by(2.004) && !Goal::Exactly(2.0).met_by(2.01));
    }

    #[test]
    fn cells_begin_at_the_same_places() {
        let rows = [
            ("a", vec!["p50 1 µs".to_owned(), "x".to_owned()]),
            ("bcd", vec!["p50 100 µs".to_owned(), "y".to_owned()]),
        ];
        assert_eq!(columns(&rows), ["  a     p50 1 µs     x", "  bcd   p50 100 µs   y"]);
    }
}
