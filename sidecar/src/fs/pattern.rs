//! Patterns in gitignore syntax. Pure.
//!
//! The syntax is git's, byte for byte: `*`, `?`, `[…]`, `**` between slashes, a slash at the start or in the middle anchors, a slash at the end means
//! directories only, `!` turns the meaning around, `\` takes it away. Matching takes time in proportion to pattern times path at most. A pattern
//! library would bring a regular-expression engine several times the size of this program's own code; the tests compare with git itself.

/// Longest pattern, in bytes, and the most of one list.
const LONGEST: usize = 512;
const MOST: usize = 256;

/// One pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    /// Globs for one path component each; `None` stands for `**`.
    components: Vec<Option<Box<[u8]>>>,
    /// From the root; otherwise the single component matches at any depth.
    anchored: bool,
    only_directories: bool,
    negated: bool,
}

/// Patterns of which the last that matches decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Patterns(Vec<Pattern>);

/// Why a pattern is none. The text names it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{pattern}` is not a pattern: {why}")]
pub(crate) struct BadPattern {
    pattern: String,
    why: &'static str,
}

impl Patterns {
    /// Parses patterns that are separated by newlines or commas; empty ones and comments (`#`) are left out. Errors name every bad one.
    pub(crate) fn parse(text: &str) -> Result<Self, Vec<BadPattern>> {
        let mut patterns = Vec::new();
        let mut bad = Vec::new();
        let lines = text.split(['\n', ',']).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            match Pattern::parse(line) {
                Ok(pattern) if patterns.len() < MOST => patterns.push(pattern),
                Ok(_) => bad.push(BadPattern { pattern: line.to_owned(), why: "there are too many" }),
                Err(why) => bad.push(BadPattern { pattern: line.chars().take(80).collect(), why }),
            }
        }
        if bad.is_empty() { Ok(Self(patterns)) } else { Err(bad) }
    }

    /// What the last matching pattern says about a path: `Some(true)` that it matches, `Some(false)` that it was negated.
    pub(crate) fn verdict(&self, path: &str, is_directory: bool) -> Option<bool> {
        let pattern = self.0.iter().rev().find(|pattern| pattern.matches(path, is_directory))?;
        Some(!pattern.negated)
    }
}

impl Pattern {
    fn parse(line: &str) -> Result<Self, &'static str> {
        if line.len() > LONGEST {
            return Err("it is too long");
        }
        let (negated, line) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest));
        let (only_directories, line) = line.strip_suffix('/').map_or((false, line), |rest| (true, rest));
        let anchored = line.contains('/');
        let line = line.strip_prefix('/').unwrap_or(line);
        let mut components = Vec::new();
        for component in line.split('/') {
            if component.is_empty() {
                return Err("a part of it is empty");
            }
            check(component.as_bytes())?;
            components.push((component != "**" || !anchored).then(|| component.as_bytes().into()));
        }
        Ok(Self { components, anchored, only_directories, negated })
    }

    fn matches(&self, path: &str, is_directory: bool) -> bool {
        if self.only_directories && !is_directory {
            return false;
        }
        if self.anchored {
            let path: Vec<&[u8]> = path.split('/').map(str::as_bytes).collect();
            return components_match(&self.components, &path);
        }
        let name = path.rsplit('/').next().unwrap_or(path);
        self.components.first().and_then(Option::as_deref).is_some_and(|glob| glob_matches(glob, name.as_bytes()))
    }
}

/// Refuses what git takes for a pattern that never matches.
fn check(glob: &[u8]) -> Result<(), &'static str> {
    let mut rest = glob;
    while let Some((&byte, after)) = rest.split_first() {
        rest = match byte {
            b'\\' => after.get(1..).ok_or("it ends with a backslash")?,
            b'[' => class(after, 0).ok_or("a bracket is not closed")?.1,
            _ => after,
        };
    }
    Ok(())
}

/// `**` stands for any number of components, and at the end for at least one.
fn components_match(pattern: &[Option<Box<[u8]>>], path: &[&[u8]]) -> bool {
    let (mut at, mut reached) = (0, 0);
    // Where the last `**` was, and how much of the path it has taken so far.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        match pattern.get(at) {
            Some(None) if at + 1 == pattern.len() => {
                if reached < path.len() {
                    return true;
                }
            }
            Some(None) => {
                at += 1;
                retry = Some((at, reached));
                continue;
            }
            Some(Some(glob)) if path.get(reached).is_some_and(|name| glob_matches(glob, name)) => {
                at += 1;
                reached += 1;
                continue;
            }
            None if reached == path.len() => return true,
            Some(Some(_)) | None => {}
        }
        match &mut retry {
            Some((again, taken)) if *taken < path.len() => {
                *taken += 1;
                (at, reached) = (*again, *taken);
            }
            _ => return false,
        }
    }
}

