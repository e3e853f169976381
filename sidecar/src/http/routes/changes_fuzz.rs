//! Fuzz target of what a request for changes says (see [`crate::fuzz`]).

use http::{HeaderMap, HeaderValue};

use super::{LAST_EVENT_ID, MOST, event_id, last_seen, named_epoch, path};
use crate::fuzz::fuzz;
use crate::http::query::Query;

/// The first line of an input is a query, each further one a `Last-Event-ID`.
#[test]
fn places_in_the_journal() {
    const EPOCH: &str = "0190a000-0000-7000-8000-000000000001";
    let words = [
        EPOCH,
        "0190a000000070008000000000000001",
        "{0190a000-0000-7000-8000-000000000001}",
        ":",
        "\n",
        "after=",
        "epoch=",
        "limit=",
        "path=",
        "&",
        "18446744073709551615",
        "18446744073709551616",
        "+1",
        "-1",
        "%2e%2e",
    ];
    fuzz("changes", &words, |input| {
        let mut lines = input.split(|byte| *byte == b'\n');
        if let Ok(query) = Query::parse(Some(&String::from_utf8_lossy(lines.next().unwrap_or_default()))) {
            assert!((1..=MOST).contains(&query.limit(100, MOST)));
            if let Ok(Some(epoch)) = named_epoch(&query) {
                assert_eq!(named_epoch(&Query::parse(Some(&format!("epoch={epoch}"))).unwrap()).unwrap(), Some(epoch));
            }
            if let Ok(Some(after)) = query.number("after") {
                let again = Query::parse(Some(&format!("after={after}"))).unwrap();
                assert_eq!(again.number("after").unwrap(), Some(after));
            }
            if let Ok(Some(path)) = path(&query) {
                assert!(path.components().all(|part| !matches!(part, "" | "." | "..")), "{path}");
            }
        }
        let mut headers = HeaderMap::new();
        for line in lines {
            let Ok(value) = HeaderValue::from_bytes(line) else { continue };
            headers.append(&LAST_EVENT_ID, value);
        }
        match last_seen(&headers) {
            Ok(None) => assert!(headers.is_empty()),
            // What a stream writes as an id is understood as the place that it is.
            Ok(Some((epoch, seq))) => {
                assert_eq!(headers.len(), 1);
                let id = HeaderValue::from_str(&event_id(epoch, seq)).unwrap();
                headers.insert(&LAST_EVENT_ID, id);
                assert_eq!(last_seen(&headers).unwrap(), Some((epoch, seq)));
            }
            Err(_) => assert!(!headers.is_empty()),
        }
    });
}
