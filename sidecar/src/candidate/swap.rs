//! A set on the tenant's disk: reading it, putting it in place, putting the one before it back. Everything here blocks.

use serde_json::Value;
use winston_wire::{ContentHash, Source};

use super::rejected::is_in_the_way;
use super::store::{FileSet, SetFile};
use crate::edits::{Author, EditError, Edits, Look, Precondition, SetError, hash_of};
use crate::failpoint;
use crate::fs::{FsError, TenantPath};
use crate::merge;

/// Attempts while somebody changes the same files.
const ATTEMPTS: usize = 8;

/// What is at these paths now.
pub(super) fn read_set<'a>(edits: &Edits, paths: impl Iterator<Item = &'a TenantPath>) -> Result<FileSet, EditError> {
    let files = paths.map(|path| Ok(SetFile { path: path.clone(), content: read(edits, path)? }));
    Ok(FileSet { files: files.collect::<Result<_, EditError>>()? })
}

/// The content at a path. Of somebody else's file in the configuration's place that the tenant's user may not read (and that is no configuration, or
/// he would have got it) nothing may come to be in a file that he can read: [`FsError::Escape`].
pub(super) fn read(edits: &Edits, path: &TenantPath) -> Result<Option<Vec<u8>>, EditError> {
    let limit = edits.max_file_bytes();
    match edits.root().open_file(path) {
        Err(FsError::NotFound | FsError::NotADirectory) => Ok(None),
        opened => {
            let mut opened = opened?;
            if edits.layout().config_file().as_ref() == Some(path) && edits.root().withholds(&opened.stat) {
                return Err(FsError::Escape.into());
            }
            Ok(Some(opened.read(limit)?.ok_or(EditError::TooLarge { limit })?))
        }
    }
}

fn exactly(hash: Option<ContentHash>) -> Precondition {
    hash.map_or(Precondition::Absent, Precondition::Match)
}

/// Puts the new set in place, over exactly the old one. An error says which file of the set it is about.
pub(super) fn swap(edits: &Edits, author: &Author, old: &FileSet, new: &FileSet) -> Result<(), SetError> {
    let mut transaction = edits.begin(author)?;
    let mut operations = Vec::with_capacity(new.files.len());
    for (index, (before, after)) in old.files.iter().zip(&new.files).enumerate() {
        let over = exactly(before.hash());
        let added = match &after.content {
            Some(content) => transaction.put(after.path.clone(), content, over, None),
            // Nothing is there, and nothing should be.
            None if before.content.is_none() => continue,
            None => transaction.delete(after.path.clone(), over),
        };
        added.map_err(|error| SetError { index: Some(index), error })?;
        operations.push(index);
    }
    transaction
        .commit()
        .map(drop)
        .map_err(|error| SetError { index: error.index.and_then(|at| operations.get(at).copied()), error: error.error })
}

/// What putting a set back could not do, and what it wrote.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PutBack {
    /// Files that somebody had edited: theirs stay.
    pub(super) kept: Vec<String>,
    /// Of the versions that were put back or made, those that hold work of others than control.
    pub(super) mixed: Vec<(String, ContentHash)>,
}

/// Puts the old set back where the new one still is. Doing it again changes nothing. `pushed`: see [`pushed`].
pub(super) fn put_back(
    edits: &Edits,
    author: &Author,
    config: &TenantPath,
    old: &FileSet,
    new: &FileSet,
    pushed: &[String],
) -> Result<PutBack, EditError> {
    for _ in 0..ATTEMPTS {
        let mut done = PutBack::default();
        let mut transaction = edits.begin(author)?;
        for planned in plan(edits, config, old, new)? {
            done.mixed.extend(planned.mixed(old, pushed));
            let Planned { path, over, what } = planned;
            match what {
                Return::Nothing => {}
                Return::Kept => done.kept.push(path.as_str().to_owned()),
                Return::Write(None) => transaction.delete(path, over)?,
                Return::Write(Some(content)) => transaction.put(path, &content, over, None)?,
            }
        }
        failpoint::here("config-returning");
        match transaction.commit() {
            Ok(_) => return Ok(done),
            Err(SetError { error: EditError::PreconditionFailed { .. } | EditError::Busy, .. }) => {}
            Err(SetError { error, .. }) => return Err(error),
        }
    }
    Err(EditError::Busy)
}

/// Of the versions that [`put_back`] would write now, those that hold work of others than control.
pub(super) fn would_mix(
    edits: &Edits,
    config: &TenantPath,
    old: &FileSet,
    new: &FileSet,
    pushed: &[String],
) -> Result<Vec<(String, ContentHash)>, EditError> {
    Ok(plan(edits, config, old, new)?.iter().filter_map(|planned| planned.mixed(old, pushed)).collect())
}

/// The files of a set that are on disk as control pushed them, by path: another push may replace them, also after they were put back. Of those
/// that `system` wrote, `is_mixed` says which hold somebody else's work.
pub(super) fn pushed(
    edits: &Edits,
    set: &FileSet,
    is_mixed: impl Fn(&str, ContentHash) -> bool,
) -> Result<Vec<String>, EditError> {
    let mut pushed = Vec::new();
    for file in &set.files {
        let Some(expected) = file.hash() else { continue };
        match edits.look(&file.path)? {
            Look::File { hash, source: Some(Source::System) }
                if hash == expected && !is_mixed(file.path.as_str(), hash) =>
            {
                pushed.push(file.path.as_str().to_owned());
            }
            _ => {}
        }
    }
    Ok(pushed)
}

