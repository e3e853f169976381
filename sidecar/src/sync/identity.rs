//! Whether this volume's journal still is the one that control knows under its identity.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use uuid::Uuid;
use winston_wire::AckedChange;

use super::client::ClientError;
use super::engine::{Engine, REPORT_PAUSE};

impl Engine {
    /// Whether the record that control has under a number is the one that the journal has. A record that is gone from here cannot be
    /// compared: then control is right.
    pub(super) async fn is_ours(&self, epoch: Uuid, theirs: &AckedChange) -> bool {
        let verified = || self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified().as_ref().is_some_and(|(journal, known)| *journal == epoch && known == theirs) {
            return true;
        }
        let (edits, seq) = (Arc::clone(&self.edits), theirs.seq);
        let ours = tokio::task::spawn_blocking(move || edits.journal().change_at(seq)).await.unwrap_or(None);
        let same = ours.is_none_or(|ours| {
            // A database may round where we cut off.
            let apart = ours.timestamp.as_microsecond().abs_diff(theirs.timestamp_us);
            ours.path == theirs.path && ours.hash == theirs.hash && apart <= 1
        });
        if same {
            *verified() = Some((epoch, theirs.clone()));
        }
        same
    }

    /// The volume was restored from an older copy. Numbers would be given out twice, so the journal goes on under a new identity, and
    /// everything in it is sent again.
    pub(super) async fn start_new_epoch(&self, epoch: Uuid, reason: &str) -> Result<Duration, ClientError> {
        let head_seq = self.edits.journal().head_seq();
        tracing::error!(head_seq, reason, "the volume was restored from a copy? its journal goes on as a new one");
        let edits = Arc::clone(&self.edits);
        let renewed = tokio::task::spawn_blocking(move || {
            edits.journal().renew_epoch(epoch)?;
            edits.save_index()
        });
        match renewed.await {
            Ok(Ok(())) => {
                tracing::info!(epoch = %self.edits.journal().epoch(), "the journal has a new epoch");
                self.acked.send_replace(Some(0));
            }
            Ok(Err(error)) => tracing::error!(%error, "could not give the journal a new epoch"),
            Err(error) => tracing::error!(%error, "could not give the journal a new epoch"),
        }
        // The next check-in, which announces the new epoch, comes at once.
        Ok(REPORT_PAUSE * 2)
    }
}
