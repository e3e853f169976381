//! Fuzz target of merge patches over JSON, JSON with comments and JSON5 (see [`crate::fuzz`]).

use serde_json::Value;

use super::json::judge::{keeps_comments, merged, value};
use super::patch;
use crate::fuzz::fuzz;

/// Between the text and the patch in an input.
const BETWEEN: &str = "\n===\n";

#[test]
fn patches() {
    let words = [
        BETWEEN,
        "// a comment\n",
        "/* another */",
        "null",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "'a'",
        "\"a\"",
        "\"b\":{\"c\":null}",
        "a:1",
        "0x1F",
        "+1",
        "Infinity",
        "1e400",
        "\\u0000",
        "\\udead",
        "\u{feff}",
        "\r\n",
    ];
    fuzz("patch", &words, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let (original, change) = text.split_once(BETWEEN).unwrap_or((text, "{\"a\":1}"));
        let Ok(change) = serde_json::from_str::<Value>(change) else { return };
        let Some(before) = value(original) else {
            assert!(patch(original, &change).is_err(), "what cannot be read was patched");
            return;
        };
        let patched = patch(original, &change).expect("what can be read can be patched");
        // It says what it should, and says it in a text that can be read.
        let wanted = merged(&before, &change);
        assert_eq!(value(&patched.content).as_ref(), Some(&wanted), "{}", patched.content);
        // That comments are kept is said only when they are. Where nothing has to change, nothing does.
        assert!(!patched.comments_kept || keeps_comments(&patched.content, original), "{}", patched.content);
        if wanted == before {
            assert_eq!(patched.content, original);
        }
        // The same again changes nothing.
        let again = patch(&patched.content, &change).expect("a patched text can be patched");
        assert_eq!(again.content, patched.content);
        assert!(again.comments_kept);
    });
}
