//! The cluster's settings: a file of control's own, outside of what the cluster's user can write.
//!
//! As root, control must not write below the cluster's directory: its owner could put a link there, and have any
//! file of the system overwritten.

use std::fs::{OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::Context as _;

/// Writes the settings to `path`. `data` is the cluster, `socket_dir` where it listens.
pub(super) fn write(path: &Path, data: &Path, socket_dir: &Path) -> anyhow::Result<()> {
    let quoted = |path: &Path| path.to_string_lossy().replace('\'', "''");
    let text = format!(
        "# Written by winston-control at each start.
include = '{data}/postgresql.conf'
listen_addresses = ''
unix_socket_directories = '{socket}'
unix_socket_permissions = 0700
max_connections = 50
shared_buffers = 16MB
work_mem = 2MB
maintenance_work_mem = 32MB
max_wal_size = 256MB
log_min_messages = warning
",
        data = quoted(data),
        socket = quoted(socket_dir),
    );
    let new = path.with_extension("conf.new");
    let write = || {
        // Left behind by a start that died here.
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        let mut file = OpenOptions::new().write(true).create_new(true).custom_flags(flags).open(&new)?;
        // The cluster's user only reads it, and there is no secret in it.
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// The option that makes `postgres` read `path`, for `pg_ctl`, which gives it to a shell.
pub(super) fn option(path: &Path) -> String {
    format!("-c 'config_file={}'", path.to_string_lossy().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_planted_under_the_name_is_replaced_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "mine").unwrap();
        let path = dir.path().join("postgres.conf");
        for name in ["postgres.conf", "postgres.conf.new"] {
            std::os::unix::fs::symlink(&victim, dir.path().join(name)).unwrap();
        }
        write(&path, Path::new("/it's/data"), Path::new("/run")).unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine");
        let meta = std::fs::symlink_metadata(&path).unwrap();
        assert!(meta.is_file() && meta.permissions().mode() & 0o777 == 0o644);
        assert!(std::fs::read_to_string(&path).unwrap().contains("include = '/it''s/data/postgresql.conf'"));
        assert_eq!(option(Path::new("/it's")), r"-c 'config_file=/it'\''s'");
    }
}
