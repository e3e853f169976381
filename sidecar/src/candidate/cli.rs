//! The gateway's own validation: `openclaw config validate --json` over a copy of the candidate.
//!
//! The copy lies in a directory of its own that is the program's state directory too, so that nothing of the tenant is touched or seen. It is inside
//! one of ours: what the program, or an agent of the same user, makes of it is only ever reached from there. The
//! program runs as the gateway does, and code of the agent's can run in it (its compile cache), so nothing of it stays: see `gateway::cli`.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt, MetadataExt as _, OpenOptionsExt, PermissionsExt as _, chown};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use winston_wire::ConfigIssue;

use super::redact;
use crate::fs::{FsError, Root, remove_tree};
use crate::gateway::{Cli, Said, Unsaid};

/// Attempts; a machine that is busy with a start of the gateway is slow.
const ATTEMPTS: usize = 2;

/// Most issues and warnings that are passed on, and most characters of each text.
const MOST_ISSUES: usize = 50;
const LONGEST_TEXT: usize = 500;

/// Begins the names of our directories among the temporary ones.
const PREFIX: &str = "winston-config-";

/// What the validation said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is valid, with these warnings.
    Valid(Vec<ConfigIssue>),
    /// It is not.
    Invalid(Vec<ConfigIssue>),
    /// Nothing; why.
    None(String),
}

/// A candidate for the validation.
pub(super) struct Question {
    /// Content of `openclaw.json`.
    pub(super) config: Vec<u8>,
    /// Files that it may include, by their path relative to it.
    pub(super) beside: Vec<(String, Vec<u8>)>,
}

/// Asks; again once when there was no answer in time.
pub(super) async fn validate(cli: &Cli, question: Question, limit: Duration) -> Answer {
    let question = std::sync::Arc::new(question);
    let mut why = String::new();
    for _ in 0..ATTEMPTS {
        let (copy, asked) = (std::sync::Arc::clone(&question), cli.clone());
        let scratch = match tokio::task::spawn_blocking(move || Scratch::make(&asked, &copy)).await {
            Ok(Ok(scratch)) => scratch,
            Ok(Err(error)) => return Answer::None(format!("no directory for the validation could be made: {error}")),
            Err(_) => return Answer::None("shutting down".into()),
        };
        match ask(cli, &scratch.path, limit).await {
            Ok(answer) => return answer,
            Err(NoAnswer::Late) => why = format!("the validation did not end within {} s", limit.as_secs()),
            Err(NoAnswer::Failed(error)) => return Answer::None(error),
        }
    }
    Answer::None(why)
}

enum NoAnswer {
    Late,
    Failed(String),
}

async fn ask(cli: &Cli, scratch: &Path, limit: Duration) -> Result<Answer, NoAnswer> {
    let config = scratch.join("openclaw.json");
    let places = [("OPENCLAW_STATE_DIR", scratch), ("OPENCLAW_CONFIG_PATH", &config)];
    let said = cli.ask(&["config", "validate", "--json"], &places, scratch, limit).await;
    let Said { status, stdout, stderr } = said.map_err(|unsaid| match unsaid {
        Unsaid::Late => NoAnswer::Late,
        Unsaid::Failed(error) => {
            NoAnswer::Failed(format!("the program {} could not be run: {error}", cli.program.display()))
        }
    })?;
    understood(&stdout, cli).ok_or_else(|| {
        let text = String::from_utf8_lossy(&stderr);
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        NoAnswer::Failed(format!(
            "the validation said nothing that could be understood ({status}): {}",
            short(last, cli)
        ))
    })
}

