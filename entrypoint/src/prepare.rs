//! Makes the data directory ready: it is there, it can be written, its parts exist and belong to the right user.
//!
//! Everything that goes wrong here ends the container, so it ends with one line that names the path, the user and the
//! remedy.

use std::ffi::OsStr;
use std::path::Path;

use rustix::fs::{self, Gid, Uid};
use rustix::io::Errno;

use crate::Failure;
use crate::dir::Dir;
use crate::log;
use crate::owner;
use crate::settings::{HOME, OURS, Owner, Settings};

/// Beneath [`OURS`]: a tree like the data directory's, with the seeds of this start.
const SEEDS: &str = "seed";
/// Beneath [`OURS`]: `<uid>:<gid>` to whom the tenant's directories were given completely.
const OWNER_MARK: &str = "owner";
/// Beneath [`OURS`]: written and removed to see whether the volume takes writes.
const PROBE: &str = "probe";

/// Does all of it. Doing it again changes nothing.
pub(crate) fn prepare(settings: &Settings) -> Result<(), Failure> {
    let site = Site { root: &settings.data_dir, uid: rustix::process::geteuid().as_raw() };
    let data = site.open()?;
    if std::process::id() == 1 && !is_mounted(&settings.data_dir) {
        log::warn(
            "the data directory is no volume: everything in it is lost with the container; mount one there",
            &[("path", settings.data_dir.display().to_string().into())],
        );
    }

    // Before anything beneath it is believed.
    if settings.owner.is_some() {
        site.take_root(&data)?;
    }
    let ours = site.part(&data, Path::new(OURS), 0o700)?;
    site.keep_private(&ours, settings)?;
    site.probe(&ours)?;
    let tenant =
        [(settings.state_dir.as_path(), 0o700), (settings.workspace_dir.as_path(), 0o755), (Path::new(HOME), 0o700)];
    let mut parts = Vec::new();
    for (path, mode) in tenant {
        parts.push((path, site.part(&data, path, mode)?));
    }

    if let Some(owner) = settings.owner {
        site.hand_over(&ours, &parts, owner)?;
    }
    site.lay_out_seeds(&ours, settings)
}

/// Where we are and as whom, for the error lines.
struct Site<'a> {
    root: &'a Path,
    uid: u32,
}

