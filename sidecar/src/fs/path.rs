//! Paths as callers name them, parsed once into a form that the rest of the program can trust.
//!
//! Parsing is purely textual and only decides what a path *says*. Whether it stays inside the root is decided by the kernel
//! when the path is opened (see [`super::root`]).

use std::fmt;

use percent_encoding::percent_decode;
use winston_wire::MAX_PATH_BYTES;

/// A path relative to the data directory: UTF-8, components joined by single slashes, no `.`, no `..`, no NUL. The
/// empty path is the root itself.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TenantPath(Box<str>);

/// Why a text is not a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    /// Not UTF-8 after percent-decoding.
    #[error("path is not valid UTF-8")]
    NotUtf8,
    /// NUL cannot be part of a file name.
    #[error("path contains a NUL byte")]
    Nul,
    /// Over [`MAX_PATH_BYTES`], or a component over 255 bytes.
    #[error("path is too long")]
    TooLong,
    /// `..` is refused even where it would stay inside.
    #[error("Access denied")]
    Parent,
}

/// Longest file name that Linux file systems take.
const MAX_COMPONENT_BYTES: usize = 255;

impl TenantPath {
    /// Parses decoded text. Leading, trailing and doubled slashes and `.` components say nothing and are dropped.
    pub(crate) fn parse(text: &str) -> Result<Self, PathError> {
        // Checked first so that an absurd input costs nothing.
        if text.len() > 2 * MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        if text.contains('\0') {
            return Err(PathError::Nul);
        }
        let mut clean = String::with_capacity(text.len());
        for component in text.split('/').filter(|component| !component.is_empty() && *component != ".") {
            if component == ".." {
                return Err(PathError::Parent);
            }
            if component.len() > MAX_COMPONENT_BYTES {
                return Err(PathError::TooLong);
            }
            if !clean.is_empty() {
                clean.push('/');
            }
            clean.push_str(component);
        }
        if clean.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        Ok(Self(clean.into_boxed_str()))
    }

    /// Whether a text is a path as [`TenantPath::as_str`] gives it: parsing it changes nothing.
    pub(crate) fn is_path(text: &str) -> bool {
        let named = |component: &str| !matches!(component, "" | "." | "..") && component.len() <= MAX_COMPONENT_BYTES;
        text.is_empty() || (text.len() <= MAX_PATH_BYTES && !text.contains('\0') && text.split('/').all(named))
    }

    /// Parses a percent-encoded URL path. Decodes exactly once.
    pub(crate) fn from_url(encoded: &str) -> Result<Self, PathError> {
        let decoded: std::borrow::Cow<'_, [u8]> = percent_decode(encoded.as_bytes()).into();
        Self::parse(std::str::from_utf8(&decoded).map_err(|_| PathError::NotUtf8)?)
    }

    /// The path's text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the data directory itself.
    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Components from the root down.
    pub(crate) fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|component| !component.is_empty())
    }

    /// Parent directory and file name; `None` for the root.
    pub(crate) fn split(&self) -> Option<(&str, &str)> {
        match self.0.rsplit_once('/') {
            Some((parent, name)) => Some((parent, name)),
            None if self.0.is_empty() => None,
            None => Some(("", &self.0)),
        }
    }

    /// The directory that holds it; `None` for the root.
    pub(crate) fn parent(&self) -> Option<Self> {
        self.split().map(|(parent, _)| Self(parent.into()))
    }

    /// This path, as it is below `from`, below `to` instead; `None` when it is not below `from` or gets too long.
    pub(crate) fn rebased(&self, from: &TenantPath, to: &TenantPath) -> Option<Self> {
        Self::parse(&format!("{to_text}/{below}", to_text = to.0, below = self.below(from)?)).ok()
    }

    /// The path of an entry of this directory; `None` when the name cannot be part of a path.
    pub(crate) fn child(&self, name: &str) -> Option<Self> {
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return None;
        }
        let text = if self.is_root() { name.to_owned() } else { format!("{}/{name}", self.0) };
        (text.len() <= MAX_PATH_BYTES && name.len() <= MAX_COMPONENT_BYTES).then(|| Self(text.into_boxed_str()))
    }

    /// Whether this is `ancestor` or lies below it, by whole components.
    pub(crate) fn is_within(&self, ancestor: &TenantPath) -> bool {
        ancestor.is_root()
            || self.0.strip_prefix(ancestor.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// What is left below `ancestor`, or `None` when this path is not below it.
    pub(crate) fn below(&self, ancestor: &TenantPath) -> Option<&str> {
        if ancestor.is_root() {
            return (!self.is_root()).then_some(&self.0);
        }
        self.0.strip_prefix(ancestor.as_str())?.strip_prefix('/')
    }
}

impl fmt::Display for TenantPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(if self.0.is_empty() { "." } else { &self.0 })
    }
}

