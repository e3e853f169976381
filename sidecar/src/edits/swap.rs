//! What a swap took out of the tree, and taking a swap back, while the agent writes to the same name.

use std::os::fd::OwnedFd;

use rustix::fs::RenameFlags;
use winston_wire::ContentHash;

use super::commit::{NewVersion, Pending, agent, now_ns};
use super::examine::{Current, Seen};
use super::staging::Displaced;
use super::{Edits, Precondition};
use crate::fs::{Class, EntryKind, FsError, Stat, TenantPath, rename, rename_back, stat_at};
use crate::index::Version;

/// How an attempt ended.
pub(super) enum Attempt<T> {
    Done(T),
    /// The agent changed the path meanwhile; nothing of ours is there. Look again.
    Again,
}

/// The agent slipped a version in that must not be replaced.
pub(super) struct Slipped;

/// How taking a swap back ended.
pub(super) enum Undone {
    /// The tree is as it was before the swap; our file is staged again.
    Clean,
    /// The agent had replaced our file. Its version is in place, and what is staged is an older one of the agent's.
    NewerInPlace,
}

impl Edits {
    /// Looks at what the swap took out. If the agent slipped a version in after we had looked, that version is recorded; its hash is
    /// returned. Under a precondition, or when it is not a file, the swap has to be undone instead.
    pub(super) fn displaced(
        &self,
        id: &str,
        path: &TenantPath,
        current: &Current,
        precondition: Precondition,
        pending: &mut Pending,
    ) -> Result<Option<Option<ContentHash>>, Slipped> {
        let Ok(Displaced::File(opened)) = self.staging.displaced(id) else { return Err(Slipped) };
        let Ok(seen) = Seen::read(opened, self.max_file_bytes) else { return Err(Slipped) };
        let expected = match (&current.file, seen.hash) {
            (Some(file), Some(hash)) => file.hash == Some(hash),
            // Over the size limit there is no hash; inode, size and modification time survive the rename.
            (Some(file), None) => file.stat.is_version(&seen.stat),
            (None, _) => false,
        };
        if expected {
            return Ok(None);
        }
        if precondition.is_strict() {
            return Err(Slipped);
        }
        let hash = seen.hash;
        if self.layout.class(path) == Class::Tracked {
            pending.version(path, &agent(), slipped_in(seen, current.hash(), current.file.is_none()));
        }
        Ok(Some(hash))
    }

    /// Takes back [`super::staging::Staging::exchange`]. `ours` is our file as it was before the swap.
    pub(super) fn undo_exchange(&self, id: &str, parent: &OwnedFd, name: &str, ours: &Stat) -> Result<Undone, FsError> {
        // Spares readers the older version for a moment; the check that counts is the one after the exchange.
        if !stat_at(parent, name)?.is_some_and(|found| found.is_version(ours)) {
            return Ok(Undone::NewerInPlace);
        }
        match self.staging.exchange(id, parent, name) {
            Ok(()) if self.staging.holds(id, ours) => Ok(Undone::Clean),
            Ok(()) => {
                // What came out is newer than what went in, so it goes back.
                match self.staging.exchange(id, parent, name) {
                    Ok(()) | Err(FsError::NotFound) => Ok(Undone::NewerInPlace),
                    Err(error) => Err(error),
                }
            }
            // The agent has removed the name: that is its newest word, and what we displaced is history.
            Err(FsError::NotFound) => Ok(Undone::NewerInPlace),
            Err(error) => Err(error),
        }
    }

    /// Takes back [`super::staging::Staging::place`].
    pub(super) fn undo_place(&self, id: &str, parent: &OwnedFd, name: &str, ours: &Stat) -> Result<Undone, FsError> {
        match self.staging.take(id, parent, name) {
            Ok(()) if self.staging.holds(id, ours) => Ok(Undone::Clean),
            Ok(()) => match rename_back(self.staging.dir(), id, parent, name) {
                // In place again, for the next look to find.
                Ok(()) => Ok(Undone::Clean),
                Err(FsError::Exists) => Ok(Undone::NewerInPlace),
                Err(error) => Err(error),
            },
            Err(FsError::NotFound) => Ok(Undone::Clean),
            Err(error) => Err(error),
        }
    }

