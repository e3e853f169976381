//! Paths of tenant files as control accepts them: pure text, relative to the tenant's data directory.

use winston_wire::MAX_PATH_BYTES;

/// Why a path is refused; completes "the path …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadPath {
    /// Nothing there.
    #[error("the path is empty")]
    Empty,
    /// Over the limit.
    #[error("the path is longer than {MAX_PATH_BYTES} bytes")]
    TooLong,
    /// Leading, trailing or doubled slash.
    #[error("the path has an empty component (leading, trailing or doubled slash)")]
    EmptyComponent,
    /// `.` or `..`.
    #[error("the path has a `.` or `..` component")]
    Dots,
    /// A NUL byte.
    #[error("the path has a NUL character")]
    Nul,
    /// Winston's own directory.
    #[error("the path is in `.winston`, which belongs to the sidecar")]
    Reserved,
}

/// Checks a decoded path. What a sidecar really does with it is decided there, by the kernel; this keeps nonsense
/// out of history.
pub(crate) fn check(path: &str) -> Result<(), BadPath> {
    if path.is_empty() {
        return Err(BadPath::Empty);
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(BadPath::TooLong);
    }
    if path.contains('\0') {
        return Err(BadPath::Nul);
    }
    for component in path.split('/') {
        match component {
            "" => return Err(BadPath::EmptyComponent),
            "." | ".." => return Err(BadPath::Dots),
            _ => {}
        }
    }
    if path.split('/').next() == Some(".winston") {
        return Err(BadPath::Reserved);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_only_look_odd_are_fine() {
        for path in ["a", ".winston-notes.md", "workspace/.winston", "...", "a b/ü%2f#?.md", "workspace/..md"] {
            assert_eq!(check(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn everything_that_could_lead_elsewhere_is_refused() {
        for (path, why) in [
            ("", BadPath::Empty),
            ("/etc/passwd", BadPath::EmptyComponent),
            ("a/", BadPath::EmptyComponent),
            ("a//b", BadPath::EmptyComponent),
            ("..", BadPath::Dots),
            ("a/../b", BadPath::Dots),
            ("./a", BadPath::Dots),
            ("a\0b", BadPath::Nul),
            (".winston", BadPath::Reserved),
            (".winston/epoch", BadPath::Reserved),
            (&"a".repeat(MAX_PATH_BYTES + 1), BadPath::TooLong),
        ] {
            assert_eq!(check(path), Err(why), "{path}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_path_stays_below_its_root(path in "[a./\\x00]{0,12}") {
            if check(&path).is_ok() {
                let root = std::path::Path::new("/root-of-tenant");
                let joined = root.join(&path);
                prop_assert!(joined.starts_with(root));
                prop_assert!(joined.components().all(|c| !matches!(c, std::path::Component::ParentDir)));
            }
        }
    }
}
