//! Listing a part of the tree and comparing it with the index.

use std::os::fd::AsFd;

use crate::edits::Edits;
use crate::fs::{DirEntry, EntryKind, FsError, Root, TenantPath};

/// What a listing found.
#[derive(Default)]
pub(super) struct Found {
    /// Recorded files that are gone.
    pub(super) gone: Vec<TenantPath>,
    /// Directories that were descended into.
    pub(super) directories: u64,
    /// Names that were looked at.
    pub(super) examined: u64,
}

/// What a listing tells while it goes on.
pub(super) trait Listener {
    /// A directory is about to be listed.
    fn watch(&mut self, directory: &TenantPath);

    /// Tracked files of one directory whose stat tuple is not the recorded one, with their sizes in bytes.
    fn differing(&mut self, files: Vec<(TenantPath, u64)>);
}

/// Walks `directory` and everything below it that the watcher descends into. Reads no file. Holds the names of one directory at a time.
pub(super) fn scan(edits: &Edits, directory: &TenantPath, listener: &mut impl Listener) -> Found {
    let (layout, index) = (edits.layout(), edits.index());
    let mut found = Found::default();
    index.begin_listing(directory.as_str());
    let mut waiting = vec![directory.clone()];
    while let Some(directory) = waiting.pop() {
        listener.watch(&directory);
        found.directories += 1;
        let mut tracked = layout.files_of(&directory);
        let mut files: Vec<DirEntry> = Vec::new();
        let listed = edits.root().open_dir(&directory).and_then(|dir| {
            Root::each_entry(dir.as_fd(), |entry| {
                found.examined += 1;
                let Ok(name) = std::str::from_utf8(&entry.name) else { return };
                match entry.stat.kind {
                    EntryKind::Directory => {
                        waiting.extend(directory.child(name).filter(|path| layout.descends(path)));
                    }
                    EntryKind::File if tracked.is_tracked(name) => files.push(entry),
                    _ => {}
                }
            })
        });
        match listed {
            Ok(()) | Err(FsError::NotFound | FsError::NotADirectory | FsError::Escape) => {}
            // What is below it will be missing from the listing, and each of those files is looked at before it counts as gone.
            Err(error) => tracing::warn!(directory = %directory, %error, "could not list a directory"),
        }
        // The index has them in this order.
        files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let differing = index.list(&directory, &files);
        if !differing.is_empty() {
            listener.differing(differing);
        }
    }
    // What the selection left out since it was recorded keeps its last version.
    found.gone = index.end_listing(directory.as_str(), |path| layout.class(path) == crate::fs::Class::Tracked);
    found
}
