//! Fuzz targets of what a request's head says (see [`crate::fuzz`]).

use http::header::{AUTHORIZATION, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue};
use winston_wire::env::Secret;

use super::TokenDigest;
use super::conditional::{Verdict, judge};
use super::query::Query;
use crate::fs::TenantPath;
use crate::fuzz::fuzz;

const NAMES: &[&str] = &["path", "limit", "after", "depth", "recursive", "op", ""];

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

#[test]
fn queries() {
    let words = [
        "path=",
        "limit=",
        "&",
        "=",
        "%26",
        "%3d",
        "+",
        "%2b",
        "%00",
        "%ff",
        "..",
        "path=a&path=b",
        "99999999999999999999",
        "-1",
    ];
    fuzz("query", &words, |input| {
        let text = String::from_utf8_lossy(input);
        let Ok(query) = Query::parse(Some(&text)) else { return };
        assert!((1..=1000).contains(&query.limit(100, 1000)));
        let mut printed = String::new();
        for name in NAMES {
            let Some(value) = query.get(name) else { continue };
            printed.push_str(&format!("{}={}&", encoded(name), encoded(value)));
            // A name that is there must not be given again.
            assert!(Query::parse(Some(&format!("{text}&{}=x", encoded(name)))).is_err(), "{name} twice");
        }
        // Printed and parsed, it says the same.
        let again = Query::parse(Some(&printed)).unwrap();
        for name in NAMES {
            assert_eq!(again.get(name), query.get(name), "{name}");
        }
        if let Some(Ok(path)) = query.get("path").map(TenantPath::parse) {
            assert!(path.components().all(|component| component != ".."));
        }
    });
}

#[test]
fn tokens() {
    const TOKEN: &str = "fuzz-token-fuzz-token-fuzz-token-fuzz";
    let digest = TokenDigest::of(&Secret::new(TOKEN));
    fuzz("authorization", &["Bearer ", "bearer ", "Basic ", TOKEN, ",", " "], |input| {
        let Ok(value) = HeaderValue::from_bytes(input) else { return };
        let right = input.len() == 7 + TOKEN.len()
            && input[..7].eq_ignore_ascii_case(b"bearer ")
            && input[7..] == *TOKEN.as_bytes();
        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, value.clone());
        assert_eq!(digest.admits(&headers), right);
        headers.append(AUTHORIZATION, value);
        assert!(!digest.admits(&headers), "twice");
    });
}

/// The lines of an input are a range and the three conditions that may come with it.
#[test]
fn ranges_and_conditions() {
    const TAG: &str = "\"0123456789abcdef\"";
    let words = ["bytes=", "-", ",", "0-", "18446744073709551615", "18446744073709551616", TAG, "W/", "*", "\n", " "];
    fuzz("range", &words, |input| {
        let mut headers = HeaderMap::new();
        for (name, line) in
            [RANGE, IF_RANGE, IF_MATCH, IF_NONE_MATCH].into_iter().zip(input.split(|byte| *byte == b'\n'))
        {
            match HeaderValue::from_bytes(line) {
                Ok(value) if !line.is_empty() => drop(headers.insert(name, value)),
                _ => {}
            }
        }
        for size in [0, 1, 10, u64::MAX] {
            for etag in [None, Some(TAG)] {
                let Ok(verdict) = judge(&headers, etag, size, true) else { continue };
                if let Verdict::Part { from, length } = verdict {
                    assert!(
                        length > 0 && from.checked_add(length).is_some_and(|end| end <= size),
                        "{verdict:?} of {size}"
                    );
                }
                // Without a wish for a range there is none, and conditions say the same.
                let whole = judge(&headers, etag, size, false).unwrap();
                match verdict {
                    Verdict::Part { .. } | Verdict::Unsatisfiable => assert_eq!(whole, Verdict::Whole),
                    verdict => assert_eq!(whole, verdict),
                }
                if headers.get(IF_NONE_MATCH).is_none() {
                    assert_ne!(verdict, Verdict::NotModified);
                }
            }
        }
    });
}
