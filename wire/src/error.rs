//! The one JSON error shape.

use serde::{Deserialize, Serialize};

/// Body of every error answer. Further keys may stand beside these (for example `current_hash` with 412).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One sentence for a person.
    pub error: String,
    /// Stable word for programs, for example `not_found`.
    pub code: String,
    /// Identifies the request in the server's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}
