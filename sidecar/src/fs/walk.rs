//! Going through a tree in a stable order, with memory that does not grow with it.
//!
//! A directory may have any number of entries, so it is never read into memory: a scan keeps only the smallest names after the last
//! one that was shown, and a large directory is scanned several times. The order is depth first, the entries of a directory by the
//! bytes of their names. An entry that is there all the time is shown exactly once, whatever comes and goes around it.

use std::collections::BinaryHeap;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{RawDir, SeekFrom};

use super::TenantPath;
use super::root::{EntryKind, FsError, Root, Stat, stat_at};

/// Levels of directories that a walk enters. Each costs a file descriptor and a part of the stack.
pub(crate) const MAX_LEVELS: usize = 64;

/// Names of one directory that are in memory at once, at the first level; half as many at each further one.
const NAMES: usize = 4096;
const FEWEST_NAMES: usize = 64;

/// One entry of a directory.
pub(crate) struct Found<'a> {
    /// Path relative to the data directory; `None` when its name cannot be part of one (not UTF-8, too long).
    pub(crate) path: Option<&'a TenantPath>,
    /// File name.
    pub(crate) name: &'a [u8],
    /// Path relative to where the walk began.
    pub(crate) below: &'a [u8],
    /// Of the entry itself: links are not followed.
    pub(crate) stat: Stat,
}

/// A walk through a tree.
pub(crate) struct Walk<'a> {
    pub(crate) root: &'a Root,
    /// Most names of a directory that are worth reading at once: how many entries are wanted in all.
    pub(crate) wanted: usize,
    /// Whether a directory is entered; its level is 1 for an entry of the first directory. Levels over [`MAX_LEVELS`] are not asked for.
    pub(crate) descends: &'a dyn Fn(&TenantPath, usize) -> bool,
    /// Called for each entry, a directory before what is in it.
    pub(crate) visit: &'a mut dyn FnMut(&Found<'_>) -> ControlFlow<()>,
}

impl Walk<'_> {
    /// Visits what is below `directory` and comes after the path `after` (relative to it; empty for everything), until `visit` breaks.
    ///
    /// Directories that vanish, turn into something else or may not be read are passed over; for `directory` itself that is an error.
    pub(crate) fn run(mut self, directory: &TenantPath, after: &[u8]) -> Result<(), FsError> {
        let dir = self.root.open_dir(directory)?;
        self.level(dir.as_fd(), directory, &mut Vec::new(), after, 1).map(|_| ())
    }

    fn level(
        &mut self,
        dir: BorrowedFd<'_>,
        directory: &TenantPath,
        prefix: &mut Vec<u8>,
        after: &[u8],
        level: usize,
    ) -> Result<ControlFlow<()>, FsError> {
        let (first, rest) = split(after);
        let mut last = (!first.is_empty()).then(|| first.to_vec());
        // The entry of that name was shown already; what is below it perhaps not.
        if let Some(path) = last.as_deref().and_then(|name| child(directory, name))
            && self.below(&path, prefix, first, rest, level)?.is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
        let most = (NAMES >> (level - 1).min(12)).max(FEWEST_NAMES).min(self.wanted.max(1));
        loop {
            let names = names_after(dir, last.as_deref(), most)?;
            let complete = names.len() < most;
            for name in names {
                // Gone between the two calls.
                let Some(stat) = stat_at(dir, &*name)? else { continue };
                let path = child(directory, &name);
                let length = push(prefix, &name);
                let found = Found { path: path.as_ref(), name: &name, below: prefix, stat };
                let flow = (self.visit)(&found);
                prefix.truncate(length);
                if flow.is_break() {
                    return Ok(flow);
                }
                if stat.kind == EntryKind::Directory
                    && let Some(path) = path
                    && self.below(&path, prefix, &name, b"", level)?.is_break()
                {
                    return Ok(ControlFlow::Break(()));
                }
                last = Some(name);
            }
            if complete {
                return Ok(ControlFlow::Continue(()));
            }
        }
    }

    fn below(
        &mut self,
        path: &TenantPath,
        prefix: &mut Vec<u8>,
        name: &[u8],
        after: &[u8],
        level: usize,
    ) -> Result<ControlFlow<()>, FsError> {
        if level >= MAX_LEVELS || !(self.descends)(path, level) {
            return Ok(ControlFlow::Continue(()));
        }
        let dir = match self.root.open_dir(path) {
            Ok(dir) => dir,
            Err(FsError::NotFound | FsError::Denied) => return Ok(ControlFlow::Continue(())),
            Err(error) if error.is_about_the_path() => return Ok(ControlFlow::Continue(())),
            Err(error) => return Err(error),
        };
        let length = push(prefix, name);
        let flow = self.level(dir.as_fd(), path, prefix, after, level + 1);
        prefix.truncate(length);
        flow
    }
}

