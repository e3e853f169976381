//! The environment of `winston-control`, parsed whole.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::filter::Targets;
use winston_wire::env::{Reader, Secret, Variable};

/// Every variable that control reads.
pub(crate) const VARIABLES: &[Variable] = &[
    Variable {
        name: "WINSTON_CONTROL_LISTEN",
        default: "127.0.0.1:3001",
        meaning: "Address and port to listen on. Port 0 picks a free one; `<data dir>/address` says which.",
    },
    Variable {
        name: "WINSTON_CONTROL_DATA_DIR",
        default: "./.winston-control",
        meaning: "Directory for the private database, the admin API key and local tenants.",
    },
    Variable {
        name: "DATABASE_URL",
        default: "",
        meaning: "PostgreSQL to use instead of a private cluster, without TLS: `postgres://user:password@host/database`.",
    },
    Variable {
        name: "WINSTON_POSTGRES_BIN",
        default: "",
        meaning: "Directory with `initdb`, `pg_ctl` and `postgres`. Unset: PATH, then the newest `/usr/lib/postgresql/*/bin`.",
    },
    Variable {
        name: "WINSTON_POSTGRES_USER",
        default: "",
        meaning: "User that the private cluster runs as when control is root. Unset: `postgres`, then `nobody`.",
    },
    Variable {
        name: "WINSTON_PUBLIC_URL",
        default: "",
        meaning: "URL under which sidecars reach control. Unset: `http://` and the address listened on.",
    },
    Variable {
        name: "WINSTON_LOCAL_ENTRYPOINT",
        default: "",
        meaning: "Program that the local provider starts. Unset: `winston-entrypoint` beside this program.",
    },
    Variable {
        name: "WINSTON_LOCAL_SIDECAR",
        default: "",
        meaning: "Program that the entrypoint of a local tenant starts. Unset: `winston-sidecar` beside this program.",
    },
    Variable {
        name: "WINSTON_LOCAL_OPENCLAW",
        default: "openclaw",
        meaning: "Program that the sidecar of a local tenant starts as the gateway.",
    },
    Variable { name: "WINSTON_LOCAL_PATH", default: "", meaning: "PATH of local tenants. Unset: the PATH of control." },
    Variable {
        name: "WINSTON_PROVISION_WAIT_SECONDS",
        default: "15",
        meaning: "How long provisioning waits for the new tenant's first check-in before it answers.",
    },
    Variable {
        name: "WINSTON_HEARTBEAT_SECONDS",
        default: "15",
        meaning: "Seconds between two check-ins of a sidecar.",
    },
    Variable {
        name: "WINSTON_MAX_FILE_BYTES",
        default: "10485760",
        meaning: "Largest content that is stored, in bytes.",
    },
    Variable {
        name: "WINSTON_MAX_CONNECTIONS",
        default: "4096",
        meaning: "Most open HTTP connections; further ones wait. Each tenant's long poll holds one.",
    },
    Variable {
        name: "WINSTON_LOG",
        default: "info",
        meaning: "What is logged: a level, or targets with levels such as `info,winston_control=debug`.",
    },
    Variable { name: "ANTHROPIC_API_KEY", default: "", meaning: "Passed to local tenants." },
    Variable { name: "OPENAI_API_KEY", default: "", meaning: "Passed to local tenants." },
    Variable { name: "GEMINI_API_KEY", default: "", meaning: "Passed to local tenants." },
    Variable { name: "OPENROUTER_API_KEY", default: "", meaning: "Passed to local tenants." },
    Variable {
        name: "MOONSHOT_API_KEY",
        default: "",
        meaning: "Passed to local tenants, as `MOONSHOT_PLATFORM_API_KEY`.",
    },
];

/// Model providers' keys, which tenants get from control's environment.
const PROVIDER_KEYS: &[&str] =
    &["ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY", "OPENROUTER_API_KEY", "MOONSHOT_API_KEY"];

/// Settings of one control.
#[derive(Debug)]
pub(crate) struct Config {
    /// Address to bind.
    pub(crate) listen: SocketAddr,
    /// Directory of this control.
    pub(crate) data_dir: PathBuf,
    /// Database; a private cluster when absent.
    pub(crate) database_url: Option<DatabaseUrl>,
    /// Directory of the PostgreSQL programs.
    pub(crate) postgres_bin: Option<PathBuf>,
    /// User of the private cluster.
    pub(crate) postgres_user: Option<String>,
    /// URL for sidecars, without a slash at the end.
    pub(crate) public_url: Option<String>,
    /// The local provider's settings.
    pub(crate) local: LocalConfig,
    /// How long provisioning waits for the first check-in.
    pub(crate) provision_wait: Duration,
    /// Seconds between check-ins.
    pub(crate) heartbeat_seconds: u32,
    /// Largest content.
    pub(crate) max_file_bytes: usize,
    /// Most open connections.
    pub(crate) max_connections: usize,
    /// Log filter.
    pub(crate) log: Targets,
}

/// How to reach a database that is not ours; it may hold a password.
pub(crate) struct DatabaseUrl(pub(crate) tokio_postgres::Config);

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatabaseUrl")
    }
}

