//! Fuzz targets of the path parser and of patterns (see [`crate::fuzz`]).

use std::path::{Component, Path};

use winston_wire::MAX_PATH_BYTES;

use super::{Class, Layout, Patterns, Selection, TenantPath};
use crate::fuzz::fuzz;

const WORDS: &[&str] = &[
    "..",
    "%2e%2e",
    "%2f",
    "/",
    "//",
    "./",
    "%00",
    "%252e",
    "%5c",
    "\\",
    ".winston",
    ".openclaw",
    "credentials",
    "%c0%ae",
    "%",
    "é",
    "．",
    ".sqlite",
];

/// Every byte as `%XX`: says the same as the path.
fn encoded(path: &str) -> String {
    path.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    for parsed in [TenantPath::from_url(&text), TenantPath::parse(&text)] {
        let Ok(path) = parsed else { continue };
        let kept = path.as_str();
        assert!(kept.len() <= MAX_PATH_BYTES && !kept.contains('\0'));
        // No component says anything but a name.
        if !path.is_root() {
            for component in kept.split('/') {
                assert!(!matches!(component, "" | "." | "..") && component.len() <= 255, "{component:?}");
            }
        }
        // Below a root it stays, also as the standard library reads paths.
        let below = Path::new("/root").join(kept);
        assert!(below.starts_with("/root"));
        assert!(below.components().all(|component| matches!(component, Component::RootDir | Component::Normal(_))));
        // What was parsed says the same when it is parsed again, and however it is written.
        assert_eq!(TenantPath::parse(kept).as_ref(), Ok(&path));
        assert_eq!(TenantPath::from_url(&encoded(kept)).as_ref(), Ok(&path));
        assert_eq!(TenantPath::parse(&format!("//./{kept}/./")).as_ref(), Ok(&path));
        if let Some((parent, name)) = path.split() {
            let parent = TenantPath::parse(parent).unwrap();
            assert_eq!(parent.child(name).as_ref(), Some(&path));
            assert!(path.is_within(&parent) && !parent.is_within(&path));
            assert_eq!(path.below(&parent), Some(name));
        }
        // Ours and secret are properties of the place, not of how it is written.
        let layout = Layout {
            state: TenantPath::parse(".openclaw").unwrap(),
            workspace: TenantPath::parse("workspace").unwrap(),
            selection: Selection::default(),
        };
        let class = layout.class(&path);
        assert_eq!(class == Class::Internal, kept.split('/').next() == Some(".winston"));
        if kept.starts_with(".openclaw/credentials/") {
            assert_eq!(class, Class::Secret);
        }
        if let (Class::Internal, Some(child)) = (class, path.child("below")) {
            assert_eq!(layout.class(&child), Class::Internal);
        }
    }
}

#[test]
fn paths() {
    fuzz("path", WORDS, check);
}

/// The first line of an input is a path, the others are patterns.
#[test]
fn patterns() {
    let words = [
        "**",
        "**/",
        "/**",
        "*",
        "?",
        "[",
        "]",
        "[!a-z]",
        "[[:alpha:]]",
        "[]-]",
        "\\",
        "!",
        "#",
        "/",
        "\n",
        ",",
        "a",
        "é",
    ];
    fuzz("pattern", &words, |input| {
        let text = String::from_utf8_lossy(input);
        let (path, lines) = text.split_once('\n').unwrap_or(("a/b", &text));
        let Ok(path) = TenantPath::parse(path) else { return };
        let Ok(patterns) = Patterns::parse(lines) else { return };
        for is_directory in [false, true] {
            let verdict = patterns.verdict(path.as_str(), is_directory);
            // Said twice, it means the same; and the last that matches decides, whatever came before.
            if let Ok(twice) = Patterns::parse(&format!("{lines}\n{lines}")) {
                assert_eq!(twice.verdict(path.as_str(), is_directory), verdict);
            }
            for (last, decided) in [("*", true), ("!*", false)] {
                if let Ok(more) = Patterns::parse(&format!("{lines}\n{last}")) {
                    assert_eq!(more.verdict(path.as_str(), is_directory), Some(decided));
                }
            }
        }
    });
}
