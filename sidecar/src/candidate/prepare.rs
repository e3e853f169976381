//! From a submission to the set before and the set after it.

use super::record::Owned;
use super::store::{FileSet, SetFile};
use super::{NewFile, Submission, SubmitError, owned, swap};
use crate::edits::{EditError, Edits, Precondition, hash_of};
use crate::fs::TenantPath;
use crate::merge::MAX_MERGE_BYTES;

/// A submission, ready to be tried.
pub(super) struct Prepared {
    pub(super) old: FileSet,
    pub(super) new: FileSet,
    pub(super) owned: Option<Owned>,
    /// The configuration was made here, out of what was there.
    pub(super) mixed: bool,
}

pub(super) fn prepare(
    edits: &Edits,
    config: &TenantPath,
    submission: Submission,
    owned: Option<Owned>,
) -> Result<Option<Prepared>, SubmitError> {
    let Submission { mut files, owned: new_owned, .. } = submission;
    for (index, file) in files.iter().enumerate() {
        edits.permit(&file.path).map_err(|error| SubmitError::Edit { index: Some(index), error })?;
    }
    // As the upkeep does, which may not have come to it: what cannot be read cannot be taken back either.
    if let Err(error) = edits.mend_config() {
        tracing::debug!(%error, "could not make the configuration readable");
    }
    let mixed = !files.iter().any(|file| file.path == *config);
    if mixed {
        // Only the keys that control owns change: over what is there.
        let content = swap::read(edits, config)?;
        let over = content.as_deref().map_or(Precondition::Absent, |content| Precondition::Match(hash_of(content)));
        files.push(NewFile { path: config.clone(), content: content.map(Into::into), over });
    }
    let patch = new_owned.as_ref().or(owned.as_ref()).map(|owned| &owned.patch);
    let mut new = FileSet::default();
    for file in &files {
        let mut content = file.content.as_ref().map(|content| content.to_vec());
        if file.path == *config
            && let (Some(patch), Some(text)) = (patch, content.as_deref().and_then(|text| std::str::from_utf8(text).ok()))
            // What cannot be read is found by the checks.
            && let Ok(Some(text)) = owned::enforced(text, patch)
        {
            content = Some(text.into_bytes());
        }
        if content.as_ref().is_some_and(|content| file.path == *config && content.len() > MAX_MERGE_BYTES) {
            return Err(SubmitError::Unusable(format!("openclaw.json is larger than {MAX_MERGE_BYTES} bytes")));
        }
        new.files.push(SetFile { path: file.path.clone(), content });
    }
    let old = swap::read_set(edits, new.files.iter().map(|file| &file.path))?;
    for (index, (file, there)) in files.iter().zip(&old.files).enumerate() {
        let current = there.hash();
        if !file.over.holds(current.is_some(), current) {
            let error = EditError::PreconditionFailed { current };
            return Err(SubmitError::Edit { index: Some(index), error });
        }
    }
    Ok((!files.is_empty()).then_some(Prepared { old, new, owned: new_owned, mixed }))
}
