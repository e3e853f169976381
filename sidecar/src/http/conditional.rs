//! Conditions and ranges of a `GET` (RFC 9110, sections 13 and 14). Pure: headers in, verdict out.

use http::header::{IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderName};

use super::error::ApiError;

/// What a `GET` of an existing file is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// 200.
    Whole,
    /// 206 with `length` bytes from `from` on; neither is beyond the file, `length` is not zero.
    Part { from: u64, length: u64 },
    /// 304.
    NotModified,
    /// 412.
    Failed,
    /// 416.
    Unsatisfiable,
}

/// Judges a request for a file of `size` bytes. `etag` is its strong tag, quotes included; `None` when it has none. Ranges count only
/// when `ranged`: for a `GET` of the raw bytes.
pub(super) fn judge(headers: &HeaderMap, etag: Option<&str>, size: u64, ranged: bool) -> Result<Verdict, ApiError> {
    if let Some(list) = text(headers, IF_MATCH)?
        && !names(list, etag, false)
    {
        return Ok(Verdict::Failed);
    }
    if let Some(list) = text(headers, IF_NONE_MATCH)?
        && names(list, etag, true)
    {
        return Ok(Verdict::NotModified);
    }
    let Some(range) = headers.get(RANGE).filter(|_| ranged) else { return Ok(Verdict::Whole) };
    // A date is no strong validator for files that may change twice in a second.
    if let Some(tag) = text(headers, IF_RANGE)?
        && (tag == "*" || !names(tag, etag, false))
    {
        return Ok(Verdict::Whole);
    }
    Ok(range.to_str().map_or(Verdict::Whole, |range| part(range, size)))
}

fn text(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get(&name) else { return Ok(None) };
    let text =
        value.to_str().map_err(|_| ApiError::bad_request("bad_precondition", format!("{name} is not readable")))?;
    Ok(Some(text.trim()))
}

/// Whether a list of tags names this one. Quotes may be missing, as old clients left them out.
fn names(list: &str, etag: Option<&str>, weak: bool) -> bool {
    let Some(etag) = etag.map(|tag| tag.trim_matches('"')) else { return list == "*" };
    list == "*"
        || list.split(',').map(str::trim).any(|tag| match tag.strip_prefix("W/") {
            Some(tag) => weak && tag.trim_matches('"').eq_ignore_ascii_case(etag),
            None => tag.trim_matches('"').eq_ignore_ascii_case(etag),
        })
}

/// One range of bytes. What is not understood, and more than one range, is as if it were not there.
fn part(range: &str, size: u64) -> Verdict {
    let spec = range.split_once('=').filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes"));
    let Some((first, last)) = spec.and_then(|(_, spec)| spec.trim().split_once('-')) else { return Verdict::Whole };
    match (first, last) {
        ("", suffix) => match number(suffix) {
            None => Verdict::Whole,
            Some(0) => Verdict::Unsatisfiable,
            Some(_) if size == 0 => Verdict::Unsatisfiable,
            Some(suffix) => Verdict::Part { from: size.saturating_sub(suffix), length: suffix.min(size) },
        },
        (first, last) => {
            let last_byte = if last.is_empty() { Some(u64::MAX) } else { number(last) };
            match (number(first), last_byte) {
                (Some(from), Some(last)) if from <= last => {
                    if from >= size {
                        return Verdict::Unsatisfiable;
                    }
                    Verdict::Part { from, length: last.min(size - 1) - from + 1 }
                }
                _ => Verdict::Whole,
            }
        }
    }
}

/// Digits only; a number that is too large is as good as the largest.
fn number(digits: &str) -> Option<u64> {
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const TAG: &str = "\"abc\"";

    fn judged(pairs: &[(HeaderName, &'static str)], size: u64, ranged: bool) -> Verdict {
        let headers = pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        judge(&headers, Some(TAG), size, ranged).unwrap()
    }

    #[test]
    fn ranges() {
        let part = |from, length| Verdict::Part { from, length };
        for (range, verdict) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=2-4", part(2, 3)),
            ("Bytes=2-", part(2, 8)),
            ("bytes=2-99999999999999999999999", part(2, 8)),
            ("bytes=-3", part(7, 3)),
            ("bytes=-30", part(0, 10)),
            ("bytes=9-9", part(9, 1)),
            ("bytes=10-", Verdict::Unsatisfiable),
            ("bytes=99999999999999999999999-", Verdict::Unsatisfiable),
            ("bytes=-0", Verdict::Unsatisfiable),
            ("bytes=4-2", Verdict::Whole),
            ("bytes=0-1,3-4", Verdict::Whole),
            ("bytes=a-b", Verdict::Whole),
            ("bytes=-", Verdict::Whole),
            ("bytes=+1-2", Verdict::Whole),
            ("lines=0-1", Verdict::Whole),
            ("bytes", Verdict::Whole),
        ] {
            assert_eq!(judged(&[(RANGE, range)], 10, true), verdict, "{range}");
            assert_eq!(judged(&[(RANGE, range)], 10, false), Verdict::Whole, "{range}");
        }
        assert_eq!(judged(&[(RANGE, "bytes=0-")], 0, true), Verdict::Unsatisfiable);
        assert_eq!(judged(&[(RANGE, "bytes=-1")], 0, true), Verdict::Unsatisfiable);
    }

    #[test]
    fn conditions_come_before_ranges() {
        let range = (RANGE, "bytes=0-0");
        let first = Verdict::Part { from: 0, length: 1 };
        for (header, verdict) in [
            ((IF_MATCH, "\"abc\""), first),
            ((IF_MATCH, "*"), first),
            ((IF_MATCH, "\"x\", \"abc\""), first),
            ((IF_MATCH, "\"x\""), Verdict::Failed),
            ((IF_MATCH, "W/\"abc\""), Verdict::Failed),
            ((IF_NONE_MATCH, "\"x\", W/\"abc\""), Verdict::NotModified),
            ((IF_NONE_MATCH, "abc"), Verdict::NotModified),
            ((IF_NONE_MATCH, "*"), Verdict::NotModified),
            ((IF_NONE_MATCH, "\"x\""), first),
            ((IF_RANGE, "\"abc\""), first),
            ((IF_RANGE, "\"x\""), Verdict::Whole),
            ((IF_RANGE, "W/\"abc\""), Verdict::Whole),
            ((IF_RANGE, "Tue, 10 Feb 2026 10:00:00 GMT"), Verdict::Whole),
        ] {
            assert_eq!(judged(&[header.clone(), range.clone()], 10, true), verdict, "{header:?}");
        }
    }

    #[test]
    fn without_a_tag_only_a_star_matches() {
        let with = |name, value| {
            let headers = std::iter::once((name, HeaderValue::from_static(value))).collect();
            judge(&headers, None, 10, true).unwrap()
        };
        assert_eq!(with(IF_MATCH, "\"abc\""), Verdict::Failed);
        assert_eq!(with(IF_MATCH, "*"), Verdict::Whole);
        assert_eq!(with(IF_NONE_MATCH, "\"abc\""), Verdict::Whole);
    }

    proptest! {
        #[test]
        fn a_part_is_inside_the_file(range in "bytes=[0-9]{0,21}-[0-9]{0,21}", size in any::<u64>()) {
            if let Verdict::Part { from, length } = part(&range, size) {
                prop_assert!(length > 0 && from.checked_add(length).is_some_and(|end| end <= size));
            }
        }
    }
}
