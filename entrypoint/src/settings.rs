//! The environment, parsed and checked as a whole.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use winston_wire::env::Reader;

use crate::seed::{self, Seed};
use crate::variables::VARIABLES;

/// Our own directory beneath the data directory.
pub(crate) const OURS: &str = ".winston";
/// The gateway's home directory beneath the data directory.
pub(crate) const HOME: &str = ".home";

const DEFAULT_GRACE: u64 = 25;
const LONGEST_GRACE: u64 = 3600;
const SHORTEST_TOKEN: usize = 32;

/// Variables that carry workspace files, with the file's name.
const WORKSPACE_SEEDS: &[(&str, &str)] = &[
    ("WINSTON_SOUL_MD", "SOUL.md"),
    ("WINSTON_AGENTS_MD", "AGENTS.md"),
    ("WINSTON_USER_MD", "USER.md"),
    ("WINSTON_IDENTITY_MD", "IDENTITY.md"),
];
const CONFIG_SEED: (&str, &str) = ("WINSTON_OPENCLAW_JSON", "openclaw.json");

/// As whom this process runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Privilege {
    /// Effective user.
    pub(crate) uid: u32,
}

/// The user that owns the tenant's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    /// User number.
    pub(crate) uid: u32,
    /// Group number.
    pub(crate) gid: u32,
}

/// What the environment asks for.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The tenant's id.
    pub(crate) tenant: String,
    /// Absolute path of the data directory.
    pub(crate) data_dir: PathBuf,
    /// State directory, relative to the data directory.
    pub(crate) state_dir: PathBuf,
    /// Workspace, relative to the data directory.
    pub(crate) workspace_dir: PathBuf,
    /// The sidecar's executable, when it is not the one beside ours.
    pub(crate) sidecar: Option<PathBuf>,
    /// To whom the tenant's files are given; only as root.
    pub(crate) owner: Option<Owner>,
    /// How long the sidecar may take to stop.
    pub(crate) grace: Duration,
    /// First-boot files.
    pub(crate) seeds: Vec<Seed>,
}

impl Settings {
    /// Parses the environment, or lists every mistake with its remedy.
    pub(crate) fn parse(lookup: impl Fn(&str) -> Option<OsString>, privilege: Privilege) -> Result<Self, Vec<String>> {
        let text = |name: &str| lookup(name).and_then(|value| value.into_string().ok());
        let mut reader = Reader::new(VARIABLES, text);
        for variable in VARIABLES {
            if lookup(variable.name).is_some_and(|value| value.to_str().is_none()) {
                reader.mistake(format!(
                    "{} is not UTF-8: encode the value as UTF-8, or as base64 where it is a file",
                    variable.name
                ));
            }
        }

        token(&mut reader);
        let tenant = tenant(&mut reader);
        control_url(&mut reader);
        let data_dir = data_dir(&mut reader);
        let state_dir = beneath(&mut reader, "OPENCLAW_STATE_DIR", &data_dir, ".openclaw");
        let workspace_dir = beneath(&mut reader, "OPENCLAW_WORKSPACE_DIR", &data_dir, "workspace");
        if state_dir == workspace_dir {
            reader.mistake("OPENCLAW_STATE_DIR and OPENCLAW_WORKSPACE_DIR name the same directory: choose two");
        }
        let sidecar = reader.text("WINSTON_SIDECAR_BIN").map(PathBuf::from);
        let owner = owner(&mut reader, privilege);
        let grace = grace(&mut reader);
        let seeds = seeds(&mut reader, &state_dir, &workspace_dir);

        let mistakes = reader.finish();
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(Self {
            tenant: tenant.unwrap_or_default(),
            data_dir,
            state_dir,
            workspace_dir,
            sidecar,
            owner,
            grace,
            seeds,
        })
    }

    /// What the sidecar's environment gets on top of ours: everything that we resolved, so that both mean the same.
    pub(crate) fn exports(&self) -> Vec<(&'static str, OsString)> {
        let mut exports = vec![
            ("WINSTON_TENANT_ID", self.tenant.clone().into()),
            ("WINSTON_DATA_DIR", self.data_dir.clone().into()),
            ("OPENCLAW_STATE_DIR", self.data_dir.join(&self.state_dir).into()),
            ("OPENCLAW_WORKSPACE_DIR", self.data_dir.join(&self.workspace_dir).into()),
        ];
        if let Some(owner) = self.owner {
            exports.push(("WINSTON_GATEWAY_UID", owner.uid.to_string().into()));
            exports.push(("WINSTON_GATEWAY_GID", owner.gid.to_string().into()));
        }
        exports
    }
}

