use proptest::prelude::*;
use winston_wire::{Source, Timestamp};

use super::*;
use crate::fs::{EntryKind, Root};

fn stat(ino: u64) -> Stat {
    Stat { kind: EntryKind::File, dev: 7, ino, size: 1, mtime_ns: 5, ctime_ns: 6, mode: 0, uid: 0, gid: 0, links: 1 }
}

fn version(byte: u8) -> Version {
    Version { hash: Some(ContentHash::from_bytes([byte; 32])), source: Source::Agent }
}

fn path(text: &str) -> TenantPath {
    TenantPath::parse(text).unwrap()
}

fn seen(text: &str, byte: u8) -> Update {
    Update::Seen { path: path(text), version: version(byte), stat: stat(u64::from(byte)), at_ns: 100_000_000 }
}

fn empty() -> (tempfile::TempDir, OwnedFd, Index) {
    let dir = tempfile::tempdir().unwrap();
    let internal = Root::open(dir.path(), None).unwrap().internal_dir(".winston").unwrap();
    let index = Index::load(&internal, Uuid::nil());
    index.replayed(0);
    (dir, internal, index)
}

/// The digest as its definition says, from the files.
fn digest_of(index: &Index) -> ManifestDigest {
    let mut digest = ManifestDigest::default();
    let (files, through) = index.range(None, usize::MAX);
    assert_eq!(through, None);
    files.iter().for_each(|file| digest.add(member(&file.path, file.hash)));
    digest
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens to the files: the digest is that of the files, the index on disk is the index, and ranges cover it.
    #[test]
    fn the_digest_is_that_of_the_files(
        steps in proptest::collection::vec((0u8..3, "[ab]/?[a-c]", 1u8..5), 0..60), limit in 1usize..5) {
        let (_dir, internal, index) = empty();
        let mut seq = 0;
        for (kind, text, byte) in steps {
            seq += 1;
            let updates = match kind {
                0 => vec![Update::Gone { path: path(&text) }],
                1 => vec![seen(&text, byte)],
                _ => vec![Update::Gone { path: path(&text) }, seen("b/z", byte)],
            };
            index.apply(Some(seq..=seq), updates);
            let manifest = index.manifest().unwrap();
            prop_assert_eq!((manifest.seq, manifest.files), (seq, index.len() as u64));
            prop_assert_eq!(manifest.digest, digest_of(&index));
        }
        index.save(&internal, Uuid::nil()).unwrap();
        prop_assert!(index.is_saved(Uuid::nil(), seq));
        let loaded = Index::load(&internal, Uuid::nil());
        loaded.replayed(seq);
        prop_assert_eq!(loaded.manifest(), index.manifest());
        let (mut files, mut after) = (Vec::new(), None);
        loop {
            let (some, through) = loaded.range(after.as_deref(), limit);
            files.extend(some);
            match through {
                Some(through) => after = Some(through),
                None => break,
            }
        }
        prop_assert_eq!(files, index.range(None, usize::MAX).0);
    }
}

#[test]
fn a_manifest_waits_for_records_that_are_on_their_way() {
    let (_dir, _internal, index) = empty();
    index.apply(Some(1..=1), vec![seen("a", 1)]);
    let before = index.manifest();
    index.apply(Some(3..=3), vec![seen("c", 3)]);
    assert_eq!(index.manifest(), before);
    index.apply(Some(2..=2), vec![seen("b", 2)]);
    assert_eq!(index.manifest().map(|manifest| (manifest.seq, manifest.files)), Some((3, 3)));
}

#[test]
fn a_file_matches_only_its_own_settled_tuple() {
    let (_dir, _internal, index) = empty();
    index.apply(None, vec![seen("a", 1)]);
    assert_eq!(index.matching("a", &stat(1)), Some(version(1)));
    for other in [
        Stat { ino: 2, ..stat(1) },
        Stat { size: 2, ..stat(1) },
        Stat { mtime_ns: 2, ..stat(1) },
        Stat { ctime_ns: 2, ..stat(1) },
        Stat { dev: 2, ..stat(1) },
    ] {
        assert_eq!(index.matching("a", &other), None);
    }
    let just_now = Update::Seen { path: path("b"), version: version(2), stat: stat(2), at_ns: 7 };
    index.apply(None, vec![just_now]);
    assert_eq!(index.matching("b", &stat(2)), None);
}

#[test]
fn a_listing_tells_what_differs_and_what_is_absent() {
    let (_dir, _internal, index) = empty();
    index.apply(None, vec![seen("d/a", 1), seen("d/b", 2), seen("d/gone", 3), seen("e", 4), seen("d-", 5)]);
    index.begin_listing("d");
    let files = [("a", &stat(1)), ("b", &stat(9)), ("new", &stat(8))];
    assert_eq!(index.list(&path("d"), files.into_iter()), [(path("d/b"), 1), (path("d/new"), 1)]);
    // Somebody writes meanwhile what the listing has passed already.
    index.apply(None, vec![seen("d/late", 6)]);
    assert_eq!(index.end_listing("d", |_| true), [path("d/gone")]);
    assert_eq!(index.below("d").len(), 4);
}

#[test]
fn a_replayed_rename_takes_the_old_path_away() {
    let (_dir, _internal, index) = empty();
    index.apply(Some(1..=1), vec![seen("a", 1)]);
    index.replay(&Change {
        seq: 2,
        timestamp: Timestamp::UNIX_EPOCH,
        path: "b".to_owned(),
        source: Source::Agent,
        previous_path: Some("a".to_owned()),
        action: Action::Rename,
        actor: None,
        hash: version(1).hash,
        previous_hash: None,
        size: Some(1),
        generation: None,
        content_omitted: false,
    });
    assert_eq!((index.version("a"), index.version("b")), (None, Some(version(1))));
}
