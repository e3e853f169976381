//! First-boot files that entrypoint left in `.winston/seed/`, laid out like the data directory.

use std::os::fd::AsFd;

use rustix::fs::AtFlags;
use winston_wire::Source;

use crate::edits::{Author, EditError, Edits, Precondition};
use crate::fs::{EntryKind, FsError, Root, TenantPath};

const DIRECTORY: &str = ".winston/seed";

/// Largest seed; environment variables are smaller still.
const LIMIT: u64 = 1024 * 1024;

/// Writes every seed whose file does not exist, the gateway's configuration last, and empties the directory. Blocking.
pub(crate) fn apply(edits: &Edits) -> Result<(), EditError> {
    let Ok(seed_root) = TenantPath::parse(DIRECTORY) else { return Ok(()) };
    let mut files = list(edits.root(), &seed_root)?;
    let config = edits.layout().config_file();
    files.sort_by_key(|path| config.as_ref().map(TenantPath::as_str) == path.below(&seed_root));
    for seed in &files {
        let Some(Ok(target)) = seed.below(&seed_root).map(TenantPath::parse) else { continue };
        let Some(content) = edits.root().open_file(seed)?.read(LIMIT)? else {
            tracing::error!(path = %target, "a first-boot file is too large");
            continue;
        };
        let author = Author { source: Source::System, actor: Some("first-boot".to_owned()), generation: None };
        match edits.put(&target, &content, &author, Precondition::Absent) {
            Ok(_) => tracing::info!(path = %target, "wrote a first-boot file"),
            Err(EditError::PreconditionFailed { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    discard(edits)
}

/// Removes the seeds without using them: this is not the first boot. Blocking.
pub(crate) fn discard(edits: &Edits) -> Result<(), EditError> {
    let Ok(seed_root) = TenantPath::parse(DIRECTORY) else { return Ok(()) };
    for seed in list(edits.root(), &seed_root)? {
        let parent = edits.root().parent(&seed)?;
        rustix::fs::unlinkat(&parent.dir, parent.name, AtFlags::empty()).map_err(FsError::from)?;
    }
    Ok(())
}

fn list(root: &Root, directory: &TenantPath) -> Result<Vec<TenantPath>, FsError> {
    let (mut files, mut waiting) = (Vec::new(), vec![directory.clone()]);
    while let Some(directory) = waiting.pop() {
        let dir = match root.open_dir(&directory) {
            Err(FsError::NotFound) => continue,
            opened => opened?,
        };
        Root::each_entry(dir.as_fd(), |entry| {
            let Some(path) = std::str::from_utf8(&entry.name).ok().and_then(|name| directory.child(name)) else {
                return;
            };
            match entry.stat.kind {
                EntryKind::Directory => waiting.push(path),
                EntryKind::File => files.push(path),
                EntryKind::Symlink | EntryKind::Special => {}
            }
        })?;
    }
    Ok(files)
}