impl Site<'_> {
    /// Opens the data directory; made when only it is missing, because a missing parent is a wrong path.
    fn open(&self) -> Result<Dir, Failure> {
        match std::fs::create_dir(self.root) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Failure {
                    code: 73,
                    message: format!(
                        "{} cannot be made by uid {}: its parent is missing; mount a volume there, or set WINSTON_DATA_DIR",
                        self.root.display(),
                        self.uid
                    ),
                });
            }
            // It is there, or cannot be made for a reason that opening it will name.
            Err(error) if self.root.exists() || error.raw_os_error().is_none() => {}
            Err(error) => {
                let code = error.raw_os_error().unwrap_or_default();
                return Err(self.failure("", Errno::from_raw_os_error(code)));
            }
        }
        Dir::open(self.root).map_err(|error| self.failure("", error))
    }

    /// Opens or makes a directory that this process, or the user it is given to, must be able to write.
    fn part(&self, data: &Dir, path: &Path, mode: u32) -> Result<Dir, Failure> {
        let dir = data.descend(path, mode).map_err(|error| self.failure(path, error))?;
        if dir.usable() { Ok(dir) } else { Err(self.failure(path, Errno::ACCESS)) }
    }

    /// Makes the data directory itself root's. Who may write a directory may rename what is in it: the agent could move
    /// [`OURS`] away and put one of its own there, with a history that it wrote itself. It can pass to its own
    /// directories, and make files in those only.
    fn take_root(&self, data: &Dir) -> Result<(), Failure> {
        const WALK: u32 = 0o011;
        const OTHERS_WRITE: u32 = 0o022;
        let failed = |error| self.failure("", error);
        let stat = data.stat().map_err(failed)?;
        if (stat.st_uid, stat.st_gid) != (self.uid, self.uid) {
            fs::fchown(data.fd(), Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.uid))).map_err(failed)?;
            let fields = [("former_uid", stat.st_uid.into()), ("former_gid", stat.st_gid.into())];
            log::info("the data directory itself belongs to root from now on", &fields);
        }
        let mode = stat.st_mode & 0o7777;
        let wanted = (mode | WALK) & !OTHERS_WRITE;
        if mode == wanted {
            return Ok(());
        }
        log::info("the data directory lets other users pass, and not write, from now on", &[]);
        data.set_mode(wanted).map_err(failed)
    }

    /// What is ours is closed to the agent. A directory of somebody else is not taken over: the agent may have put it
    /// there while it could, and nothing in it would tell a forged history from a true one.
    fn keep_private(&self, ours: &Dir, settings: &Settings) -> Result<(), Failure> {
        let failed = |error| self.failure(OURS, error);
        let owner = ours.stat().map_err(failed)?.st_uid;
        if settings.owner.is_some() && owner != self.uid {
            let path = self.root.join(OURS);
            let path = path.display();
            let message = format!(
                "{path} belongs to uid {owner} and not to uid {}, so its history may be forged; if an earlier start \
                 without WINSTON_GATEWAY_UID made it, inspect it and run `chown -R root {path}`, else move it away",
                self.uid
            );
            return Err(Failure { code: 77, message });
        }
        ours.set_mode(0o700).map_err(failed)
    }

    /// Finds out now whether the volume takes writes; the sidecar's first write would be somebody's edit.
    fn probe(&self, ours: &Dir) -> Result<(), Failure> {
        let name = OsStr::new(PROBE);
        // Removed first: an unchanged file would not be written.
        let tried = ours.remove(name).and_then(|()| ours.write(name, b"?")).and_then(|()| ours.remove(name));
        self.unless_full(OURS, tried)
    }

    /// A full volume is no reason not to start: what is on it can be read, and only a running tenant can make room.
    fn unless_full(&self, path: impl AsRef<Path>, result: rustix::io::Result<()>) -> Result<(), Failure> {
        match result {
            Err(error @ (Errno::NOSPC | Errno::DQUOT)) => {
                log::warn(&self.failure(path, error).message, &[]);
                Ok(())
            }
            result => result.map_err(|error| self.failure(path, error)),
        }
    }

    /// Gives the tenant's directories to `owner`. The mark makes this cheap: a workspace may have 100,000 files, and
    /// after the first time only the owners of the three directories themselves are looked at.
    fn hand_over(&self, ours: &Dir, parts: &[(&Path, Dir)], owner: Owner) -> Result<(), Failure> {
        let mark = format!("{}:{}\n", owner.uid, owner.gid);
        let marked = ours.read(OsStr::new(OWNER_MARK));
        let done = marked.is_some_and(|text| text == mark.as_bytes());
        for (path, dir) in parts {
            let stat = dir.stat().map_err(|error| self.failure(path, error))?;
            if done && stat.st_uid == owner.uid {
                continue;
            }
            let tally = owner::adopt(dir, owner).map_err(|error| self.failure(path, error))?;
            let fields = [
                ("path", self.root.join(path).display().to_string().into()),
                ("uid", owner.uid.into()),
                ("changed", tally.changed.into()),
                ("skipped", tally.skipped.into()),
            ];
            if tally.skipped > 0 {
                log::warn("some entries keep their owner", &fields);
            } else if tally.changed > 0 {
                log::info("gave files to the gateway's user", &fields);
            }
        }
        self.unless_full(OURS, ours.write(OsStr::new(OWNER_MARK), mark.as_bytes()))
    }

    /// Writes the seeds of this start, and removes those of an earlier one, so that a variable that was taken away
    /// does not come back as a file.
    fn lay_out_seeds(&self, ours: &Dir, settings: &Settings) -> Result<(), Failure> {
        let path = self.root.join(OURS).join(SEEDS);
        let seed_dir = match ours.child_or_new(OsStr::new(SEEDS), 0o700) {
            Err(error) => return self.unless_full(&path, Err(error)),
            Ok(dir) => dir,
        };
        let current = settings.seeds.iter().map(|seed| path.join(&seed.path));
        remove_others(&path, &current.collect::<Vec<_>>());
        for seed in &settings.seeds {
            let (Some(parent), Some(name)) = (seed.path.parent(), seed.path.file_name()) else {
                continue;
            };
            let written = seed_dir.descend(parent, 0o700).and_then(|dir| dir.write(name, seed.text.as_bytes()));
            self.unless_full(&path, written)?;
        }
        Ok(())
    }

    /// The line for a person: what, where, as whom, and what to do.
    fn failure(&self, path: impl AsRef<Path>, error: Errno) -> Failure {
        let path = self.root.join(path);
        let path = path.display();
        let uid = self.uid;
        let (code, message) = match error {
            Errno::ROFS => (
                74,
                format!("{path} cannot be written by uid {uid}: read-only file system; mount the volume read-write"),
            ),
            Errno::NOSPC | Errno::DQUOT => (
                74,
                format!("{path} cannot be written by uid {uid}: the volume is full; enlarge it, or remove something"),
            ),
            // Root itself is refused on network file systems that squash it, and in user namespaces.
            Errno::ACCESS | Errno::PERM if uid == 0 => (
                77,
                format!(
                    "{path} cannot be used by uid 0: permission denied; the volume refuses root, so give it to the \
                     tenant's user where it comes from, and start as that user without WINSTON_GATEWAY_UID"
                ),
            ),
            Errno::ACCESS | Errno::PERM => (
                77,
                format!(
                    "{path} cannot be used by uid {uid}: permission denied; start as root (on Railway: \
                     RAILWAY_RUN_UID=0), or run `chown -R {uid} {}`",
                    self.root.display()
                ),
            ),
            Errno::NOTDIR | Errno::LOOP => (
                73,
                format!(
                    "{path} is no directory, or a symbolic link (seen by uid {uid}); move it away, or name another directory"
                ),
            ),
            other => {
                let text = std::io::Error::from(other);
                (74, format!("{path} cannot be used by uid {uid}: {text}; look at the volume"))
            }
        };
        Failure { code, message }
    }
}

