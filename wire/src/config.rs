//! What became of a configuration.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ContentHash;

/// How a change of `openclaw.json`, with the files that came with it, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is in use.
    Applied,
    /// Somebody had edited the configuration meanwhile: theirs stays, both versions are kept.
    Conflict,
    /// It was refused before anything was changed.
    Invalid,
    /// The gateway did not do well with it: what was there before is there again.
    RolledBack,
}

impl Verdict {
    /// The word that stands for it in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::RolledBack => "rolled_back",
        }
    }
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigIssue {
    /// Dotted path of the key; empty when it is about the whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

/// A verdict, and what led to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigVerdict {
    /// Generation of the push; absent for a change that did not come from control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Content that was pushed for `openclaw.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<ContentHash>,
    /// How it ended.
    pub verdict: Verdict,
    /// Why, in one sentence.
    #[serde(default)]
    pub reason: String,
    /// What is wrong with it, as far as that is known by key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issues: Vec<ConfigIssue>,
    /// The gateway's own last lines, secrets replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
    /// Paths that were changed with it, and that somebody had edited when they should have gone back: they stayed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
    /// When.
    pub at: Timestamp,
}
