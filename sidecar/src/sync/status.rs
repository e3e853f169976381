//! What the status page says about the sync.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use winston_wire::{Conflict, Timestamp};

/// How the last contact with control went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SyncState {
    /// There is no control to sync with.
    #[default]
    Disabled,
    /// Not tried yet.
    Connecting,
    /// The last call was answered.
    Connected,
    /// Control cannot be reached or cannot serve; trying again with growing pauses.
    Unreachable,
    /// Control does not accept our token. A person has to act: the token was revoked or belongs to another control.
    Unauthorized,
    /// Control refuses what we send; see `error`.
    Refused,
    /// Another process with our token has taken our place: nothing is sent and no push is applied until one of the two is gone and the
    /// other one was restarted.
    Superseded,
}

/// See [`SyncStatus::report`].
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct SyncReport {
    pub(crate) state: SyncState,
    /// Since when.
    pub(crate) since: Option<Timestamp>,
    /// Why the last call failed.
    pub(crate) error: Option<String>,
    /// Why changes are not getting to control although it answers; `null` when they are.
    pub(crate) upload_error: Option<String>,
    /// Last generation of pushed files that was worked through.
    pub(crate) applied_generation: u64,
    /// Newest generation that control told of.
    pub(crate) desired_generation: u64,
    /// Pushes that met a local edit.
    pub(crate) conflicts: Vec<Conflict>,
    /// Comparisons of all files with control's, since the start.
    pub(crate) compares: u64,
    /// Files whose state was recorded once more because control had another one, since the start.
    pub(crate) repairs: u64,
}

/// Shared between the loops and the status page.
#[derive(Debug, Default)]
pub(crate) struct SyncStatus(Mutex<SyncReport>);

impl SyncStatus {
    fn lock(&self) -> MutexGuard<'_, SyncReport> {
        // Plain values: nothing a panic could leave half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of everything.
    pub(crate) fn report(&self) -> SyncReport {
        self.lock().clone()
    }

    /// Notes how a call went; logs when the state changes.
    pub(super) fn set_state(&self, state: SyncState, error: Option<String>) {
        let mut report = self.lock();
        if report.state != state {
            match (&error, state) {
                (Some(error), _) => tracing::warn!(previous = ?report.state, ?state, %error, "sync state"),
                (None, _) => tracing::info!(previous = ?report.state, ?state, "sync state"),
            }
            report.state = state;
            report.since = Some(Timestamp::now());
        }
        report.error = error;
    }

    /// Notes how sending changes went; logs when that changes.
    pub(super) fn set_upload(&self, error: Option<String>) {
        let mut report = self.lock();
        match (&report.upload_error, &error) {
            (None, Some(error)) => tracing::error!(%error, "changes are not getting to control"),
            (Some(_), None) => tracing::info!("changes are getting to control again"),
            _ => {}
        }
        report.upload_error = error;
    }

    /// Notes how far pushes are.
    pub(super) fn set_applied(&self, generation: u64, conflicts: Vec<Conflict>) {
        let mut report = self.lock();
        report.applied_generation = generation;
        report.desired_generation = report.desired_generation.max(generation);
        report.conflicts = conflicts;
    }

    /// A comparison of everything begins.
    pub(super) fn count_compare(&self) {
        self.lock().compares += 1;
    }

    /// A comparison led to this many records.
    pub(super) fn count_repairs(&self, repairs: u64) {
        self.lock().repairs += repairs;
    }

    /// Notes what control wants.
    pub(super) fn set_desired(&self, generation: u64) {
        self.lock().desired_generation = generation;
    }
}
