//! The token, and variables that are nobody's business, wherever they may have been left.

use std::path::{Path, PathBuf};

use winston_tests::process::{Process, find_processes};

use crate::attempts::{Attempt, Class, Outcome};

const T: Class = Class::Token;

/// Files that are read in the search, and the most bytes of one.
const MOST_FILES: usize = 20_000;
const LARGEST: u64 = 1 << 20;

pub(crate) const ATTEMPTS: &[Attempt] = &[
    Attempt::never(T, "find the token in its own environment", |plan| {
        found(std::env::vars().filter(|(_, value)| value.contains(&plan.token)).map(|(name, _)| name))
    }),
    Attempt::never(T, "find a variable of ours or of the platform", |_| {
        found(std::env::vars().map(|(name, _)| name).filter(|name| !allowed(name)))
    }),
    Attempt::never(T, "find the token on a command line", |plan| {
        let with = find_processes(|process| process.command.contains(&plan.token));
        found(with.unwrap_or_default().into_iter().map(|process| process.to_string()))
    }),
    Attempt::new(T, "find the token in the environment of a process", |plan| {
        // The test that started us has it too, and is no part of the tenant.
        let with = plan.victims.iter().map(|pid| Process::of(*pid));
        let with = with.filter(|process| process.environment.iter().any(|one| one.contains(&plan.token)));
        found(with.map(|process| process.to_string()))
    }),
    Attempt::never(T, "find the token in a file", |plan| {
        let temporary = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
        let mut left = MOST_FILES;
        let mut with = Vec::new();
        for root in [plan.data.clone(), temporary, "/dev/shm".into(), "/run".into(), "/var/tmp".into()] {
            search(&root, &plan.token, &mut left, &mut with);
        }
        found(with.into_iter().map(|path| path.display().to_string()))
    }),
];

fn found(all: impl Iterator<Item = String>) -> Outcome {
    let all: Vec<_> = all.collect();
    if all.is_empty() { Err("nothing".to_owned()) } else { Ok(all.join(", ")) }
}

/// What a gateway needs, and what a shell sets by itself.
fn allowed(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "PATH",
        "HOME",
        "TMPDIR",
        "LANG",
        "TZ",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "_",
        "OPENCLAW_SUPERVISOR_MODE",
        "OPENCLAW_STATE_DIR",
        "OPENCLAW_WORKSPACE_DIR",
        "OPENCLAW_GATEWAY_PORT",
        "OPENCLAW_GATEWAY_TOKEN",
        "OPENCLAW_DISABLE_BONJOUR",
        "OPENCLAW_NO_AUTO_UPDATE",
        "OPENCLAW_EXEC_SHELL_SNAPSHOT",
        "ANTHROPIC_API_KEY",
    ];
    NAMES.contains(&name)
}

fn search(directory: &Path, token: &str, left: &mut usize, with: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            search(&entry.path(), token, left, with);
        } else if metadata.is_file() && metadata.len() <= LARGEST && *left > 0 {
            *left -= 1;
            let content = std::fs::read(entry.path()).unwrap_or_default();
            if content.windows(token.len()).any(|part| part == token.as_bytes()) {
                with.push(entry.path());
            }
        }
    }
}