/// Whether a glob without slashes matches a name, byte by byte.
fn glob_matches(glob: &[u8], name: &[u8]) -> bool {
    let (mut pattern, mut rest) = (glob, name);
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        let step = match (pattern.split_first(), rest.split_first()) {
            (Some((b'*', after)), _) => {
                retry = Some((after, rest));
                pattern = after;
                continue;
            }
            (None, None) => return true,
            (None, Some(_)) | (Some(_), None) => None,
            (Some((b'?', after)), Some((_, tail))) => Some((after, tail)),
            (Some((b'[', after)), Some((&byte, tail))) => {
                class(after, byte).and_then(|(matched, after)| matched.then_some((after, tail)))
            }
            (Some((b'\\', after)), Some((byte, tail))) => {
                after.split_first().filter(|(literal, _)| *literal == byte).map(|(_, after)| (after, tail))
            }
            (Some((literal, after)), Some((byte, tail))) => (literal == byte).then_some((after, tail)),
        };
        match (step, &mut retry) {
            (Some((after, tail)), _) => (pattern, rest) = (after, tail),
            (None, Some((after, taken))) => {
                let Some((_, tail)) = taken.split_first() else { return false };
                *taken = tail;
                (pattern, rest) = (after, tail);
            }
            (None, None) => return false,
        }
    }
}

/// Matches a bracket expression whose `[` has been read; returns the verdict and what follows `]`. `None` when it is not closed.
fn class(glob: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let (negated, mut rest) = match glob.split_first()? {
        (b'!' | b'^', after) => (true, after),
        _ => (false, glob),
    };
    let mut matched = false;
    let mut first = true;
    // A slash never is in a class: components are matched one by one.
    loop {
        let (&start, after) = rest.split_first()?;
        if start == b']' && !first {
            return Some((matched != negated, after));
        }
        first = false;
        if let Some(named) = rest.strip_prefix(b"[:") {
            let end = named.windows(2).position(|pair| pair == b":]")?;
            matched |= is_named(&named[..end], byte)?;
            rest = &named[end + 2..];
            continue;
        }
        let (start, after) = literal(start, after)?;
        match after {
            [b'-', end, tail @ ..] if *end != b']' => {
                let (end, tail) = literal(*end, tail)?;
                matched |= (start..=end).contains(&byte);
                rest = tail;
            }
            _ => {
                matched |= start == byte;
                rest = after;
            }
        }
    }
}

fn literal(byte: u8, after: &[u8]) -> Option<(u8, &[u8])> {
    if byte != b'\\' {
        return Some((byte, after));
    }
    after.split_first().map(|(byte, after)| (*byte, after))
}