/// Whether the path, or a directory above it other than `/`, is a mount point. Unknown counts as mounted: a warning
/// that may be wrong teaches people to ignore it.
fn is_mounted(path: &Path) -> bool {
    let Ok(table) = std::fs::read_to_string("/proc/self/mountinfo") else {
        return true;
    };
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    mounted_in(&table, &path)
}

fn mounted_in(table: &str, path: &Path) -> bool {
    table.lines().filter_map(|line| line.split(' ').nth(4)).any(|point| point != "/" && path.starts_with(point))
}

/// Removes what is below `dir` and not in `keep`. The directory is ours alone; what cannot be removed is reported.
fn remove_others(dir: &Path, keep: &[std::path::PathBuf]) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if keep.contains(&path) {
            continue;
        }
        let removed = if keep.iter().any(|kept| kept.starts_with(&path)) {
            remove_others(&path, keep);
            continue;
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        if let Err(error) = removed {
            let fields = [("path", path.display().to_string().into()), ("error", error.to_string().into())];
            log::warn("an old seed could not be removed", &fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points() {
        let table = "22 1 0:20 / / rw - overlay overlay rw\n30 22 8:1 / /data rw - ext4 /dev/sda rw\n";
        assert!(mounted_in(table, Path::new("/data")));
        assert!(mounted_in(table, Path::new("/data/t1")));
        assert!(!mounted_in(table, Path::new("/database")));
        assert!(!mounted_in(table, Path::new("/srv")));
    }

    #[test]
    fn every_failure_names_path_user_and_remedy() {
        let site = Site { root: Path::new("/data"), uid: 1000 };
        for (error, code, remedy) in [
            (Errno::ROFS, 74, "read-write"),
            (Errno::NOSPC, 74, "enlarge"),
            (Errno::ACCESS, 77, "chown -R 1000 /data"),
            (Errno::NOTDIR, 73, "move it away"),
            (Errno::IO, 74, "look at the volume"),
        ] {
            let failure = site.failure("workspace", error);
            assert_eq!(failure.code, code);
            assert!(failure.message.contains("/data/workspace"));
            assert!(failure.message.contains("uid 1000"));
            assert!(failure.message.contains(remedy), "{}", failure.message);
        }
    }

    #[test]
    fn seeds_of_an_earlier_start_go() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        std::fs::create_dir_all(at("workspace")).unwrap();
        std::fs::create_dir_all(at("old/deep")).unwrap();
        for path in ["workspace/SOUL.md", "workspace/USER.md", "old/deep/x", "loose"] {
            std::fs::write(at(path), "x").unwrap();
        }
        remove_others(root.path(), &[at("workspace/SOUL.md")]);
        assert!(at("workspace/SOUL.md").exists());
        for path in ["workspace/USER.md", "old", "loose"] {
            assert!(!at(path).exists(), "{path}");
        }
    }
}