impl serde::Serialize for TenantPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for TenantPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text: std::borrow::Cow<'de, str> = serde::Deserialize::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for TenantPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> String {
        TenantPath::parse(text).unwrap().as_str().to_owned()
    }

    #[test]
    fn what_says_nothing_is_dropped() {
        for (text, clean) in [
            ("", ""),
            ("/", ""),
            ("./", ""),
            ("a", "a"),
            ("/etc/passwd", "etc/passwd"),
            ("a//b/./c/", "a/b/c"),
            (".winston-notes.md", ".winston-notes.md"),
            ("...", "..."),
            ("a\\..\\b", "a\\..\\b"),
            ("a\nb", "a\nb"),
        ] {
            assert_eq!(parsed(text), clean, "{text:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_path_is_refused() {
        assert_eq!(TenantPath::parse(".."), Err(PathError::Parent));
        assert_eq!(TenantPath::parse("a/../b"), Err(PathError::Parent));
        assert_eq!(TenantPath::parse("a\0b"), Err(PathError::Nul));
        assert_eq!(TenantPath::parse(&"x".repeat(256)), Err(PathError::TooLong));
        assert_eq!(TenantPath::parse(&"x/".repeat(MAX_PATH_BYTES)), Err(PathError::TooLong));
        assert_eq!(TenantPath::parse(&"xy/".repeat(MAX_PATH_BYTES * 2)), Err(PathError::TooLong));
    }

    #[test]
    fn percent_signs_are_decoded_once() {
        assert_eq!(TenantPath::from_url("a%2fb").unwrap().as_str(), "a/b");
        assert_eq!(TenantPath::from_url("%2e%2e/x"), Err(PathError::Parent));
        assert_eq!(TenantPath::from_url("..%2fdata-evil/x"), Err(PathError::Parent));
        assert_eq!(TenantPath::from_url("%252e%252e/x").unwrap().as_str(), "%2e%2e/x");
        assert_eq!(TenantPath::from_url("a%00b"), Err(PathError::Nul));
        assert_eq!(TenantPath::from_url("%ff"), Err(PathError::NotUtf8));
        assert_eq!(TenantPath::from_url("100%").unwrap().as_str(), "100%");
    }

    #[test]
    fn ancestry_is_by_component() {
        let path = TenantPath::parse(".winston-notes.md").unwrap();
        assert!(!path.is_within(&TenantPath::parse(".winston").unwrap()));
        let path = TenantPath::parse("a/b").unwrap();
        assert!(path.is_within(&TenantPath::parse("a").unwrap()));
        assert_eq!(path.below(&TenantPath::parse("a").unwrap()), Some("b"));
        assert_eq!(path.below(&path), None);
    }

    proptest! {
        #[test]
        fn a_parsed_path_parses_to_itself_and_never_climbs(text in "[./a\\\\%é\u{0}-]{0,40}") {
            let is_itself = TenantPath::parse(&text).is_ok_and(|path| path.as_str() == text);
            prop_assert_eq!(TenantPath::is_path(&text), is_itself);
            if let Ok(path) = TenantPath::parse(&text) {
                prop_assert_eq!(TenantPath::parse(path.as_str()), Ok(path.clone()));
                prop_assert!(path.components().all(|component| component != ".." && component != "."));
                prop_assert!(!path.as_str().starts_with('/') && !path.as_str().ends_with('/'));
            }
        }
    }
}
