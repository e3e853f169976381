//! Secrets that stand behind their name: headers, parameters of URLs, settings, keys of JSON. Pure.

use std::ops::Range;

use super::pattern::{begins, run};

/// Longest name that is looked at.
const LONGEST_NAME: usize = 64;
/// So much of a header's value decides what it is.
const JUDGED: usize = 256;

/// What a name says about the value behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    /// Whatever follows is a secret.
    Password,
    /// So is what follows here, unless it is a plain word.
    Token,
    /// Often something else; a secret if it looks like one.
    Key,
    /// The whole rest of a header.
    Header,
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Quoted,
    /// As a parameter of a URL.
    Parameter,
    /// Behind an equals sign.
    Assigned,
    /// Behind a colon, as in prose.
    Plain,
}

/// The value behind the `:` or `=` at a place, if it is a secret.
pub(super) fn find(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let (name, before) = name(bytes, at)?;
    let mut start = at + 1;
    start += run(bytes, start, |byte| byte == b' ').min(2);
    let (quote, parameter) = (quote(bytes, start), matches!(before, Some(b'?' | b'&')));
    let written = match quote {
        Some(_) => Written::Quoted,
        None if bytes[at] == b':' => Written::Plain,
        None if parameter => Written::Parameter,
        None => Written::Assigned,
    };
    start += quote.map_or(0, <[u8]>::len);
    if name == Name::Header {
        return header(bytes, start, quote);
    }
    let value = start..end(bytes, start, quote);
    is_secret(name, written, &bytes[value.clone()]).then_some(value)
}

/// The token behind `Bearer` at a place.
pub(super) fn bearer(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    const WORD: &[u8] = b"bearer";
    if !bytes[at..].get(..WORD.len())?.eq_ignore_ascii_case(WORD) || !begins(bytes, at) {
        return None;
    }
    let space = at + WORD.len();
    let start = space + run(bytes, space, |byte| byte == b' ');
    let value = start..start + run(bytes, start, is_token68);
    (start > space && is_opaque(&bytes[value.clone()])).then_some(value)
}

/// The name before a place, and the byte before the name.
fn name(bytes: &[u8], at: usize) -> Option<(Name, Option<u8>)> {
    let before = &bytes[at.saturating_sub(LONGEST_NAME + 8)..at];
    let before = before.trim_ascii_end();
    let quoted = [&b"\\\""[..], b"\"", b"'"].into_iter().find_map(|quote| before.strip_suffix(quote));
    let before = quoted.unwrap_or(before);
    let length =
        before.iter().rev().take_while(|&&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')).count();
    let (before, text) = before.split_at(before.len() - length);
    if length == 0 || length > LONGEST_NAME {
        return None;
    }
    let mut plain = [0; LONGEST_NAME];
    let letters = text.iter().filter(|byte| byte.is_ascii_alphanumeric());
    let length = plain.iter_mut().zip(letters).map(|(plain, letter)| *plain = letter.to_ascii_lowercase()).count();
    let plain = &plain[..length];
    let ends = |ends: &[&str]| ends.iter().any(|end| plain.ends_with(end.as_bytes()));
    let name = if ends(&["authorization", "cookie"]) {
        Name::Header
    } else if ends(&["password", "passwd", "passphrase"]) {
        Name::Password
    } else if ends(&["token", "secret", "apikey", "accesskey", "secretkey", "privatekey", "credential"]) {
        Name::Token
    } else if plain == b"key" {
        Name::Key
    } else {
        return None;
    };
    Some((name, before.last().copied()))
}

/// The quotation mark at a place. Within a JSON string it has a backslash.
fn quote(bytes: &[u8], at: usize) -> Option<&'static [u8]> {
    [&b"\\\""[..], b"\"", b"'"].into_iter().find(|quote| bytes[at.min(bytes.len())..].starts_with(quote))
}