/// What the local provider starts, and with what.
#[derive(Debug, Clone)]
pub(crate) struct LocalConfig {
    /// Program to start; beside this program when absent.
    pub(crate) entrypoint: Option<PathBuf>,
    /// Program that it starts; beside this program when absent.
    pub(crate) sidecar: Option<PathBuf>,
    /// The gateway program.
    pub(crate) openclaw: String,
    /// PATH of tenants.
    pub(crate) path: String,
    /// Names and values of model providers' keys.
    pub(crate) keys: Vec<(&'static str, Secret)>,
}

impl Config {
    /// Reads the environment; `Err` lists every mistake.
    pub(crate) fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<String>> {
        let own_path = lookup("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".to_owned());
        let mut reader = Reader::new(VARIABLES, &lookup);
        let database_url = reader.text("DATABASE_URL").and_then(|url| {
            let parsed = url.parse::<tokio_postgres::Config>().ok();
            match parsed {
                None => reader.mistake("DATABASE_URL must be a PostgreSQL URL or connection string"),
                Some(ref config) if config.get_ssl_mode() == tokio_postgres::config::SslMode::Require => {
                    reader.mistake("DATABASE_URL asks for TLS, which this version cannot do");
                }
                Some(_) => {}
            }
            parsed.map(DatabaseUrl)
        });
        let public_url = reader.text("WINSTON_PUBLIC_URL").map(|url| url.trim_end_matches('/').to_owned());
        if let Some(url) = &public_url
            && !(url.starts_with("http://") || url.starts_with("https://"))
        {
            reader.mistake("WINSTON_PUBLIC_URL must start with http:// or https://");
        }
        let log = reader
            .parsed("WINSTON_LOG", "a level or a list of `target=level`")
            .unwrap_or_else(|| Targets::new().with_default(tracing::Level::INFO));
        let listen = reader.parsed("WINSTON_CONTROL_LISTEN", "an IP address and a port, such as 127.0.0.1:3001");
        let config = Self {
            listen: listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 3001))),
            data_dir: reader.text("WINSTON_CONTROL_DATA_DIR").unwrap_or_else(|| "./.winston-control".to_owned()).into(),
            database_url,
            postgres_bin: reader.text("WINSTON_POSTGRES_BIN").map(PathBuf::from),
            postgres_user: reader.text("WINSTON_POSTGRES_USER"),
            public_url,
            local: LocalConfig {
                entrypoint: reader.text("WINSTON_LOCAL_ENTRYPOINT").map(PathBuf::from),
                sidecar: reader.text("WINSTON_LOCAL_SIDECAR").map(PathBuf::from),
                openclaw: reader.text("WINSTON_LOCAL_OPENCLAW").unwrap_or_else(|| "openclaw".to_owned()),
                path: reader.text("WINSTON_LOCAL_PATH").unwrap_or(own_path),
                keys: PROVIDER_KEYS.iter().filter_map(|name| Some((*name, Secret::new(reader.text(name)?)))).collect(),
            },
            provision_wait: Duration::from_secs(
                within(&mut reader, "WINSTON_PROVISION_WAIT_SECONDS", 0, 120).unwrap_or(15),
            ),
            heartbeat_seconds: within(&mut reader, "WINSTON_HEARTBEAT_SECONDS", 1, 3600)
                .map_or(15, |seconds| seconds as u32),
            max_file_bytes: within(&mut reader, "WINSTON_MAX_FILE_BYTES", 1, 256 << 20)
                .map_or(10 << 20, |bytes| bytes as usize),
            max_connections: within(&mut reader, "WINSTON_MAX_CONNECTIONS", 1, 1 << 20)
                .map_or(4096, |number| number as usize),
            log,
        };
        let mistakes = reader.finish();
        if mistakes.is_empty() { Ok(config) } else { Err(mistakes) }
    }
}

fn within(reader: &mut Reader<'_>, name: &str, least: u64, most: u64) -> Option<u64> {
    let expected = format!("a number from {least} to {most}");
    let value = reader.parsed::<u64>(name, &expected)?;
    if (least..=most).contains(&value) {
        Some(value)
    } else {
        reader.mistake(format!("{name} must be {expected}"));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_environment_gives_the_documented_defaults() {
        let config = Config::from_env(|_| None).unwrap();
        let default = |name: &str| {
            let variable = VARIABLES.iter().find(|variable| variable.name == name);
            variable.unwrap().default
        };
        assert_eq!(config.listen.to_string(), default("WINSTON_CONTROL_LISTEN"));
        assert_eq!(config.data_dir.to_str(), Some(default("WINSTON_CONTROL_DATA_DIR")));
        for (value, name) in [
            (u64::from(config.heartbeat_seconds), "WINSTON_HEARTBEAT_SECONDS"),
            (config.max_file_bytes as u64, "WINSTON_MAX_FILE_BYTES"),
            (config.max_connections as u64, "WINSTON_MAX_CONNECTIONS"),
            (config.provision_wait.as_secs(), "WINSTON_PROVISION_WAIT_SECONDS"),
        ] {
            assert_eq!(value.to_string(), default(name), "{name}");
        }
    }

    #[test]
    fn every_mistake_is_listed_and_no_secret_with_it() {
        let mistakes = Config::from_env(|name| {
            Some(
                match name {
                    "WINSTON_CONTROL_LISTEN" => "here",
                    "WINSTON_HEARTBEAT_SECONDS" => "0",
                    "DATABASE_URL" => "postgres://u:hunter2-test@h/db?sslmode=require",
                    "WINSTON_PUBLIC_URL" => "control.example.com",
                    _ => return None,
                }
                .to_owned(),
            )
        })
        .unwrap_err();
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
        assert!(!mistakes.join(" ").contains("hunter2"));
    }
}
