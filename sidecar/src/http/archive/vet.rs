//! Which entries of an archive are taken. Pure.
//!
//! An archive is somebody else's list of names. Nothing in it may name a place outside the directory, a second name for another file, or a
//! place that another entry needs to be something else.

use std::collections::HashSet;

/// Deepest entry, in components.
const MAX_DEPTH: usize = 64;

/// Most entries of any kind.
pub(super) const MAX_ENTRIES: usize = 10_000;

/// Why an archive is not taken. Carries the entry's name where there is one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in super::super) enum Refused {
    /// Not a tar, or damaged, or compressed in a way that we do not read.
    #[error("not a readable archive: {0}")]
    Unreadable(String),
    /// This entry is not taken.
    #[error("{why}: {name}")]
    Entry { name: String, why: &'static str },
    /// One file is over the limit for files.
    #[error("a file is larger than {limit} bytes: {name}")]
    FileTooLarge { name: String, limit: u64 },
    /// Everything together is over a limit.
    #[error("the archive has more than {limit} {what}")]
    TooMuch { what: &'static str, limit: u64 },
    /// The connection ended before the archive did.
    #[error("the request body ended early")]
    Cut,
}

/// What an entry says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Other(&'static str),
}

/// An entry that is taken: a path below the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Taken {
    File(String),
    Directory(String),
    /// The directory itself, or one that is known already.
    Nothing,
}

/// Remembers what an archive has named so far.
#[derive(Debug, Default)]
pub(super) struct Vetting {
    files: HashSet<String>,
    directories: HashSet<String>,
    entries: usize,
}

impl Vetting {
    pub(super) fn entry(&mut self, name: &[u8], kind: Kind) -> Result<Taken, Refused> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(Refused::TooMuch { what: "entries", limit: MAX_ENTRIES as u64 });
        }
        let shown = || String::from_utf8_lossy(name).chars().take(200).collect::<String>();
        let refused = |why| Err(Refused::Entry { name: shown(), why });
        if let Kind::Other(what) = kind {
            return refused(what);
        }
        let Ok(text) = std::str::from_utf8(name) else { return refused("a name that is not UTF-8") };
        if text.starts_with('/') {
            return refused("an absolute name");
        }
        if text.contains('\0') {
            return refused("a name with a NUL byte");
        }
        let parts: Vec<_> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parts.contains(&"..") {
            return refused("a name that leaves the directory");
        }
        if parts.len() > MAX_DEPTH {
            return refused("a name that is too deep");
        }
        if parts.is_empty() {
            return if kind == Kind::Directory { Ok(Taken::Nothing) } else { refused("a file without a name") };
        }
        for end in 1..parts.len() {
            let ancestor = parts[..end].join("/");
            if self.files.contains(&ancestor) {
                return refused("a name below a file of the archive");
            }
            self.directories.insert(ancestor);
        }
        let path = parts.join("/");
        if self.files.contains(&path) {
            return refused("a name that is there twice");
        }
        match kind {
            Kind::Directory if self.directories.insert(path.clone()) => Ok(Taken::Directory(path)),
            Kind::Directory => Ok(Taken::Nothing),
            _ if self.directories.contains(&path) => refused("a file where the archive has a directory"),
            _ => {
                self.files.insert(path.clone());
                Ok(Taken::File(path))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(vetting: &mut Vetting, name: &str) -> Result<Taken, Refused> {
        vetting.entry(name.as_bytes(), Kind::File)
    }

    #[test]
    fn names_stay_below_the_directory() {
        for name in ["/etc/passwd", "../x", "a/../../x", "a/..", "a\0b", "", ".", "./", "//x"] {
            assert!(file(&mut Vetting::default(), name).is_err(), "{name:?}");
        }
        assert!(Vetting::default().entry(b"\xff", Kind::File).is_err());
        assert!(file(&mut Vetting::default(), &"d/".repeat(MAX_DEPTH + 1)).is_err());
        assert_eq!(file(&mut Vetting::default(), "./a//b/./c"), Ok(Taken::File("a/b/c".to_owned())));
        assert_eq!(file(&mut Vetting::default(), "..a/...b"), Ok(Taken::File("..a/...b".to_owned())));
    }

    #[test]
    fn a_name_is_one_thing_and_once() {
        let mut vetting = Vetting::default();
        assert_eq!(file(&mut vetting, "a/b"), Ok(Taken::File("a/b".to_owned())));
        assert!(file(&mut vetting, "a/./b").is_err());
        assert!(file(&mut vetting, "a").is_err());
        assert!(file(&mut vetting, "a/b/c").is_err());
        assert!(vetting.entry(b"a/b/", Kind::Directory).is_err());
        assert_eq!(vetting.entry(b"a/", Kind::Directory), Ok(Taken::Nothing));
        assert_eq!(vetting.entry(b"e/", Kind::Directory), Ok(Taken::Directory("e".to_owned())));
        assert_eq!(vetting.entry(b"./", Kind::Directory), Ok(Taken::Nothing));
    }

    #[test]
    fn entries_are_counted_and_other_kinds_refused() {
        let mut vetting = Vetting::default();
        assert!(vetting.entry(b"l", Kind::Other("a symbolic link")).is_err());
        for count in 1..MAX_ENTRIES {
            assert!(file(&mut vetting, &format!("f{count}")).is_ok());
        }
        assert_eq!(
            file(&mut vetting, "one more"),
            Err(Refused::TooMuch { what: "entries", limit: MAX_ENTRIES as u64 })
        );
    }
}
