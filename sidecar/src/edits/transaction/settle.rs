//! After a crash: a set whose intent is still there is finished or taken back.

use std::collections::{HashMap, HashSet};

use winston_wire::{Action, Change, ContentHash};

use super::super::commit::{NewVersion, Pending, now_ns};
use super::super::examine::Seen;
use super::super::{Author, EditError, Edits};
use super::intent::Set;
use super::steps::Step;
use crate::fs::{FsError, TenantPath};
use crate::index::Version;
use crate::journal::{Content, Cursor, JournalError};

/// Records and bytes that are read from the journal at once.
const READ_RECORDS: usize = 500;
const READ_BYTES: usize = 1024 * 1024;

/// Records of a set that are in the journal, by action, path and content.
type Recorded = HashSet<(Action, String, Option<ContentHash>)>;

impl Edits {
    /// All records of a set are one append, after all its swaps. So if one of them is in the journal, all swaps were made and the missing
    /// records (the append was torn) are added; if none is, the set goes back.
    pub(in super::super) fn settle_set(&self, set: &Set) -> Result<(), EditError> {
        let recorded = self.recorded_of(set)?;
        if recorded.is_empty() {
            return self.undo_set(set);
        }
        let author = set.author();
        let mut pending = Pending::default();
        for step in &set.steps {
            self.complete(step, &author, &recorded, &mut pending)?;
            // Coming this way again after a failure adds only what is missing then, so the records need not be one append here.
            if pending.is_large() {
                self.commit(std::mem::take(&mut pending))?;
            }
        }
        self.commit(pending)?;
        Ok(())
    }

    fn recorded_of(&self, set: &Set) -> Result<Recorded, JournalError> {
        let mut recorded = Recorded::new();
        let named: HashMap<_, _> =
            set.steps.iter().flat_map(|step| step.paths().map(move |path| (path.as_str(), step))).collect();
        let whole: Vec<_> = set
            .steps
            .iter()
            .filter(|step| matches!(step, Step::MoveDirectory { .. } | Step::DeleteDirectory { .. }))
            .collect();
        let mut cursor = Cursor::after(set.after_seq);
        while cursor.next_seq() <= self.journal.head_seq() {
            let before = cursor.next_seq();
            let batch = self.journal.read(&mut cursor, READ_RECORDS, READ_BYTES)?;
            for change in batch.records.into_iter().map(|record| record.change) {
                let mut candidates = named.get(change.path.as_str()).into_iter().chain(&whole);
                if candidates.any(|step| is_of(set, step, &change)) {
                    recorded.insert((change.action, change.path, change.hash));
                }
            }
            if cursor.next_seq() == before {
                break;
            }
        }
        Ok(recorded)
    }

    fn complete(
        &self,
        step: &Step,
        author: &Author,
        recorded: &Recorded,
        pending: &mut Pending,
    ) -> Result<(), EditError> {
        let has = |action, path: &TenantPath, hash| recorded.contains(&(action, path.as_str().to_owned(), hash));
        match step {
            Step::Put { path, hash, size, .. } => {
                let hash = Some(*hash);
                if !has(Action::Create, path, hash) && !has(Action::Update, path, hash) {
                    self.complete_put(path, hash, *size, author, pending)?;
                }
            }
            Step::Delete { path, .. } => {
                if !has(Action::Delete, path, None) {
                    pending.deleted(path, author, self.index.version(path.as_str()).and_then(|version| version.hash));
                }
            }
            Step::Move { from, to, hash, size, .. } => {
                let done = has(Action::Rename, to, *hash)
                    || has(Action::Create, to, *hash)
                    || has(Action::Update, to, *hash)
                    || has(Action::Delete, from, None);
                if !done {
                    let previous = self.index.version(to.as_str()).and_then(|version| version.hash);
                    match self.record_move(from, to, author, *hash, previous, *size, pending) {
                        // The agent was there since; its version is found by the next look.
                        Err(EditError::Fs(_)) => pending.deleted(from, author, *hash),
                        done => done?,
                    }
                }
            }
            Step::MoveDirectory { from, to, .. } => self.record_moved_below(from, to, author, pending)?,
            Step::DeleteDirectory { slot, path: directory } => {
                for path in self.indexed_below(directory) {
                    // What the step took is in its slot until the set is settled; the rest of what is gone may be held back.
                    let taken = || Ok::<_, EditError>(self.removed_to(slot, directory, &path)?.is_some());
                    if self.root.stat(&path)?.is_none() && (!self.withheld.holds(&path) || taken()?) {
                        let previous = self.index.version(path.as_str()).and_then(|version| version.hash);
                        pending.deleted(&path, author, previous);
                    }
                }
            }
        }
        Ok(())
    }

    fn complete_put(
        &self,
        path: &TenantPath,
        hash: Option<ContentHash>,
        size: u64,
        author: &Author,
        pending: &mut Pending,
    ) -> Result<(), EditError> {
        let known = self.index.version(path.as_str()).and_then(|version| version.hash);
        if known == hash {
            return Ok(());
        }
        let there = match self.root.open_file(path) {
            Ok(opened) => Some(Seen::read(opened, self.max_file_bytes)?),
            Err(FsError::Io(error)) => return Err(FsError::Io(error).into()),
            Err(_) => None,
        };
        let version = NewVersion { hash, previous: known, size, created: known.is_none(), content: None };
        match there {
            Some(Seen { hash: found, content: Some(content), stat, .. }) if found == hash => {
                pending.version_kept(path, author, version, Content::keep(content));
                pending.seen(path, Version { hash, source: author.source }, stat, now_ns());
            }
            // The agent has replaced it since: what was written is history without its content.
            _ => {
                pending.version_kept(path, author, version, Content::None);
                self.unseen(path, hash, author, pending);
            }
        }
        Ok(())
    }
}

/// Whether a record is one of this step's.
fn is_of(set: &Set, step: &Step, change: &Change) -> bool {
    if change.source != set.source || change.actor != set.actor || change.generation != set.generation {
        return false;
    }
    let below = |directory: &TenantPath, path: &str| {
        TenantPath::parse(path).is_ok_and(|path| path.is_within(directory) && path != *directory)
    };
    let previous = change.previous_path.as_deref();
    match step {
        Step::Put { path, hash, .. } => {
            previous.is_none() && change.path == path.as_str() && change.hash == Some(*hash)
        }
        Step::Delete { path, .. } => change.action == Action::Delete && change.path == path.as_str(),
        Step::Move { from, to, hash, .. } => match change.action {
            Action::Rename => change.path == to.as_str() && previous == Some(from.as_str()),
            Action::Delete => change.path == from.as_str(),
            Action::Create | Action::Update => change.path == to.as_str() && change.hash == *hash,
        },
        Step::MoveDirectory { from, to, .. } => match change.action {
            Action::Rename => below(to, &change.path) && previous.is_some_and(|path| below(from, path)),
            Action::Delete => below(from, &change.path),
            Action::Create | Action::Update => below(to, &change.path),
        },
        Step::DeleteDirectory { path, .. } => change.action == Action::Delete && below(path, &change.path),
    }
}