/// Where a value ends.
fn end(bytes: &[u8], start: usize, quote: Option<&[u8]>) -> usize {
    const ENDS: &[u8] = b"\"'&;,)]}<>#`\\";
    let Some(quote) = quote else {
        return start + run(bytes, start, |byte| !byte.is_ascii_whitespace() && !ENDS.contains(&byte));
    };
    let mut at = start;
    while at < bytes.len() {
        if bytes[at..].starts_with(quote) {
            return at;
        }
        // An escaped character, which may be a quotation mark, is passed over.
        at += if bytes[at] == b'\\' && bytes.get(at + 1).is_some_and(u8::is_ascii) { 2 } else { 1 };
    }
    // There is no end: the value was cut.
    bytes.len()
}

/// The value of a header, without the scheme of an authorization.
fn header(bytes: &[u8], start: usize, quote: Option<&[u8]>) -> Option<Range<usize>> {
    const SCHEMES: [&[u8]; 6] = [b"bearer", b"basic", b"bot", b"token", b"digest", b"apikey"];
    let word = run(bytes, start, |byte| byte.is_ascii_alphabetic());
    let space = run(bytes, start + word, |byte| byte == b' ');
    let is_scheme = space > 0 && SCHEMES.iter().any(|scheme| bytes[start..start + word].eq_ignore_ascii_case(scheme));
    let start = if is_scheme { start + word + space } else { start };
    let value_end = |bytes: &[u8]| match quote {
        Some(_) => end(bytes, start, quote),
        None => start + run(bytes, start, |byte| !matches!(byte, b'"' | b'\'' | b'\\')),
    };
    let some = &bytes[..bytes.len().min(start + JUDGED)];
    let judged = some[start..value_end(some)].trim_ascii_end();
    let looks_like_one = is_scheme || judged.contains(&b'=') || is_opaque(judged);
    if !looks_like_one || judged.len() < 4 || is_placeholder(judged) {
        return None;
    }
    Some(start..start + bytes[start..value_end(bytes)].trim_ascii_end().len())
}

fn is_secret(name: Name, written: Written, value: &[u8]) -> bool {
    if value.is_empty() || is_placeholder(value) {
        return false;
    }
    match (name, written) {
        (Name::Password, Written::Plain) => value.len() >= 4 && value.iter().any(|byte| !byte.is_ascii_alphabetic()),
        (Name::Password, _) => true,
        (Name::Token | Name::Key, Written::Parameter) => value.len() >= 4,
        (Name::Token, Written::Quoted) => value.len() >= 8 && !value.contains(&b' '),
        (Name::Token, Written::Assigned | Written::Plain) => is_opaque(value),
        (Name::Key, Written::Quoted) => {
            value.len() >= 20 && is_opaque(value) && value.iter().all(|&byte| is_token68(byte))
        }
        // A name for anything.
        (Name::Key, Written::Assigned | Written::Plain) | (Name::Header, _) => false,
    }
}

/// Characters of credentials in headers (RFC 9110, `token68`).
fn is_token68(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=')
}

/// Whether a value is no word: it has a digit, or is longer than words are.
fn is_opaque(value: &[u8]) -> bool {
    let one_word = !value.contains(&b' ');
    one_word && ((value.len() >= 8 && value.iter().any(u8::is_ascii_digit)) || value.len() >= 24)
}

/// Whether a value only stands for a secret, or says that there is none.
pub(super) fn is_placeholder(value: &[u8]) -> bool {
    const WORDS: [&str; 15] = [
        "true",
        "false",
        "null",
        "none",
        "nil",
        "undefined",
        "missing",
        "required",
        "unset",
        "set",
        "empty",
        "invalid",
        "redacted",
        "expired",
        "__openclaw_redacted__",
    ];
    const BEGINNINGS: [&[u8]; 5] = [b"[redacted", b"[REDACTED", b"[object", b"${", b"{{"];
    let is_variable = value.first() == Some(&b'$')
        && value[1..].iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_');
    is_variable
        || value.iter().all(u8::is_ascii_punctuation)
        || BEGINNINGS.iter().any(|beginning| value.starts_with(beginning))
        || (value.first() == Some(&b'<') && value.ends_with(b">"))
        || WORDS.iter().any(|word| value.eq_ignore_ascii_case(word.as_bytes()))
}
