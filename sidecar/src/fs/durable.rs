//! Our own small state files: replaced as a whole, on disk before the call returns.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// Replaces `name` in `dir` (one of ours, mode 0600) with `content`: temporary file, flush, rename, flush of the directory.
pub(crate) fn replace_file(dir: &OwnedFd, name: &str, content: &[u8]) -> io::Result<()> {
    replace_file_by(dir, name, |file| file.write_all(content))
}

/// Like [`replace_file`], with a content that `write` writes piece by piece.
pub(crate) fn replace_file_by(
    dir: &OwnedFd,
    name: &str,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = format!("{name}.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = File::from(rustix::fs::openat(dir, &temporary, flags, Mode::from_raw_mode(0o600))?);
    write(&mut file)?;
    file.sync_data()?;
    rustix::fs::renameat(dir, &temporary, dir, name)?;
    rustix::fs::fsync(dir.as_fd())?;
    Ok(())
}