    /// Records the staged file as a version of the agent's, unless it is one that is recorded already. A directory, which is no version of
    /// anything, goes back beside its name.
    pub(super) fn staged_is_the_agents(
        &self,
        id: &str,
        path: &TenantPath,
        pending: &mut Pending,
    ) -> Result<(), FsError> {
        let opened = match self.staging.displaced(id)? {
            Displaced::File(opened) => opened,
            Displaced::Other(EntryKind::Directory) => return self.restore_beside(id, path),
            Displaced::Other(_) => return Ok(()),
        };
        let seen = Seen::read(opened, self.max_file_bytes)?;
        let indexed = || self.index.version(path.as_str()).and_then(|version| version.hash);
        let newest = pending.newest(path).unwrap_or_else(indexed);
        if self.layout.class(path) == Class::Tracked && seen.hash.is_some() && seen.hash != newest {
            let version = Version { hash: seen.hash, source: agent().source };
            // Under a tuple that matches nothing: what is in place has to be compared with this version.
            let unseen = Stat { ino: 0, ..seen.stat };
            pending.version(path, &agent(), slipped_in(seen, newest, newest.is_none()));
            pending.seen(path, version, unseen, now_ns());
        }
        Ok(())
    }

    /// Puts a staged directory back under a name beside its own, which the agent has given to something else: nothing in it may be lost.
    pub(super) fn restore_beside(&self, slot: &str, path: &TenantPath) -> Result<(), FsError> {
        let parent = self.root.parent_created(path)?;
        let name = name_beside(parent.name, slot);
        tracing::error!(path = %path, name, "a directory could not go back to its name");
        rename(self.staging.dir(), slot, &parent.dir, &name, RenameFlags::NOREPLACE)
    }
}

/// `name.restored-slot`, cut to what a name may have.
fn name_beside(name: &str, slot: &str) -> String {
    const LONGEST: usize = 255;
    let suffix = format!(".restored-{slot}");
    format!("{}{suffix}", &name[..name.floor_char_boundary(LONGEST - suffix.len())])
}

fn slipped_in(seen: Seen, previous: Option<ContentHash>, created: bool) -> NewVersion {
    NewVersion { hash: seen.hash, previous, size: seen.stat.size, created, content: seen.content }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::fs::{Layout, Root, Selection};
    use crate::journal::Limits;

    fn path(text: &str) -> TenantPath {
        TenantPath::parse(text).unwrap()
    }

    fn edits(data: &Path) -> Edits {
        let layout = Layout { state: path(".openclaw"), workspace: path("workspace"), selection: Selection::default() };
        let limits = Limits { segment_bytes: 1 << 20, max_bytes: 1 << 30 };
        Edits::open(Arc::new(Root::open(data, None).unwrap()), layout, 1 << 20, limits).unwrap()
    }

    /// The agent put a directory in the place of a file while the file was taken out, and another file in its place before it could go back.
    #[test]
    fn a_directory_that_was_taken_by_mistake_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let edits = edits(dir.path());
        let staged = dir.path().join(".winston/staging/5107");
        std::fs::create_dir(&staged).unwrap();
        std::fs::write(staged.join("only-copy.md"), "words").unwrap();
        std::fs::write(dir.path().join("a.md"), "newer").unwrap();
        let mut pending = Pending::default();
        edits.put_back_deleted("5107", &path("a.md"), &mut pending).unwrap();
        assert!(pending.is_empty());
        edits.staging.clear("5107");
        assert_eq!(std::fs::read(dir.path().join("a.md")).unwrap(), b"newer");
        assert_eq!(std::fs::read(dir.path().join("a.md.restored-5107/only-copy.md")).unwrap(), b"words");
        assert_eq!(edits.staging.names().unwrap(), [""; 0]);
    }

    #[test]
    fn a_name_beside_is_never_too_long() {
        assert_eq!(name_beside("notes", "5107.0"), "notes.restored-5107.0");
        let long = name_beside(&"ä".repeat(127), "0123456789abcdef.0");
        assert!(long.len() <= 255 && long.starts_with('ä') && long.ends_with(".restored-0123456789abcdef.0"), "{long}");
    }
}
