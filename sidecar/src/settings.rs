//! Settings, read once from the environment.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use tracing_subscriber::filter::Targets;
use winston_wire::env::{Reader, Secret};
use winston_wire::{GATEWAY_PORT, HANDOVER_FDS, HandoverFds, SIDECAR_PORT};

use crate::candidate::Times;
use crate::front::FrontSettings;
use crate::fs::{Layout, Patterns, Selection, TenantPath};
use crate::gateway::{Identity, inherited_environment};
use crate::journal;
use crate::variables::VARIABLES;
use crate::watch::WatchSettings;

/// Largest size limit: contents of that size are held in memory.
const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;

/// Longest pause between full comparisons.
const MAX_RESCAN_SECONDS: u64 = 24 * 60 * 60;

/// Longest step of a trial of a configuration.
const MAX_TRIAL_SECONDS: u64 = 60 * 60;

/// Longest grace at the end.
const MAX_STOP_SECONDS: u64 = 60 * 60;

/// Shortest token that is accepted; ours have 64 characters.
const MIN_TOKEN_CHARS: usize = 32;

/// The gateway's part of the settings.
pub(crate) struct GatewaySettings {
    pub(crate) program: PathBuf,
    pub(crate) port: u16,
    pub(crate) token: Option<Secret>,
    pub(crate) home: PathBuf,
    /// What it inherits from our environment.
    pub(crate) environment: Vec<(String, String)>,
    /// In bytes; `None`: it may take what it likes.
    pub(crate) memory_limit: Option<u64>,
    pub(crate) logs: LogLimits,
}

/// How much of its output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogLimits {
    pub(crate) ring_bytes: usize,
    pub(crate) file_bytes: u64,
    /// 0: no files.
    pub(crate) files: usize,
}

/// Everything that can be set.
pub(crate) struct Settings {
    pub(crate) token: Secret,
    pub(crate) tenant_id: Option<String>,
    pub(crate) data_dir: PathBuf,
    pub(crate) layout: Layout,
    pub(crate) listen: SocketAddr,
    pub(crate) control_url: Option<Uri>,
    pub(crate) control_ca_file: Option<PathBuf>,
    /// `None`: no gateway.
    pub(crate) gateway: Option<GatewaySettings>,
    pub(crate) identity: Option<Identity>,
    /// `None`: no front door.
    pub(crate) front: Option<FrontSettings>,
    pub(crate) max_file_bytes: u64,
    pub(crate) max_archive_bytes: u64,
    pub(crate) journal: journal::Limits,
    pub(crate) watch: WatchSettings,
    /// From SIGTERM until entrypoint kills us.
    pub(crate) stop_grace: Duration,
    /// Of trials of a configuration.
    pub(crate) trials: Times,
    pub(crate) log: Targets,
    /// `None` without entrypoint.
    pub(crate) handover: Option<HandoverFds>,
}

