//! After a crash: settling writes that had an intent but no record.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::commit::{NewVersion, Pending, agent, now_ns};
use super::examine::Seen;
use super::intent::{self, Intent};
use super::staging::Displaced;
use super::{Author, EditError, Edits, transaction};
use crate::fs::{Class, FsError, Stat, TenantPath, rename_back};
use crate::index::Version;
use crate::journal::JournalError;

impl Edits {
    /// Before any edit: settles what an earlier process left half done. On a full volume that may have to wait, and edits with it.
    pub(super) fn settled(&self) -> Result<(), JournalError> {
        if self.is_settled.load(Ordering::Acquire) {
            return Ok(());
        }
        // Whoever comes first does it, the others wait; nobody edits meanwhile.
        let _turn = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_settled.load(Ordering::Acquire) {
            return Ok(());
        }
        self.recover()?;
        self.is_settled.store(true, Ordering::Release);
        Ok(())
    }

    /// Records what happened without a record, under its author's name, and empties the staging directory.
    fn recover(&self) -> Result<(), JournalError> {
        self.staging.settle_kept()?;
        let mut unsettled = HashSet::new();
        for name in self.staging.names()? {
            let Some((id, set)) = transaction::read_intent(self.staging.dir(), &name) else { continue };
            tracing::info!(id, steps = set.steps.len(), "settling a transaction that a crash interrupted");
            match self.settle_set(&set) {
                Ok(()) => {}
                Err(EditError::Journal(error)) => return Err(error),
                Err(error) => {
                    tracing::error!(id, %error, "could not settle an interrupted transaction; it stays in .winston/staging");
                    unsettled.insert(id.to_owned());
                }
            }
        }
        for name in self.staging.names()? {
            let Some((id, intent)) = intent::read(self.staging.dir(), &name) else { continue };
            let Ok(path) = TenantPath::parse(&intent.path) else { continue };
            tracing::info!(path = %path, source = intent.source.as_str(), "settling a write that a crash interrupted");
            match self.settle(id, &intent, &path) {
                Ok(()) => {}
                // The journal cannot be written now; later.
                Err(EditError::Journal(error)) => return Err(error),
                Err(error) => {
                    // One broken file must not keep everything else down.
                    tracing::error!(path = %path, id, %error, "could not settle an interrupted write; it stays in .winston/staging");
                    unsettled.insert(id.to_owned());
                }
            }
        }
        self.staging.empty(&unsettled)?;
        Ok(())
    }

    /// Three things may be found. The staged file still has the new content: nothing had happened. The new content is in place: it is
    /// recorded now, after a displaced version that nobody has recorded. Something else is in place: the agent has been there since;
    /// the scan will find it, and only the displaced version is looked at here.
    fn settle(&self, id: &str, intent: &Intent, path: &TenantPath) -> Result<(), EditError> {
        let newest = self.journal.ledger().newest_of(path.as_str(), intent.after_seq);
        if newest.is_some_and(|change| change.hash == intent.hash && change.source == intent.source) {
            return Ok(());
        }
        let displaced = match self.staging.displaced(id) {
            Ok(Displaced::File(opened)) => Some(Seen::read(opened, self.max_file_bytes)?),
            Ok(Displaced::Other(_)) => return self.put_back(id, intent, path),
            Err(FsError::NotFound) => None,
            Err(error) => return Err(error.into()),
        };
        if intent.hash.is_some() && displaced.as_ref().and_then(|seen| seen.hash) == intent.hash {
            return Ok(());
        }
        if let (Some(seen), Some(expected)) = (&displaced, intent.only_over)
            && seen.hash != expected
        {
            // The edit was made for another version than it met: it is undone, as it would have been without the crash.
            return self.put_back(id, intent, path);
        }
        let known = self.index.version(path.as_str());
        let recorded = known.and_then(|version| version.hash);
        let mut pending = Pending::default();
        let mut previous = recorded;
        let place = self.in_place(path)?;
        let swapped = match (&place, intent.hash) {
            (Some(seen), Some(hash)) => seen.hash == Some(hash),
            (None, None) => displaced.is_some(),
            _ => false,
        };
        if let Some(seen) = displaced
            && seen.hash.is_some()
            && seen.hash != recorded
            && self.layout.class(path) == Class::Tracked
        {
            previous = seen.hash;
            let version = NewVersion {
                hash: seen.hash,
                previous: recorded,
                size: seen.stat.size,
                created: known.is_none(),
                content: seen.content,
            };
            pending.version(path, &agent(), version);
            // Under a tuple that matches nothing: what is in place has to be compared with this version.
            let unseen = Stat { ino: 0, ..seen.stat };
            pending.seen(path, Version { hash: previous, source: agent().source }, unseen, now_ns());
        }
        let author = Author { source: intent.source, actor: intent.actor.clone(), generation: intent.generation };
        match (swapped, place) {
            (true, Some(seen)) => {
                let version = Version { hash: seen.hash, source: intent.source };
                let (stat, created, content) = (seen.stat, previous.is_none(), seen.content);
                let size = stat.size;
                pending.version(path, &author, NewVersion { hash: seen.hash, previous, size, created, content });
                pending.seen(path, version, stat, now_ns());
            }
            (true, None) => pending.deleted(path, &author, previous),
            (false, _) => {}
        }
        self.commit(pending)?;
        Ok(())
    }

    /// The swap took out something that it should not have: it goes back where it was. What is there instead now must be what the edit
    /// wrote; anything else is the agent's newest word and stays.
    fn put_back(&self, id: &str, intent: &Intent, path: &TenantPath) -> Result<(), EditError> {
        let parent = match self.root.parent(path) {
            Ok(parent) => parent,
            // The directory is gone; what was displaced becomes history, if it has content.
            Err(FsError::NotFound | FsError::NotADirectory) => return self.displaced_is_history(id, path),
            Err(error) => return Err(error.into()),
        };
        let place = self.in_place(path)?;
        if place.as_ref().is_some_and(|seen| intent.hash.is_some() && seen.hash == intent.hash) {
            return Ok(self.staging.exchange(id, &parent.dir, parent.name)?);
        }
        match rename_back(self.staging.dir(), id, &parent.dir, parent.name) {
            Err(FsError::Exists) => self.displaced_is_history(id, path),
            done => Ok(done?),
        }
    }

    fn displaced_is_history(&self, id: &str, path: &TenantPath) -> Result<(), EditError> {
        let mut pending = Pending::default();
        self.staged_is_the_agents(id, path, &mut pending)?;
        self.commit(pending)?;
        Ok(())
    }

    fn in_place(&self, path: &TenantPath) -> Result<Option<Seen>, EditError> {
        match self.root.open_file(path) {
            Ok(opened) => Ok(Some(Seen::read(opened, self.max_file_bytes)?)),
            Err(FsError::Io(error)) => Err(FsError::Io(error).into()),
            Err(_) => Ok(None),
        }
    }
}