/// First component of a relative path, and the rest.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().position(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (path, b""),
    }
}

/// Appends a component; the length to truncate to afterwards.
fn push(path: &mut Vec<u8>, name: &[u8]) -> usize {
    let length = path.len();
    if length > 0 {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    length
}

fn child(directory: &TenantPath, name: &[u8]) -> Option<TenantPath> {
    directory.child(std::str::from_utf8(name).ok()?)
}

/// The `most` smallest names of a directory that are greater than `after`, in order.
fn names_after(dir: BorrowedFd<'_>, after: Option<&[u8]>, most: usize) -> Result<Vec<Vec<u8>>, FsError> {
    rustix::fs::seek(dir, SeekFrom::Start(0))?;
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut smallest = Smallest::new(most);
    while let Some(entry) = entries.next() {
        let name = entry?;
        let name = name.file_name().to_bytes();
        if name != b"." && name != b".." && after.is_none_or(|after| name > after) {
            smallest.offer(name);
        }
    }
    Ok(smallest.sorted())
}

/// The smallest of any number of names.
struct Smallest {
    names: BinaryHeap<Vec<u8>>,
    most: usize,
}

impl Smallest {
    fn new(most: usize) -> Self {
        Self { names: BinaryHeap::new(), most }
    }

    fn offer(&mut self, name: &[u8]) {
        if self.names.len() < self.most {
            self.names.push(name.to_vec());
        } else if let Some(mut largest) = self.names.peek_mut()
            && name < largest.as_slice()
        {
            largest.clear();
            largest.extend_from_slice(name);
        }
    }

    fn sorted(self) -> Vec<Vec<u8>> {
        self.names.into_sorted_vec()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_smallest_are_kept(names in proptest::collection::btree_set("[a-c]{1,4}", 0..40), most in 1usize..10) {
            let mut smallest = Smallest::new(most);
            for name in names.iter().rev() {
                smallest.offer(name.as_bytes());
            }
            let wanted: Vec<_> = names.iter().take(most).map(|name| name.as_bytes().to_vec()).collect();
            prop_assert_eq!(smallest.sorted(), wanted);
        }
    }

    proptest! {
        // Each case makes a tree.
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Whatever the size of a page, the pages together are the tree, in order, once.
        #[test]
        fn pages_are_the_whole_tree(
            files in proptest::collection::btree_set("[ab-]{1,2}(/[ab-]{1,2}){0,3}", 1..30), page in 1usize..7
        ) {
            let dir = tempfile::tempdir().unwrap();
            for file in &files {
                let path = dir.path().join(file);
                // A prefix of one path may be another path's file; then that one cannot be made.
                let _ = std::fs::create_dir_all(path.parent().unwrap()).and_then(|()| std::fs::write(path, ""));
            }
            let root = Root::open(dir.path(), None).unwrap();
            let collect = |after: &[u8], most: usize| {
                let mut paths = Vec::new();
                let mut visit = |found: &Found<'_>| {
                    paths.push(String::from_utf8(found.below.to_vec()).unwrap());
                    if paths.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                };
                let walk = Walk { root: &root, wanted: most, descends: &|_, _| true, visit: &mut visit };
                walk.run(&TenantPath::default(), after).unwrap();
                paths
            };
            let whole = collect(b"", usize::MAX);
            let unique: BTreeSet<_> = whole.iter().collect();
            prop_assert_eq!(unique.len(), whole.len());
            let mut by_component = whole.clone();
            by_component.sort_by(|a, b| a.split('/').cmp(b.split('/')));
            prop_assert_eq!(&by_component, &whole);
            let mut paged: Vec<String> = Vec::new();
            loop {
                let next = collect(paged.last().map_or(b"", |path| path.as_bytes()), page);
                let done = next.len() < page;
                paged.extend(next);
                if done {
                    break;
                }
            }
            prop_assert_eq!(paged, whole);
        }
    }
}