impl Settings {
    /// Reads the settings; on failure every mistake, one sentence each.
    pub(crate) fn from_env(own: &[(String, String)]) -> Result<Self, Vec<String>> {
        let lookup = |name: &str| own.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let mut reader = Reader::new(VARIABLES, lookup);
        let token = reader.required("WINSTON_SIDECAR_TOKEN").unwrap_or_default();
        if !token.is_empty() && token.len() < MIN_TOKEN_CHARS {
            reader.mistake(format!("WINSTON_SIDECAR_TOKEN must have at least {MIN_TOKEN_CHARS} characters"));
        }
        let tenant_id = reader.text("WINSTON_TENANT_ID").or_else(|| reader.text("TENANT_ID"));
        let data_dir = PathBuf::from(reader.text("WINSTON_DATA_DIR").unwrap_or_else(|| "/data".to_owned()));
        if !data_dir.is_absolute() {
            reader.mistake("WINSTON_DATA_DIR must be an absolute path");
        }
        let layout = Layout {
            state: below(&mut reader, "OPENCLAW_STATE_DIR", &data_dir, ".openclaw"),
            workspace: below(&mut reader, "OPENCLAW_WORKSPACE_DIR", &data_dir, "workspace"),
            selection: Selection {
                exclude: patterns(&mut reader, "WINSTON_WATCH_EXCLUDE"),
                include: patterns(&mut reader, "WINSTON_WATCH_INCLUDE"),
            },
        };
        let listen = reader.parsed("WINSTON_SIDECAR_LISTEN", "an address and a port, for example 127.0.0.1:18790");
        let control_url = control_url(&mut reader);
        let control_ca_file = reader.text("WINSTON_CONTROL_CA_FILE").map(PathBuf::from);
        let identity = identity(&mut reader);
        let gateway = gateway(&mut reader, &data_dir, own);
        let file_api = listen.unwrap_or_else(|| SocketAddr::from(([0u16; 8], SIDECAR_PORT)));
        let front = FrontSettings::read(&mut reader, file_api, gateway.as_ref());
        let max_file_bytes = reader.parsed("WINSTON_MAX_FILE_BYTES", "a number of bytes").unwrap_or(10 * 1024 * 1024);
        if !(1..=MAX_FILE_BYTES).contains(&max_file_bytes) {
            reader.mistake(format!("WINSTON_MAX_FILE_BYTES must be between 1 and {MAX_FILE_BYTES}"));
        }
        let max_archive_bytes =
            reader.parsed("WINSTON_MAX_ARCHIVE_BYTES", "a number of bytes").unwrap_or(256 * 1024 * 1024);
        let segment_bytes: u64 =
            reader.parsed("WINSTON_JOURNAL_SEGMENT_BYTES", "a number of bytes").unwrap_or(8 * 1024 * 1024);
        let max_bytes = reader.parsed("WINSTON_JOURNAL_MAX_BYTES", "a number of bytes").unwrap_or(1024 * 1024 * 1024);
        if max_bytes < segment_bytes.saturating_mul(4).max(max_file_bytes.saturating_mul(2)) {
            reader.mistake(
                "WINSTON_JOURNAL_MAX_BYTES must be at least four times WINSTON_JOURNAL_SEGMENT_BYTES and twice WINSTON_MAX_FILE_BYTES",
            );
        }
        let watch = watch(&mut reader);
        let handover = reader.parsed(HANDOVER_FDS, "what winston-entrypoint sets; unset it");
        let stop_grace = stop_grace(&mut reader);
        let trials = trials(&mut reader);
        let log = reader.parsed("WINSTON_LOG", "a level or target=level pairs");
        let mistakes = reader.finish();
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(Self {
            token: Secret::new(token),
            tenant_id,
            data_dir,
            layout,
            listen: file_api,
            control_url,
            control_ca_file,
            gateway,
            identity,
            front,
            max_file_bytes,
            max_archive_bytes,
            journal: journal::Limits { segment_bytes, max_bytes },
            watch,
            handover,
            stop_grace,
            trials,
            log: log.unwrap_or_else(|| Targets::new().with_default(tracing::Level::INFO)),
        })
    }
}

/// A directory below the data directory, as a path relative to it.
fn below(reader: &mut Reader<'_>, name: &str, data_dir: &Path, default: &str) -> TenantPath {
    let text = reader.text(name);
    let relative = match &text {
        None => Some(default),
        Some(text) => Path::new(text).strip_prefix(data_dir).ok().and_then(Path::to_str),
    };
    match relative.map(TenantPath::parse) {
        Some(Ok(path)) if !path.is_root() => path,
        _ => {
            reader.mistake(format!("{name} must be a directory below WINSTON_DATA_DIR"));
            TenantPath::default()
        }
    }
}

fn patterns(reader: &mut Reader<'_>, name: &str) -> Patterns {
    let text = reader.text(name).unwrap_or_default();
    Patterns::parse(&text).unwrap_or_else(|bad| {
        bad.iter().for_each(|bad| reader.mistake(format!("{name}: {bad}")));
        Patterns::default()
    })
}

fn trials(reader: &mut Reader<'_>) -> Times {
    let mut seconds = |name, default: u64, least: u64| {
        let seconds: u64 = reader.parsed(name, "a number of seconds").unwrap_or(default);
        Duration::from_secs(seconds.clamp(least, MAX_TRIAL_SECONDS))
    };
    Times {
        validation: seconds("WINSTON_VALIDATION_SECONDS", 30, 1),
        start: seconds("WINSTON_PROBATION_START_SECONDS", 120, 1),
        probation: seconds("WINSTON_PROBATION_SECONDS", 10, 0),
    }
}

