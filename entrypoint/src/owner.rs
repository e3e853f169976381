//! Gives what root left behind in the tenant's directories to the tenant's user.
//!
//! Volumes are mounted root-owned, and images that ran as root have filled them; OpenClaw refuses a state directory
//! that it does not own. Two things must not happen on the way: following a link out of the tree, and giving away a
//! file of somebody else to which the agent made a hard link. So every entry is opened by name without following,
//! judged and changed through that one handle, and a file with several names is left alone.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Result;

use crate::dir::Dir;
use crate::settings::Owner;

/// Deeper trees are left as they are: each level holds two handles, and the process may open about a thousand.
const DEEPEST: usize = 200;

/// What a walk did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Entries that have a new owner.
    pub(crate) changed: u64,
    /// Entries that should have, but are hard-linked, too deep or refused by the kernel.
    pub(crate) skipped: u64,
}

/// One walk's rules.
struct Walk {
    owner: Owner,
    /// Owner of the top directory before the walk: root, or the user of an earlier image.
    former: u32,
    device: u64,
    tally: Tally,
}

/// Gives the directory and everything below it that belongs to root or to the directory's former owner to `owner`.
/// The directory itself comes last, so that an interrupted walk is seen at the next start.
pub(crate) fn adopt(dir: &Dir, owner: Owner) -> Result<Tally> {
    let stat = dir.stat()?;
    let mut walk = Walk { owner, former: stat.st_uid, device: stat.st_dev, tally: Tally::default() };
    walk.entries(dir, 0)?;
    if stat.st_uid != owner.uid || stat.st_gid != owner.gid {
        fs::fchown(dir.fd(), Some(uid(owner)), Some(gid(owner)))?;
        walk.tally.changed += 1;
    }
    Ok(walk.tally)
}

impl Walk {
    fn entries(&mut self, dir: &Dir, depth: usize) -> Result<()> {
        for entry in fs::Dir::read_from(dir.fd())? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            if self.entry(dir, name, depth).is_err() {
                self.tally.skipped += 1;
            }
        }
        Ok(())
    }

    fn entry(&mut self, dir: &Dir, name: &OsStr, depth: usize) -> Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = fs::openat(dir.fd(), name, flags, Mode::empty())?;
        let stat = fs::fstat(&handle)?;
        let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
        if stat.st_dev != self.device {
            return Ok(()); // another file system mounted here: not the tenant's volume
        }
        if is_dir && depth < DEEPEST {
            self.entries(&dir.child(name)?, depth + 1)?;
        } else if is_dir {
            self.tally.skipped += 1;
        }
        match self.judge(&stat, is_dir) {
            Verdict::Keep => {}
            Verdict::Skip => self.tally.skipped += 1,
            Verdict::Change => {
                let (uid, gid) = (uid(self.owner), gid(self.owner));
                fs::chownat(&handle, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
                self.tally.changed += 1;
            }
        }
        Ok(())
    }

    fn judge(&self, stat: &Stat, is_dir: bool) -> Verdict {
        let left_behind = stat.st_uid == 0 || stat.st_uid == self.former;
        if stat.st_uid == self.owner.uid || !left_behind {
            Verdict::Keep
        } else if !is_dir && stat.st_nlink > 1 {
            Verdict::Skip
        } else {
            Verdict::Change
        }
    }
}

enum Verdict {
    Keep,
    Skip,
    Change,
}

fn uid(owner: Owner) -> Uid {
    Uid::from_raw(owner.uid)
}

fn gid(owner: Owner) -> Gid {
    Gid::from_raw(owner.gid)
}
