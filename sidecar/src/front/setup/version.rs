//! Which OpenClaw is installed. Its package says so; running the program would take a second and a hundred megabytes.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::super::server::Front;

/// Directories above the program in which its package may be.
const LEVELS: usize = 4;

/// Largest description of a package.
const LARGEST: u64 = 256 * 1024;

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
}

/// The version, if the program can be found.
pub(super) async fn openclaw(front: &Front) -> Option<String> {
    let (program, path) = (front.settings.program.clone(), front.settings.path.clone());
    tokio::task::spawn_blocking(move || version_of(&found(&program, &path)?)).await.ok()?
}

/// The program's file: what has a slash is a path, anything else is looked up.
fn found(program: &Path, path: &str) -> Option<PathBuf> {
    let candidates: Vec<PathBuf> = if program.components().count() > 1 {
        vec![program.to_owned()]
    } else {
        std::env::split_paths(path).map(|directory| directory.join(program)).collect()
    };
    candidates.into_iter().find_map(|candidate| candidate.canonicalize().ok())
}

fn version_of(program: &Path) -> Option<String> {
    program.ancestors().skip(1).take(LEVELS).find_map(|directory| {
        let file = directory.join("package.json");
        if std::fs::metadata(&file).ok()?.len() > LARGEST {
            return None;
        }
        let package: Package = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
        (package.name == "openclaw").then_some(package.version)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_around_the_program_tells() {
        let dir = tempfile::tempdir().expect("a directory");
        let package = dir.path().join("node_modules/openclaw");
        std::fs::create_dir_all(package.join("bin")).expect("directories");
        std::fs::create_dir(dir.path().join("bin")).expect("a directory");
        std::fs::write(package.join("package.json"), r#"{"name":"openclaw","version":"2026.9.6"}"#).expect("a file");
        std::fs::write(package.join("bin/openclaw.mjs"), "").expect("a file");
        std::os::unix::fs::symlink(package.join("bin/openclaw.mjs"), dir.path().join("bin/openclaw")).expect("a link");
        let path = format!("/nowhere:{}", dir.path().join("bin").display());
        let program = found(Path::new("openclaw"), &path).expect("found");
        assert_eq!(version_of(&program).as_deref(), Some("2026.9.6"));
        assert_eq!(found(Path::new("other"), &path), None);
    }
}
