//! What was refused and gave way, beside the configuration in use, for whoever wants to know.
//!
//! This writes past `edits`: these names count as secrets, so they are never served and have no history that a write could belong to.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;
use winston_wire::Timestamp;

use crate::edits::{EditError, Edits};
use crate::fs::{EntryKind, FsError, Root, TenantPath, is_unsupported, rename, rename_back, stat_at, unlink};

/// Refused configurations of ours that are kept beside the one in use.
const MOST: usize = 5;

/// Whether this is about something that is no file whose content could be kept. It goes aside as it is.
pub(super) fn is_in_the_way(error: &EditError) -> bool {
    matches!(error, EditError::TooLarge { .. } | EditError::Fs(FsError::Escape | FsError::NotAFile(_)))
}

/// A refused configuration.
pub(super) struct Rejected {
    /// Where it is kept.
    pub(super) path: String,
    dir: OwnedFd,
    name: String,
    kept: Kept,
}

enum Kept {
    Copy,
    /// One within the same second is enough.
    Before,
    /// It is not at this name any more.
    Itself(String),
}

impl Rejected {
    fn new(config: &TenantPath, dir: OwnedFd, name: String, kept: Kept) -> Self {
        let path = config.parent().map_or_else(|| name.clone(), |directory| format!("{directory}/{name}"));
        Self { path, dir, name, kept }
    }

    /// Nothing has taken its place: everything is as it was.
    pub(super) fn undo(self) {
        let undone = match &self.kept {
            Kept::Copy => unlink(&self.dir, &self.name),
            Kept::Before => Ok(()),
            Kept::Itself(was) => rename_free(&self.dir, &self.name, was),
        };
        if let Err(error) = undone {
            tracing::warn!(%error, path = self.path, "a refused configuration stays aside");
        }
    }
}

/// Keeps a content; as the tenant's, and for nobody else to read.
pub(super) fn copy(root: &Root, config: &TenantPath, content: &[u8]) -> Result<Rejected, FsError> {
    let parent = root.parent(config)?;
    let name = format!("{}{}", prefix(parent.name), time(Timestamp::now()));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let kept = match rustix::fs::openat(&parent.dir, &name, flags, Mode::from_raw_mode(0o600)) {
        Err(Errno::EXIST) => Kept::Before,
        made => {
            let written = write(File::from(made?), content, root.owner());
            let written = written.and_then(|()| Ok(rustix::fs::fsync(&parent.dir)?));
            // A name without the content would take the place of one with it.
            written.inspect_err(|_| drop(unlink(&parent.dir, &name)))?;
            Kept::Copy
        }
    };
    Ok(Rejected::new(config, parent.dir, name, kept))
}

