//! What a secret looks like where nobody knows its value. Pure.

use std::ops::Range;

use super::named;

/// Longest user and password in a URL.
const LONGEST_USERINFO: usize = 256;

/// A kind of token by its first characters.
struct Prefix {
    text: &'static str,
    /// Fewest characters after them.
    least: usize,
    /// Which characters a token is made of.
    class: fn(u8) -> bool,
}

const fn prefix(text: &'static str, least: usize, class: fn(u8) -> bool) -> Prefix {
    Prefix { text, least, class }
}

fn word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

fn letters(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn letters_and_underscore(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn hexadecimal(byte: u8) -> bool {
    byte.is_ascii_hexdigit()
}

/// As their issuers describe them; the lengths leave room for shorter ones to come.
const PREFIXES: &[Prefix] = &[
    // OpenAI, Anthropic, OpenRouter, DeepSeek, Moonshot.
    prefix("sk-", 20, word),
    // Stripe.
    prefix("sk_live_", 16, letters),
    prefix("sk_test_", 16, letters),
    prefix("rk_live_", 16, letters),
    // Google.
    prefix("AIza", 30, word),
    prefix("ya29.", 20, word),
    // GitHub, GitLab.
    prefix("ghp_", 20, letters),
    prefix("gho_", 20, letters),
    prefix("ghu_", 20, letters),
    prefix("ghs_", 20, letters),
    prefix("ghr_", 20, letters),
    prefix("github_pat_", 20, letters_and_underscore),
    prefix("glpat-", 16, word),
    // Slack.
    prefix("xoxa-", 10, word),
    prefix("xoxb-", 10, word),
    prefix("xoxc-", 10, word),
    prefix("xoxd-", 10, word),
    prefix("xoxe-", 10, word),
    prefix("xoxe.", 10, word),
    prefix("xoxo-", 10, word),
    prefix("xoxp-", 10, word),
    prefix("xoxr-", 10, word),
    prefix("xoxs-", 10, word),
    prefix("xapp-", 10, word),
    // Groq, xAI, Perplexity, Hugging Face, Replicate, npm.
    prefix("gsk_", 30, letters),
    prefix("xai-", 30, word),
    prefix("pplx-", 30, letters),
    prefix("hf_", 30, letters),
    prefix("r8_", 30, letters),
    prefix("npm_", 30, letters),
    // Ours.
    prefix("wk_", 32, hexadecimal),
];

/// The first secret from a place on.
pub(super) fn find(text: &str, from: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    (from..bytes.len()).find_map(|at| {
        match bytes[at] {
            b'0'..=b'9' => telegram(bytes, at),
            b':' if bytes[at..].starts_with(b"://") => userinfo(bytes, at + 3),
            b':' | b'=' => named::find(bytes, at),
            b'b' | b'B' => named::bearer(bytes, at),
            _ => None,
        }
        .or_else(|| bytes[at].is_ascii_alphanumeric().then(|| token(bytes, at)).flatten())
    })
}

/// Length of the run of such bytes from a place on.
pub(super) fn run(bytes: &[u8], from: usize, class: impl Fn(u8) -> bool) -> usize {
    bytes[from.min(bytes.len())..].iter().take_while(|&&byte| class(byte)).count()
}

/// Whether a word may begin here: not in the middle of another one. What an escape ends with is no other word.
pub(super) fn begins(bytes: &[u8], at: usize) -> bool {
    let before = &bytes[..at];
    let Some(&last) = before.last() else { return true };
    if !word(last) {
        return true;
    }
    let escaped =
        |length: usize, lead: &[u8]| before.len() >= length && before[before.len() - length..].starts_with(lead);
    // `\n` in JSON, `%3D` in a URL, `\u003d` in JSON.
    (matches!(last, b'n' | b'r' | b't') && escaped(2, b"\\"))
        || (last.is_ascii_hexdigit() && (escaped(3, b"%") || escaped(6, b"\\u")))
}

fn has_digit(bytes: &[u8]) -> bool {
    bytes.iter().any(u8::is_ascii_digit)
}

/// `<bot id>:<35 characters>`, also right behind `bot` as in the URLs of its API.
fn telegram(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    if at > 0 && bytes[at - 1].is_ascii_digit() {
        return None;
    }
    let digits = run(bytes, at, |byte| byte.is_ascii_digit());
    let colon = at + digits;
    // A colon in a URL may be written as %3A.
    let separator = match bytes.get(colon..) {
        Some([b':', ..]) => 1,
        Some([b'%', b'3', b'A' | b'a', ..]) => 3,
        _ => return None,
    };
    let length = run(bytes, colon + separator, word);
    ((6..=12).contains(&digits) && length >= 30).then_some(at..colon + separator + length)
}

/// The password in `scheme://user:password@host`.
fn userinfo(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let authority = run(&bytes[..bytes.len().min(at + LONGEST_USERINFO)], at, |byte| {
        !byte.is_ascii_whitespace() && !matches!(byte, b'/' | b'?' | b'#' | b'"' | b'\'' | b'<' | b'>' | b'\\')
    });
    let authority = &bytes[at..at + authority];
    let end = authority.iter().rposition(|&byte| byte == b'@')?;
    let start = authority[..end].iter().position(|&byte| byte == b':')? + 1;
    let is_secret = start < end && !named::is_placeholder(&authority[start..end]);
    is_secret.then_some(at + start..at + end)
}

/// A token that its first characters or its form give away.
fn token(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    if !begins(bytes, at) {
        return None;
    }
    let prefixed = PREFIXES.iter().find_map(|prefix| {
        if !bytes[at..].starts_with(prefix.text.as_bytes()) {
            return None;
        }
        let start = at + prefix.text.len();
        let length = run(bytes, start, prefix.class);
        // Words with dashes between them may begin like a token; they have no digits.
        (length >= prefix.least && has_digit(&bytes[start..start + length])).then_some(at..start + length)
    });
    prefixed.or_else(|| aws(bytes, at)).or_else(|| dotted(bytes, at))
}

/// Id of an AWS access key. The key itself is recognised by its name.
fn aws(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let is_id = bytes[at..].starts_with(b"AKIA") || bytes[at..].starts_with(b"ASIA");
    (is_id
        && run(bytes, at, letters) == 20
        && run(bytes, at, |byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()) == 20)
        .then_some(at..at + 20)
}

/// Three parts with dots between them: a JSON Web Token, or a token of a Discord bot.
fn dotted(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let is_jwt = bytes[at..].starts_with(b"eyJ");
    if !is_jwt && !matches!(bytes[at], b'M' | b'N' | b'O') {
        return None;
    }
    let first = run(bytes, at, word);
    let second_at = at + first + 1;
    if bytes.get(at + first) != Some(&b'.') {
        return None;
    }
    let second = run(bytes, second_at, word);
    let third_at = second_at + second + 1;
    if bytes.get(second_at + second) != Some(&b'.') {
        return None;
    }
    let third = run(bytes, third_at, word);
    let fits = if is_jwt {
        first >= 10 && second >= 10 && third >= 10
    } else {
        (23..=30).contains(&first)
            && (5..=7).contains(&second)
            && third >= 25
            && has_digit(&bytes[at..third_at + third])
    };
    fits.then_some(at..third_at + third)
}
