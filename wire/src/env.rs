//! How every process reads its environment: whole, with each mistake reported at once.
//!
//! A process declares its variables as a table of [`Variable`]s. The table is the single source of `--help`, of
//! `--variables` and (compared by a test) of `docs/CONFIGURATION.md`. [`Reader`] looks values up through a function,
//! so parsing is pure; it refuses to look up a name that the table does not have.

use std::fmt;
use std::str::FromStr;

/// One environment variable of a process.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Name as the process reads it.
    pub name: &'static str,
    /// Default as a person would write it; `required` when there is none, empty when unset means "off".
    pub default: &'static str,
    /// What it sets, in one sentence, with the unit.
    pub meaning: &'static str,
}

/// A value that must not be printed. `Debug` shows only that there is one; it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself; the call sites are the places to review.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Returns the raw value of a variable.
type Lookup<'a> = Box<dyn Fn(&str) -> Option<String> + 'a>;

/// Reads variables and collects every mistake.
pub struct Reader<'a> {
    table: &'a [Variable],
    lookup: Lookup<'a>,
    mistakes: Vec<String>,
}

impl<'a> Reader<'a> {
    /// `lookup` returns the raw value of a variable; an empty value counts as unset.
    #[must_use]
    pub fn new(table: &'a [Variable], lookup: impl Fn(&str) -> Option<String> + 'a) -> Self {
        Self { table, lookup: Box::new(lookup), mistakes: Vec::new() }
    }

    /// The value, if it is set and not empty.
    pub fn text(&mut self, name: &str) -> Option<String> {
        debug_assert!(self.table.iter().any(|variable| variable.name == name), "{name} is not in the table");
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    /// The value, or a mistake and `None` when it is not set.
    pub fn required(&mut self, name: &str) -> Option<String> {
        let value = self.text(name);
        if value.is_none() {
            self.mistake(format!("{name} is not set"));
        }
        value
    }

    /// The parsed value; a mistake when it does not parse. `expected` completes "must be …".
    pub fn parsed<T: FromStr>(&mut self, name: &str, expected: &str) -> Option<T> {
        let text = self.text(name)?;
        let value = text.trim().parse().ok();
        if value.is_none() {
            self.mistake(format!("{name} must be {expected}"));
        }
        value
    }

    /// Notes a mistake that only the caller can see. Never put a secret into it.
    pub fn mistake(&mut self, text: impl Into<String>) {
        self.mistakes.push(text.into());
    }

    /// Every mistake so far, in the order in which they were found.
    #[must_use]
    pub fn finish(self) -> Vec<String> {
        self.mistakes
    }
}

/// The table as aligned lines for `--help`: name, meaning and default.
#[must_use]
pub fn help(table: &[Variable]) -> String {
    let width = table.iter().map(|variable| variable.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for variable in table {
        let default = match variable.default {
            "" => String::new(),
            "required" => " [required]".to_owned(),
            default => format!(" [default: {default}]"),
        };
        text.push_str(&format!("  {:width$}  {}{default}\n", variable.name, variable.meaning));
    }
    text
}

/// The table as the rows of `docs/CONFIGURATION.md`, for `--variables`.
#[must_use]
pub fn markdown(table: &[Variable]) -> String {
    let row = |variable: &Variable| {
        let default = match variable.default {
            "" => "–".to_owned(),
            "required" => "**required**".to_owned(),
            default => format!("`{default}`"),
        };
        format!("| `{}` | {default} | {} |\n", variable.name, variable.meaning)
    };
    table.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Variable] = &[
        Variable { name: "TOKEN", default: "required", meaning: "Bearer token." },
        Variable { name: "PORT", default: "18790", meaning: "Port." },
    ];

    #[test]
    fn every_mistake_is_reported() {
        let mut reader = Reader::new(TABLE, |name| (name == "PORT").then(|| "many".to_owned()));
        assert_eq!(reader.required("TOKEN"), None);
        assert_eq!(reader.parsed::<u16>("PORT", "a port number"), None);
        assert_eq!(reader.finish(), ["TOKEN is not set", "PORT must be a port number"]);
    }

    #[test]
    fn an_empty_value_is_an_unset_value() {
        let mut reader = Reader::new(TABLE, |_| Some(String::new()));
        assert_eq!(reader.text("TOKEN"), None);
    }

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Secret::new("hunter2-test-value")), "Secret");
    }
}
