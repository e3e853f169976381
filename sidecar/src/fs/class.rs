//! Which paths the file API shows, and which of them have a history.

use super::{Patterns, TenantPath};

/// Where the parts of a tenant's data directory are, relative to it.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// `OPENCLAW_STATE_DIR`, `.openclaw` by default.
    pub(crate) state: TenantPath,
    /// `OPENCLAW_WORKSPACE_DIR`, `workspace` by default.
    pub(crate) workspace: TenantPath,
    /// What the operator wants to have, or not to have, a history.
    pub(crate) selection: Selection,
}

/// The operator's choice. It cannot open what is internal or secret.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    /// `WINSTON_WATCH_EXCLUDE`: has no history although it would by default.
    pub(crate) exclude: Patterns,
    /// `WINSTON_WATCH_INCLUDE`: has a history in spite of the defaults and of `exclude`.
    pub(crate) include: Patterns,
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
    /// Classifies the path of a file.
    pub(crate) fn class(&self, path: &TenantPath) -> Class {
        self.classify(path, false)
    }

    fn classify(&self, path: &TenantPath, is_directory: bool) -> Class {
        if path.components().next() == Some(INTERNAL) {
            return Class::Internal;
        }
        let name = path.split().map_or("", |(_, name)| name);
        if let Some(below) = self.below_state(path.as_str()) {
            let first = below.split('/').next().unwrap_or(below);
            let secret = SECRET_STATE.contains(&first)
                || first.starts_with("openclaw.json.")
                || name.contains(".sqlite")
                || name.ends_with(".key");
            if secret {
                return Class::Secret;
            }
        }
        if self.is_excluded(path.as_str(), is_directory) { Class::Untracked } else { Class::Tracked }
    }

    /// What is below the state directory but not in a workspace that is inside it.
    fn below_state<'a>(&self, path: &'a str) -> Option<&'a str> {
        let below = |directory: &TenantPath| path.strip_prefix(directory.as_str())?.strip_prefix('/');
        let in_workspace = self.workspace.is_within(&self.state)
            && (below(&self.workspace).is_some() || path == self.workspace.as_str());
        below(&self.state).filter(|_| !in_workspace)
    }

    /// As with gitignore, the first directory on the way that is excluded decides about everything in it. Each level is decided by the operator's
    /// lists, then by the defaults.
    fn is_excluded(&self, path: &str, is_directory: bool) -> bool {
        let levels = path.match_indices('/').map(|(at, _)| (&path[..at], true)).chain([(path, is_directory)]);
        levels.into_iter().any(|(level, is_directory)| self.level_is_excluded(level, is_directory))
    }

    fn level_is_excluded(&self, path: &str, is_directory: bool) -> bool {
        let Selection { exclude, include } = &self.selection;
        let included = include.verdict(path, is_directory);
        let chosen = included.map(|included| !included).or_else(|| exclude.verdict(path, is_directory));
        chosen.unwrap_or_else(|| self.is_excluded_by_default(path))
    }

    fn is_excluded_by_default(&self, path: &str) -> bool {
        let leads_to = |directory: &TenantPath| {
            directory.as_str().strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if leads_to(&self.workspace) || leads_to(&self.state) {
            return false;
        }
        let name = path.rsplit('/').next().unwrap_or(path);
        let of_the_gateway = |below: &str| !below.contains('/') && !TRACKED_STATE.contains(&below);
        UNTRACKED_DIRECTORIES.contains(&name)
            || UNTRACKED_ENDINGS.iter().any(|ending| name.ends_with(ending))
            || self.below_state(path).is_some_and(of_the_gateway)
    }

    /// Classifies many files of one directory: what its path decides is decided once.
    pub(crate) fn files_of(&self, directory: &TenantPath) -> FilesOf<'_> {
        let path = if directory.is_root() { String::new() } else { format!("{directory}/") };
        let internal = directory.components().next() == Some(INTERNAL);
        let none = internal || (!directory.is_root() && self.is_excluded(directory.as_str(), true));
        let state = directory.is_within(&self.state) || directory.is_root();
        FilesOf { layout: self, length: path.len(), path, none, state }
    }

    /// Whether the watcher has to look into this directory. True for the ancestors of what is tracked.
    pub(crate) fn descends(&self, directory: &TenantPath) -> bool {
        self.state.is_within(directory)
            || self.workspace.is_within(directory)
            || (self.classify(directory, true) == Class::Tracked && !directory.is_root())
    }

    /// The gateway's configuration file.
    pub(crate) fn config_file(&self) -> Option<TenantPath> {
        self.state.child("openclaw.json")
    }
}

