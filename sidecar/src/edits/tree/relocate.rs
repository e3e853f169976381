//! Moving one name: a file, a link, or a directory with everything in it.

use super::super::commit::Pending;
use super::super::transaction::{Set, Step, remove_intent, write_intent};
use super::super::{Author, EditError, Edits, Precondition};
use crate::failpoint;
use crate::fs::{Class, EntryKind, FsError, TenantPath, rename_back};
use crate::index::Version;

/// What was moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Renamed {
    /// Content of a file that has one within the size limit.
    pub(crate) hash: Option<winston_wire::ContentHash>,
    /// Nothing was at the target.
    pub(crate) created: bool,
    /// Last of the records; `None` when nothing moved has a history.
    pub(crate) seq: Option<u64>,
}

impl Edits {
    /// Moves what is at `from` to `to`. A file may replace a file, if `target` lets it; everything else needs a free name. Links are moved as
    /// names and have no record. Blocking.
    pub(crate) fn relocate(
        &self,
        from: &TenantPath,
        to: &TenantPath,
        author: &Author,
        source: Precondition,
        target: Precondition,
    ) -> Result<Renamed, EditError> {
        self.permit(from)?;
        self.permit(to)?;
        match self.root.stat(from)?.map(|stat| stat.kind) {
            None => {
                source.check(&super::super::examine::Current::ABSENT)?;
                Err(FsError::NotFound.into())
            }
            Some(EntryKind::File) => {
                let mut set = self.begin(author)?;
                set.move_file(from.clone(), to.clone(), source, target)?;
                let outcomes = set.commit().map_err(|error| error.error)?;
                let outcome = outcomes.into_iter().next().ok_or(EditError::Busy)?;
                Ok(Renamed { hash: outcome.hash, created: outcome.created, seq: outcome.seq })
            }
            Some(kind) => {
                if !matches!(source, Precondition::None | Precondition::Present) {
                    return Err(EditError::PreconditionFailed { current: None });
                }
                if kind == EntryKind::Directory {
                    self.move_directory(from, to, author)
                } else {
                    self.move_name(from, to)
                }
            }
        }
    }

    /// A link or a special file. What turns out to be something else by now goes back.
    fn move_name(&self, from: &TenantPath, to: &TenantPath) -> Result<Renamed, EditError> {
        self.settled()?;
        let _locks = self.locks.lock([from, to].into_iter().map(TenantPath::as_str));
        let (source, target) = (self.root.parent(from)?, self.root.parent_created(to)?);
        rename_back(&source.dir, source.name, &target.dir, target.name)?;
        let moved = crate::fs::stat_at(&target.dir, target.name)?.map(|stat| stat.kind);
        if !matches!(moved, Some(EntryKind::Symlink | EntryKind::Special)) {
            rename_back(&target.dir, target.name, &source.dir, source.name)?;
            return Err(EditError::Busy);
        }
        for dir in [&target.dir, &source.dir] {
            rustix::fs::fsync(dir).map_err(FsError::from)?;
            self.count_flush();
        }
        Ok(Renamed { hash: None, created: true, seq: None })
    }