fn stop_grace(reader: &mut Reader<'_>) -> Duration {
    let seconds: u64 = reader.parsed("WINSTON_STOP_GRACE_SECONDS", "a number of seconds").unwrap_or(25);
    Duration::from_secs(seconds.min(MAX_STOP_SECONDS))
}

fn watch(reader: &mut Reader<'_>) -> WatchSettings {
    let mut seconds = |name, default: u64| {
        let seconds = reader.parsed(name, "a number of seconds").unwrap_or(default);
        Duration::from_secs(seconds.clamp(1, MAX_RESCAN_SECONDS))
    };
    let (rescan, poll) = (seconds("WINSTON_RESCAN_SECONDS", 300), seconds("WINSTON_POLL_SECONDS", 5));
    let events = match reader.text("WINSTON_WATCH_MODE").as_deref() {
        None | Some("auto") => true,
        Some("polling") => false,
        Some(_) => {
            reader.mistake("WINSTON_WATCH_MODE must be `auto` or `polling`");
            true
        }
    };
    WatchSettings { rescan, poll, events }
}

fn control_url(reader: &mut Reader<'_>) -> Option<Uri> {
    let url: Uri = reader.parsed("WINSTON_CONTROL_URL", "an http or https URL")?;
    if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none() || url.query().is_some() {
        reader.mistake("WINSTON_CONTROL_URL must be an http or https URL without a query");
    }
    Some(url)
}

fn identity(reader: &mut Reader<'_>) -> Option<Identity> {
    let uid = reader.parsed("WINSTON_GATEWAY_UID", "a numeric user id");
    let gid = reader.parsed("WINSTON_GATEWAY_GID", "a numeric group id");
    match (uid, gid) {
        (Some(0), _) => {
            reader.mistake("WINSTON_GATEWAY_UID must not be 0: the gateway runs commands for its agent");
            None
        }
        (Some(uid), gid) => Some(Identity { uid, gid: gid.unwrap_or(uid) }),
        (None, Some(_)) => {
            reader.mistake("WINSTON_GATEWAY_GID needs WINSTON_GATEWAY_UID");
            None
        }
        (None, None) => None,
    }
}

fn gateway(reader: &mut Reader<'_>, data_dir: &Path, own: &[(String, String)]) -> Option<GatewaySettings> {
    let enabled = match reader.text("WINSTON_GATEWAY").as_deref() {
        None | Some("on") => true,
        Some("off") => false,
        Some(_) => {
            reader.mistake("WINSTON_GATEWAY must be `on` or `off`");
            false
        }
    };
    let program = reader.text("WINSTON_OPENCLAW_BIN").unwrap_or_else(|| "openclaw".to_owned()).into();
    let port = reader.parsed("OPENCLAW_GATEWAY_PORT", "a port number").unwrap_or(GATEWAY_PORT);
    let token = reader.text("OPENCLAW_GATEWAY_TOKEN").map(Secret::new);
    let home = reader.text("WINSTON_GATEWAY_HOME").map_or_else(|| data_dir.join(".home"), PathBuf::from);
    if !home.is_absolute() {
        reader.mistake("WINSTON_GATEWAY_HOME must be an absolute path");
    }
    let extra = reader.text("WINSTON_GATEWAY_ENV").unwrap_or_default();
    let environment = inherited_environment(own.iter().cloned(), &extra).unwrap_or_else(|mistakes| {
        mistakes.into_iter().for_each(|mistake| reader.mistake(mistake));
        Vec::new()
    });
    let memory_limit = memory_limit(reader);
    let logs = log_limits(reader);
    enabled.then_some(GatewaySettings { program, port, token, home, environment, memory_limit, logs })
}

/// In bytes. A gateway takes 0.8 GB at rest, and no machine has a million.
fn memory_limit(reader: &mut Reader<'_>) -> Option<u64> {
    const NAME: &str = "WINSTON_GATEWAY_MEMORY_LIMIT_MB";
    let megabytes: u64 = reader.parsed(NAME, "a whole number")?;
    if !(256..=1_000_000).contains(&megabytes) {
        reader.mistake(format!("{NAME} must be between 256 and 1000000"));
    }
    Some(megabytes << 20)
}

