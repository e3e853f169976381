//! After a crash: settling writes that had an intent but no record.

use super::commit::{NewVersion, Pending, agent, now_ns};
use super::examine::Seen;
use super::intent::{self, Intent};
use super::staging::Displaced;
use super::{Author, EditError, Edits};
use crate::fs::{Class, FsError, Stat, TenantPath};
use crate::index::Version;

impl Edits {
    /// Records what happened without a record, under its author's name, and empties the staging directory.
    pub(super) fn recover(&self) -> Result<(), EditError> {
        let names = self.staging.names()?;
        for name in &names {
            let Some((id, intent)) = intent::read(self.staging.dir(), name) else { continue };
            let Ok(path) = TenantPath::parse(&intent.path) else { continue };
            tracing::info!(path = %path, source = intent.source.as_str(), "settling a write that a crash interrupted");
            self.settle(id, &intent, &path)?;
        }
        self.staging.empty()?;
        Ok(())
    }

    /// Three things may be found. The staged file still has the new content: nothing had happened. The new content is in
    /// place: it is recorded now, after a displaced version that nobody has recorded. Something else is in place: the agent has been there since; the scan
    /// will find it, and only the displaced version is looked at here.
    fn settle(&self, id: &str, intent: &Intent, path: &TenantPath) -> Result<(), EditError> {
        let displaced = match self.staging.displaced(id) {
            Ok(Displaced::File(opened)) => Some(Seen::read(opened, self.max_file_bytes)?),
            Ok(Displaced::Other) | Err(FsError::NotFound) => None,
            Err(error) => return Err(error.into()),
        };
        let staged_hash = displaced.as_ref().and_then(|seen| seen.hash);
        if intent.hash.is_some() && staged_hash == intent.hash {
            return Ok(());
        }
        let newest = self.journal.ledger().newest_of(path.as_str());
        if newest.is_some_and(|change| change.hash == intent.hash && change.source == intent.source) {
            return Ok(());
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
        }
        let author = Author { source: intent.source, actor: intent.actor.clone(), generation: intent.generation };
        match (swapped, place) {
            (true, Some(seen)) => {
                let version = Version { hash: seen.hash, source: intent.source };
                let stat: Stat = seen.stat;
                let created = previous.is_none();
                let content = seen.content;
                pending.version(
                    path,
                    &author,
                    NewVersion { hash: seen.hash, previous, size: stat.size, created, content },
                );
                pending.seen(path, version, stat, now_ns());
            }
            (true, None) => pending.deleted(path, &author, previous),
            (false, _) => {}
        }
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
