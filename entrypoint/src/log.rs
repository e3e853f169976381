//! Log lines on stderr: one JSON object per line for a platform, plain text for a person.
//!
//! The shape, `level` and `message` with further keys beside them, is what hosting platforms index. A line is one
//! `write`, so lines of the entrypoint and the sidecar do not mix.
//!
//! A write never waits: whoever reads our output may have stopped reading, and PID 1 has signals to forward. A line for
//! which there is no room is lost.

use std::io::{IsTerminal as _, Write as _};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Map, Value};

/// One further key of a line.
pub(crate) type Field<'a> = (&'a str, Value);

/// Something went as it should.
pub(crate) fn info(message: &str, fields: &[Field<'_>]) {
    write("info", message, fields);
}

/// Something that a person may want to look at.
pub(crate) fn warn(message: &str, fields: &[Field<'_>]) {
    write("warn", message, fields);
}

/// Something that ends the container.
pub(crate) fn error(message: &str, fields: &[Field<'_>]) {
    write("error", message, fields);
}

fn write(level: &str, message: &str, fields: &[Field<'_>]) {
    let mut stderr = std::io::stderr();
    let line = if stderr.is_terminal() { plain(level, message, fields) } else { json(level, message, fields) };
    // Nothing can be done about a log that nobody reads, and PID 1 must not end because of it.
    if has_room(&stderr) {
        let _ = stderr.write_all(line.as_bytes());
    }
}

/// Whether a line can be written now. A pipe with room takes any write of up to 4096 bytes at once; only the sidecar's
/// last line shares it.
fn has_room(stderr: &impl AsFd) -> bool {
    let mut asked = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    poll(&mut asked, PollTimeout::ZERO) != Ok(0)
}

fn json(level: &str, message: &str, fields: &[Field<'_>]) -> String {
    let mut object = Map::new();
    object.insert("level".into(), level.into());
    object.insert("message".into(), message.into());
    object.insert("process".into(), "entrypoint".into());
    for (key, value) in fields {
        object.insert((*key).into(), value.clone());
    }
    format!("{}\n", Value::Object(object))
}

fn plain(level: &str, message: &str, fields: &[Field<'_>]) -> String {
    let mut line = format!("winston-entrypoint: {level}: {message}");
    for (key, value) in fields {
        line.push_str(&format!(" {key}={value}"));
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_line_is_one_line() {
        let line = json("info", "two\nlines", &[("pid", 7.into())]);
        assert_eq!(line.matches('\n').count(), 1);
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "info");
        assert_eq!(value["message"], "two\nlines");
        assert_eq!(value["pid"], 7);
    }

    #[test]
    fn a_plain_line_names_the_process() {
        assert_eq!(plain("warn", "odd", &[("pid", 7.into())]), "winston-entrypoint: warn: odd pid=7\n");
    }
}
