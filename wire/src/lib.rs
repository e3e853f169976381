//! Types that the sidecar and control both speak.
//!
//! Shapes only: nothing in this crate opens a file, a socket or a clock. Everything but contents is JSON on the wire; times are
//! UTC instants in RFC 3339 with a `Z`, hashes are 64 lower-case hexadecimal digits of SHA-256 over the raw bytes,
//! sizes are bytes.
//!
//! Conversation (the sidecar always dials, control always answers; bearer token in `Authorization`):
//!
//! | Call | Body | Answer |
//! |---|---|---|
//! | `POST /api/sidecar/check-in` | [`CheckIn`] | [`CheckInAnswer`] |
//! | `POST /api/sidecar/changes` | [`ChangeBatch`] | [`ChangeBatchAnswer`] |
//! | `PUT /api/sidecar/contents/<hash>` | raw bytes | 204 |
//! | `POST /api/sidecar/contents` | [`frames`] | [`ContentsAnswer`] |
//! | `GET /api/sidecar/contents/<hash>` | – | raw bytes |
//! | `GET /api/sidecar/desired?generation=<g>&wait=<s>` | – | [`Desired`] |
//! | `POST /api/sidecar/manifest` | [`ManifestRange`] | [`ManifestDifferences`] |
//!
//! Every call but the check-in names its session in [`SESSION_HEADER`]. A session that another one has taken the place of is
//! answered with 409 and the code [`SUPERSEDED`].

mod change;
mod config;
mod contents;
pub mod env;
mod error;
mod gateway;
mod handover;
mod hash;
mod manifest;
mod sync;

pub use change::{Action, Change, Source};
pub use config::{ConfigIssue, ConfigVerdict, Verdict};
pub use contents::{
    BadFrames, CONTENTS_TYPE, ContentsAnswer, FRAME_HEAD_BYTES, MAX_CONTENTS, MAX_CONTENTS_BYTES, RefusedContent,
    frame_head, frames,
};
pub use error::ErrorBody;
pub use gateway::{ExitCause, GatewayExit, GatewayState, GatewayStatus, LikelyCause, Suspension};
pub use handover::{EXIT_REPLACE, HANDOVER_FDS, HandoverFds, Reaped};
pub use hash::{ContentHash, ParseHashError};
pub use jiff::Timestamp;
pub use manifest::ManifestDigest;
pub use sync::{
    AckedChange, Base, ChangeBatch, ChangeBatchAnswer, CheckIn, CheckInAnswer, Conflict, Desired, DesiredFile,
    ManifestDifference, ManifestDifferences, ManifestFile, ManifestRange, ManifestSummary, ParseBaseError, Resolution,
};

/// Version of the sidecar protocol. A sidecar and a control that differ refuse each other with a clear error.
pub const PROTOCOL_VERSION: u32 = 3;

/// Port of the sidecar's own HTTP listener.
pub const SIDECAR_PORT: u16 = 18790;

/// Port of the OpenClaw gateway on the container's loopback interface.
pub const GATEWAY_PORT: u16 = 18789;

/// Most changes that one [`ChangeBatch`] may carry.
pub const MAX_BATCH_CHANGES: usize = 500;

/// Most conflicts that one [`CheckIn`] may name; of more, the newest are named.
pub const MAX_CONFLICTS: usize = 1000;

/// Most verdicts that one [`CheckIn`] may name, and that a sidecar remembers.
pub const MAX_VERDICTS: usize = 20;

/// Longest path, in bytes, that the file API and the sync accept.
pub const MAX_PATH_BYTES: usize = 3072;

/// Header with the [`CheckIn::session`] of the caller.
pub const SESSION_HEADER: &str = "x-winston-session";

/// Error code for a session that is not the tenant's newest any more.
pub const SUPERSEDED: &str = "superseded";

/// Most files that one [`ManifestRange`] may carry.
pub const MAX_MANIFEST_FILES: usize = 1000;
