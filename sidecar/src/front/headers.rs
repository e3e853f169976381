//! What a proxy changes in a head (RFC 9110, 7.6.1), and what only we may say about a caller.

use std::collections::BTreeSet;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::client::Caller;

/// Headers that belong to one connection. `Expect` is answered by us.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    EXPECT,
];

/// Options of `Connection` that would take away what frames or addresses the message itself.
const NOT_NOMINATED: [HeaderName; 2] = [HOST, CONTENT_LENGTH];

/// Beginnings of the names by which proxies tell who a caller is.
const IDENTITY_PREFIXES: [&str; 6] =
    ["x-forwarded-", "x-auth-request-", "tailscale-", "x-pomerium-", "cf-access-", "x-goog-authenticated-user-"];

/// Further such names.
const IDENTITY_NAMES: [&str; 13] = [
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "fastly-client-ip",
    "x-remote-user",
    "remote-user",
    "x-webauth-user",
    "x-authenticated-user",
    "x-original-url",
];

/// Takes away what concerns one connection only.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let nominated: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            .filter(|name| !NOT_NOMINATED.contains(name))
            .collect();
        for name in nominated {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Takes away what a caller says about himself in the words of a proxy. `user_headers` are the names in which the gateway was told to
/// look for a user, in lower case.
pub(super) fn strip_identity(headers: &mut HeaderMap, user_headers: &BTreeSet<String>) {
    let says_who = |name: &HeaderName| {
        let name = name.as_str();
        IDENTITY_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            || IDENTITY_NAMES.contains(&name)
            || user_headers.contains(name)
    };
    let found: Vec<HeaderName> = headers.keys().filter(|name| *name == FORWARDED || says_who(name)).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// Says who the caller is, for a gateway that trusts us.
pub(super) fn say_who(headers: &mut HeaderMap, caller: &Caller) {
    if let Ok(address) = HeaderValue::from_str(&caller.told().to_string()) {
        headers.insert(HeaderName::from_static("x-forwarded-for"), address);
    }
    headers.insert(HeaderName::from_static("x-forwarded-proto"), HeaderValue::from_static(caller.scheme()));
    headers.insert(HeaderName::from_static("x-forwarded-host"), caller.host.clone());
}

/// Takes away credentials that are for us: `Authorization` values that `is_ours` knows, and one cookie.
pub(super) fn strip_our_credentials(headers: &mut HeaderMap, is_ours: impl Fn(&HeaderValue) -> bool, cookie: &str) {
    if headers.get_all(AUTHORIZATION).iter().any(is_ours) {
        headers.remove(AUTHORIZATION);
    }
    let begins = format!("{cookie}=");
    let has = |value: &HeaderValue| value.to_str().is_ok_and(|text| text.contains(&begins));
    if !headers.get_all(COOKIE).iter().any(has) {
        return;
    }
    let kept: Vec<HeaderValue> = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| {
            let Ok(text) = value.to_str() else { return Some(value.clone()) };
            let others: Vec<&str> =
                text.split(';').map(str::trim).filter(|pair| !pair.is_empty() && !pair.starts_with(&begins)).collect();
            if others.is_empty() { None } else { HeaderValue::from_str(&others.join("; ")).ok() }
        })
        .collect();
    headers.remove(COOKIE);
    for value in kept {
        headers.append(COOKIE, value);
    }
}

/// Whether one of the comma-separated words of a header is this one.
pub(super) fn has_word(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let mut words = headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    words.any(|found| found.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(rows: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in rows {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).expect("a name"),
                HeaderValue::from_bytes(value.as_bytes()).expect("a value"),
            );
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_connections_own_headers_end_here() {
        let mut headers = map(&[
            ("connection", "close, X-Secret ,te"),
            ("connection", "x-other, host, content-length, bad name"),
            ("x-secret", "1"),
            ("x-other", "2"),
            ("x-kept", "3"),
            ("host", "a"),
            ("content-length", "4"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic x"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("trailer", "x-sum"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(names(&headers), ["content-length", "host", "trailer", "x-kept"]);
    }

    #[test]
    fn nobody_says_himself_who_he_is() {
        let mut headers = map(&[
            ("Forwarded", "for=1.2.3.4"),
            ("X-Forwarded-For", "1.2.3.4"),
            ("X-Forwarded-For", "1.2.3.5"),
            ("X-Forwarded-User", "root"),
            ("X-Forwarded-Prefix", "/winston"),
            ("X-Real-IP", "1.2.3.4"),
            ("Tailscale-User-Login", "root@example"),
            ("Remote-User", "root"),
            ("X-Company-User", "root"),
            ("X-Request-Id", "kept"),
            ("User-Agent", "kept"),
        ]);
        strip_identity(&mut headers, &BTreeSet::from(["x-company-user".to_owned()]));
        assert_eq!(names(&headers), ["user-agent", "x-request-id"]);
    }

    #[test]
    fn our_credentials_stay_here() {
        let ours = |value: &HeaderValue| value == "Bearer ours";
        let mut headers =
            map(&[("authorization", "Bearer theirs"), ("authorization", "Bearer ours"), ("cookie", "a=1; s=2;b=3")]);
        strip_our_credentials(&mut headers, ours, "s");
        assert_eq!(names(&headers), ["cookie"]);
        assert_eq!(headers["cookie"], "a=1; b=3");
        let mut headers = map(&[("authorization", "Bearer theirs"), ("cookie", "s=2"), ("cookie", "as=1")]);
        strip_our_credentials(&mut headers, ours, "s");
        assert_eq!(headers["authorization"], "Bearer theirs");
        assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["as=1"]);
    }

    #[test]
    fn words_are_found_in_any_line() {
        let headers = map(&[("connection", "keep-alive, Upgrade"), ("connection", "x")]);
        assert!(has_word(&headers, &CONNECTION, "upgrade") && has_word(&headers, &CONNECTION, "x"));
        assert!(!has_word(&headers, &CONNECTION, "up"));
    }
}
