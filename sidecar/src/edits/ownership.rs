//! Owner and mode of what we write.
//!
//! The configuration can be read by its user, whoever wrote it: root in a shell leaves one that the gateway cannot open, and whatever takes its
//! place with the same owner and mode is as unreadable.

use super::staging::Ownership;
use super::{EditError, Edits};
use crate::fs::{READABLE, Stat, TenantPath};
use crate::merge;

/// Mode of a new file, and of a new `openclaw.json`, which may hold secrets.
const NEW_FILE_MODE: u32 = 0o644;
const NEW_CONFIG_MODE: u32 = 0o600;

impl Edits {
    fn is_config(&self, path: &TenantPath) -> bool {
        self.layout.config_file().as_ref() == Some(path)
    }

    /// Mode that a file may get: that of the configuration lets its owner read it.
    pub(super) fn mode_for(&self, path: &TenantPath, mode: u32) -> u32 {
        if self.is_config(path) { mode | READABLE } else { mode }
    }

    /// Owner and mode of a new file.
    pub(super) fn ownership_of_new(&self, path: &TenantPath, mode: Option<u32>) -> Ownership {
        let default = if self.is_config(path) { NEW_CONFIG_MODE } else { NEW_FILE_MODE };
        Ownership { mode: self.mode_for(path, mode.unwrap_or(default)), owner: self.root.owner() }
    }

    /// Owner and mode of what takes a file's place: those that it had, but for the configuration.
    pub(super) fn ownership_over(&self, path: &TenantPath, there: &Stat, mode: Option<u32>) -> Ownership {
        let kept = Some((there.uid, there.gid));
        let owner = if self.is_config(path) { self.root.owner().or(kept) } else { kept };
        Ownership { mode: self.mode_for(path, mode.unwrap_or(there.mode)), owner }
    }

    /// Lets the gateway's user read the configuration where he cannot, if it is one: what root keeps for itself elsewhere stays root's under this name
    /// too. Its content stays, so nothing is recorded. What it was like before, if that was necessary and could be done. Blocking.
    pub(crate) fn mend_config(&self) -> Result<Option<Stat>, EditError> {
        let Some(path) = self.layout.config_file() else { return Ok(None) };
        let _lock = self.locks.lock(std::iter::once(path.as_str()));
        let is_config = |content: &[u8]| {
            let text = std::str::from_utf8(content).ok();
            text.is_some_and(|text| merge::value(text).is_ok_and(|value| value.is_object()))
        };
        let was = self.root.make_readable(&path, self.max_file_bytes, is_config)?;
        if let Some(was) = &was {
            let (owner, mode) = (was.uid, format!("{:04o}", was.mode));
            tracing::warn!(owner, mode, "the user of the gateway could not read openclaw.json; now it can");
        }
        Ok(was)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
    use std::path::Path;
    use std::sync::Arc;

    use winston_wire::Source;

    use super::*;
    use crate::edits::{Author, Precondition};
    use crate::fs::{Layout, Root, Selection};
    use crate::journal::Limits;

    const CONFIG: &str = ".openclaw/openclaw.json";

    fn path(text: &str) -> TenantPath {
        TenantPath::parse(text).unwrap()
    }

    fn edits(data: &Path, owner: Option<(u32, u32)>) -> Edits {
        let layout = Layout { state: path(".openclaw"), workspace: path("workspace"), selection: Selection::default() };
        let limits = Limits { segment_bytes: 1 << 20, max_bytes: 1 << 30 };
        Edits::open(Arc::new(Root::open(data, owner).unwrap()), layout, 1 << 20, limits).unwrap()
    }

    fn author() -> Author {
        Author { source: Source::Admin, actor: None, generation: None }
    }

    fn seen(data: &Path, name: &str) -> (u32, u32, u32) {
        let meta = data.join(name).metadata().unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    }

    /// Only root can make files of somebody else's; elsewhere there is nothing to see.
    #[test]
    fn the_configuration_is_its_users_whatever_it_replaces() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (user, dir) = ((64_001, 64_002), tempfile::tempdir().unwrap());
        let (data, author) = (dir.path(), author());
        let edits = edits(data, Some(user));
        for directory in [".openclaw", "workspace"] {
            std::fs::create_dir(data.join(directory)).unwrap();
        }
        let leave = |name: &str, owner: u32, mode: u32| {
            std::fs::write(data.join(name), format!("{owner} {mode}")).unwrap();
            chown(data.join(name), Some(owner), Some(owner)).unwrap();
            std::fs::set_permissions(data.join(name), PermissionsExt::from_mode(mode)).unwrap();
        };
        for (round, (owner, mode)) in [(0, 0o600), (user.0, 0), (0, 0o440)].into_iter().enumerate() {
            for name in [CONFIG, "workspace/a.md"] {
                let wanted = if name == CONFIG { (user.0, user.1, mode | 0o600) } else { (owner, owner, mode) };
                leave(name, owner, mode);
                edits.put(&path(name), format!("put {round}").as_bytes(), &author, Precondition::None).unwrap();
                assert_eq!(seen(data, name), wanted, "{name} {round}");
                leave(name, owner, mode);
                let mut set = edits.begin(&author).unwrap();
                set.put(path(name), format!("set {round}").as_bytes(), Precondition::None, None).unwrap();
                set.commit().unwrap();
                assert_eq!(seen(data, name), wanted, "{name} {round} in a set");
            }
        }
        assert_eq!(edits.set_mode(&path(CONFIG), 0o040, Precondition::None).unwrap(), 0o640);
    }

    #[test]
    fn an_unreadable_configuration_is_mended_once_and_keeps_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let is_root = rustix::process::geteuid().is_root();
        let edits = edits(dir.path(), is_root.then_some((64_001, 64_001)));
        assert!(edits.mend_config().unwrap().is_none());
        edits.put(&path(CONFIG), b"{}", &author(), Precondition::None).unwrap();
        assert!(edits.mend_config().unwrap().is_none());
        std::fs::set_permissions(dir.path().join(CONFIG), PermissionsExt::from_mode(0o000)).unwrap();
        assert!(edits.mend_config().unwrap().is_some());
        assert!(edits.mend_config().unwrap().is_none());
        assert_eq!(std::fs::read(dir.path().join(CONFIG)).unwrap(), b"{}");
        assert_eq!(edits.journal().head_seq(), 1);
        if is_root {
            // What root keeps for itself does not become the agent's because somebody has given it this name.
            let config = dir.path().join(CONFIG);
            std::fs::write(&config, "root's own words").unwrap();
            chown(&config, Some(0), Some(0)).unwrap();
            std::fs::set_permissions(&config, PermissionsExt::from_mode(0o600)).unwrap();
            assert!(edits.mend_config().unwrap().is_none());
            assert_eq!(config.metadata().unwrap().uid(), 0);
            std::fs::write(&config, "{gateway: {}}").unwrap();
            assert!(edits.mend_config().unwrap().is_some());
        }
    }
}
