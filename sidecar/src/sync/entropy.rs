//! Comparing everything, when a check-in says that control's files are not those on disk although every change has arrived.
//!
//! Differences are repaired in one direction: the disk is the truth, and a record that states it once more takes the usual way up. Each
//! difference is looked at again under the path's lock, so one that is on its way already costs no record.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use winston_wire::{MAX_MANIFEST_FILES, ManifestDifference, ManifestRange};

use super::client::ClientError;
use super::engine::Engine;

/// Shortest time between two comparisons, and the longest, which is reached when they change nothing.
const PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// How often a range is sent again while control has not committed what it was listed after, and how long to wait in between.
const STALE_ROUNDS: usize = 5;
const STALE_PAUSE: Duration = Duration::from_secs(1);

/// Most differences of one comparison; the next one finds the others.
const MAX_DIFFERENCES: usize = 20_000;

impl Engine {
    /// Compares when it was asked for, at most once a minute.
    pub(super) async fn entropy_loop(&self) {
        let mut pause = PAUSE;
        loop {
            self.compare.notified().await;
            self.served().await;
            if !self.differs.swap(false, Ordering::Relaxed) {
                continue;
            }
            match self.compare_all().await {
                Ok(0) => pause = (pause * 2).min(LONGEST_PAUSE),
                Ok(repairs) => {
                    tracing::warn!(
                        repairs,
                        "control's files differed from the disk; their state is recorded once more"
                    );
                    pause = PAUSE;
                }
                Err(error) => tracing::warn!(%error, "could not compare the files with control's; trying again later"),
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Walks all tracked files. Returns the number of records that were made.
    async fn compare_all(&self) -> Result<u64, ClientError> {
        self.status.count_compare();
        let (mut differing, mut after, mut limit): (Vec<(ManifestDifference, u64)>, Option<String>, usize) =
            (Vec::new(), None, MAX_MANIFEST_FILES);
        let mut stale = 0;
        loop {
            let seq = self.edits.journal().head_seq();
            let epoch = self.edits.journal().epoch();
            let (edits, from) = (Arc::clone(&self.edits), after.clone());
            let listed = tokio::task::spawn_blocking(move || edits.manifest_range(from.as_deref(), limit)).await;
            let Ok((files, through)) = listed else { return Ok(0) };
            let range = ManifestRange { epoch, seq, after: after.clone(), through: through.clone(), files };
            let answer = match self.client.manifest(&range).await {
                Err(ClientError::Refused { status: StatusCode::PAYLOAD_TOO_LARGE, .. }) if limit > 1 => {
                    limit /= 2;
                    continue;
                }
                answer => answer?,
            };
            if answer.stale {
                stale += 1;
                if stale > STALE_ROUNDS {
                    break;
                }
                tokio::time::sleep(STALE_PAUSE).await;
                continue;
            }
            differing.extend(answer.differing.into_iter().map(|difference| (difference, seq)));
            if differing.len() >= MAX_DIFFERENCES || through.is_none() {
                break;
            }
            after = through;
        }
        let edits = Arc::clone(&self.edits);
        let work = move || {
            let restate = |(difference, seq): &(ManifestDifference, u64)| match edits.restate(difference, *seq) {
                Ok(restated) => restated,
                Err(error) => {
                    tracing::warn!(path = difference.path, %error, "could not repair what control knows of a file");
                    false
                }
            };
            differing.iter().filter(|difference| restate(difference)).count() as u64
        };
        let repairs = tokio::task::spawn_blocking(work).await.unwrap_or(0);
        self.status.count_repairs(repairs);
        Ok(repairs)
    }
}
