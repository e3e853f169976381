//! Saying again what is on disk, where control's files were found to differ.

use winston_wire::ManifestDifference;

use super::commit::{NewVersion, Pending, agent};
use super::examine::Seen;
use super::{Author, EditError, Edits};
use crate::fs::TenantPath;

impl Edits {
    /// Records the state of a path once more, if it still is another one than control's. True when there is a record for it now. `seq` is
    /// the last record that control's state contains: a newer record of the path is on its way and needs no other. Blocking.
    ///
    /// The author of the record is the author of the version that it restates; a file that control has and the disk has not was removed
    /// by nobody who is known, which is what "agent" says.
    pub(crate) fn restate(&self, difference: &ManifestDifference, seq: u64) -> Result<bool, EditError> {
        let Ok(path) = TenantPath::parse(&difference.path) else { return Ok(false) };
        self.settled()?;
        let _lock = self.locks.lock(std::iter::once(path.as_str()));
        let mut pending = Pending::default();
        let examined = self.examine(&path, &mut pending);
        if pending.newest(&path).is_some() || self.journal.ledger().newest_of(path.as_str(), seq).is_some() {
            let found = !pending.is_empty();
            self.commit(pending)?;
            return Ok(found);
        }
        let recorded = match examined {
            // What is on disk is no answer while nobody knows whether it is right.
            Ok(current) if current.is_withheld() => return Ok(false),
            Ok(current) => current.recorded,
            Err(error) if error.is_about_the_path() => None,
            Err(error) => {
                self.commit(pending)?;
                return Err(error.into());
            }
        };
        match recorded {
            None if difference.present => {
                // A file that only control knows is gone like any other. In a tree with nothing left that says little.
                if self.withheld.holds(&path) || !self.root.still_in_place() || !self.has_survivor() {
                    return Ok(false);
                }
                pending.deleted(&path, &agent(), difference.hash);
            }
            None => {}
            Some(version) if difference.present && version.hash == difference.hash => {}
            Some(version) => {
                let seen = Seen::read(self.root.open_file(&path)?, self.max_file_bytes)?;
                // Changed since it was examined: the watcher finds it, and the next comparison sees what is left.
                if seen.hash == version.hash {
                    let author = Author { source: version.source, actor: None, generation: None };
                    let (previous, created) = (difference.hash, !difference.present);
                    let (hash, size, content) = (version.hash, seen.stat.size, seen.content);
                    pending.version(&path, &author, NewVersion { hash, previous, size, created, content });
                }
            }
        }
        let restated = !pending.is_empty();
        self.commit(pending)?;
        Ok(restated)
    }
}
