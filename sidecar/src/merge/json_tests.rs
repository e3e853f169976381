//! Tests of [`super`].

use proptest::prelude::*;
use serde_json::json;

use super::*;

const CONFIG: &str = "{\n  // who may talk\n  channels: { telegram: { enabled: false, }, },\n  'model': \"small\", // cheap\n  /* keep */ ports: [1, 2],\n}\n";

fn patched(original: &str, change: &Value) -> Patched {
    patch(original, change).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_patch_touches_only_what_it_names() {
    let result = patched(CONFIG, &json!({ "model": "large", "channels": { "telegram": { "enabled": true } } }));
    assert_eq!(result.content, CONFIG.replace("\"small\"", "\"large\"").replace("enabled: false", "enabled: true"));
    assert!(result.comments_kept);
    assert_eq!(patched(CONFIG, &json!({})).content, CONFIG);
}

#[test]
fn a_byte_order_mark_stays() {
    assert_eq!(patched("\u{feff}{\"a\":1}", &json!({ "a": 2 })).content, "\u{feff}{\"a\":2}");
}

#[test]
fn a_comment_inside_what_is_replaced_is_missed() {
    let result = patched("{ \"list\": [1, /* two */ 2] }", &json!({ "list": [3] }));
    assert!(!result.comments_kept, "{result:?}");
}

#[test]
fn what_is_no_json_is_refused() {
    for text in ["", "{", "[1 2]", "{a:Infinity}", "{a:NaN}", "// only\n", "{a:99999999999999999999}"] {
        assert!(matches!(patch(text, &json!({})), Err(PatchError::NotJson(_))), "{text}");
    }
    // Deeper than the parser goes, and deeper than a small stack would.
    assert!(patch(&"[".repeat(100_000), &json!({})).is_err());
    let deep = format!("{}1{}", "[".repeat(400), "]".repeat(400));
    assert_eq!(patched(&deep, &json!({ "a": 1 })).content.trim(), "{\n  \"a\": 1\n}");
}

#[test]
fn a_key_that_is_there_twice_ends_as_wanted() {
    let result = patched("{\"a\":1,\"a\":2}", &json!({ "a": 3 }));
    assert_eq!(serde_json::from_str::<Value>(&result.content).unwrap(), json!({ "a": 3 }));
}

#[test]
fn different_keys_are_merged_and_comments_stay() {
    let ours = CONFIG.replace("enabled: false", "enabled: true");
    let theirs = CONFIG.replace("\"small\"", "\"large\"");
    let both = ours.replace("\"small\"", "\"large\"");
    assert_eq!(three_way(CONFIG, &ours, &theirs).as_deref(), Some(both.as_str()));
}

#[test]
fn neighbours_on_one_line_are_merged_by_key() {
    let (base, ours, theirs) = ("{a:1,b:2 /* two */}", "{a:9,b:2 /* two */}", "{a:1,b:8 /* two */}");
    assert_eq!(three_way(base, ours, theirs).as_deref(), Some("{a:9,b:8 /* two */}"));
    // A comment that a merge by key would lose.
    assert_eq!(three_way(base, ours, "{a:1,b:8 /* two */ /* new */}"), None);
}

#[test]
fn comments_of_both_sides_come_together() {
    let base = "{\n  a: 1,\n  b: 2,\n  c: 3,\n  d: 4,\n}\n";
    let ours = base.replace("a: 1,", "a: 1, // ours");
    let theirs = base.replace("d: 4,", "d: 5, // theirs");
    let both = ours.replace("d: 4,", "d: 5, // theirs");
    assert_eq!(three_way(base, &ours, &theirs).as_deref(), Some(both.as_str()));
}

#[test]
fn the_same_key_is_a_conflict() {
    assert_eq!(three_way("{a:1}", "{a:2}", "{a:3}"), None);
    assert_eq!(three_way("{a:1,b:1}", "{b:1}", "{a:3,b:1}"), None);
    assert_eq!(three_way("{a:[1]}", "{a:[1,2]}", "{a:[0,1]}"), None);
    assert_eq!(three_way("{a:1}", "{a:2}", "no json"), None);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z\"\\\\\u{e9} /*]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// What comes out is the value that the standard says.
    #[test]
    fn a_patch_gives_what_the_standard_says(original in value(), change in value(), pretty: bool) {
        let text = if pretty { serde_json::to_string_pretty(&original) } else { serde_json::to_string(&original) }.unwrap();
        let mut wanted = original.clone();
        merge_patch(&mut wanted, &change);
        let result = patched(&text, &change);
        prop_assert!(result.comments_kept);
        prop_assert_eq!(Document::parse(&result.content).map(|document| document.value), Ok(wanted));
    }

    /// A merge is the merge of the values, whoever is called "ours".
    #[test]
    fn a_merge_does_not_depend_on_the_side(base in value(), ours in value(), theirs in value()) {
        let text = |value: &Value| serde_json::to_string_pretty(value).unwrap();
        let (base, ours, theirs) = (text(&base), text(&ours), text(&theirs));
        let value = |text: String| Document::parse(&text).map(|document| document.value).unwrap();
        prop_assert_eq!(three_way(&base, &ours, &theirs).map(value), three_way(&base, &theirs, &ours).map(value));
        prop_assert_eq!(three_way(&base, &ours, &base).map(value), Some(value(ours)));
    }
}
