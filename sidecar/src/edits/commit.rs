//! From findings to journal and index, in that order.

use std::time::{SystemTime, UNIX_EPOCH};

use winston_wire::{Action, Change, ContentHash, Source, Timestamp};

use super::{Author, Edits};
use crate::fs::{Stat, TenantPath};
use crate::index::{Update, Version};
use crate::journal::{Appending, Content, JournalError, NewRecord};

/// Bytes of contents after which a batch is committed before more is read.
const LARGE_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// The same while files are read for their own sake: reading goes on while this is written.
const PIPELINED_BYTES: usize = 512 * 1024;
const PIPELINED_RECORDS: usize = 256;

/// Records that are not in the journal yet, and what the index will say once they are.
#[derive(Default)]
pub(super) struct Pending {
    records: Vec<NewRecord>,
    index: Vec<Update>,
    bytes: usize,
}

/// A version of a file, about to be recorded.
pub(super) struct NewVersion {
    pub(super) hash: Option<ContentHash>,
    pub(super) previous: Option<ContentHash>,
    pub(super) size: u64,
    pub(super) created: bool,
    /// `None` when the file is over the size limit.
    pub(super) content: Option<Vec<u8>>,
}

impl Pending {
    /// There is nothing to record.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Content after the newest record of a path, if there is a record of it here.
    pub(super) fn newest(&self, path: &TenantPath) -> Option<Option<ContentHash>> {
        self.records.iter().rev().find(|record| record.path == path.as_str()).map(|record| record.hash)
    }

    /// Enough to be worth a flush of its own while more is read.
    pub(super) fn is_worth_a_flush(&self) -> bool {
        self.bytes > PIPELINED_BYTES || self.records.len() >= PIPELINED_RECORDS
    }

    pub(super) fn is_large(&self) -> bool {
        self.bytes > LARGE_BATCH_BYTES
    }

    /// A version was made.
    pub(super) fn version(&mut self, path: &TenantPath, author: &Author, version: NewVersion) {
        let content = version.content.map_or(Content::None, Content::keep);
        self.version_kept(path, author, NewVersion { content: None, ..version }, content);
    }

    /// A version was made whose content is kept in this way.
    pub(super) fn version_kept(&mut self, path: &TenantPath, author: &Author, version: NewVersion, content: Content) {
        self.bytes += match &content {
            Content::Inline(bytes) | Content::Object(bytes) => bytes.len(),
            Content::None | Content::Stored => 0,
        };
        self.records.push(NewRecord {
            timestamp: Timestamp::now(),
            path: path.as_str().to_owned(),
            previous_path: None,
            source: author.source,
            action: if version.created { Action::Create } else { Action::Update },
            actor: author.actor.clone(),
            hash: version.hash,
            previous_hash: version.previous,
            size: Some(version.size),
            generation: author.generation,
            content_omitted: content == Content::None,
            content,
        });
    }

    /// A file has another path now. `version` is its content, `previous` what was at `to`. Its content is in history already, under `from`,
    /// so the record carries none.
    pub(super) fn moved(
        &mut self,
        from: &TenantPath,
        to: &TenantPath,
        author: &Author,
        hash: Option<ContentHash>,
        previous: Option<ContentHash>,
        size: u64,
    ) {
        self.records.push(NewRecord {
            timestamp: Timestamp::now(),
            path: to.as_str().to_owned(),
            previous_path: Some(from.as_str().to_owned()),
            source: author.source,
            action: Action::Rename,
            actor: author.actor.clone(),
            hash,
            previous_hash: previous,
            size: Some(size),
            generation: author.generation,
            content_omitted: hash.is_none(),
            content: Content::None,
        });
        self.index.push(Update::Gone { path: from.clone() });
    }

    /// A file was removed.
    pub(super) fn deleted(&mut self, path: &TenantPath, author: &Author, previous: Option<ContentHash>) {
        self.records.push(NewRecord {
            timestamp: Timestamp::now(),
            path: path.as_str().to_owned(),
            previous_path: None,
            source: author.source,
            action: Action::Delete,
            actor: author.actor.clone(),
            hash: None,
            previous_hash: previous,
            size: None,
            generation: author.generation,
            content_omitted: false,
            content: Content::None,
        });
        self.index.push(Update::Gone { path: path.clone() });
    }

    /// A file got another path; its content is the same. `previous` is the content that the path `to` had before. `stat` is the file's as it is
    /// now, read at `at_ns`.
    #[allow(clippy::too_many_arguments)] // Each is a fact of the one record.
    pub(super) fn renamed(
        &mut self,
        from: &TenantPath,
        to: &TenantPath,
        author: &Author,
        hash: Option<ContentHash>,
        previous: Option<ContentHash>,
        size: u64,
        stat: Stat,
        at_ns: i64,
    ) {
        self.moved(from, to, author, hash, previous, size);
        self.seen(to, Version { hash, source: author.source }, stat, at_ns);
    }

    /// A version is on disk under this stat, as read at `at_ns`.
    pub(super) fn seen(&mut self, path: &TenantPath, version: Version, stat: Stat, at_ns: i64) {
        self.index.push(Update::Seen { path: path.clone(), version, stat, at_ns });
    }
}

impl Edits {
    /// Makes findings durable, then believes them.
    pub(super) fn commit(&self, pending: Pending) -> Result<Vec<Change>, JournalError> {
        self.begin_commit(pending)?.wait()
    }

    /// Begins to make findings durable. The caller holds the locks of their paths until it has waited for the end.
    pub(super) fn begin_commit(&self, pending: Pending) -> Result<Recording<'_>, JournalError> {
        let Pending { records, index, .. } = pending;
        let appending = if records.is_empty() { None } else { Some(self.journal.begin_append(records)?) };
        Ok(Recording { edits: self, appending, index })
    }
}

/// Findings on their way into the journal.
pub(super) struct Recording<'a> {
    edits: &'a Edits,
    appending: Option<Appending<'a>>,
    index: Vec<Update>,
}

impl Recording<'_> {
    /// Waits until they are durable, then believes them.
    pub(super) fn wait(self) -> Result<Vec<Change>, JournalError> {
        let changes = self.appending.map_or_else(|| Ok(Vec::new()), Appending::wait)?;
        self.edits.withheld.release(self.index.iter().map(Update::path));
        let seqs = changes.first().zip(changes.last()).map(|(first, last)| first.seq..=last.seq);
        self.edits.index.apply(seqs, self.index);
        Ok(changes)
    }

    /// Like [`Recording::wait`], for whom the changes are of no interest.
    pub(super) fn finish(self) -> Result<(), JournalError> {
        self.wait().map(drop)
    }
}

/// The agent, as an author.
pub(super) fn agent() -> Author {
    Author { source: Source::Agent, actor: None, generation: None }
}

/// Now, in the unit of [`Stat`]'s times.
pub(super) fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|elapsed| i64::try_from(elapsed.as_nanos()).ok())
        .unwrap_or(0)
}
