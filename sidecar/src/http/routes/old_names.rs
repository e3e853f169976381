//! Names of the `/winston` contract. Pure.
//!
//! There, paths are relative to the state directory. The first files of an agent were written into it too, where OpenClaw does not read
//! them; so these names mean the workspace, where it does:
//!
//! | Name | Means |
//! |---|---|
//! | one of [`WORKSPACE_NAMES`], or below it | the same in the workspace |
//! | `workspace`, or below it | the workspace, wherever it is |
//! | anything else, `skills/` included | the state directory; OpenClaw reads its `skills/` there |
//!
//! Every file has one name: an entry of the state directory that another meaning hides has none, nor has what is in neither directory.

use crate::fs::{Layout, TenantPath};

/// What OpenClaw reads in the workspace and not in the state directory.
pub(super) const WORKSPACE_NAMES: &[&str] = &[
    "AGENTS.md",
    "BOOT.md",
    "BOOTSTRAP.md",
    "HEARTBEAT.md",
    "IDENTITY.md",
    "MEMORY.md",
    "SOUL.md",
    "TOOLS.md",
    "USER.md",
    "memory",
];

/// The workspace as a directory.
pub(super) const WORKSPACE: &str = "workspace";

/// The file that a name means.
pub(super) fn resolve(layout: &Layout, name: &TenantPath) -> Option<TenantPath> {
    let first = name.components().next().unwrap_or("");
    if WORKSPACE_NAMES.contains(&first) {
        return join(&layout.workspace, name.as_str());
    }
    if first == WORKSPACE {
        return join(&layout.workspace, name.as_str()[WORKSPACE.len()..].trim_start_matches('/'));
    }
    join(&layout.state, name.as_str())
}

fn join(directory: &TenantPath, rest: &str) -> Option<TenantPath> {
    if rest.is_empty() {
        return Some(directory.clone());
    }
    TenantPath::parse(&format!("{}/{rest}", directory.as_str())).ok()
}

/// The name of a file, if it has one.
pub(super) fn name_of(layout: &Layout, path: &TenantPath) -> Option<String> {
    if path.is_within(&layout.workspace) {
        let below = path.below(&layout.workspace).unwrap_or("");
        let first = below.split('/').next().unwrap_or("");
        return Some(match below {
            "" => WORKSPACE.to_owned(),
            _ if WORKSPACE_NAMES.contains(&first) => below.to_owned(),
            _ => format!("{WORKSPACE}/{below}"),
        });
    }
    let below = path.below(&layout.state)?;
    (!is_hidden(below.split('/').next().unwrap_or(""))).then(|| below.to_owned())
}

/// The later sidecar kept its log here, in the state directory. It does not exist for callers.
pub(super) const OLD_LOG: &str = ".winston";

/// Whether an entry of the state directory cannot be named: its name means something in the workspace, or it is the old log.
pub(super) fn is_hidden(name: &str) -> bool {
    name == WORKSPACE || name == OLD_LOG || WORKSPACE_NAMES.contains(&name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout(workspace: &str) -> Layout {
        Layout {
            state: TenantPath::parse(".openclaw").unwrap(),
            workspace: TenantPath::parse(workspace).unwrap(),
            selection: crate::fs::Selection::default(),
        }
    }

    #[test]
    fn names_mean_what_openclaw_reads() {
        for (workspace, name, path) in [
            ("workspace", "SOUL.md", "workspace/SOUL.md"),
            ("workspace", "memory/2026-02-11.md", "workspace/memory/2026-02-11.md"),
            ("workspace", "workspace/notes.md", "workspace/notes.md"),
            ("workspace", "workspace", "workspace"),
            ("workspace", "openclaw.json", ".openclaw/openclaw.json"),
            ("workspace", "skills/x/SKILL.md", ".openclaw/skills/x/SKILL.md"),
            ("workspace", "sub/SOUL.md", ".openclaw/sub/SOUL.md"),
            ("workspace", "", ".openclaw"),
            (".openclaw/workspace", "SOUL.md", ".openclaw/workspace/SOUL.md"),
            (".openclaw/workspace", "workspace/notes.md", ".openclaw/workspace/notes.md"),
        ] {
            let resolved = resolve(&layout(workspace), &TenantPath::parse(name).unwrap()).unwrap();
            assert_eq!(resolved.as_str(), path, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_named_has_no_name() {
        let layout = layout("workspace");
        for path in [
            "notes.md",
            ".openclaw/.winston/changes.jsonl",
            ".openclaw/SOUL.md",
            ".openclaw/workspace/x",
            ".openclaw",
            "",
        ] {
            assert_eq!(name_of(&layout, &TenantPath::parse(path).unwrap()), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_name_leads_back_to_its_file(
            path in "(\\.openclaw|workspace|notes)(/(SOUL\\.md|memory|skills|workspace|x)){1,3}", inside in any::<bool>()
        ) {
            let layout = layout(if inside { ".openclaw/workspace" } else { "workspace" });
            let path = TenantPath::parse(&path).unwrap();
            if let Some(name) = name_of(&layout, &path) {
                prop_assert_eq!(resolve(&layout, &TenantPath::parse(&name).unwrap()), Some(path));
            }
        }
    }
}
