//! Workspaces of some size, as an agent would have filled them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::unistd::syncfs;

use crate::sidecar::Setup;

/// Files in each directory.
const FILES_EACH: usize = 100;

/// A text that repeats; every file begins with its own number, so that no two have the same content.
const LINE: &str = "A line of notes, as an agent writes them.\n";

/// How large a tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) files: usize,
    /// Of each file.
    pub(super) bytes: usize,
}

impl Tree {
    /// Bytes of all its files.
    pub(super) fn total_bytes(self) -> f64 {
        self.files as f64 * self.bytes as f64
    }

    /// Directories that hold its files.
    pub(super) fn directories(self) -> usize {
        self.files.div_ceil(FILES_EACH)
    }

    /// Where it is in a data directory.
    pub(super) fn path(setup: &Setup) -> PathBuf {
        Self::below(setup.data())
    }

    fn below(data: &Path) -> PathBuf {
        data.join("workspace/notes")
    }

    /// Makes it, and waits until it is on disk: what is written back later would disturb what is measured next.
    pub(super) fn make(self, setup: &Setup) -> Result<()> {
        self.make_in(setup.data())
    }

    /// The same in any data directory.
    pub(super) fn make_in(self, data: &Path) -> Result<()> {
        let top = Self::below(data);
        for directory in 0..self.directories() {
            let path = top.join(format!("{:02}/{directory:05}", directory % 50));
            fs::create_dir_all(&path)?;
            let first = directory * FILES_EACH;
            for file in first..self.files.min(first + FILES_EACH) {
                let place = path.join(format!("note-{file:06}.md"));
                fs::write(&place, self.content(file)).with_context(|| place.display().to_string())?;
            }
        }
        Ok(syncfs(fs::File::open(data)?)?)
    }

    fn content(self, file: usize) -> Vec<u8> {
        let mut content = format!("Note {file}.\n").into_bytes();
        content.extend(LINE.bytes().cycle().take(self.bytes.saturating_sub(content.len())));
        content.truncate(self.bytes);
        content
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_its_files_and_bytes() -> Result<()> {
        let (setup, tree) = (Setup::new()?, Tree { files: 250, bytes: 64 });
        tree.make(&setup)?;
        let (mut files, mut bytes, mut waiting) = (0, 0, vec![Tree::path(&setup)]);
        let mut contents = std::collections::BTreeSet::new();
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    waiting.push(entry.path());
                } else {
                    files += 1;
                    bytes += entry.metadata()?.len();
                    contents.insert(fs::read(entry.path())?);
                }
            }
        }
        assert_eq!((files, bytes as f64, contents.len()), (tree.files, tree.total_bytes(), tree.files));
        assert_eq!(tree.directories(), 3);
        Ok(())
    }
}
