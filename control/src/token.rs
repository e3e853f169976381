//! Bearer tokens: how they look, and the only form in which they are stored.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use winston_wire::ContentHash;
use winston_wire::env::Secret;

/// Prefix of API keys, so that people and secret scanners recognise one.
const API_KEY_PREFIX: &str = "wk_";
/// Random bytes in any token.
const RANDOM_BYTES: usize = 32;
/// Longest text that is worth hashing: nothing of ours is longer.
const MAX_TOKEN_BYTES: usize = 128;

/// SHA-256 of a token's text. Tokens carry 256 random bits, so a fast hash without salt is enough.
#[derive(Clone, Copy)]
pub(crate) struct TokenHash([u8; 32]);

impl TokenHash {
    /// Hashes a presented or a new token.
    pub(crate) fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// The digest, for the look-up.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Compares with a stored digest in constant time.
    pub(crate) fn matches(&self, stored: &[u8]) -> bool {
        self.0.ct_eq(stored).into()
    }
}

/// The system has no randomness to give.
#[derive(Debug, thiserror::Error)]
#[error("the system's random source failed: {0}")]
pub(crate) struct RandomError(getrandom::Error);

fn random_hex() -> Result<String, RandomError> {
    let mut bytes = [0u8; RANDOM_BYTES];
    getrandom::fill(&mut bytes).map_err(RandomError)?;
    // A content hash is shown as 64 lower-case digits, which is the form of a token as well.
    Ok(ContentHash::from_bytes(bytes).to_string())
}

/// A new API key: `wk_` and 64 hexadecimal digits.
pub(crate) fn new_api_key() -> Result<Secret, RandomError> {
    Ok(Secret::new(format!("{API_KEY_PREFIX}{}", random_hex()?)))
}

/// A new token for a sidecar or a gateway: 64 hexadecimal digits.
pub(crate) fn new_token() -> Result<Secret, RandomError> {
    Ok(Secret::new(random_hex()?))
}

/// The token in an `Authorization` header. The scheme is required and may be in any case.
pub(crate) fn bearer(header: Option<&str>) -> Option<&str> {
    let (scheme, token) = header?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= MAX_TOKEN_BYTES).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_recognisable_and_never_the_same() {
        let key = new_api_key().unwrap();
        let digits = key.expose().strip_prefix("wk_").unwrap().to_owned();
        assert_eq!(digits.len(), 64);
        assert!(digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        assert_ne!(new_token().unwrap().expose(), new_token().unwrap().expose());
        assert_eq!(new_token().unwrap().expose().len(), 64);
    }

    #[test]
    fn the_bearer_scheme_is_required() {
        assert_eq!(bearer(Some("Bearer abc")), Some("abc"));
        assert_eq!(bearer(Some("bearer abc")), Some("abc"));
        for bad in ["abc", "Bearer", "Bearer ", "Basic abc", &format!("Bearer {}", "a".repeat(200))] {
            assert_eq!(bearer(Some(bad)), None, "{bad}");
        }
        assert_eq!(bearer(None), None);
    }

    #[test]
    fn only_the_same_token_matches() {
        let hash = TokenHash::of("test-token");
        assert!(TokenHash::of("test-token").matches(hash.as_bytes()));
        assert!(!TokenHash::of("test-tokem").matches(hash.as_bytes()));
        assert!(!TokenHash::of("test-token").matches(&hash.as_bytes()[..31]));
    }
}
