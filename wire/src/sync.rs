//! Bodies of the sidecar's calls to control.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::{Change, ConfigVerdict, ContentHash, GatewayStatus, ManifestDigest};

/// Heartbeat: what this sidecar is, has and does. State, not events: sending it twice changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckIn {
    /// [`crate::PROTOCOL_VERSION`] of the sidecar.
    pub protocol: u32,
    /// Version of the sidecar program.
    pub version: String,
    /// Identity of the journal; a recreated volume starts a new one.
    pub epoch: Uuid,
    /// Identity of this sidecar process; new at every start. Of two processes with one token, control serves the one that appeared last.
    pub session: Uuid,
    /// When the sidecar process started.
    pub started_at: Timestamp,
    /// Last sequence number in the journal; 0 when it is empty.
    pub head_seq: u64,
    /// Last generation of pushed files that was worked through (applied or in `conflicts`).
    pub applied_generation: u64,
    /// The gateway.
    pub gateway: GatewayStatus,
    /// Pushed files that met a local edit and were not applied.
    #[serde(default)]
    pub conflicts: Vec<Conflict>,
    /// The newest verdicts about pushed configurations, at most [`crate::MAX_VERDICTS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<ConfigVerdict>,
    /// What the tracked files amount to; absent while that is not known (during the first listing).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ManifestSummary>,
}

/// All tracked files of a tenant in one number, to notice that two sides differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestSummary {
    /// Last record of the journal that is contained in it.
    pub seq: u64,
    /// Number of files.
    pub files: u64,
    /// See [`crate::ManifestDigest`].
    pub digest: ManifestDigest,
}

/// A range of a sidecar's files, by path, to be compared with what control has. Ranges follow each other without gaps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestRange {
    /// Identity of the journal.
    pub epoch: Uuid,
    /// Last record of the journal that is contained in it. Control compares only when it has committed exactly this much.
    pub seq: u64,
    /// The range starts behind this path; absent: at the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The range ends with this path; absent: with the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<String>,
    /// Every tracked file in the range, by the bytes of its path, at most [`crate::MAX_MANIFEST_FILES`].
    pub files: Vec<ManifestFile>,
}

/// One file as one side knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Path relative to the data directory.
    pub path: String,
    /// Its content; `null` when it is over the size limit.
    pub hash: Option<ContentHash>,
}

/// Answer to [`ManifestRange`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestDifferences {
    /// Control had committed something else than `seq`, so nothing was compared: the sidecar asks again later.
    pub stale: bool,
    /// Paths that control lacks, has with another content, or has although the sidecar does not.
    #[serde(default)]
    pub differing: Vec<ManifestDifference>,
}

/// One path on which the two sides do not agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestDifference {
    /// Path relative to the data directory.
    pub path: String,
    /// Whether control has a file there.
    pub present: bool,
    /// Content that control has; `null` when it has none or a file without a kept content.
    pub hash: Option<ContentHash>,
}

/// Answer to [`CheckIn`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckInAnswer {
    /// The tenant that the token belongs to.
    pub tenant_id: Uuid,
    /// Every change of this epoch up to here is committed, content included.
    pub acked_seq: u64,
    /// Newest generation of desired files.
    pub desired_generation: u64,
    /// Seconds until the next check-in is expected.
    pub heartbeat_seconds: u32,
    /// The change at `acked_seq` as control has it. A journal whose own record of that number is another one went a way of its own (its
    /// volume was restored from a copy), and continues as a new journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acked_change: Option<AckedChange>,
    /// Everything of this journal is committed, and yet control's files are not those of `manifest`: they have to be compared.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub manifest_differs: bool,
}

/// What tells one record with a number from another one with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckedChange {
    /// Its number.
    pub seq: u64,
    /// Its path.
    pub path: String,
    /// When it was recorded, in microseconds since 1970 (what a database keeps).
    pub timestamp_us: i64,
    /// Its content; absent for a delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<ContentHash>,
}

/// Consecutive changes of one journal. Committed at most once each; sending a batch again is harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeBatch {
    /// Identity of the journal.
    pub epoch: Uuid,
    /// In order of `seq`, at most [`crate::MAX_BATCH_CHANGES`].
    pub changes: Vec<Change>,
    /// Sequence numbers within the batch's range whose records can not be read back any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<u64>,
}

/// Answer to [`ChangeBatch`].
///
/// A change is committed together with its content. The first change whose content control lacks stops the commit;
/// the sidecar uploads what is wanted and sends again from `acked_seq + 1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeBatchAnswer {
    /// Every change of this epoch up to here is committed.
    pub acked_seq: u64,
    /// Contents that control lacks, in the order of the batch.
    #[serde(default)]
    pub contents_wanted: Vec<ContentHash>,
}

/// Desired files newer than the generation that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Newest generation; equal to the one asked for when there is nothing new.
    pub generation: u64,
    /// One entry per path, its newest push only.
    pub files: Vec<DesiredFile>,
}

/// One file as control wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredFile {
    /// Path relative to the data directory.
    pub path: String,
    /// Generation of this push.
    pub generation: u64,
    /// Wanted content; `null` means that the file should not exist.
    pub hash: Option<ContentHash>,
    /// What the pusher believed to be there.
    pub base: Base,
    /// The content is a merge patch (RFC 7396): the keys that control owns from then on. Everything else in the file is the tenant's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub merge: bool,
    /// Who pushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

/// Version that a push replaces; on the wire `any`, `absent` or a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Replace whatever is there (it is kept in history first).
    Any,
    /// The path should not exist.
    Absent,
    /// The path should have this content.
    Hash(ContentHash),
}

/// The text is neither `any` nor `absent` nor a content hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseBaseError;

impl fmt::Display for ParseBaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a base is `any`, `absent` or 64 hexadecimal digits")
    }
}

impl std::error::Error for ParseBaseError {}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.pad("any"),
            Self::Absent => f.pad("absent"),
            Self::Hash(hash) => hash.fmt(f),
        }
    }
}

impl FromStr for Base {
    type Err = ParseBaseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "any" => Ok(Self::Any),
            "absent" => Ok(Self::Absent),
            hash => hash.parse().map(Self::Hash).map_err(|_| ParseBaseError),
        }
    }
}

impl Serialize for Base {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Base {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A pushed file that was not applied because somebody had edited the file meanwhile. Both versions are kept: the
/// local one on disk and in the journal, the pushed one in control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Path relative to the data directory.
    pub path: String,
    /// Generation of the push.
    pub generation: u64,
    /// Content found on disk; `null` when the file was missing.
    pub local_hash: Option<ContentHash>,
    /// Content that was pushed; `null` when the push was a delete.
    #[serde(default)]
    pub pushed_hash: Option<ContentHash>,
    /// When the push met the local edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// How a conflict is settled. The words are the tenant's: "ours" is the file on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resolution {
    /// The local file stays; the pushed version remains in history.
    Ours,
    /// The pushed version replaces the local one, which remains in history.
    Theirs,
    /// A third content, made out of both, replaces the local one.
    Merged,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_one_word_or_a_hash() {
        let hash = ContentHash::from_bytes([7; 32]);
        for base in [Base::Any, Base::Absent, Base::Hash(hash)] {
            let json = serde_json::to_string(&base).unwrap();
            assert_eq!(serde_json::from_str::<Base>(&json).unwrap(), base, "{json}");
        }
        assert!(serde_json::from_str::<Base>("\"missing\"").is_err());
    }
}
