//! Who may read a file, and giving one back to the user who should.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chmod, chownat};

use super::TenantPath;
use super::root::{EntryKind, FsError, Opened, Root, Stat};

/// Bits that let a file's owner read and write it.
pub(crate) const READABLE: u32 = 0o600;

/// What a file's mode, owner and group let a user do who is in no other group than this one: read 4, write 2, execute 1.
pub(crate) fn granted(mode: u32, (owner, group): (u32, u32), (uid, gid): (u32, u32)) -> u32 {
    match () {
        () if uid == 0 => 0o7,
        () if uid == owner => mode >> 6 & 0o7,
        () if gid == group => mode >> 3 & 0o7,
        () => mode & 0o7,
    }
}

impl Root {
    /// Gives a file to the tenant's user, who cannot read it, and lets him; somebody else's only when its first `limit` bytes are `meant` for
    /// him, because whoever owns a directory can give a name in it to any file there. What it was like before; `None` when there is no plain
    /// file, when it can be read, when it is not meant, or when only root could do it. Of several names, others than this one could be outside, so
    /// there somebody else's file stays as it is: [`FsError::Escape`]. Blocking.
    pub(crate) fn make_readable(
        &self,
        path: &TenantPath,
        limit: u64,
        meant: impl FnOnce(&[u8]) -> bool,
    ) -> Result<Option<Stat>, FsError> {
        let ours = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let (uid, gid) = self.tenant();
        // Without a right to read, this is the only way to hold it.
        let fd = match self.resolve(path.as_str(), OFlags::PATH | OFlags::NOFOLLOW) {
            Err(FsError::NotFound | FsError::NotADirectory) => return Ok(None),
            opened => opened?,
        };
        let stat = Stat::of(&fd)?;
        let can = ours.0 == 0 || stat.uid == ours.0;
        if stat.kind != EntryKind::File || !self.closes(&stat) || !can {
            return Ok(None);
        }
        let Opened { file, stat } = self.checked(fd, stat)?;
        // By the descriptor: neither opening a path again nor fchmod(2) would do.
        let held = format!("/proc/self/fd/{}", file.as_raw_fd());
        if stat.uid != uid {
            let mut content = Vec::new();
            File::open(&held)?.take(limit).read_to_end(&mut content)?;
            if !meant(&content) {
                return Ok(None);
            }
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            chownat(&file, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
        }
        chmod(held, Mode::from_raw_mode((stat.mode | READABLE) & 0o777))?;
        Ok(Some(stat))
    }

    /// Whether a file like this is somebody else's who does not let the tenant's user read it.
    pub(crate) fn withholds(&self, stat: &Stat) -> bool {
        stat.uid != self.tenant().0 && self.closes(stat)
    }

    fn closes(&self, stat: &Stat) -> bool {
        granted(stat.mode, (stat.uid, stat.gid), self.tenant()) & 0o4 == 0
    }

    /// User and group of the tenant.
    fn tenant(&self) -> (u32, u32) {
        let ours = || (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        self.owner().unwrap_or_else(ours)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};

    use super::*;

    #[test]
    fn the_first_class_that_fits_decides_what_is_granted() {
        let user = (1000, 100);
        for (mode, owner, expected) in [
            (0o640, (1000, 0), 6),
            (0o047, (1000, 100), 0),
            (0o640, (0, 100), 4),
            (0o604, (0, 100), 0),
            (0o604, (0, 0), 4),
            (0o600, (0, 0), 0),
        ] {
            assert_eq!(granted(mode, owner, user), expected, "{mode:o} {owner:?}");
        }
        assert_eq!(granted(0, user, (0, 0)), 7);
    }

    /// Only root can make files of somebody else's; elsewhere the user's own is all that there is to see.
    #[test]
    fn a_file_that_its_user_cannot_read_is_given_back_to_him() {
        let is_root = rustix::process::geteuid().is_root();
        let dir = tempfile::tempdir().unwrap();
        let user = if is_root { (64_001, 64_002) } else { (dir.path().metadata().unwrap().uid(), 0) };
        let root = Root::open(dir.path(), is_root.then_some(user)).unwrap();
        let make = |name: &str, owner: u32, mode: u32| {
            let file = dir.path().join(name);
            std::fs::write(&file, name).unwrap();
            if is_root {
                chown(&file, Some(owner), Some(owner)).unwrap();
            }
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        };
        let seen = |name: &str| {
            let meta = dir.path().join(name).symlink_metadata().unwrap();
            (meta.uid(), meta.mode() & 0o7777)
        };
        let path = |name: &str| TenantPath::parse(name).unwrap();
        let mend = |name: &str| root.make_readable(&path(name), 100, |content| content != b"kept");

        make("locked", user.0, 0);
        assert_eq!(mend("locked").unwrap().map(|was| was.mode), Some(0));
        assert_eq!(seen("locked"), (user.0, 0o600));
        assert_eq!(mend("locked").unwrap(), None);
        assert_eq!(mend("nothing").unwrap(), None);
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        assert_eq!(mend("directory").unwrap(), None);
        make("target", user.0, 0);
        std::os::unix::fs::symlink("target", dir.path().join("link")).unwrap();
        assert_eq!(mend("link").unwrap(), None);
        assert_eq!(seen("target"), (user.0, 0));
        if !is_root {
            return;
        }

        make("roots", 0, 0o4640);
        assert!(mend("roots").unwrap().is_some());
        assert_eq!((seen("roots"), dir.path().join("roots").metadata().unwrap().gid()), ((user.0, 0o640), user.1));
        make("kept", 0, 0o600);
        make("locked again", user.0, 0);
        let withholds = |name: &str| root.withholds(&root.stat(&path(name)).unwrap().unwrap());
        assert!(withholds("kept") && !withholds("roots") && !withholds("locked again"));
        assert_eq!(mend("kept").unwrap(), None);
        assert_eq!(seen("kept"), (0, 0o600));
        make("open", 0, 0o644);
        assert_eq!(mend("open").unwrap(), None);
        assert_eq!(seen("open"), (0, 0o644));
        // Whatever else it is called, it is somebody else's.
        let outside = tempfile::tempdir().unwrap();
        make("secret", 0, 0o600);
        std::fs::rename(dir.path().join("secret"), outside.path().join("secret")).unwrap();
        if std::fs::hard_link(outside.path().join("secret"), dir.path().join("secret")).is_ok() {
            assert!(matches!(mend("secret"), Err(FsError::Escape)));
            assert_eq!(seen("secret"), (0, 0o600));
        }
    }
}