/// The seed variables: large, and of no use to anybody once they are files.
pub(crate) fn seed_variables() -> impl Iterator<Item = &'static str> {
    std::iter::once(CONFIG_SEED.0).chain(WORKSPACE_SEEDS.iter().map(|(name, _)| *name))
}

/// Checks the token and forgets it: the sidecar reads it from the environment itself.
fn token(reader: &mut Reader<'_>) {
    const NAME: &str = "WINSTON_SIDECAR_TOKEN";
    match reader.text(NAME) {
        None => reader.mistake(format!(
            "{NAME} is not set: use the token that control issued, or make one with `openssl rand -hex 32`"
        )),
        Some(token) if token.chars().count() < SHORTEST_TOKEN => reader.mistake(format!(
            "{NAME} is too short: it must have at least {SHORTEST_TOKEN} characters, for example from `openssl rand -hex 32`"
        )),
        Some(token) if token.chars().any(|c| !c.is_ascii_graphic()) => reader.mistake(format!(
            "{NAME} must be printable ASCII without spaces, because it travels in a header"
        )),
        Some(_) => {}
    }
}

fn tenant(reader: &mut Reader<'_>) -> Option<String> {
    let name = reader.text("WINSTON_TENANT_ID");
    let alias = reader.text("TENANT_ID");
    match (&name, &alias) {
        (None, None) => {
            reader.mistake("WINSTON_TENANT_ID is not set: use the id that control gave the tenant");
        }
        (Some(one), Some(other)) if one != other => {
            reader.mistake("WINSTON_TENANT_ID and TENANT_ID name different tenants: remove TENANT_ID")
        }
        _ => {}
    }
    let id = name.or(alias)?;
    if id.len() > 128 || id.chars().any(|c| !c.is_ascii_graphic()) {
        reader.mistake("WINSTON_TENANT_ID must be at most 128 printable ASCII characters without spaces");
    }
    Some(id)
}

fn control_url(reader: &mut Reader<'_>) {
    let Some(url) = reader.text("WINSTON_CONTROL_URL") else {
        return;
    };
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next());
    if host.is_none_or(str::is_empty) || url.chars().any(|c| !c.is_ascii_graphic()) {
        reader
            .mistake("WINSTON_CONTROL_URL must be an http:// or https:// address, for example https://control.example");
    }
}

/// The data directory, or its default after a mistake, so that the paths beneath it are still checked.
fn data_dir(reader: &mut Reader<'_>) -> PathBuf {
    const DEFAULT: &str = "/data";
    let Some(text) = reader.text("WINSTON_DATA_DIR") else {
        return DEFAULT.into();
    };
    match clean(&text) {
        Some(path) if path != Path::new("/") => path,
        _ => {
            reader.mistake("WINSTON_DATA_DIR must be an absolute path without `..`, and not `/`, for example /data");
            DEFAULT.into()
        }
    }
}

/// A directory beneath the data directory, relative to it.
fn beneath(reader: &mut Reader<'_>, name: &str, data_dir: &Path, default: &str) -> PathBuf {
    let Some(text) = reader.text(name) else {
        return default.into();
    };
    let path = clean(&text);
    let relative = path.as_deref().and_then(|path| path.strip_prefix(data_dir).ok());
    match relative {
        Some(relative) if relative.starts_with(OURS) || relative.starts_with(HOME) => {
            reader.mistake(format!(
                "{name} must not lie in {OURS} or {HOME}, which have their own use: try {}",
                data_dir.join(default).display()
            ));
            default.into()
        }
        Some(relative) if relative != Path::new("") => relative.to_owned(),
        _ => {
            reader.mistake(format!(
                "{name} must be an absolute path beneath {}, because only that is kept: try {}",
                data_dir.display(),
                data_dir.join(default).display()
            ));
            default.into()
        }
    }
}

/// An absolute path without doubled slashes and dots; `None` for a relative one or one with `..`.
fn clean(text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    let climbs = path.components().any(|part| part == Component::ParentDir);
    (path.is_absolute() && !climbs).then(|| path.components().collect())
}