fn is_named(name: &[u8], byte: u8) -> Option<bool> {
    Some(match name {
        b"alnum" => byte.is_ascii_alphanumeric(),
        b"alpha" => byte.is_ascii_alphabetic(),
        b"blank" => matches!(byte, b' ' | b'\t'),
        b"cntrl" => byte.is_ascii_control(),
        b"digit" => byte.is_ascii_digit(),
        b"graph" => byte.is_ascii_graphic(),
        b"lower" => byte.is_ascii_lowercase(),
        b"print" => byte == b' ' || byte.is_ascii_graphic(),
        b"punct" => byte.is_ascii_punctuation(),
        b"space" => byte.is_ascii_whitespace() || byte == 0x0b,
        b"upper" => byte.is_ascii_uppercase(),
        b"xdigit" => byte.is_ascii_hexdigit(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn bad_patterns_are_named() {
        let bad = Patterns::parse("*.log,[abc\nend\\,/,a//b,ok/").unwrap_err();
        let named: Vec<_> = bad.iter().map(|bad| bad.pattern.as_str()).collect();
        assert_eq!(named, ["[abc", "end\\", "/", "a//b"]);
        let text = bad[0].to_string();
        assert!(text.contains("`[abc`") && text.contains("not closed"), "{text}");
        assert!(Patterns::parse(&"x\n".repeat(MOST + 1)).is_err());
        assert_eq!(Patterns::parse("# a comment\n\n , "), Ok(Patterns::default()));
    }

    #[test]
    fn many_stars_take_no_longer() {
        let patterns = Patterns::parse(&format!("{}b", "*a".repeat(200))).unwrap();
        assert_eq!(patterns.verdict(&"a".repeat(255), false), None);
        let patterns = Patterns::parse(&format!("/{}b", "**/a/".repeat(90))).unwrap();
        assert_eq!(patterns.verdict(&"a/".repeat(1500), false), None);
    }

    /// git's manual says so; git itself lets the memory's layout decide.
    #[test]
    fn two_stars_beside_something_else_are_one() {
        let patterns = Patterns::parse("a**/b").unwrap();
        assert_eq!(patterns.verdict("ax/b", false), Some(true));
        assert_eq!(patterns.verdict("a/x/b", false), None);
    }

    /// Every pattern against every path, and what `git check-ignore` says about the same.
    #[test]
    fn the_verdicts_are_gits() {
        const LISTS: &[&str] = &[
            "a",
            "/a",
            "a/",
            "*.md",
            "a*",
            "*a",
            "a*c",
            "?",
            "??",
            "a/b",
            "/a/b",
            "a/*",
            "a/**",
            "**/b",
            "a/**/c",
            "**",
            "/**",
            "**/",
            "**a",
            "[ab]",
            "[!ab]",
            "[^a]*",
            "[a-c]c",
            "[]x]",
            "[]-a]",
            "[a-]",
            "\\*",
            "\\a",
            "a\\b",
            "[\\]]",
            "*b*",
            "b/c/",
            "[[:alpha:]]",
            "[[:digit:]x]*",
            "a/?/c",
            "*/b",
            "*/*/c",
            "a/b/**/c",
            "a/**/**/c",
            "**/a/**",
            ".*",
            "*.*",
            "é",
            "?é",
            "a\n!a/b",
            "*\n!*.md",
            "*.md\n!c.md",
            "a/*\n!a/b",
            "!a",
            "/*\n!/a",
            "a/**\n!a/b/",
            "**/c\n!/a/b/c",
            "x/\n!x",
            "*/",
            "b*/c",
        ];
        const PATHS: &[(&str, bool)] = &[
            ("a", true),
            ("a/b", true),
            ("a/b/c", false),
            ("a/c", false),
            ("a/a", true),
            ("a/a/b", true),
            ("a/a/b/c", false),
            ("b", true),
            ("b/c", true),
            ("b/c/a", false),
            ("c", false),
            ("c.md", false),
            ("abc", true),
            ("abc/b", false),
            ("ab.md", false),
            ("x", true),
            ("x/b", true),
            ("x/b/c", false),
            ("*", false),
            ("]", false),
            ("-", false),
            (".a", false),
            ("é", false),
            ("aé", false),
            ("1", false),
            ("x1", false),
            ("bb", true),
            ("bb/c", false),
            ("ac", false),
            ("bc", false),
        ];
        let dir = tempfile::tempdir().unwrap();
        let git = |arguments: &[&str]| {
            let mut command = Command::new("git");
            command
                .current_dir(dir.path())
                .args(arguments)
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .env("GIT_CONFIG_NOSYSTEM", "1");
            command
        };
        if !git(&["init", "-q"]).status().is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED the_verdicts_are_gits: there is no git");
            return;
        }
        for (path, is_directory) in PATHS {
            let path = dir.path().join(path);
            if *is_directory { std::fs::create_dir_all(path).unwrap() } else { std::fs::write(path, "").unwrap() }
        }
        for list in LISTS {
            let patterns = Patterns::parse(list).unwrap();
            std::fs::write(dir.path().join(".gitignore"), list).unwrap();
            let mut child = git(&["check-ignore", "--no-index", "-z", "--stdin"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let asked: String = PATHS.iter().map(|(path, _)| format!("{path}\0")).collect();
            child.stdin.take().unwrap().write_all(asked.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            let ignored: Vec<_> = output.stdout.split(|byte| *byte == 0).collect();
            for (path, is_directory) in PATHS {
                // As git does it: the first directory on the way that is excluded decides.
                let ends = path.match_indices('/').map(|(at, _)| (at, true)).chain([(path.len(), *is_directory)]);
                let ours =
                    ends.into_iter().any(|(end, directory)| patterns.verdict(&path[..end], directory) == Some(true));
                assert_eq!(ours, ignored.contains(&path.as_bytes()), "{list:?} on {path:?}");
            }
        }
    }
}
