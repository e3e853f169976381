//! Query strings.

use percent_encoding::percent_decode;

use super::error::ApiError;

/// Parameters of a query, decoded, each name at most once.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses `a=1&b=2`. A repeated name is an error: taking either value would be a guess.
    pub(super) fn parse(query: Option<&str>) -> Result<Self, ApiError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if pairs.iter().any(|(seen, _)| *seen == name) {
                return Err(ApiError::bad_request("duplicate_parameter", "a query parameter is given twice"));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// The value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A count: `default` when it is missing, zero or not a positive number (as the first sidecar had it), never over `most`.
    pub(super) fn limit(&self, default: usize, most: usize) -> usize {
        self.get("limit").and_then(|text| text.parse().ok()).filter(|limit| *limit > 0).unwrap_or(default).min(most)
    }

    /// A switch: off when it is missing. A name without a value means on.
    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1" | "") => Ok(true),
            Some(_) => Err(ApiError::bad_request("bad_query", format!("{name} is true or false"))),
        }
    }

    /// A whole number, when it is given.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let bad = |_| ApiError::bad_request("bad_query", format!("{name} is a whole number"));
        self.get(name).map(str::parse).transpose().map_err(bad)
    }
}

fn decode(text: &str) -> Result<String, ApiError> {
    let spaced = text.replace('+', " ");
    let bytes: Vec<u8> = percent_decode(spaced.as_bytes()).collect();
    String::from_utf8(bytes).map_err(|_| ApiError::bad_request("bad_query", "a query parameter is not valid UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_single() {
        let query = Query::parse(Some("path=a%2Fb+c&limit=7&flag")).unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(query.get("path"), Some("a/b c"));
        assert_eq!(query.get("flag"), Some(""));
        assert_eq!(query.limit(100, 1000), 7);
        assert!(Query::parse(Some("path=a&path=b")).is_err());
        assert!(Query::parse(Some("path=%ff")).is_err());
    }

    #[test]
    fn odd_limits_mean_the_default() {
        for (text, limit) in [("", 100), ("limit=0", 100), ("limit=x", 100), ("limit=-5", 100), ("limit=99999", 1000)] {
            let query = Query::parse(Some(text)).unwrap_or_else(|error| panic!("{error:?}"));
            assert_eq!(query.limit(100, 1000), limit, "{text}");
        }
    }
}
