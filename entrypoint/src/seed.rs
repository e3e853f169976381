//! First-boot files that come as variables.
//!
//! Each is base64 or plain text; both forms are in use. The entrypoint does not write them into the tenant's tree: it
//! lays them out for the sidecar, which has the only write path and knows which files exist already.

use std::path::PathBuf;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Accepts what any encoder produces: with padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A first-boot file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seed {
    /// Where it belongs, relative to the data directory.
    pub(crate) path: PathBuf,
    /// What it contains.
    pub(crate) text: String,
}

/// The text behind a seed variable: decoded when the value is base64 of a text, the value itself otherwise.
///
/// A short plain word can be valid base64 too. Requiring the result to be UTF-8 without control characters leaves
/// only words that nobody would use as a whole file.
pub(crate) fn decode(value: &str) -> String {
    let packed: String = value.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let decoded = BASE64.decode(packed).ok();
    match decoded.and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(text) if is_text(&text) => text,
        _ => value.to_owned(),
    }
}

fn is_text(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
}

/// Whether the text can be a JSON5 object: the first thing that is not space or comment is `{`. Whether it is a
/// configuration the gateway accepts is for the sidecar to find out; this catches a value in the wrong variable.
pub(crate) fn looks_like_object(text: &str) -> bool {
    let mut rest = text.trim_start_matches('\u{feff}').trim_start();
    loop {
        let after = if let Some(comment) = rest.strip_prefix("//") {
            comment.split_once('\n').map(|(_, after)| after)
        } else if let Some(comment) = rest.strip_prefix("/*") {
            comment.split_once("*/").map(|(_, after)| after)
        } else {
            return rest.starts_with('{');
        };
        match after {
            Some(after) => rest = after.trim_start(),
            None => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded() {
        assert_eq!(decode("IyBTb3VsCg=="), "# Soul\n");
        assert_eq!(decode("IyBTb3VsCg"), "# Soul\n", "without padding");
        assert_eq!(decode("IyBT\nb3VsCg==\n"), "# Soul\n", "wrapped");
    }

    #[test]
    fn plain_text_stays() {
        assert_eq!(decode("# Soul\n"), "# Soul\n");
        assert_eq!(decode("Test"), "Test", "base64, but of no UTF-8");
        assert_eq!(decode("AAAA"), "AAAA", "base64, but of control characters");
        assert_eq!(decode("{ gateway: {} }"), "{ gateway: {} }");
    }

    #[test]
    fn an_object_may_follow_comments() {
        assert!(looks_like_object("{}"));
        assert!(looks_like_object("\u{feff} // one\n/* two\n */ {a: 1}"));
        assert!(!looks_like_object("[]"));
        assert!(!looks_like_object("# Soul"));
        assert!(!looks_like_object("// only a comment"));
        assert!(!looks_like_object("/* open"));
        assert!(!looks_like_object(""));
    }
}
