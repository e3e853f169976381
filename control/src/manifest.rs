//! What a set of files amounts to, and how two sets of files differ: pure, no SQL.

use std::cmp::Ordering;

use sha2::{Digest as _, Sha256};
use winston_wire::{ContentHash, MAX_MANIFEST_FILES, ManifestDifference, ManifestFile, ManifestRange};

use crate::path;

/// Digest of one member of a set of files, see [`winston_wire::ManifestDigest`].
pub(crate) fn member(path: &str, hash: Option<&ContentHash>) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(path);
    digest.update([0]);
    if let Some(hash) = hash {
        digest.update(hash.as_bytes());
    }
    digest.finalize().into()
}

/// Checks a range; an error completes "the manifest …".
pub(crate) fn check(range: &ManifestRange) -> Result<(), &'static str> {
    if range.files.len() > MAX_MANIFEST_FILES {
        return Err("has too many files");
    }
    if i64::try_from(range.seq).is_err() {
        return Err("has a sequence number out of range");
    }
    let ends = [&range.after, &range.through];
    let files = range.files.iter().map(|file| &file.path);
    if ends.into_iter().flatten().chain(files).any(|path| path::check(path).is_err()) {
        return Err("has a path that no sidecar has");
    }
    let mut before = range.after.as_deref();
    for file in &range.files {
        if before.is_some_and(|before| before >= file.path.as_str()) {
            return Err("must have its files in the order of their paths, behind `after`");
        }
        before = Some(&file.path);
    }
    match (before, range.through.as_deref()) {
        (Some(last), Some(through)) if last > through => Err("has a file behind `through`"),
        _ => Ok(()),
    }
}

/// Where two sorted lists of files differ, from the view of `ours`; at most `most` differences and about `most_bytes`
/// bytes of paths, the first ones.
pub(crate) fn differences(
    theirs: &[ManifestFile],
    ours: &[ManifestFile],
    most: usize,
    most_bytes: usize,
) -> Vec<ManifestDifference> {
    let (mut theirs, mut ours) = (theirs.iter().peekable(), ours.iter().peekable());
    let mut found = Vec::new();
    let mut bytes = 0;
    while found.len() < most && bytes < most_bytes {
        let order = match (theirs.peek(), ours.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(theirs), Some(ours)) => theirs.path.cmp(&ours.path),
        };
        let their = if order == Ordering::Greater { None } else { theirs.next() };
        let our = if order == Ordering::Less { None } else { ours.next() };
        let same = matches!((their, our), (Some(their), Some(our)) if their.hash == our.hash);
        if let Some(path) = their.or(our).map(|file| &file.path).filter(|_| !same) {
            bytes += path.len();
            found.push(ManifestDifference {
                path: path.clone(),
                present: our.is_some(),
                hash: our.and_then(|file| file.hash),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn files(of: &BTreeMap<String, u8>) -> Vec<ManifestFile> {
        let hash = |byte: u8| (byte > 0).then(|| ContentHash::from_bytes([byte; 32]));
        of.iter().map(|(path, byte)| ManifestFile { path: path.clone(), hash: hash(*byte) }).collect()
    }

    fn range(paths: &[&str], after: Option<&str>, through: Option<&str>) -> ManifestRange {
        ManifestRange {
            epoch: Uuid::nil(),
            seq: 1,
            after: after.map(Into::into),
            through: through.map(Into::into),
            files: paths.iter().map(|path| ManifestFile { path: (*path).into(), hash: None }).collect(),
        }
    }

    #[test]
    fn a_range_is_sorted_and_within_its_ends() {
        assert_eq!(check(&range(&["a", "a/b", "a0"], None, None)), Ok(()));
        assert_eq!(check(&range(&["b"], Some("a"), Some("b"))), Ok(()));
        assert_eq!(check(&range(&[], Some("a"), Some("b"))), Ok(()));
        for bad in [
            range(&["b", "a"], None, None),
            range(&["a", "a"], None, None),
            range(&["a"], Some("a"), None),
            range(&["b"], None, Some("a")),
            range(&[], Some("b"), Some("a")),
            range(&["../a"], None, None),
            range(&[], Some("a\0"), None),
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
        let many: Vec<String> = (0..=MAX_MANIFEST_FILES).map(|number| format!("{number:06}")).collect();
        assert!(check(&range(&many.iter().map(String::as_str).collect::<Vec<_>>(), None, None)).is_err());
    }

    proptest! {
        #[test]
        fn exactly_what_differs_is_found(
            theirs in prop::collection::btree_map("[ab/é]{1,3}", 0u8..3, 0..12),
            ours in prop::collection::btree_map("[ab/é]{1,3}", 0u8..3, 0..12),
            most in 0usize..30,
        ) {
            let expected: Vec<_> = theirs.keys().chain(ours.keys()).collect::<std::collections::BTreeSet<_>>()
                .into_iter().filter(|path| theirs.get(*path) != ours.get(*path)).cloned().collect();
            let found = differences(&files(&theirs), &files(&ours), usize::MAX, usize::MAX);
            prop_assert_eq!(found.iter().map(|one| one.path.clone()).collect::<Vec<_>>(), expected.clone());
            prop_assert!(found.iter().all(|one| one.present == ours.contains_key(&one.path)));
            let first = differences(&files(&theirs), &files(&ours), most, usize::MAX);
            prop_assert_eq!(&first[..], &found[..most.min(found.len())]);
        }
    }
}
