//! The data directory of a control: its lock, its address, its first key.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};
use winston_wire::env::Secret;

/// Another control uses the data directory.
#[derive(Debug, thiserror::Error)]
#[error("another winston-control uses {}", .0.display())]
pub(crate) struct Locked(PathBuf);

/// The directory, held for as long as this value lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl DataDir {
    /// Creates and locks the directory.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        // Others may pass through (the private cluster may run as another user), but not look around.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        let path = path.canonicalize().with_context(|| format!("cannot resolve {}", path.display()))?;
        let lock = path.join("control.lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock)
            .with_context(|| format!("cannot open {}", lock.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(Locked(path).into()),
            Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", lock.display())),
        }
    }

    /// Absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Says where this control listens, for programs that asked for port 0.
    pub(crate) fn write_address(&self, address: &str) -> anyhow::Result<()> {
        let path = self.path.join("address");
        let new = self.path.join("address.new");
        std::fs::write(&new, address)
            .and_then(|()| std::fs::rename(&new, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Where the first API key is.
    pub(crate) fn admin_key_path(&self) -> PathBuf {
        self.path.join("admin-api-key")
    }

    /// The key that an earlier start wrote, if there is one.
    pub(crate) fn read_admin_key(&self) -> anyhow::Result<Option<Secret>> {
        let path = self.admin_key_path();
        let mut text = String::new();
        match File::open(&path) {
            Ok(file) => {
                file.take(256).read_to_string(&mut text).with_context(|| format!("cannot read {}", path.display()))?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let key = text.trim();
        anyhow::ensure!(
            key.starts_with("wk_") && key.len() == 67,
            "{} does not hold an API key; remove it to get a new one",
            path.display()
        );
        Ok(Some(Secret::new(key)))
    }

    /// Writes the first API key, or one in the place of `old`; nobody else can read the file at any moment.
    pub(crate) fn write_admin_key(&self, key: &Secret, old: Option<&Secret>) -> anyhow::Result<()> {
        let path = self.admin_key_path();
        let new = self.path.join("admin-api-key.new");
        let write = || {
            // Left behind by a start that died here; nobody was given its key.
            match std::fs::remove_file(&new) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(key.expose().as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            if old.is_some() {
                std::fs::rename(&new, &path)?;
            } else {
                // A link, not a rename: it refuses to replace a key that nobody spoke of.
                std::fs::hard_link(&new, &path)?;
                std::fs::remove_file(&new)?;
            }
            File::open(&self.path)?.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Creates a directory that only its owner can look into, or tightens the one that is there.
pub(crate) fn private_dir(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_controls_never_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::open(dir.path()).unwrap();
        let refused = DataDir::open(dir.path()).unwrap_err();
        assert!(refused.is::<Locked>(), "{refused:#}");
        drop(held);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn the_admin_key_is_private_and_replaced_only_knowingly() {
        let dir = tempfile::tempdir().unwrap();
        let dir = DataDir::open(dir.path()).unwrap();
        assert_eq!(dir.read_admin_key().unwrap(), None);
        let key = crate::token::new_api_key().unwrap();
        dir.write_admin_key(&key, None).unwrap();
        let mode = std::fs::metadata(dir.admin_key_path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = crate::token::new_api_key().unwrap();
        assert!(dir.write_admin_key(&second, None).is_err());
        assert_eq!(dir.read_admin_key().unwrap().as_ref(), Some(&key));
        dir.write_admin_key(&second, Some(&key)).unwrap();
        assert_eq!(dir.read_admin_key().unwrap(), Some(second));
    }
}
