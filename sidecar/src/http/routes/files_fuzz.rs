//! Fuzz target of the JSON body of `PUT` (see [`crate::fuzz`]).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::value::RawValue;

use super::json_content;
use crate::fuzz::fuzz;

#[test]
fn json_bodies() {
    let words = [
        "\"content\":",
        "\"content_base64\":",
        "\"\"",
        "null",
        "{",
        "}",
        "[",
        "]",
        ",",
        "\\u0000",
        "\\ud83e\\udd9e",
        "\\udead",
        "\"AA==\"",
        "1e999",
        "true",
        "\u{feff}",
        "{\"content\":\"a\",\"content\":\"b\"}",
    ];
    fuzz("json-body", &words, |input| {
        let Ok(content) = json_content(input) else { return };
        // What is accepted is one object with one content, and the content is what the document says.
        let document: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(input).unwrap();
        let string = |name| serde_json::from_str::<Option<String>>(document.get(name)?.get()).unwrap();
        match (string("content"), string("content_base64")) {
            (Some(text), None) => assert_eq!(text.as_bytes(), content),
            (None, Some(text)) => assert_eq!(BASE64.decode(text).unwrap(), content),
            other => panic!("accepted {other:?}"),
        }
        // Printed and parsed, it says the same.
        let printed = match std::str::from_utf8(&content) {
            Ok(text) => serde_json::json!({ "content": text }),
            Err(_) => serde_json::json!({ "content_base64": BASE64.encode(&content) }),
        };
        assert_eq!(json_content(printed.to_string().as_bytes()).unwrap(), content);
    });
}
