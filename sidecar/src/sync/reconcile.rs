//! What becomes of one pushed file. Pure: no disk, no control, no clock.
//!
//! Three versions meet: what the pusher believed to be there (`base`), what is there (`local`) and what the pusher wants (`desired`).
//! `docs/ARCHITECTURE.md` states what holds for every sequence of them; `model.rs` beside this file tries to break it.

use winston_wire::{Base, ContentHash};

/// What is at the path now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Local {
    /// Nothing.
    Absent,
    /// A file.
    File {
        /// Its content.
        hash: ContentHash,
        /// It is as control pushed it: neither edited since nor merged with an edit, so replacing it costs nobody's work.
        untouched: bool,
    },
    /// A file over the size limit, or something that is no file. It has no version that could be compared.
    Opaque,
}

/// What is known about a merge of local and desired content over the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Merge {
    /// Not tried yet. It costs a fetch, so it is tried only when a decision depends on it.
    Untried,
    /// Clean, with this content.
    Clean(ContentHash),
    /// The sides touch each other, the kind of file is not merged, or the base's content cannot be had.
    Impossible,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// The desired state is there.
    InPlace,
    /// The local version has everything that the push wants: it stays, and nothing is in conflict.
    KeepLocal,
    /// The desired state replaces the local one, over exactly the local version that was looked at.
    TakeDesired,
    /// Ask again with the outcome of a merge over this base.
    TryMerge(ContentHash),
    /// The merged content replaces the local version, over exactly the one that was looked at.
    TakeMerged(ContentHash),
    /// The local version stays, the pushed one stays in control, a person decides.
    Conflict,
}

/// Decides. The same arguments always give the same answer, and after the answer was carried out the answer is [`Decision::InPlace`],
/// [`Decision::KeepLocal`] or the same [`Decision::Conflict`]: doing it again does nothing.
pub(super) fn reconcile(base: Base, local: Local, desired: Option<ContentHash>, merge: Merge) -> Decision {
    match (local, desired) {
        (Local::Absent, None) => return Decision::InPlace,
        (Local::File { hash, .. }, Some(desired)) if hash == desired => return Decision::InPlace,
        _ => {}
    }
    let as_expected = match (base, local) {
        (Base::Any, _) => true,
        (Base::Absent, Local::Absent) => true,
        (Base::Hash(base), Local::File { hash, .. }) => base == hash,
        _ => false,
    };
    if as_expected || matches!(local, Local::File { untouched: true, .. }) {
        return Decision::TakeDesired;
    }
    let (Local::File { hash: local, .. }, Base::Hash(base), Some(desired)) = (local, base, desired) else {
        // A delete that meets an edit, an edit that meets a delete, two files that were made at once, and what cannot be compared.
        return Decision::Conflict;
    };
    if desired == base {
        return Decision::KeepLocal;
    }
    match merge {
        Merge::Untried => Decision::TryMerge(base),
        Merge::Clean(merged) if merged == local => Decision::KeepLocal,
        Merge::Clean(merged) => Decision::TakeMerged(merged),
        Merge::Impossible => Decision::Conflict,
    }
}

/// Content that a merge starts from. A push names the version that control knew on the disk (`base`); when an earlier push was made for the
/// same one and has reached the disk since, the pusher went on from that push, and what he took back of it he meant to take back. `earlier` is
/// that push's `(base, content)`.
pub(super) fn merge_base(base: ContentHash, earlier: Option<(ContentHash, ContentHash)>) -> ContentHash {
    earlier.filter(|(made_for, _)| *made_for == base).map_or(base, |(_, pushed)| pushed)
}

#[cfg(test)]
#[path = "model.rs"]
mod model;