/// See [`Layout::files_of`].
pub(crate) struct FilesOf<'a> {
    layout: &'a Layout,
    path: String,
    length: usize,
    none: bool,
    /// Secrets are possible here.
    state: bool,
}

impl FilesOf<'_> {
    /// Whether [`Layout::class`] of the file with this name is [`Class::Tracked`].
    pub(crate) fn is_tracked(&mut self, name: &str) -> bool {
        if self.none {
            return false;
        }
        self.path.truncate(self.length);
        self.path.push_str(name);
        if self.state {
            return TenantPath::parse(&self.path).is_ok_and(|path| self.layout.class(&path) == Class::Tracked);
        }
        !self.layout.level_is_excluded(&self.path, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(workspace: &str) -> Layout {
        Layout {
            state: TenantPath::parse(".openclaw").unwrap(),
            workspace: TenantPath::parse(workspace).unwrap(),
            selection: Selection::default(),
        }
    }

    fn selecting(exclude: &str, include: &str) -> Layout {
        let selection =
            Selection { exclude: Patterns::parse(exclude).unwrap(), include: Patterns::parse(include).unwrap() };
        Layout { selection, ..layout("workspace") }
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
            let path = TenantPath::parse(path).unwrap();
            assert_eq!(layout("workspace").class(&path), class, "{path}");
            let (directory, name) = path.split().unwrap();
            let layout = layout("workspace");
            let mut files = layout.files_of(&TenantPath::parse(directory).unwrap());
            assert_eq!(files.is_tracked(name), class == Class::Tracked, "{path}");
        }
    }

    #[test]
    fn patterns_select_on_top_of_the_defaults() {
        let layout = selecting(
            "*.log\n/workspace/big/\nworkspace/tmp/*,!workspace/tmp/keep",
            "*.sqlite\nnode_modules\n*.key,.openclaw/logs",
        );
        for (path, class) in [
            ("workspace/a.log", Class::Untracked),
            ("workspace/big/a.md", Class::Untracked),
            ("workspace/big", Class::Tracked),
            ("workspace/tmp/a/b", Class::Untracked),
            ("workspace/tmp/keep/b", Class::Tracked),
            ("workspace/notes.sqlite", Class::Tracked),
            ("workspace/node_modules/x/index.js", Class::Tracked),
            ("workspace/node_modules/x/.git/HEAD", Class::Untracked),
            (".openclaw/logs/gateway.txt", Class::Tracked),
            // Never, whatever the patterns say.
            (".openclaw/config-journal-fingerprint.key", Class::Secret),
            (".openclaw/state/openclaw.sqlite", Class::Secret),
            (".winston/a.sqlite", Class::Internal),
        ] {
            assert_eq!(layout.class(&TenantPath::parse(path).unwrap()), class, "{path}");
        }
        assert!(!layout.descends(&TenantPath::parse("workspace/big").unwrap()));
        assert!(layout.descends(&TenantPath::parse("workspace/app/node_modules").unwrap()));
        let everything = selecting("", "*");
        for path in [".winston/epoch", ".openclaw/credentials/x", ".openclaw/agents/main/x.sqlite", ".openclaw/.env"] {
            let path = TenantPath::parse(path).unwrap();
            assert!(matches!(everything.class(&path), Class::Internal | Class::Secret), "{path}");
        }
        assert!(!everything.descends(&TenantPath::parse(".openclaw/credentials").unwrap()));
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