#[derive(Deserialize)]
struct Output {
    valid: bool,
    #[serde(default)]
    issues: Vec<Issue>,
    #[serde(default)]
    warnings: Vec<Issue>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Issue {
    #[serde(default)]
    path: String,
    #[serde(default)]
    message: String,
}

/// The answer in the output, which may have other lines before it.
fn understood(stdout: &[u8], cli: &Cli) -> Option<Answer> {
    let text = String::from_utf8_lossy(stdout);
    let starts = text.match_indices('{').map(|(at, _)| at).filter(|at| *at == 0 || text[..*at].ends_with('\n'));
    let output = starts.take(100).find_map(|at| {
        let mut stream = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Output>();
        stream.next()?.ok()
    })?;
    let issues = |issues: Vec<Issue>| {
        let one = |issue: Issue| ConfigIssue { path: short(&issue.path, cli), message: short(&issue.message, cli) };
        issues.into_iter().take(MOST_ISSUES).map(one).collect::<Vec<_>>()
    };
    if output.valid {
        return Some(Answer::Valid(issues(output.warnings)));
    }
    let mut found = issues(output.issues);
    if found.is_empty() {
        let message = output.error.map_or_else(
            || "the gateway calls it invalid".to_owned(),
            |error| {
                error.get("message").and_then(|text| text.as_str()).map_or_else(|| error.to_string(), str::to_owned)
            },
        );
        found.push(ConfigIssue { path: String::new(), message: short(&message, cli) });
    }
    Some(Answer::Invalid(found))
}

fn short(text: &str, cli: &Cli) -> String {
    redact(text, &cli.secrets).chars().filter(|letter| !letter.is_control()).take(LONGEST_TEXT).collect()
}

/// A directory with the candidate, removed when dropped.
struct Scratch {
    /// Ours, and nobody else can write there.
    base: PathBuf,
    /// Inside it; the program's.
    path: PathBuf,
}

impl Scratch {
    fn make(cli: &Cli, question: &Question) -> io::Result<Self> {
        let number = getrandom::u64().map_err(|_| io::Error::other("no randomness"))?;
        let base = std::env::temp_dir().join(format!("{PREFIX}{}-{number:016x}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&base)?;
        let scratch = Self { path: base.join("state"), base };
        // Its user has to get through.
        std::fs::set_permissions(&scratch.base, Permissions::from_mode(0o711))?;
        DirBuilder::new().mode(0o700).create(&scratch.path)?;
        for (name, content) in question.beside.iter().chain([&("openclaw.json".to_owned(), question.config.clone())]) {
            scratch.put(name, content, cli)?;
        }
        // Last: from now on it is the gateway's user who can write there.
        scratch.give(&scratch.path, cli)?;
        Ok(scratch)
    }

    fn put(&self, name: &str, content: &[u8], cli: &Cli) -> io::Result<()> {
        let relative = Path::new(name);
        if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let mut directory = self.path.clone();
        for part in relative.parent().into_iter().flat_map(Path::components) {
            directory.push(part);
            match DirBuilder::new().mode(0o700).create(&directory) {
                Ok(()) => self.give(&directory, cli)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        let file = self.path.join(relative);
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?.write_all(content)?;
        self.give(&file, cli)
    }

    fn give(&self, path: &Path, cli: &Cli) -> io::Result<()> {
        match cli.identity {
            Some(identity) => chown(path, Some(identity.uid), Some(identity.gid)),
            None => Ok(()),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let base = std::mem::take(&mut self.base);
        match tokio::runtime::Handle::try_current() {
            // Small, unless somebody has filled it.
            Ok(runtime) => drop(runtime.spawn_blocking(move || remove(&base))),
            Err(_) => remove(&base),
        }
    }
}

/// Removes a directory like that of [`Scratch`]. What stays is removed by the next process. Blocking.
pub(super) fn remove(base: &Path) {
    let removed = || -> Result<(), FsError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(base, flags, Mode::empty())?;
        let mut names = Vec::new();
        Root::each_entry(dir.as_fd(), |entry| names.extend(String::from_utf8(entry.name)))?;
        for name in names {
            remove_tree(&dir, &name, || format!("{:016x}", getrandom::u64().unwrap_or_default()))?;
        }
        Ok(std::fs::remove_dir(base)?)
    };
    if let Err(error) = removed() {
        tracing::warn!(%error, directory = %base.display(), "the directory of a validation stays for now");
    }
}

/// Names among the temporary ones that are looked at, so that nobody delays a start by making many.
const MOST_NAMES: usize = 100_000;

/// What validations of processes that are no more left behind: for [`remove`]. To be called before there are new ones. Blocking.
pub(super) fn left_behind() -> Vec<PathBuf> {
    let is_left_behind = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        let is_over =
            owner.is_some_and(|pid| pid == std::process::id() || !Path::new("/proc").join(pid.to_string()).exists());
        // Anybody can make up a name.
        is_over && entry.metadata().is_ok_and(|meta| meta.uid() == rustix::process::geteuid().as_raw())
    };
    let names = std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten().take(MOST_NAMES);
    names.filter(is_left_behind).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli() -> Cli {
        Cli {
            program: "openclaw".into(),
            home: "/".into(),
            identity: None,
            environment: Vec::new(),
            secrets: vec!["secret-for-tests".into()],
            port: 18789,
        }
    }

    fn issue(path: &str, message: &str) -> ConfigIssue {
        ConfigIssue { path: path.into(), message: message.into() }
    }

    #[test]
    fn the_programs_words_are_understood_and_redacted() {
        let understood = |text: &str| understood(text.as_bytes(), &cli());
        let valid = r#"{"valid":true,"path":"x","warnings":[{"path":"a.b","message":"has secret-for-tests"}]}"#;
        assert_eq!(understood(valid), Some(Answer::Valid(vec![issue("a.b", "has [redacted]")])));
        let invalid = r#"{"ok":false,"error":{"message":"bad"},"valid":false,"issues":[{"path":"a","message":"no"}]}"#;
        assert_eq!(understood(invalid), Some(Answer::Invalid(vec![issue("a", "no")])));
        let unsaid = "a warning\n{\"not\": \"it\"}\n{\"valid\":false,\"error\":{\"message\":\"bad\"}}\nmore\n";
        assert_eq!(understood(unsaid), Some(Answer::Invalid(vec![issue("", "bad")])));
        for text in ["", "{", "Segmentation fault", "{\"valid\": \"yes\"}", "\u{0}"] {
            assert_eq!(understood(text), None, "{text}");
        }
    }

    #[test]
    fn nothing_is_written_outside_the_directory() {
        let question = |name: &str| Question { config: b"{}".to_vec(), beside: vec![(name.into(), b"x".to_vec())] };
        for name in ["../x", "/x", "a/../../x", "openclaw.json"] {
            assert!(Scratch::make(&cli(), &question(name)).is_err(), "{name}");
        }
        let scratch = Scratch::make(&cli(), &question("a/b/c.json5")).unwrap();
        assert_eq!(std::fs::read(scratch.path.join("a/b/c.json5")).unwrap(), b"x");
        // Deeper than a stack or a table of descriptors.
        let mut deep = scratch.path.clone();
        for _ in 0..300 {
            deep.push("deeper");
        }
        std::fs::create_dir_all(&deep).unwrap();
        std::os::unix::fs::symlink("/", scratch.path.join("link")).unwrap();
        let base = scratch.base.clone();
        drop(scratch);
        assert!(!base.exists());
    }
}