fn owner(reader: &mut Reader<'_>, privilege: Privilege) -> Option<Owner> {
    let uid = reader.parsed::<u32>("WINSTON_GATEWAY_UID", "the number of a user, for example 1000");
    let gid = reader.parsed::<u32>("WINSTON_GATEWAY_GID", "the number of a group, for example 1000");
    let Some(uid) = uid else {
        if gid.is_some() && reader.text("WINSTON_GATEWAY_UID").is_none() {
            reader.mistake("WINSTON_GATEWAY_GID is set without WINSTON_GATEWAY_UID: set both or none");
        }
        return None;
    };
    if uid == 0 {
        reader.mistake("WINSTON_GATEWAY_UID must not be 0: the agent must not run as root");
    } else if privilege.uid == 0 {
        return Some(Owner { uid, gid: gid.unwrap_or(uid) });
    } else if privilege.uid != uid {
        reader.mistake(format!(
            "WINSTON_GATEWAY_UID is {uid} but this is uid {}, which cannot change users: start as root, or unset it",
            privilege.uid
        ));
    }
    None
}

fn grace(reader: &mut Reader<'_>) -> Duration {
    const NAME: &str = "WINSTON_STOP_GRACE_SECONDS";
    let expected = "a whole number of seconds from 0 to 3600";
    let seconds = reader.parsed::<u64>(NAME, expected).unwrap_or(DEFAULT_GRACE);
    if seconds > LONGEST_GRACE {
        reader.mistake(format!("{NAME} must be {expected}"));
    }
    Duration::from_secs(seconds.min(LONGEST_GRACE))
}

