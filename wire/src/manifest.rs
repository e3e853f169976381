//! The digest of a set of files.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{ContentHash, ParseHashError};

/// Digest of a set of files that can be kept up to date file by file: the sum, modulo 2^256, of the digests of its members.
///
/// A member's digest is SHA-256 over the path's bytes, a zero byte, and the content's hash (32 bytes; none for a file over the size limit),
/// taken as a big-endian number; whoever computes it owns a SHA-256, this crate does not. The sum finds accidents, not forgery: both sides are ours.
/// On the wire 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ManifestDigest([u128; 2]);

impl ManifestDigest {
    /// Takes a number back from its 32 bytes, big-endian.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let half = |from: usize| bytes[from..from + 16].iter().fold(0u128, |sum, byte| sum << 8 | u128::from(*byte));
        Self([half(0), half(16)])
    }

    /// The number's 32 bytes, big-endian.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&self.0[0].to_be_bytes());
        bytes[16..].copy_from_slice(&self.0[1].to_be_bytes());
        bytes
    }

    /// Adds a member by its digest.
    pub fn add(&mut self, member: [u8; 32]) {
        let Self([high, low]) = Self::from_bytes(member);
        let (sum, carry) = self.0[1].overflowing_add(low);
        self.0 = [self.0[0].wrapping_add(high).wrapping_add(u128::from(carry)), sum];
    }

    /// Takes a member out by its digest.
    pub fn remove(&mut self, member: [u8; 32]) {
        let Self([high, low]) = Self::from_bytes(member);
        let (rest, borrow) = self.0[1].overflowing_sub(low);
        self.0 = [self.0[0].wrapping_sub(high).wrapping_sub(u128::from(borrow)), rest];
    }
}

impl fmt::Display for ManifestDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ContentHash::from_bytes(self.to_bytes()).fmt(f)
    }
}

impl FromStr for ManifestDigest {
    type Err = ParseHashError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::from_bytes(*text.parse::<ContentHash>()?.as_bytes()))
    }
}

impl Serialize for ManifestDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ManifestDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_additions_and_removals_does_not_matter() {
        let members = [[0xff; 32], [0x80; 32], std::array::from_fn(|index| index as u8)];
        let mut forward = ManifestDigest::default();
        members.iter().for_each(|member| forward.add(*member));
        let mut backward = ManifestDigest::default();
        members.iter().rev().for_each(|member| backward.add(*member));
        assert_eq!(forward, backward);
        members.iter().for_each(|member| forward.remove(*member));
        assert_eq!(forward, ManifestDigest::default());
        backward.remove(members[0]);
        assert_ne!(backward, ManifestDigest::default());
        assert_eq!(backward.to_string().parse(), Ok(backward));
    }
}
