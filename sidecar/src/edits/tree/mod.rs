//! Edits of whole directories, and of names that are not files.

mod copy;
mod mode;
mod relocate;
mod remove;
mod survey;

/// Most entries of a directory that is removed, moved or copied.
const MAX_ENTRIES: usize = 100_000;

/// Most tracked files in it: their records are one append.
const MAX_RECORDS: usize = 20_000;
