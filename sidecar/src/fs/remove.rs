//! Removing a directory with everything in it, whatever somebody made of it.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::{EntryKind, FsError, Root};

/// Directories that may turn out not to be empty after all.
const AGAIN: usize = 1000;

/// Removes the directory `name` in `base`, a directory of ours. Directories inside first move up beside it, under the names that `fresh` makes up, so
/// that neither depth costs stack or handles nor anything is ever reached through a path that somebody could change.
pub(crate) fn remove_tree(base: &OwnedFd, name: &str, mut fresh: impl FnMut() -> String) -> Result<(), FsError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (mut waiting, mut again) = (vec![name.to_owned()], 0);
    while let Some(name) = waiting.pop() {
        let dir = match rustix::fs::openat(base, &name, flags, Mode::empty()) {
            // The tenant's user may have taken every right away from a directory of its own.
            Err(Errno::ACCESS) => {
                rustix::fs::chmodat(base, &name, Mode::from_raw_mode(0o700), AtFlags::empty())?;
                rustix::fs::openat(base, &name, flags, Mode::empty())?
            }
            opened => opened?,
        };
        let mut failed = Ok(());
        Root::each_entry(dir.as_fd(), |entry| {
            let done = if entry.stat.kind == EntryKind::Directory {
                let raised = fresh();
                let moved = rustix::fs::renameat(&dir, entry.name.as_slice(), base, &raised);
                moved.map(|()| waiting.push(raised))
            } else {
                rustix::fs::unlinkat(&dir, entry.name.as_slice(), AtFlags::empty())
            };
            if let Err(errno) = done {
                failed = Err(FsError::from(errno));
            }
        })?;
        failed?;
        match rustix::fs::unlinkat(base, &name, AtFlags::REMOVEDIR) {
            Ok(()) => {}
            // Somebody with a handle on it is still writing there.
            Err(Errno::NOTEMPTY | Errno::EXIST) if again < AGAIN => {
                again += 1;
                waiting.push(name);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
