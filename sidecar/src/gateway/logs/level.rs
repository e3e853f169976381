//! How serious a line is: what it says itself, in the gateway's formats, or what its stream makes likely. Pure.
//!
//! The gateway's console writes, depending on `logging.consoleStyle`, one JSON object per line with `level`,
//! `subsystem` and `message`, or `<time> [<subsystem>] <message>` without a level; in the second form warnings and
//! errors go to standard error and everything else to standard output. Its log files, which a tenant may have it print,
//! have the level in `_meta.logLevelName`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Stream;

/// Words of a plain line among which its level may be: time, subsystem, level.
const FIRST_WORDS: usize = 4;

/// The four that log platforms know; `trace` is `debug` and `fatal` is `error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    /// A level by any of its usual names, in any case.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        const NAMES: [(Level, &[&str]); 4] = [
            (Level::Debug, &["debug", "trace", "verbose", "silly"]),
            (Level::Info, &["info", "notice", "log"]),
            (Level::Warn, &["warn", "warning"]),
            (Level::Error, &["error", "err", "fatal", "critical", "panic"]),
        ];
        NAMES.into_iter().find(|(_, names)| names.iter().any(|name| name.eq_ignore_ascii_case(word))).map(|(is, _)| is)
    }
}

/// What a line says about itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) level: Level,
    /// Of a line in JSON: its own message, and who in the gateway said it.
    pub(super) message: Option<String>,
    pub(super) subsystem: Option<String>,
}

/// Reads a line. One that says nothing has the level that its stream makes likely: of standard error `error`, so that
/// looking for errors never misses one, unless it calls itself a warning.
pub(super) fn read(line: &str, stream: Stream) -> Said {
    if let Some(said) = json(line) {
        return said;
    }
    let level = plain(line).unwrap_or_else(|| match stream {
        Stream::Stdout | Stream::Winston => Level::Info,
        Stream::Stderr if is_warning(line) => Level::Warn,
        Stream::Stderr => Level::Error,
    });
    Said { level, message: None, subsystem: None }
}

#[derive(Deserialize)]
struct Json {
    level: Option<Value>,
    severity: Option<Value>,
    #[serde(rename = "_meta")]
    meta: Option<Meta>,
    message: Option<Value>,
    msg: Option<Value>,
    subsystem: Option<Value>,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(rename = "logLevelName")]
    level_name: Option<String>,
}

fn json(line: &str) -> Option<Said> {
    if !line.starts_with('{') {
        return None;
    }
    let json: Json = serde_json::from_str(line).ok()?;
    let named = json.meta.and_then(|meta| Level::parse(&meta.level_name?));
    let level =
        named.or_else(|| json.level.as_ref().and_then(value)).or_else(|| json.severity.as_ref().and_then(value));
    let text = |value: Option<Value>| match value {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    Some(Said {
        level: level?,
        message: text(json.message).or_else(|| text(json.msg)),
        subsystem: text(json.subsystem),
    })
}

/// A level as a word, or as a number in steps of ten from `trace`, as some Node.js loggers have it.
fn value(value: &Value) -> Option<Level> {
    match value {
        Value::String(word) => Level::parse(word),
        Value::Number(number) => match number.as_u64()? {
            0..30 => Some(Level::Debug),
            30..40 => Some(Level::Info),
            40..50 => Some(Level::Warn),
            _ => Some(Level::Error),
        },
        _ => None,
    }
}

/// A level among the first words: in capitals, in brackets or before a colon. The name of an exception is one too.
fn plain(line: &str) -> Option<Level> {
    line.split_ascii_whitespace().take(FIRST_WORDS).find_map(|word| {
        let bare = word.trim_matches(['[', ']', '(', ')', ':', '<', '>', '|']);
        let marked = word.starts_with(['[', '(', '<']) || word.ends_with(':');
        let capitals = bare.bytes().all(|byte| byte.is_ascii_uppercase());
        if (marked || capitals)
            && let Some(level) = Level::parse(bare)
        {
            return Some(level);
        }
        if word.ends_with(':') && (bare.ends_with("Error") || bare.ends_with("Exception")) {
            return Some(Level::Error);
        }
        (word.ends_with(':') && bare.ends_with("Warning")).then_some(Level::Warn)
    })
}

fn is_warning(line: &str) -> bool {
    line.split(|character: char| !character.is_ascii_alphabetic())
        .any(|word| Level::parse(word) == Some(Level::Warn) || word.ends_with("Warning") || word == "deprecated")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateways_formats_are_understood() {
        use Level::{Debug, Error, Info, Warn};
        use Stream::{Stderr, Stdout};
        let cases = [
            (r#"{"time":"2026-01-02T03:04:05.006Z","level":"warn","subsystem":"gateway","message":"m"}"#, Stdout, Warn),
            (r#"{"severity":"CRITICAL","message":"m"}"#, Stdout, Error),
            (r#"{"0":"m","_meta":{"logLevelId":5,"logLevelName":"ERROR"},"time":"t"}"#, Stdout, Error),
            (r#"{"0":"m","_meta":{"logLevelName":"TRACE"},"level":"error"}"#, Stderr, Debug),
            (r#"{"level":30,"msg":"m"}"#, Stderr, Info),
            (r#"{"level":60,"msg":"m"}"#, Stdout, Error),
            (r#"{"level":"loud"}"#, Stdout, Info),
            (r#"{"level":"warn","#, Stdout, Info),
            ("2026-01-02T03:04:05.006Z [gateway] listening on ws://127.0.0.1:18789", Stdout, Info),
            ("03:04:05 [telegram] [default] channel exited: getMe failed", Stderr, Error),
            ("2026-01-02T03:04:05.006Z [plugins] warning: no provenance", Stderr, Warn),
            ("(node:7) ExperimentalWarning: SQLite is an experimental feature", Stderr, Warn),
            ("(node:7) [DEP0040] DeprecationWarning: The `punycode` module is deprecated.", Stderr, Warn),
            ("TypeError: Cannot read properties of undefined", Stdout, Error),
            ("[WARN] slow", Stdout, Warn),
            ("2026-01-02 03:04:05 DEBUG poll", Stdout, Debug),
            ("error: unknown option", Stdout, Error),
            ("no error so far, only a warning of mine", Stdout, Info),
            ("FATAL", Stdout, Error),
            ("", Stdout, Info),
            ("", Stderr, Error),
        ];
        for (line, stream, expected) in cases {
            assert_eq!(read(line, stream).level, expected, "{line}");
        }
    }

    #[test]
    fn a_line_in_json_has_a_message_of_its_own() {
        let line = r#"{"level":"error","subsystem":"gateway/ws","message":"a \"b\"\nc","n":1}"#;
        let expected = Said {
            level: Level::Error,
            message: Some("a \"b\"\nc".to_owned()),
            subsystem: Some("gateway/ws".to_owned()),
        };
        assert_eq!(read(line, Stream::Stdout), expected);
    }
}