fn log_limits(reader: &mut Reader<'_>) -> LogLimits {
    let mut number = |name: &str, default: u64, range: RangeInclusive<u64>| {
        let number = reader.parsed(name, "a whole number").unwrap_or(default);
        if !range.contains(&number) {
            reader.mistake(format!("{name} must be between {} and {}", range.start(), range.end()));
        }
        number
    };
    LogLimits {
        ring_bytes: number("WINSTON_GATEWAY_LOG_RING_BYTES", 256 << 10, 64 << 10..=64 << 20) as usize,
        file_bytes: number("WINSTON_GATEWAY_LOG_FILE_BYTES", 8 << 20, 256 << 10..=1 << 30),
        files: number("WINSTON_GATEWAY_LOG_FILES", 5, 0..=100) as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "test-token-test-token-test-token-0123456789";

    fn settings(pairs: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
        let own: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Settings::from_env(&own)
    }

    #[test]
    fn a_token_is_all_that_is_needed() {
        let settings = settings(&[("WINSTON_SIDECAR_TOKEN", TOKEN)]).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
        assert_eq!(settings.listen.port(), SIDECAR_PORT);
        assert_eq!(settings.data_dir, Path::new("/data"));
        assert_eq!(settings.layout.state.as_str(), ".openclaw");
        assert!(settings.gateway.is_some());
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let mistakes = settings(&[
            ("WINSTON_SIDECAR_TOKEN", "short"),
            ("WINSTON_DATA_DIR", "data"),
            ("OPENCLAW_STATE_DIR", "/elsewhere"),
            ("WINSTON_SIDECAR_LISTEN", "18790"),
            ("WINSTON_CONTROL_URL", "ftp://control"),
            ("WINSTON_GATEWAY_UID", "0"),
            ("WINSTON_GATEWAY", "maybe"),
            ("WINSTON_GATEWAY_ENV", "MY_KEY,WINSTON_SIDECAR_TOKEN"),
            ("WINSTON_MAX_FILE_BYTES", "10MB"),
            ("WINSTON_WATCH_EXCLUDE", "*.log,[a-"),
            ("WINSTON_WATCH_MODE", "sometimes"),
            ("WINSTON_GATEWAY_MEMORY_LIMIT_MB", "1"),
            ("WINSTON_GATEWAY_LOG_RING_BYTES", "0"),
            ("WINSTON_GATEWAY_LOG_FILE_BYTES", "1000"),
            ("WINSTON_GATEWAY_LOG_FILES", "many"),
            ("PORT", "http"),
            ("WINSTON_FRONT_LISTEN", "8080"),
            ("WINSTON_TRUSTED_PROXIES", "10.0.0.0/8,localhost"),
            ("WINSTON_PUBLIC_ORIGIN", "https://t.example.com/"),
            ("WINSTON_FRONT_MAX_CONNECTIONS", "0"),
            ("WINSTON_FRONT_MAX_PER_ADDRESS", "many"),
        ])
        .err()
        .unwrap_or_default();
        for name in [
            "WINSTON_SIDECAR_TOKEN",
            "WINSTON_DATA_DIR",
            "OPENCLAW_STATE_DIR",
            "WINSTON_SIDECAR_LISTEN",
            "WINSTON_CONTROL_URL",
            "WINSTON_GATEWAY_UID",
            "WINSTON_GATEWAY must",
            "WINSTON_GATEWAY_ENV",
            "WINSTON_MAX_FILE_BYTES",
            "WINSTON_WATCH_EXCLUDE: `[a-`",
            "WINSTON_WATCH_MODE",
            "WINSTON_GATEWAY_MEMORY_LIMIT_MB must be between",
            "WINSTON_GATEWAY_LOG_RING_BYTES must be between",
            "WINSTON_GATEWAY_LOG_FILE_BYTES",
            "WINSTON_GATEWAY_LOG_FILES",
            "PORT must",
            "WINSTON_FRONT_LISTEN",
            "WINSTON_TRUSTED_PROXIES: `localhost`",
            "WINSTON_PUBLIC_ORIGIN",
            "WINSTON_FRONT_MAX_CONNECTIONS",
            "WINSTON_FRONT_MAX_PER_ADDRESS",
        ] {
            assert!(mistakes.iter().any(|mistake| mistake.contains(name)), "{name} in {mistakes:?}");
        }
    }

    #[test]
    fn without_a_token_there_are_no_settings() {
        assert_eq!(settings(&[]).err().unwrap_or_default(), ["WINSTON_SIDECAR_TOKEN is not set"]);
    }
}
