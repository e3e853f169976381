//! The tenant's files: paths, which of them are ours to touch, and the confined handle that touches them.

mod class;
mod durable;
#[cfg(test)]
mod fuzz;
mod path;
mod pattern;
mod readable;
mod remove;
mod root;
mod walk;

pub(crate) use class::{Class, Layout, Selection};
pub(crate) use durable::{replace_file, replace_file_by};
pub(crate) use path::{PathError, TenantPath};
pub(crate) use pattern::Patterns;
pub(crate) use readable::{READABLE, granted};
pub(crate) use remove::remove_tree;
pub(crate) use root::{EntryKind, FsError, Opened, Root, Stat, is_unsupported, rename, rename_back, stat_at, unlink};
pub(crate) use walk::{Found, MAX_LEVELS, Walk};
