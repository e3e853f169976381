//! One function per variable or pair of variables: its value, or a mistake with the remedy.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use winston_wire::env::Reader;

use super::{HOME, OURS, Owner, Privilege};
use crate::seed::{self, Seed};

const DEFAULT_GRACE: u64 = 25;
const LONGEST_GRACE: u64 = 3600;
const DEFAULT_HANG: u64 = 300;
const LONGEST_HANG: u64 = 24 * 60 * 60;
const SHORTEST_TOKEN: usize = 32;

/// Variables that carry workspace files, with the file's name.
const WORKSPACE_SEEDS: &[(&str, &str)] = &[
    ("WINSTON_SOUL_MD", "SOUL.md"),
    ("WINSTON_AGENTS_MD", "AGENTS.md"),
    ("WINSTON_USER_MD", "USER.md"),
    ("WINSTON_IDENTITY_MD", "IDENTITY.md"),
];
const CONFIG_SEED: (&str, &str) = ("WINSTON_OPENCLAW_JSON", "openclaw.json");

/// The seed variables: large, and of no use to anybody once they are files.
pub(crate) fn seed_variables() -> impl Iterator<Item = &'static str> {
    std::iter::once(CONFIG_SEED.0).chain(WORKSPACE_SEEDS.iter().map(|(name, _)| *name))
}

/// Checks the token and forgets it: the sidecar reads it from the environment itself.
pub(super) fn token(reader: &mut Reader<'_>) {
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

/// The tenant's id, by its name or its older name.
pub(super) fn tenant(reader: &mut Reader<'_>) -> Option<String> {
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

/// Checks control's address; the sidecar reads it itself.
pub(super) fn control_url(reader: &mut Reader<'_>) {
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
pub(super) fn data_dir(reader: &mut Reader<'_>) -> PathBuf {
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
pub(super) fn beneath(reader: &mut Reader<'_>, name: &str, data_dir: &Path, default: &str) -> PathBuf {
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

/// To whom the tenant's files go, when this process can give them to anybody.
pub(super) fn owner(reader: &mut Reader<'_>, privilege: Privilege) -> Option<Owner> {
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

/// How long the sidecar may take to stop.
pub(super) fn grace(reader: &mut Reader<'_>) -> Duration {
    const NAME: &str = "WINSTON_STOP_GRACE_SECONDS";
    let expected = "a whole number of seconds from 0 to 3600";
    let seconds = reader.parsed::<u64>(NAME, expected).unwrap_or(DEFAULT_GRACE);
    if seconds > LONGEST_GRACE {
        reader.mistake(format!("{NAME} must be {expected}"));
    }
    Duration::from_secs(seconds.min(LONGEST_GRACE))
}

/// How long the sidecar may give no sign of life.
pub(super) fn hang(reader: &mut Reader<'_>) -> Duration {
    const NAME: &str = "WINSTON_HANG_SECONDS";
    let expected = "a whole number of seconds from 0 to 86400";
    let seconds = reader.parsed::<u64>(NAME, expected).unwrap_or(DEFAULT_HANG);
    if seconds > LONGEST_HANG {
        reader.mistake(format!("{NAME} must be {expected}"));
    }
    Duration::from_secs(seconds.min(LONGEST_HANG))
}

/// The first-boot files.
pub(super) fn seeds(reader: &mut Reader<'_>, state_dir: &Path, workspace_dir: &Path) -> Vec<Seed> {
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