    fn move_directory(&self, from: &TenantPath, to: &TenantPath, author: &Author) -> Result<Renamed, EditError> {
        self.permit_whole(from)?;
        if to.is_within(from) {
            return Err(EditError::IntoItself);
        }
        self.settled()?;
        let _locks = self.locks.lock_tree();
        if self.root.stat(to)?.is_some() {
            return Err(FsError::Exists.into());
        }
        // What may not be at the new place is refused like what may not leave the old one.
        let tracked = |path: &TenantPath| self.layout.class(path) == Class::Tracked;
        let survey = self.survey(from, from, |path| self.has_history(path))?;
        let arriving = self.survey(from, to, tracked)?;
        let ino = self.directory_at(from)?.ok_or(FsError::NotADirectory)?.ino;
        self.absorb_below(from, &survey)?;
        let mut missing: Vec<_> = std::iter::successors(to.parent(), TenantPath::parent)
            .take_while(|directory| matches!(self.root.stat(directory), Ok(None)))
            .collect();
        missing.reverse();
        let id = self.staging.next_id();
        let set = Set {
            source: author.source,
            actor: author.actor.clone(),
            generation: author.generation,
            after_seq: self.journal.head_seq(),
            directories: missing,
            steps: vec![Step::MoveDirectory { from: from.clone(), to: to.clone(), ino }],
        };
        write_intent(self.staging.dir(), &id, &set)?;
        failpoint::here("tx-intent");
        let moved = || -> Result<Option<u64>, EditError> {
            if let Some(parent) = to.parent().filter(|parent| !parent.is_root()) {
                self.make_directories(&parent)?;
            }
            self.take_step(&set.steps[0])?;
            failpoint::here("tx-swapped");
            failpoint::fails("tx-dir-sync").map_err(FsError::from)?;
            self.flush_directories(&set)?;
            failpoint::here("tx-dirs-synced");
            let mut pending = Pending::default();
            self.record_moved_below(from, to, author, &mut pending)?;
            for (file, stat) in arriving.files {
                let Some(before) = file.rebased(to, from).filter(|before| !self.has_history(before)) else { continue };
                let opened = self.root.open_file(&file).and_then(|mut opened| opened.read(self.max_file_bytes));
                let hash = match opened {
                    Ok(bytes) => bytes.as_deref().map(super::super::hash_of),
                    Err(error) if error.is_about_the_path() => continue,
                    Err(error) => return Err(error.into()),
                };
                match self.record_move(&before, &file, author, hash, None, stat.size, &mut pending) {
                    Err(EditError::Fs(FsError::NotFound)) => {}
                    done => done?,
                }
                if pending.is_large() {
                    return Err(EditError::TooMany { what: "bytes that get a history by a move", limit: 4 << 20 });
                }
            }
            Ok(self.commit(pending)?.last().map(|change| change.seq))
        };
        match moved() {
            Ok(seq) => {
                failpoint::here("tx-journalled");
                remove_intent(self.staging.dir(), &id);
                // Without a record nothing else says after a power failure that this is finished.
                rustix::fs::fsync(self.staging.dir()).map_err(FsError::from)?;
                Ok(Renamed { hash: None, created: true, seq })
            }
            Err(error) => {
                self.undo_set(&set)?;
                remove_intent(self.staging.dir(), &id);
                Err(error)
            }
        }
    }

    /// Records, for everything that the index knows below `from` and that is not there any more, where it is now.
    pub(in super::super) fn record_moved_below(
        &self,
        from: &TenantPath,
        to: &TenantPath,
        author: &Author,
        pending: &mut Pending,
    ) -> Result<(), EditError> {
        for before in self.indexed_below(from) {
            let Some(version) = self.index.version(before.as_str()) else { continue };
            if self.root.stat(&before)?.is_some() {
                continue;
            }
            let after = before.rebased(from, to);
            let stat = after.as_ref().map(|after| self.root.stat(after)).transpose()?.flatten();
            if stat.is_none() && self.withheld.holds(&before) {
                // It was not there to be moved.
                continue;
            }
            let Some(after) = after.filter(|after| self.layout.class(after) == Class::Tracked) else {
                pending.deleted(&before, author, version.hash);
                continue;
            };
            let stat = stat.filter(|stat| stat.kind == EntryKind::File);
            let size = stat.map_or(0, |stat| stat.size);
            pending.moved(&before, &after, author, version.hash, None, size);
            // A file keeps its stat when its directory is moved, so what matched there matches here; otherwise the next look compares.
            match stat.filter(|stat| self.index.matching(before.as_str(), stat).is_some()) {
                Some(stat) => pending.seen(
                    &after,
                    Version { hash: version.hash, source: author.source },
                    stat,
                    super::super::commit::now_ns(),
                ),
                None => self.unseen(&after, version.hash, author, pending),
            }
        }
        Ok(())
    }
}
