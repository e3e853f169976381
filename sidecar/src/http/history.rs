//! Reading changes in order from the journal, for pages and for streams.

use uuid::Uuid;
use winston_wire::{Action, Change};

use super::error::ApiError;
use crate::fs::TenantPath;
use crate::journal::{Batch, Cursor, Journal, JournalError};

/// Lines that are read for one page, in bytes and rounds: a filter that lets little through ends a page early.
const ROUND_BYTES: usize = 1024 * 1024;
const ROUNDS: usize = 16;

/// Why there is no page.
#[derive(Debug)]
pub(super) enum PageError {
    /// Those numbers have been removed; `first_seq` is the first that is left.
    Trimmed { first_seq: u64 },
    /// Those numbers belong to another journal than `epoch`.
    OtherEpoch { epoch: Uuid, head: u64 },
    /// The journal could not be read.
    Journal(JournalError),
}

impl From<JournalError> for PageError {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

impl From<PageError> for ApiError {
    fn from(error: PageError) -> Self {
        match error {
            PageError::Trimmed { first_seq } => {
                let message = "these changes are not on this volume any more; control has them";
                Self::new(http::StatusCode::GONE, "trimmed", message).with("first_seq", first_seq)
            }
            PageError::OtherEpoch { epoch, head } => {
                let message = "this number belongs to another journal";
                Self::new(http::StatusCode::CONFLICT, "other_epoch", message)
                    .with("epoch", epoch.to_string())
                    .with("head", head)
            }
            PageError::Journal(error) => {
                tracing::error!(%error, "could not read the journal");
                Self::new(http::StatusCode::SERVICE_UNAVAILABLE, "journal_unavailable", error.to_string())
            }
        }
    }
}

/// Where a reader is.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    cursor: Cursor,
    epoch: Uuid,
    /// Only changes of this path and of what is below it.
    path: Option<TenantPath>,
}

/// Consecutive changes.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) changes: Vec<Change>,
    /// Numbers whose records cannot be read back.
    pub(super) lost: Vec<u64>,
    /// Everything up to this number has been looked at.
    pub(super) next: u64,
    /// Newest number when the page was read.
    pub(super) head: u64,
}

impl Reader {
    /// Reads on after `seq` of the journal `epoch`.
    pub(super) fn new(epoch: Uuid, seq: u64, path: Option<TenantPath>) -> Self {
        Self { cursor: Cursor::after(seq), epoch, path }
    }

    /// The journal that it reads.
    pub(super) fn epoch(&self) -> Uuid {
        self.epoch
    }

    /// The next page: at most `limit` changes, empty at the journal's end. Blocking.
    pub(super) fn page(&mut self, journal: &Journal, limit: usize) -> Result<Page, PageError> {
        let first = self.cursor.next_seq();
        let head = journal.head_seq();
        if journal.epoch() != self.epoch || first > head + 1 {
            return Err(PageError::OtherEpoch { epoch: journal.epoch(), head });
        }
        let mut page = Page { changes: Vec::new(), lost: Vec::new(), next: first - 1, head };
        for _ in 0..ROUNDS {
            let room = limit - page.changes.len() - page.lost.len();
            // A page never goes beyond the head that it names, or a reader could not tell whether it has caught up.
            let ahead = usize::try_from((head + 1).saturating_sub(self.cursor.next_seq())).unwrap_or(usize::MAX);
            if room == 0 || ahead == 0 {
                break;
            }
            let batch = self.read(journal, room.min(ahead))?;
            if batch.records.is_empty() && batch.lost.is_empty() {
                break;
            }
            let changes = batch.records.into_iter().map(|record| record.change);
            page.changes.extend(changes.filter(|change| self.wants(change)));
            page.lost.extend(batch.lost);
        }
        page.next = self.cursor.next_seq() - 1;
        // Looked at last: what was removed meanwhile would otherwise pass for lost.
        let first_seq = journal.first_seq()?;
        if first < first_seq {
            return Err(PageError::Trimmed { first_seq });
        }
        Ok(page)
    }

    fn read(&mut self, journal: &Journal, most: usize) -> Result<Batch, PageError> {
        journal.read(&mut self.cursor, most, ROUND_BYTES).or_else(|error| {
            let first_seq = journal.first_seq()?;
            if self.cursor.next_seq() < first_seq {
                return Err(PageError::Trimmed { first_seq });
            }
            // The segment that it was at the end of has been removed: look the place up again.
            tracing::debug!(%error, "reading the journal from another segment");
            self.cursor = Cursor::after(self.cursor.next_seq() - 1);
            Ok(journal.read(&mut self.cursor, most, ROUND_BYTES)?)
        })
    }

    fn wants(&self, change: &Change) -> bool {
        let Some(wanted) = &self.path else { return true };
        let is_wanted = |path: &str| {
            let rest = path.strip_prefix(wanted.as_str());
            wanted.is_root() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        is_wanted(&change.path) || change.previous_path.as_deref().is_some_and(is_wanted)
    }
}

/// A change in the three words of the old contracts, oldest first: a rename is the end of one path and the beginning of another.
pub(super) fn in_old_words(change: Change) -> Vec<Change> {
    let Some(previous) = change.previous_path.clone().filter(|_| change.action == Action::Rename) else {
        return vec![change];
    };
    let delete = Change {
        path: previous,
        previous_path: None,
        action: Action::Delete,
        hash: None,
        previous_hash: change.hash,
        size: None,
        content_omitted: false,
        ..change.clone()
    };
    vec![delete, Change { action: Action::Create, previous_path: None, ..change }]
}

#[cfg(test)]
mod tests {
    use winston_wire::{ContentHash, Source, Timestamp};

    use super::*;

    fn change(action: Action, path: &str, previous_path: Option<&str>) -> Change {
        Change {
            seq: 3,
            timestamp: Timestamp::UNIX_EPOCH,
            path: path.to_owned(),
            source: Source::Agent,
            previous_path: previous_path.map(str::to_owned),
            action,
            actor: None,
            hash: Some(ContentHash::from_bytes([1; 32])),
            previous_hash: None,
            size: Some(7),
            generation: None,
            content_omitted: false,
        }
    }

    #[test]
    fn old_clients_know_three_words() {
        let update = change(Action::Update, "a", None);
        assert_eq!(in_old_words(update.clone()), [update]);
        let two = in_old_words(change(Action::Rename, "new", Some("old")));
        let told: Vec<_> = two.iter().map(|change| (change.seq, change.action, change.path.as_str())).collect();
        assert_eq!(told, [(3, Action::Delete, "old"), (3, Action::Create, "new")]);
        assert_eq!((two[0].hash, two[0].size, two[0].previous_hash), (None, None, two[1].hash));
        assert!(two.iter().all(|change| change.previous_path.is_none()));
    }

    #[test]
    fn a_filter_is_by_whole_components_and_knows_both_names() {
        let reader = Reader::new(Uuid::nil(), 0, TenantPath::parse("a/b").ok());
        for (path, previous, wanted) in [
            ("a/b", None, true),
            ("a/b/c", None, true),
            ("a/bc", None, false),
            ("a", None, false),
            ("x", Some("a/b/c"), true),
            ("x", Some("y"), false),
        ] {
            assert_eq!(reader.wants(&change(Action::Rename, path, previous)), wanted, "{path}");
        }
        assert!(Reader::new(Uuid::nil(), 0, Some(TenantPath::default())).wants(&change(Action::Create, "x", None)));
    }
}