struct Planned {
    path: TenantPath,
    /// What is there now.
    over: Precondition,
    what: Return,
}

impl Planned {
    /// What this writes, unless it is a version that control had pushed.
    fn mixed(&self, old: &FileSet, pushed: &[String]) -> Option<(String, ContentHash)> {
        let Return::Write(Some(content)) = &self.what else { return None };
        let is_pushed =
            pushed.iter().any(|path| path == self.path.as_str()) && old.content(&self.path) == Some(content.as_slice());
        (!is_pushed).then(|| (self.path.as_str().to_owned(), hash_of(content)))
    }
}

fn plan(edits: &Edits, config: &TenantPath, old: &FileSet, new: &FileSet) -> Result<Vec<Planned>, EditError> {
    let files = old.files.iter().zip(&new.files).map(|(before, after)| {
        let content = match read(edits, &before.path) {
            // Somebody else's, whatever is wanted there. In the place of the configuration, the next failed start has it put aside.
            Err(error) if is_in_the_way(&error) => {
                let (path, over) = (before.path.clone(), Precondition::Absent);
                return Ok(Planned { path, over, what: Return::Kept });
            }
            content => content?,
        };
        let there = SetFile { path: before.path.clone(), content };
        let what = returned(before, after, &there, before.path == *config);
        Ok(Planned { over: exactly(there.hash()), path: there.path, what })
    });
    files.collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Return {
    Nothing,
    Kept,
    Write(Option<Vec<u8>>),
}

/// What becomes of one file when its set goes back.
fn returned(old: &SetFile, new: &SetFile, there: &SetFile, is_config: bool) -> Return {
    if there.content == old.content {
        return Return::Nothing;
    }
    if there.content == new.content {
        return Return::Write(old.content.clone());
    }
    let (Some(here), Some(ours), true) = (&there.content, &new.content, is_config) else { return Return::Kept };
    if is_rewritten(here, ours) {
        return Return::Write(old.content.clone());
    }
    // Somebody's own edit stays, and only what came with the set goes.
    let undone = old.content.as_deref().and_then(|old| merge::three_way(new.path.as_str(), ours, here, old));
    undone.map_or(Return::Kept, |content| Return::Write(Some(content)))
}

/// Whether one text is the other one as the gateway rewrites it: the same keys and values, but for what it notes about itself.
pub(super) fn is_rewritten(there: &[u8], ours: &[u8]) -> bool {
    let value = |bytes| std::str::from_utf8(bytes).ok().and_then(|text| merge::value(text).ok()).map(without_notes);
    matches!((value(there), value(ours)), (Some(there), Some(ours)) if there == ours)
}

fn without_notes(mut config: Value) -> Value {
    if let Some(members) = config.as_object_mut() {
        members.remove("meta");
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: Option<&str>) -> SetFile {
        SetFile {
            path: TenantPath::parse(".openclaw/openclaw.json").unwrap(),
            content: content.map(|content| content.as_bytes().to_vec()),
        }
    }

    fn back(
        old: Option<&str>,
        new: Option<&str>,
        there: Option<&str>,
        is_config: bool,
    ) -> Result<Option<String>, &'static str> {
        match returned(&file(old), &file(new), &file(there), is_config) {
            Return::Nothing => Err("nothing"),
            Return::Kept => Err("kept"),
            Return::Write(content) => Ok(content.map(|content| String::from_utf8(content).unwrap())),
        }
    }

    #[test]
    fn only_what_is_still_ours_goes_back() {
        for is_config in [false, true] {
            assert_eq!(
                back(Some("{\"a\":1}"), Some("{\"a\":2}"), Some("{\"a\":2}"), is_config),
                Ok(Some("{\"a\":1}".into()))
            );
            assert_eq!(back(None, Some("{\"a\":2}"), Some("{\"a\":2}"), is_config), Ok(None));
            assert_eq!(back(Some("{\"a\":1}"), None, None, is_config), Ok(Some("{\"a\":1}".into())));
            assert_eq!(back(Some("{\"a\":1}"), Some("{\"a\":2}"), Some("{\"a\":1}"), is_config), Err("nothing"));
            assert_eq!(back(Some("{\"a\":1}"), Some("{\"a\":2}"), Some("{\"a\":3}"), is_config), Err("kept"));
            assert_eq!(back(Some("{\"a\":1}"), Some("{\"a\":2}"), None, is_config), Err("kept"));
        }
    }

    #[test]
    fn what_the_gateway_notes_about_itself_is_no_edit() {
        let rewritten = "{\n  \"a\": 2,\n  \"meta\": {\"lastTouchedVersion\": \"x\"}\n}\n";
        assert_eq!(
            back(Some("{\"a\":1} // old"), Some("// new\n{a: 2}"), Some(rewritten), true),
            Ok(Some("{\"a\":1} // old".into()))
        );
        assert_eq!(back(Some("{\"a\":1}"), Some("{\"a\":2}"), Some(rewritten), false), Err("kept"));
    }

    #[test]
    fn an_edit_of_another_key_stays_while_ours_is_undone() {
        let edited = "{\"a\": 2, \"theirs\": true}";
        assert_eq!(
            back(Some("{\"a\": 1}"), Some("{\"a\": 2}"), Some(edited), true),
            Ok(Some("{\"a\": 1, \"theirs\": true}".into()))
        );
    }
}
