//! What an attempt that met the agent leaves in the slots, and that the next one begins as the first did.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::edits::Author;
use crate::fs::{Layout, Root, Selection, Stat};
use crate::journal::{INLINE_CONTENT_BYTES, Limits};

const LIMITS: Limits = Limits { segment_bytes: 1 << 20, max_bytes: 1 << 30 };

fn path(text: &str) -> TenantPath {
    TenantPath::parse(text).unwrap()
}

fn edits(data: &Path) -> Edits {
    let layout = Layout { state: path(".openclaw"), workspace: path("workspace"), selection: Selection::default() };
    Edits::open(Arc::new(Root::open(data, None).unwrap()), layout, 1 << 20, LIMITS).unwrap()
}

fn author() -> Author {
    Author { source: winston_wire::Source::Admin, actor: None, generation: None }
}

#[test]
fn a_slot_that_holds_something_else_gets_its_content_again() {
    let dir = tempfile::tempdir().unwrap();
    let (edits, author) = (edits(dir.path()), author());
    let large = vec![b'l'; INLINE_CONTENT_BYTES + 1];
    let contents: [(&str, &[u8]); 3] = [("untouched.md", b"one"), ("inline.md", b"two"), ("stored.md", &large)];
    std::fs::write(dir.path().join("gone.md"), "gone").unwrap();
    let mut set = edits.begin(&author).unwrap();
    for (name, content) in contents {
        set.put(path(name), content, Precondition::None, None).unwrap();
    }
    set.delete(path("gone.md"), Precondition::None).unwrap();
    let slots: Vec<_> = (0..4).map(|index| dir.path().join(".winston/staging").join(set.slot(index))).collect();
    let inode = |slot: &Path| Stat::of(std::fs::File::open(slot).unwrap()).unwrap().ino;
    let untouched = inode(&slots[0]);

    // As a swap that was undone over the agent's newer version leaves them: an older one of the agent's, or nothing.
    std::fs::remove_file(&slots[1]).unwrap();
    std::fs::write(&slots[1], "an older version").unwrap();
    std::fs::remove_file(&slots[2]).unwrap();
    std::fs::write(&slots[3], "a displaced one").unwrap();
    set.restage().unwrap();
    assert_eq!(inode(&slots[0]), untouched, "what is right stays");
    for (slot, (name, content)) in slots.iter().zip(contents) {
        assert_eq!(std::fs::read(slot).unwrap(), content, "{name}");
    }
    assert!(!slots[3].exists(), "a delete has nothing staged");

    // And it goes on as if nothing had been.
    let outcomes = set.commit().unwrap();
    assert_eq!(outcomes.iter().map(|outcome| outcome.seq).collect::<Vec<_>>(), [Some(2), Some(3), Some(4), Some(5)]);
    for (name, content) in contents {
        assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), content, "{name}");
    }
    assert!(!dir.path().join("gone.md").exists());
    assert_eq!(std::fs::read_dir(dir.path().join(".winston/staging")).unwrap().count(), 0);
}

/// A content that the volume has lost is an error of that operation, and never an empty file.
#[test]
fn a_content_that_is_lost_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (edits, author) = (edits(dir.path()), author());
    let large = vec![b'l'; INLINE_CONTENT_BYTES + 1];
    let mut set = edits.begin(&author).unwrap();
    set.put(path("a.md"), b"small", Precondition::None, None).unwrap();
    set.put(path("b.md"), &large, Precondition::None, None).unwrap();
    std::fs::remove_file(dir.path().join(".winston/staging").join(set.slot(1))).unwrap();
    let object = dir.path().join(".winston/objects").join(hash_of(&large).to_string());
    std::fs::write(object, "damaged").unwrap();
    let refused = set.restage().unwrap_err();
    assert!(matches!(refused, SetError { index: Some(1), error: EditError::Fs(FsError::NotFound) }), "{refused:?}");
}
