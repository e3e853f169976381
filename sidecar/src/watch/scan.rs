//! Listing a part of the tree and comparing it with the index.

use std::collections::HashSet;
use std::os::fd::AsFd;

use crate::edits::Edits;
use crate::fs::{Class, EntryKind, FsError, Root, TenantPath};

/// Walks `directory` and everything below it that the watcher descends into. `watch` is called for each directory before it is listed.
///
/// Returns the tracked files whose stat tuple is not the recorded one, and the recorded files that are gone. Reads no file.
pub(super) fn scan(edits: &Edits, directory: &TenantPath, watch: &mut dyn FnMut(&TenantPath)) -> Vec<TenantPath> {
    let mut dirty = Vec::new();
    let mut present = HashSet::new();
    let mut waiting = vec![directory.clone()];
    while let Some(directory) = waiting.pop() {
        watch(&directory);
        let listed = edits.root().open_dir(&directory).and_then(|dir| {
            Root::each_entry(dir.as_fd(), |entry| {
                let Some(path) = std::str::from_utf8(&entry.name).ok().and_then(|name| directory.child(name)) else {
                    return;
                };
                match entry.stat.kind {
                    EntryKind::Directory if edits.layout().descends(&path) => waiting.push(path),
                    EntryKind::File if edits.layout().class(&path) == Class::Tracked => {
                        present.insert(Box::from(path.as_str()));
                        if edits.index().matching(path.as_str(), &entry.stat).is_none() {
                            dirty.push(path);
                        }
                    }
                    _ => {}
                }
            })
        });
        match listed {
            Ok(()) | Err(FsError::NotFound | FsError::NotADirectory | FsError::Escape) => {}
            // What is below it will be missing from the listing, and each of those files is looked at before it counts as gone.
            Err(error) => tracing::warn!(directory = %directory, %error, "could not list a directory"),
        }
    }
    dirty.extend(edits.vanished(directory, &present));
    dirty
}