fn seeds(reader: &mut Reader<'_>, state_dir: &Path, workspace_dir: &Path) -> Vec<Seed> {
    let mut seeds = Vec::new();
    let (name, file) = CONFIG_SEED;
    if let Some(text) = reader.text(name).map(|value| seed::decode(&value)) {
        if !seed::looks_like_object(&text) {
            reader.mistake(format!("{name} must be a JSON5 object, as base64 or as plain text beginning with `{{`"));
        }
        let path = state_dir.join(file);
        seeds.push(Seed { path, text });
    }
    for (name, file) in WORKSPACE_SEEDS {
        if let Some(text) = reader.text(name).map(|value| seed::decode(&value)) {
            let path = workspace_dir.join(file);
            seeds.push(Seed { path, text });
        }
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const ROOT: Privilege = Privilege { uid: 0 };
    const USER: Privilege = Privilege { uid: 1000 };
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn parse(pairs: &[(&str, &str)], privilege: Privilege) -> Result<Settings, Vec<String>> {
        let mut all = HashMap::from([("WINSTON_SIDECAR_TOKEN", TOKEN), ("WINSTON_TENANT_ID", "t1")]);
        all.extend(pairs.iter().copied());
        Settings::parse(|name| all.get(name).map(OsString::from), privilege)
    }

    fn mistakes(pairs: &[(&str, &str)], privilege: Privilege) -> String {
        parse(pairs, privilege).unwrap_err().join("\n")
    }

    #[test]
    fn defaults() {
        let settings = parse(&[], USER).unwrap();
        assert_eq!(settings.tenant, "t1");
        assert_eq!(settings.data_dir, Path::new("/data"));
        assert_eq!(settings.state_dir, Path::new(".openclaw"));
        assert_eq!(settings.workspace_dir, Path::new("workspace"));
        assert_eq!(settings.grace, Duration::from_secs(25));
        assert_eq!(settings.owner, None);
        assert!(settings.seeds.is_empty());
    }

    #[test]
    fn the_older_name_of_the_tenant_works() {
        let settings = parse(&[("WINSTON_TENANT_ID", ""), ("TENANT_ID", "t2")], USER).unwrap();
        assert_eq!(settings.tenant, "t2");
        assert!(mistakes(&[("TENANT_ID", "t2")], USER).contains("different tenants"));
    }

    #[test]
    fn every_mistake_is_listed() {
        let found = parse(
            &[
                ("WINSTON_SIDECAR_TOKEN", "short"),
                ("WINSTON_TENANT_ID", ""),
                ("WINSTON_DATA_DIR", "data"),
                ("OPENCLAW_STATE_DIR", "/root/.openclaw"),
                ("OPENCLAW_WORKSPACE_DIR", "/data/.winston/x"),
                ("WINSTON_CONTROL_URL", "control.example"),
                ("WINSTON_GATEWAY_UID", "node"),
                ("WINSTON_STOP_GRACE_SECONDS", "soon"),
                ("WINSTON_OPENCLAW_JSON", "# Soul"),
            ],
            ROOT,
        )
        .unwrap_err();
        assert_eq!(found.len(), 9, "{found:#?}");
        assert!(found.iter().all(|line| !line.contains('\n')));
        assert!(found.iter().all(|line| !line.contains("short\"")));
    }

    #[test]
    fn a_token_is_never_repeated() {
        let found = mistakes(&[("WINSTON_SIDECAR_TOKEN", "hunter2-test-value")], USER);
        assert!(!found.contains("hunter2"), "{found}");
        let spaced = "hunter2 hunter2 hunter2 hunter2 hunter2";
        let found = mistakes(&[("WINSTON_SIDECAR_TOKEN", spaced)], USER);
        assert!(!found.contains("hunter2"), "{found}");
    }

    #[test]
    fn paths_stay_beneath_the_data_directory() {
        let data = ("WINSTON_DATA_DIR", "/srv//t1/./");
        let settings = parse(&[data, ("OPENCLAW_STATE_DIR", "/srv/t1/a/b")], USER).unwrap();
        assert_eq!(settings.data_dir, Path::new("/srv/t1"));
        assert_eq!(settings.state_dir, Path::new("a/b"));
        for wrong in ["/srv/t1", "/srv/t1/../t2", "/srv/t10/x", "a", "/srv/t1/.home"] {
            assert!(parse(&[data, ("OPENCLAW_STATE_DIR", wrong)], USER).is_err(), "{wrong}");
        }
        assert!(parse(&[data, ("OPENCLAW_STATE_DIR", "/srv/t1/workspace")], USER).is_err());
        assert!(parse(&[("WINSTON_DATA_DIR", "/")], USER).is_err());
    }

    #[test]
    fn only_root_gives_files_away() {
        let uid = ("WINSTON_GATEWAY_UID", "1000");
        let both = Some(Owner { uid: 1000, gid: 7 });
        let settings = parse(&[uid, ("WINSTON_GATEWAY_GID", "7")], ROOT).unwrap();
        assert_eq!(settings.owner, both);
        let settings = parse(&[uid], ROOT).unwrap();
        assert_eq!(settings.owner.unwrap().gid, 1000, "the group follows the user");
        assert_eq!(parse(&[uid], USER).unwrap().owner, None, "that user already");
        assert!(mistakes(&[("WINSTON_GATEWAY_UID", "1001")], USER).contains("start as root"));
        assert!(parse(&[("WINSTON_GATEWAY_UID", "0")], ROOT).is_err());
        assert!(parse(&[("WINSTON_GATEWAY_GID", "7")], ROOT).is_err());
    }

    #[test]
    fn control_urls() {
        for right in ["http://10.0.0.1:8080", "https://control.example/base"] {
            assert!(parse(&[("WINSTON_CONTROL_URL", right)], USER).is_ok(), "{right}");
        }
        for wrong in ["ftp://control", "http://", "https:///x", "http://a b", "control"] {
            assert!(parse(&[("WINSTON_CONTROL_URL", wrong)], USER).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seeds_know_where_they_belong() {
        let settings = parse(
            &[
                ("OPENCLAW_WORKSPACE_DIR", "/data/desk"),
                ("WINSTON_OPENCLAW_JSON", "e30="),
                ("WINSTON_SOUL_MD", "# Soul"),
            ],
            USER,
        )
        .unwrap();
        let seed = |path: &str, text: &str| Seed { path: path.into(), text: text.into() };
        assert_eq!(settings.seeds, [seed(".openclaw/openclaw.json", "{}"), seed("desk/SOUL.md", "# Soul")]);
    }

    #[test]
    fn a_value_that_is_not_text_is_named() {
        use std::os::unix::ffi::OsStringExt as _;
        let found = Settings::parse(|name| (name == "WINSTON_SOUL_MD").then(|| OsString::from_vec(vec![0xff])), USER)
            .unwrap_err();
        assert!(found[0].starts_with("WINSTON_SOUL_MD is not UTF-8"), "{found:?}");
    }
}
