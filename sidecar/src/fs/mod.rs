//! The tenant's files: paths, which of them are ours to touch, and the confined handle that touches them.

mod class;
mod durable;
#[cfg(test)]
mod fuzz;
mod path;
mod root;

pub(crate) use class::{Class, Layout};
pub(crate) use durable::replace_file;
pub(crate) use path::{PathError, TenantPath};
pub(crate) use root::{EntryKind, FsError, Opened, Root, Stat, is_unsupported, rename, rename_back, stat_at, unlink};