fn write(mut file: File, content: &[u8], owner: Option<(u32, u32)>) -> Result<(), FsError> {
    file.write_all(content)?;
    if let Some((uid, gid)) = owner {
        rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    Ok(file.sync_all()?)
}

/// Gives what is at the configuration's name another one, whatever it is.
pub(super) fn set_aside(root: &Root, config: &TenantPath) -> Result<Rejected, FsError> {
    let parent = root.parent(config)?;
    let now = Timestamp::now();
    // More than are kept cannot be there already.
    let times =
        (0..=MOST).filter_map(|after| Timestamp::from_second(now.as_second() + i64::try_from(after).ok()?).ok());
    for at in times {
        let name = format!("{}{}", prefix(parent.name), time(at));
        match rename_free(&parent.dir, parent.name, &name) {
            Err(FsError::Exists) => {}
            done => {
                done?;
                rustix::fs::fsync(&parent.dir)?;
                let kept = Kept::Itself(parent.name.to_owned());
                return Ok(Rejected::new(config, parent.dir, name, kept));
            }
        }
    }
    Err(FsError::Exists)
}

/// Renames within a directory, to a free name.
fn rename_free(dir: &OwnedFd, from: &str, to: &str) -> Result<(), FsError> {
    if stat_at(dir, from)?.is_none_or(|stat| stat.kind != EntryKind::Directory) {
        return rename_back(dir, from, dir, to);
    }
    match rename(dir, from, dir, to, RenameFlags::NOREPLACE) {
        // A directory can take the place of an empty one only.
        Err(FsError::Io(error)) if is_unsupported(&error) => rename(dir, from, dir, to, RenameFlags::empty()),
        done => done,
    }
}

/// Forgets those that are too many, the oldest first.
pub(super) fn prune(edits: &Edits, config: &TenantPath) -> Result<(), FsError> {
    let parent = edits.root().parent(config)?;
    let prefix = prefix(parent.name);
    let mut ours = Vec::new();
    Root::each_entry(parent.dir.as_fd(), |entry| {
        let name = std::str::from_utf8(&entry.name).ok();
        // The gateway keeps some too, under other names.
        if let Some(name) = name.filter(|name| name.strip_prefix(&prefix).is_some_and(is_our_time)) {
            ours.push((name.to_owned(), entry.stat.kind));
        }
    })?;
    ours.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    for (old, kind) in ours.iter().rev().skip(MOST) {
        let gone = match kind {
            EntryKind::Directory => edits.discard(&parent.dir, old),
            _ => unlink(&parent.dir, old),
        };
        if let Err(error) = gone {
            tracing::warn!(%error, name = old, "an old refused configuration stays");
        }
    }
    Ok(())
}

fn prefix(config: &str) -> String {
    format!("{config}.rejected.")
}

/// Such as `20260101T000000Z`.
fn time(at: Timestamp) -> String {
    let time = at.to_string().replace(['-', ':'], "");
    let time = time.split(['.', 'Z']).next().unwrap_or(&time);
    format!("{time}Z")
}

/// What [`time`] makes.
fn is_our_time(text: &str) -> bool {
    text.len() == 16
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        })
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use super::*;
    use crate::fs::{Layout, Selection};
    use crate::journal::Limits;

    const CONFIG: &str = ".openclaw/openclaw.json";

    fn path(text: &str) -> TenantPath {
        TenantPath::parse(text).unwrap()
    }

    fn edits(data: &Path) -> Edits {
        std::fs::create_dir(data.join(".openclaw")).unwrap();
        let layout = Layout { state: path(".openclaw"), workspace: path("workspace"), selection: Selection::default() };
        let limits = Limits { segment_bytes: 1 << 20, max_bytes: 1 << 30 };
        Edits::open(Arc::new(Root::open(data, None).unwrap()), layout, 1 << 20, limits).unwrap()
    }

    fn beside(data: &Path) -> Vec<PathBuf> {
        let mut names: Vec<_> =
            std::fs::read_dir(data.join(".openclaw")).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.retain(|path| path.file_name().is_some_and(|name| name != "openclaw.json"));
        names.sort();
        names
    }

    #[test]
    fn refused_configurations_are_kept_within_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let (edits, state) = (edits(dir.path()), dir.path().join(".openclaw"));
        for year in 2000..2010 {
            let old = state.join(format!("openclaw.json.rejected.{year}0101T000000Z"));
            if year % 2 == 0 {
                std::fs::write(old, "old").unwrap();
            } else {
                std::fs::create_dir_all(old.join("a/b/c")).unwrap();
                std::fs::write(old.join("a/b/file"), "old").unwrap();
            }
        }
        std::fs::write(state.join("openclaw.json.rejected.2000-01-01T00-00-00-000Z"), "the gateway's").unwrap();
        let kept = copy(edits.root(), &path(CONFIG), b"theirs").unwrap();
        assert_eq!(std::fs::read(dir.path().join(&kept.path)).unwrap(), b"theirs");
        assert_eq!(beside(dir.path()).len(), 12, "only who says so makes room");
        prune(&edits, &path(CONFIG)).unwrap();
        assert_eq!(beside(dir.path()).len(), MOST + 1);
        assert!(dir.path().join(&kept.path).is_file());
        assert_eq!(std::fs::read_dir(dir.path().join(".winston/staging")).unwrap().count(), 0);
        assert!(is_our_time(kept.path.rsplit('.').next().unwrap()), "{}", kept.path);
    }

    #[test]
    fn a_copy_that_was_not_needed_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let edits = edits(dir.path());
        let first = copy(edits.root(), &path(CONFIG), b"first").unwrap();
        let again = Rejected { kept: Kept::Before, ..copy(edits.root(), &path(CONFIG), b"again").unwrap() };
        again.undo();
        assert!(dir.path().join(&first.path).exists(), "one that was there before stays");
        first.undo();
        for left in beside(dir.path()) {
            assert_eq!(std::fs::read(&left).unwrap(), b"again", "{left:?}");
        }
    }

    #[test]
    fn whatever_is_in_the_way_goes_aside_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let edits = edits(dir.path());
        let file = dir.path().join(CONFIG);
        // Within one second: each has a name of its own.
        let mut aside = Vec::new();
        for round in 0..MOST {
            if round % 2 == 0 {
                std::fs::create_dir(&file).unwrap();
                std::fs::write(file.join("within"), round.to_string()).unwrap();
            } else {
                std::os::unix::fs::symlink(format!("nowhere {round}"), &file).unwrap();
            }
            aside.push(set_aside(edits.root(), &path(CONFIG)).unwrap());
            assert!(file.symlink_metadata().is_err());
        }
        assert_eq!(beside(dir.path()).len(), MOST);
        let (first, last) = (aside.remove(0), aside.pop().unwrap());
        last.undo();
        assert_eq!(std::fs::read_to_string(file.join("within")).unwrap(), (MOST - 1).to_string());
        // Not over what is there by now.
        let path_of_first = dir.path().join(&first.path);
        first.undo();
        assert_eq!(std::fs::read_to_string(path_of_first.join("within")).unwrap(), "0");
        assert_eq!(std::fs::read_to_string(file.join("within")).unwrap(), (MOST - 1).to_string());
        std::fs::remove_dir_all(&file).unwrap();
        assert!(matches!(set_aside(edits.root(), &path(CONFIG)), Err(FsError::NotFound)));
    }
}
