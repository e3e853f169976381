//! Which paths the file API shows, and which of them have a history.

use super::TenantPath;

/// Where the parts of a tenant's data directory are, relative to it.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// `OPENCLAW_STATE_DIR`, `.openclaw` by default.
    pub(crate) state: TenantPath,
    /// `OPENCLAW_WORKSPACE_DIR`, `workspace` by default.
    pub(crate) workspace: TenantPath,
}

/// What may be done with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Ours: does not exist for callers.
    Internal,
    /// Credentials and live databases: neither read nor written by callers.
    Secret,
    /// Readable and writable; the agent's changes there are not recorded.
    Untracked,
    /// Readable and writable, every version is recorded.
    Tracked,
}

/// Name of our own directory in the data directory.
pub(crate) const INTERNAL: &str = ".winston";

/// Directories that hold what can be made again, or a history of its own.
const UNTRACKED_DIRECTORIES: &[&str] =
    &[".cache", ".git", ".home", ".npm", ".venv", "__pycache__", "lost+found", "node_modules"];

/// Endings of editors' and programs' short-lived files and of databases that must not be copied while they are open.
const UNTRACKED_ENDINGS: &[&str] = &["-shm", "-wal", ".sock", ".sqlite", ".sqlite-journal", ".swp", ".tmp", "~"];

/// In the state directory only these have a history; the rest belongs to the gateway alone.
const TRACKED_STATE: &[&str] = &["hooks", "openclaw.json", "skills"];

/// In the state directory these hold credentials.
const SECRET_STATE: &[&str] = &[".env", "agents", "credentials", "devices", "gateway.token", "identity", "state"];

impl Layout {
    /// Classifies a path.
    pub(crate) fn class(&self, path: &TenantPath) -> Class {
        if path.components().next() == Some(INTERNAL) {
            return Class::Internal;
        }
        let name = path.split().map_or("", |(_, name)| name);
        if let Some(below) = path.below(&self.state)
            && !(self.workspace.is_within(&self.state) && path.is_within(&self.workspace))
        {
            let first = below.split('/').next().unwrap_or(below);
            let secret = SECRET_STATE.contains(&first)
                || first.starts_with("openclaw.json.")
                || name.contains(".sqlite")
                || name.ends_with(".key");
            if secret {
                return Class::Secret;
            }
            if !TRACKED_STATE.contains(&first) {
                return Class::Untracked;
            }
        }
        let untracked = path.components().any(|component| UNTRACKED_DIRECTORIES.contains(&component))
            || UNTRACKED_ENDINGS.iter().any(|ending| name.ends_with(ending));
        if untracked { Class::Untracked } else { Class::Tracked }
    }

    /// Whether the watcher has to look into this directory. True for the ancestors of what is tracked.
    pub(crate) fn descends(&self, directory: &TenantPath) -> bool {
        self.state.is_within(directory)
            || self.workspace.is_within(directory)
            || (self.class(directory) == Class::Tracked && !directory.is_root())
    }

    /// The gateway's configuration file.
    pub(crate) fn config_file(&self) -> Option<TenantPath> {
        self.state.child("openclaw.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(workspace: &str) -> Layout {
        Layout { state: TenantPath::parse(".openclaw").unwrap(), workspace: TenantPath::parse(workspace).unwrap() }
    }

    #[test]
    fn classes() {
        let table = [
            (".winston", Class::Internal),
            (".winston/changes/1.jsonl", Class::Internal),
            (".winston-notes.md", Class::Tracked),
            ("test-soul.md", Class::Tracked),
            ("skills/test-skill/SKILL.md", Class::Tracked),
            ("workspace/SOUL.md", Class::Tracked),
            ("workspace/.git/config", Class::Untracked),
            ("workspace/app/node_modules/x/index.js", Class::Untracked),
            ("workspace/notes.tmp", Class::Untracked),
            ("workspace/Cargo.lock", Class::Tracked),
            ("workspace/credentials/readme.md", Class::Tracked),
            (".openclaw", Class::Tracked),
            (".openclaw/openclaw.json", Class::Tracked),
            (".openclaw/openclaw.json.bak", Class::Secret),
            (".openclaw/openclaw.json.last-good", Class::Secret),
            (".openclaw/credentials/whatsapp/creds.json", Class::Secret),
            (".openclaw/credentials", Class::Secret),
            (".openclaw/.env", Class::Secret),
            (".openclaw/gateway.token", Class::Secret),
            (".openclaw/state/openclaw.sqlite-wal", Class::Secret),
            (".openclaw/config-journal-fingerprint.key", Class::Secret),
            (".openclaw/logs/gateway.log", Class::Untracked),
            (".openclaw/skills/x/SKILL.md", Class::Tracked),
            (".home/.bashrc", Class::Untracked),
        ];
        for (path, class) in table {
            assert_eq!(layout("workspace").class(&TenantPath::parse(path).unwrap()), class, "{path}");
        }
    }

    #[test]
    fn a_workspace_inside_the_state_directory_is_tracked() {
        let layout = layout(".openclaw/workspace");
        assert_eq!(layout.class(&TenantPath::parse(".openclaw/workspace/SOUL.md").unwrap()), Class::Tracked);
        assert_eq!(layout.class(&TenantPath::parse(".openclaw/credentials/x").unwrap()), Class::Secret);
        assert!(layout.descends(&TenantPath::parse(".openclaw/workspace").unwrap()));
    }

    #[test]
    fn the_watcher_stays_out_of_what_has_no_history() {
        let layout = layout("workspace");
        for (path, descends) in [
            ("", true),
            (".openclaw", true),
            (".openclaw/skills", true),
            (".openclaw/agents", false),
            (".openclaw/cache", false),
            ("workspace/memory", true),
            ("workspace/node_modules", false),
            (".winston", false),
        ] {
            assert_eq!(layout.descends(&TenantPath::parse(path).unwrap()), descends, "{path}");
        }
    }
}
