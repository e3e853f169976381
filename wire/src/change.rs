//! One entry of a tenant's journal.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ContentHash;

/// Who made a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A person or program, through the sidecar's file API.
    Admin,
    /// Found on disk: the gateway, its agent or a command that the agent ran.
    Agent,
    /// Pushed by control, or a first-boot file.
    System,
}

impl Source {
    /// The word used on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Agent => "agent",
            Self::System => "system",
        }
    }
}

/// What happened to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The path did not exist before.
    Create,
    /// The path's content was replaced.
    Update,
    /// The path is gone.
    Delete,
    /// The file came from [`Change::previous_path`], which is gone; its content is the same.
    Rename,
}

impl Action {
    /// The word used on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Rename => "rename",
        }
    }
}

/// One change of one file. Its identity is `(tenant, epoch, seq)`; the epoch travels with the batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Position in the journal, from 1, without gaps.
    pub seq: u64,
    /// When the sidecar recorded it.
    pub timestamp: Timestamp,
    /// Path relative to the data directory, `/` between components, never leading.
    pub path: String,
    /// Who made it.
    pub source: Source,
    /// For a rename: where the file was before. Never the same as `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_path: Option<String>,
    /// What happened.
    pub action: Action,
    /// Name given by the caller (`X-Winston-Actor`) or by the pusher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Content after the change; absent for a delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<ContentHash>,
    /// Content at `path` before the change; absent when the path did not exist or was not tracked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_hash: Option<ContentHash>,
    /// Size in bytes after the change; absent for a delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// For a push from control: the generation that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The file is over the size limit (or its content could not be kept), so control gets the record without content.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub content_omitted: bool,
}
