//! The two ways to print figures.

use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::Options;
use super::figure::Measure;
pub(super) use super::figure::{Goal, Row, Unit, millis};

/// What is said when goals were missed.
const MISSED: &str = "A missed goal fails nothing. It is a figure that is worse than it should be against what was measured beside it in this run,
which each line below names; where nothing was, it may be the machine that is slower than the goal supposes.";

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

    /// What the command line says.
    pub(super) fn options(&self) -> Options {
        self.options
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

    /// Says on stderr what takes long now.
    pub(super) fn progress(&self, what: &str) {
        eprintln!("  … {:.0} s: {what}", self.started.elapsed().as_secs_f64());
    }

    /// Adds a row to the section.
    pub(super) fn row(&mut self, row: Row) {
        if self.options.json && std::io::stderr().is_terminal() {
            eprintln!("  {}", row.label());
        }
        self.rows.push(row);
    }

    /// Ends a section: its rows, in columns.
    pub(super) fn end(&mut self) -> Result<()> {
        let rows = self.rows.get(self.section..).unwrap_or_default();
        let lines: Vec<(&str, Vec<String>)> =
            rows.iter().map(|row| (row.label(), row.measures().iter().map(Measure::show).collect())).collect();
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
        let goals = self.rows.iter().flat_map(|row| row.measures().iter().map(move |measure| (row, measure)));
        let judged: Vec<_> = goals.filter_map(|(row, measure)| Some((row, measure, measure.met()?))).collect();
        let missed: Vec<_> = judged.iter().filter(|(_, _, met)| !met).collect();
        let seconds = self.started.elapsed().as_secs_f64();
        let met = judged.len() - missed.len();
        let mut lines = vec![format!("\n{met} of {} goals reached, in {seconds:.0} s", judged.len())];
        lines.extend((!missed.is_empty()).then(|| MISSED.to_owned()));
        for (row, measure, _) in missed {
            lines.push(format!("  ✗ {}: {}", row.label(), measure.show()));
            lines.push(format!("      {}", row.meaning()));
        }
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
    fn cells_begin_at_the_same_places() {
        let rows = [
            ("a", vec!["p50 1 µs".to_owned(), "x".to_owned()]),
            ("bcd", vec!["p50 100 µs".to_owned(), "y".to_owned()]),
        ];
        assert_eq!(columns(&rows), ["  a     p50 1 µs     x", "  bcd   p50 100 µs   y"]);
    }
}
