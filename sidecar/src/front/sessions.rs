//! Who is an operator: Basic auth with `SETUP_PASSWORD`, and the session that it begins.
//!
//! A session is a cookie that signs its own end (HMAC-SHA256 with a key that lives as long as this process). It opens nothing by itself: it lets
//! the front door approve the device of a browser that the gateway has checked ([`super::pairing`]).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use winston_wire::env::Secret;

/// Name of the cookie. Not `__Host-`: that name wants TLS, which a test or an SSH tunnel does not have.
pub(super) const COOKIE_NAME: &str = "winston_session";

/// How long an operator stays signed in.
const SESSION_TIME: Duration = Duration::from_secs(12 * 60 * 60);

/// Block of SHA-256, in bytes.
const BLOCK: usize = 64;

/// The password, as a digest: comparing takes the same time whatever is presented.
pub(super) struct Password([u8; 32]);

impl Password {
    pub(super) fn new(password: &Secret) -> Self {
        Self(Sha256::digest(password.expose()).into())
    }

    /// What the request says.
    pub(super) fn check(&self, headers: &HeaderMap) -> Presented {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        match (values.next(), values.next()) {
            (None, _) => Presented::Nothing,
            (Some(value), None) => match password_of(value) {
                None => Presented::Nothing,
                Some(password) if self.is(&password) => Presented::Right,
                Some(_) => Presented::Wrong,
            },
            _ => Presented::Wrong,
        }
    }

    /// Whether this header carries the password.
    pub(super) fn is_in(&self, value: &HeaderValue) -> bool {
        password_of(value).is_some_and(|password| self.is(&password))
    }

    fn is(&self, presented: &[u8]) -> bool {
        Sha256::digest(presented).ct_eq(&self.0).into()
    }
}

/// What a request presents for Basic auth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presented {
    Nothing,
    Wrong,
    Right,
}

/// What follows the first colon of Basic credentials. The user's name is not looked at: clients of old send none.
fn password_of(value: &HeaderValue) -> Option<Vec<u8>> {
    let (scheme, credentials) = value.as_bytes().split_at_checked(6)?;
    let credentials = scheme.eq_ignore_ascii_case(b"basic ").then_some(credentials)?;
    let mut decoded = STANDARD.decode(credentials.trim_ascii()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(decoded.split_off(colon + 1))
}

/// Signs sessions and knows them again.
pub(super) struct Sessions {
    key: [u8; 32],
}

impl Sessions {
    /// With a new key: a restart ends every session.
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Self { key })
    }

    /// The `Set-Cookie` of a new session.
    pub(super) fn begin(&self, secure: bool) -> Option<HeaderValue> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).ok()?;
        let ends = seconds_now().checked_add(SESSION_TIME.as_secs())?;
        let said = format!("{ends}.{}", URL_SAFE_NO_PAD.encode(id));
        let signature = URL_SAFE_NO_PAD.encode(self.sign(&said));
        let secure = if secure { "; Secure" } else { "" };
        let age = SESSION_TIME.as_secs();
        let cookie =
            format!("{COOKIE_NAME}={said}.{signature}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}");
        HeaderValue::from_str(&cookie).ok()
    }

    /// Whether the request comes with a session that is not over.
    pub(super) fn admits(&self, headers: &HeaderMap) -> bool {
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        cookies
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('='))
            .take(4)
            .any(|value| self.is_valid(value, seconds_now()))
    }

    fn is_valid(&self, value: &str, now: u64) -> bool {
        let Some((said, signature)) = value.rsplit_once('.') else { return false };
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
        let is_ours: bool = self.sign(said).as_slice().ct_eq(&signature).into();
        let ends = said.split('.').next().and_then(|ends| ends.parse::<u64>().ok());
        is_ours && ends.is_some_and(|ends| now < ends)
    }

    /// HMAC-SHA256 (RFC 2104).
    fn sign(&self, text: &str) -> [u8; 32] {
        let pad = |byte: u8| {
            let mut block = [byte; BLOCK];
            block.iter_mut().zip(self.key).for_each(|(block, key)| *block ^= key);
            block
        };
        let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
        Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
    }
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let value = format!("Basic {}", STANDARD.encode(text));
        headers.insert(AUTHORIZATION, HeaderValue::from_str(&value).expect("a value"));
        headers
    }

    #[test]
    fn the_password_counts_and_the_user_does_not() {
        let password = Password::new(&Secret::new("test-password: with a colon"));
        assert_eq!(password.check(&basic(":test-password: with a colon")), Presented::Right);
        assert_eq!(password.check(&basic("admin:test-password: with a colon")), Presented::Right);
        assert_eq!(password.check(&basic(":test-password")), Presented::Wrong);
        assert_eq!(password.check(&basic(":")), Presented::Wrong);
        assert_eq!(password.check(&basic("test-password: with a colo")), Presented::Wrong);
        assert_eq!(password.check(&HeaderMap::new()), Presented::Nothing);
        let mut twice = basic(":test-password: with a colon");
        twice.append(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        assert_eq!(password.check(&twice), Presented::Wrong);
        for other in ["Bearer x", "Basic", "Basic !", "Basic eA=="] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(other));
            assert_eq!(password.check(&headers), Presented::Nothing, "{other}");
        }
    }

    #[test]
    fn a_session_is_what_was_signed_and_not_over() {
        let sessions = Sessions::new().expect("a key");
        let cookie = sessions.begin(true).expect("a cookie");
        let text = cookie.to_str().expect("text");
        assert!(text.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict; Secure"), "{text}");
        let pair = text.split(';').next().expect("a pair");
        let admits = |line: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, HeaderValue::from_str(line).expect("a value"));
            sessions.admits(&headers)
        };
        assert!(admits(pair) && admits(&format!("a=b; {pair}; c=d")));
        assert!(!admits(&format!("x{pair}")));
        assert!(!admits(&pair.replace('=', "=1")));
        assert!(!admits(&format!("{pair}A")));
        assert!(!admits("winston_session=") && !admits("winston_session=a.b.c"));
        let value = pair.split_once('=').expect("a value").1;
        assert!(sessions.is_valid(value, 0) && !sessions.is_valid(value, u64::MAX));
        assert!(!Sessions::new().expect("a key").is_valid(value, 0), "signed by another process");
    }

    #[test]
    fn signatures_are_hmacs() {
        // RFC 4231, test case 1, with its key of 20 bytes filled up with zeros, as the algorithm does.
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        let signature = Sessions { key }.sign("Hi There");
        assert_eq!(signature[..8], [0xb0, 0x34, 0x4c, 0x61, 0xd8, 0xdb, 0x38, 0x53]);
    }
}
