//! Fuzz target of intents (see [`crate::fuzz`]).

use super::intent::Intent;
use crate::fuzz::fuzz;

#[test]
fn intents() {
    let words = [
        "\"only_over\":null",
        "\"hash\":null",
        "\"path\":\"../x\"",
        "\"source\":\"system\"",
        "\"after_seq\":",
        "null",
        "-1",
        "{",
        "}",
        ",",
    ];
    fuzz("intent", &words, |input| {
        let Ok(intent) = serde_json::from_slice::<Intent>(input) else { return };
        let printed = serde_json::to_vec(&intent).unwrap();
        assert_eq!(serde_json::from_slice::<Intent>(&printed).unwrap(), intent);
    });
}
