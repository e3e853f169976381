//! Three-way merges of a file's contents. Pure: bytes in, bytes out.
//!
//! A merge is clean or there is none: a conflict marker never reaches a disk. What cannot be merged with certainty is left to a person.

#[cfg(test)]
mod fuzz;
mod include;
mod json;
mod text;

pub(crate) use include::{included, resolved};
pub(crate) use json::{PatchError, patch, value};

/// Largest content that is merged, in bytes. Beyond it a conflict is cheaper than the comparison.
pub(crate) const MAX_MERGE_BYTES: usize = 1024 * 1024;

/// How files of a name are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// By lines.
    Text,
    /// By keys, keeping comments: JSON, JSON with comments, JSON5.
    Json,
}

impl Kind {
    /// By the extension of the path; `None` for files whose lines do not stand for themselves (programs, data, anything unknown).
    fn of(path: &str) -> Option<Self> {
        let (_, extension) = path.rsplit('/').next()?.rsplit_once('.')?;
        match extension.to_ascii_lowercase().as_str() {
            "md" | "mdx" | "markdown" | "txt" | "text" => Some(Self::Text),
            "json" | "jsonc" | "json5" => Some(Self::Json),
            _ => None,
        }
    }
}

/// The content that has both what `ours` and what `theirs` changed in `base`; `None` when they touch each other, or when the file is of no
/// kind that is merged, is not UTF-8 or is too large. `path` decides the kind. Takes up to a second of processor time: call it from a blocking thread.
pub(crate) fn three_way(path: &str, base: &[u8], ours: &[u8], theirs: &[u8]) -> Option<Vec<u8>> {
    if [base, ours, theirs].iter().any(|side| side.len() > MAX_MERGE_BYTES) {
        return None;
    }
    // These hold for any bytes.
    if ours == theirs || theirs == base {
        return Some(ours.to_vec());
    }
    if ours == base {
        return Some(theirs.to_vec());
    }
    let side = |bytes| std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    let (base, ours, theirs) = (side(base)?, side(ours)?, side(theirs)?);
    let merged = match Kind::of(path)? {
        Kind::Text => text::three_way(base, ours, theirs)?,
        Kind::Json => json::three_way(base, ours, theirs)?,
    };
    Some(merged.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_kinds_are_merged() {
        let (base, ours, theirs) = (b"1\n2\n3\n4\n", b"one\n2\n3\n4\n", b"1\n2\n3\nfour\n");
        assert_eq!(three_way("a/b.md", base, ours, theirs).as_deref(), Some(&b"one\n2\n3\nfour\n"[..]));
        for path in ["a/b.py", "a.md/b", "Makefile", "x.sqlite"] {
            assert_eq!(three_way(path, base, ours, theirs), None, "{path}");
        }
        assert_eq!(three_way("a.md", b"\xff\n2\n3\n4\n", ours, theirs), None);
        assert_eq!(three_way("a.md", b"\0\n2\n3\n4\n", ours, theirs), None);
        let large = vec![b'x'; MAX_MERGE_BYTES + 1];
        assert_eq!(three_way("a.md", base, &large, theirs), None);
    }
}
