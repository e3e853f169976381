//! The bearer token.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use winston_wire::env::Secret;

/// SHA-256 of the token. Comparing digests takes the same time whatever is presented, its length included.
pub(crate) struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Digest of the configured token.
    pub(crate) fn of(token: &Secret) -> Self {
        Self(Sha256::digest(token.expose()).into())
    }

    /// Whether the request carries the token: exactly one `Authorization: Bearer <token>`.
    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        match (values.next().and_then(bearer), values.next()) {
            (Some(token), None) => self.is(token),
            _ => false,
        }
    }

    /// Whether this value of a header carries the token.
    pub(crate) fn is_in(&self, value: &HeaderValue) -> bool {
        bearer(value).is_some_and(|token| self.is(token))
    }

    fn is(&self, token: &[u8]) -> bool {
        Sha256::digest(token).ct_eq(&self.0).into()
    }
}

fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "test-token-test-token-test-token";

    fn admits(values: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        TokenDigest::of(&Secret::new(TOKEN)).admits(&headers)
    }

    #[test]
    fn only_the_token_as_a_bearer_is_admitted() {
        assert!(admits(&[&format!("Bearer {TOKEN}")]));
        assert!(admits(&[&format!("bearer {TOKEN}")]));
        assert!(!admits(&[]));
        assert!(!admits(&[TOKEN]));
        assert!(!admits(&["Bearer "]));
        assert!(!admits(&[&format!("Bearer {TOKEN}x")]));
        assert!(!admits(&[&format!("Bearer {}", &TOKEN[1..])]));
        assert!(!admits(&[&format!("Basic {TOKEN}")]));
        assert!(!admits(&[&format!("Bearer {TOKEN}"), &format!("Bearer {TOKEN}")]));
    }
}
