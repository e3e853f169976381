//! The private PostgreSQL cluster: made once, started when it does not run, adopted when it does.
//!
//! Below `<data dir>/postgres`: `data` (the cluster), `run` (its socket), `log`; beside it `postgres.conf`. Nobody but
//! the cluster's own user can reach the socket, so connections over it are trusted; TCP is off. PostgreSQL refuses to
//! run as root: then the whole directory belongs to another user, and the programs run as that one. Root follows no
//! link below it.

mod postmaster;
mod settings;

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::unistd::{Gid, Uid, User, chown, fchown, geteuid};
use tokio::process::Command;
use winston_wire::ContentHash;

use self::postmaster::Postmaster;
use crate::data_dir::private_dir;

/// How long a cluster that does not start is tried again, and the pause before each further try.
const START_PATIENCE: Duration = Duration::from_secs(15);
const START_PAUSE: Duration = Duration::from_millis(500);

/// Longest path of a Unix socket that every libc accepts, with its NUL.
const MAX_SOCKET_PATH: usize = 108;
/// Name of the socket, and of the lock beside it, in the socket directory.
const SOCKET_NAME: &str = "/.s.PGSQL.5432.lock";
/// Longest run of `initdb`.
const INIT_LIMIT: Duration = Duration::from_secs(120);
/// Longest start or stop that `pg_ctl` waits for; recovery after a crash may need it.
const CTL_SECONDS: &str = "60";
const CTL_LIMIT: Duration = Duration::from_secs(75);
/// How often a running cluster is looked at.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// The superuser inside the cluster.
const DATABASE_USER: &str = "winston";

/// A private cluster.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    home: PathBuf,
    bin: PathBuf,
    /// Set when control is root.
    user: Option<(Uid, Gid)>,
    socket_dir: PathBuf,
    /// Beside `home`, where only control can write.
    settings: PathBuf,
}

impl Cluster {
    /// Makes sure that the cluster below `data_dir` runs.
    pub(crate) async fn start(data_dir: &Path, bin: Option<&Path>, user: Option<&str>) -> anyhow::Result<Self> {
        let home = data_dir.join("postgres");
        private_dir(&home).with_context(|| format!("cannot create {}", home.display()))?;
        let user = if geteuid().is_root() { Some(service_user(user)?) } else { None };
        let mut owner = geteuid();
        if let Some((uid, gid)) = user {
            owner = uid;
            chown(&home, Some(uid), Some(gid))
                .with_context(|| format!("cannot give {} to uid {uid}", home.display()))?;
            check_reachable(&home, uid, gid)?;
        }
        let socket_dir = socket_dir(&home, owner, user)?;
        let settings = data_dir.join("postgres.conf");
        let mut cluster = Self { bin: find_bin(bin)?, socket_dir, home, user, settings };
        cluster.initialise().await?;
        cluster.ensure_running().await?;
        Ok(cluster)
    }

    /// How to connect.
    pub(crate) fn connection(&self) -> tokio_postgres::Config {
        connection(&self.socket_dir)
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    async fn initialise(&self) -> anyhow::Result<()> {
        let data = self.data();
        if data.join("PG_VERSION").exists() {
            return Ok(());
        }
        tracing::info!(path = %data.display(), "creating the private database");
        // A directory of its own until it is whole: an `initdb` that was killed leaves one that cannot be used.
        let new = self.home.join("data.new");
        if new.exists() {
            std::fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
        }
        let mut command = self.command("initdb");
        command
            .arg("--pgdata")
            .arg(&new)
            .args(["--username", DATABASE_USER])
            .args(["--auth-local=trust", "--auth-host=reject"])
            .args(["--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"]);
        run(command, INIT_LIMIT).await?;
        std::fs::rename(&new, &data).with_context(|| format!("cannot rename {} to {}", new.display(), data.display()))
    }

    /// Starts the cluster unless it runs.
    async fn ensure_running(&mut self) -> anyhow::Result<()> {
        if let Some(running) = self.running()? {
            // It keeps the socket that it was started with.
            self.socket_dir = running.socket_dir.unwrap_or_else(|| self.socket_dir.clone());
            tracing::info!(path = %self.home.display(), "the private database already runs");
            return Ok(());
        }
        let data = self.data();
        postmaster::disown(&data, self.user)
            .with_context(|| format!("cannot take the postmaster.pid of {}", data.display()))?;
        settings::write(&self.settings, &data, &self.socket_dir)?;
        tracing::info!(path = %self.home.display(), "starting the private database");
        let give_up = tokio::time::Instant::now() + START_PATIENCE;
        loop {
            let mut command = self.command("pg_ctl");
            command
                .args(["start", "--wait", "--silent", "--timeout", CTL_SECONDS])
                .arg("--options")
                .arg(settings::option(&self.settings))
                .arg("--pgdata")
                .arg(&data)
                .arg("--log")
                .arg(self.home.join("log"));
            let started = run(command, CTL_LIMIT).await;
            // What a killed postmaster leaves ends by itself within seconds, and until then no new one can start.
            if started.is_ok() || tokio::time::Instant::now() >= give_up {
                return started.with_context(|| {
                    format!("the private database does not start; its log is {}", self.home.join("log").display())
                });
            }
            tracing::warn!(path = %self.home.display(), "the private database does not start yet; trying again");
            tokio::time::sleep(START_PAUSE).await;
        }
    }

    fn running(&self) -> anyhow::Result<Option<Postmaster>> {
        let data = self.data();
        postmaster::running(&data).with_context(|| format!("cannot read the postmaster.pid of {}", data.display()))
    }

    /// Starts the cluster again whenever it has gone, for ever.
    pub(crate) async fn watch(mut self) {
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            match self.running() {
                Ok(Some(_)) => continue,
                Ok(None) => tracing::warn!(path = %self.home.display(), "the private database has gone"),
                Err(error) => tracing::warn!(error = format!("{error:#}"), "the private database cannot be seen"),
            }
            if let Err(error) = self.ensure_running().await {
                tracing::error!(error = format!("{error:#}"), "cannot start the private database again");
            }
        }
    }

    /// Stops the cluster: open transactions are rolled back, everything committed is on disk.
    pub(crate) async fn stop(&self) -> anyhow::Result<()> {
        // `pg_ctl` would signal whoever has the pid of a postmaster that is gone.
        if self.running()?.is_none() {
            return Ok(());
        }
        let mut command = self.command("pg_ctl");
        command
            .args(["stop", "--mode=fast", "--wait", "--silent"])
            .args(["--timeout", CTL_SECONDS])
            .arg("--pgdata")
            .arg(self.data());
        run(command, CTL_LIMIT).await.context("the private database does not stop")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .current_dir(&self.home)
            .stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            // With a uid and no groups, the standard library drops root's supplementary groups as well.
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        command
    }
}

/// How to connect to the cluster below this data directory, if it runs. Starts nothing.
pub(crate) fn running(data_dir: &Path) -> anyhow::Result<Option<tokio_postgres::Config>> {
    // The postmaster was told the real name.
    let Ok(data_dir) = data_dir.canonicalize() else {
        return Ok(None);
    };
    let home = data_dir.join("postgres");
    let running = postmaster::running(&home.join("data"))
        .with_context(|| format!("cannot look at the private database in {}", home.display()))?;
    Ok(running.map(|running| connection(&running.socket_dir.unwrap_or_else(|| home.join("run")))))
}

fn connection(socket_dir: &Path) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host_path(socket_dir).user(DATABASE_USER).dbname("postgres");
    config
}

/// Runs a program to its end; its own words become the error.
async fn run(mut command: Command, limit: Duration) -> anyhow::Result<()> {
    let program = command.as_std().get_program().to_owned();
    let name = Path::new(&program).file_name().unwrap_or(&program).to_string_lossy().into_owned();
    command.kill_on_drop(true);
    let output = tokio::time::timeout(limit, command.output())
        .await
        .with_context(|| format!("{name} did not end within {} s", limit.as_secs()))?
        .with_context(|| format!("cannot run {}", Path::new(&program).display()))?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} failed ({}): {}", output.status, words.trim().replace('\n', "; "));
    Ok(())
}

/// The user for the cluster's processes when control is root.
fn service_user(name: Option<&str>) -> anyhow::Result<(Uid, Gid)> {
    let candidates: Vec<&str> = name.map_or_else(|| vec!["postgres", "nobody"], |name| vec![name]);
    for candidate in &candidates {
        let user = User::from_name(candidate).with_context(|| format!("cannot look up the user {candidate}"))?;
        if let Some(user) = user {
            ensure!(!user.uid.is_root(), "PostgreSQL does not run as root; set WINSTON_POSTGRES_USER to another user");
            return Ok((user.uid, user.gid));
        }
    }
    bail!(
        "control runs as root and there is no user {} for the private database; set WINSTON_POSTGRES_USER",
        candidates.join(" or ")
    )
}

/// Says which parent directory keeps the cluster's user out, before `initdb` fails with less.
fn check_reachable(home: &Path, uid: Uid, gid: Gid) -> anyhow::Result<()> {
    for dir in home.ancestors().skip(1) {
        let meta = std::fs::metadata(dir).with_context(|| format!("cannot look at {}", dir.display()))?;
        let bit = if meta.uid() == uid.as_raw() {
            0o100
        } else if meta.gid() == gid.as_raw() {
            0o010
        } else {
            0o001
        };
        ensure!(
            meta.mode() & bit != 0,
            "the private database runs as uid {uid}, which may not pass through {dir}; \
             run `chmod o+x {dir}`, move WINSTON_CONTROL_DATA_DIR or set DATABASE_URL",
            dir = dir.display()
        );
    }
    Ok(())
}

/// The directory with the PostgreSQL programs.
fn find_bin(configured: Option<&Path>) -> anyhow::Result<PathBuf> {
    let complete = |dir: &Path| ["initdb", "pg_ctl", "postgres"].iter().all(|program| dir.join(program).is_file());
    if let Some(dir) = configured {
        ensure!(complete(dir), "WINSTON_POSTGRES_BIN: {} lacks initdb, pg_ctl or postgres", dir.display());
        return Ok(dir.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(dir) = std::env::split_paths(&path).find(|dir| dir.is_absolute() && complete(dir)) {
        return Ok(dir);
    }
    let version = |name: &OsStr| name.to_str()?.parse::<u32>().ok();
    std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((version(&entry.file_name())?, entry.path().join("bin"))))
        .filter(|(_, dir)| complete(dir))
        .max()
        .map(|(_, dir)| dir)
        .context(
            "PostgreSQL is not installed (no initdb, pg_ctl and postgres in PATH or /usr/lib/postgresql); \
             install it, set WINSTON_POSTGRES_BIN or set DATABASE_URL",
        )
}

/// The socket's directory: in the cluster's own, or in a short one when that path is too long for a socket.
fn socket_dir(home: &Path, owner: Uid, user: Option<(Uid, Gid)>) -> anyhow::Result<PathBuf> {
    let inside = home.join("run");
    let dir = if inside.as_os_str().len() + SOCKET_NAME.len() < MAX_SOCKET_PATH {
        inside
    } else {
        std::env::temp_dir().join(format!("winston-{}", short_name(home)))
    };
    ensure!(
        dir.as_os_str().len() + SOCKET_NAME.len() < MAX_SOCKET_PATH,
        "{} is too long for a socket; set TMPDIR to a shorter directory",
        dir.display()
    );
    match std::fs::create_dir(&dir) {
        Ok(()) => {
            // By handle: the name is in a directory of the cluster's user, who may have put something else there.
            let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::DIRECTORY).bits() as i32;
            let made = std::fs::OpenOptions::new()
                .read(true)
                .custom_flags(flags)
                .open(&dir)
                .with_context(|| format!("cannot open {}", dir.display()))?;
            made.set_permissions(std::fs::Permissions::from_mode(0o700))
                .with_context(|| format!("cannot close {} to others", dir.display()))?;
            if let Some((uid, gid)) = user {
                fchown(&made, Some(uid), Some(gid))
                    .with_context(|| format!("cannot give {} to uid {uid}", dir.display()))?;
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot create {}", dir.display()));
        }
    }
    // In a shared temporary directory somebody else may have been first.
    let meta = std::fs::symlink_metadata(&dir).with_context(|| format!("cannot look at {}", dir.display()))?;
    ensure!(
        meta.is_dir() && meta.uid() == owner.as_raw() && meta.mode() & 0o077 == 0,
        "{} is not a private directory of uid {owner}; remove it",
        dir.display()
    );
    Ok(dir)
}

fn short_name(home: &Path) -> String {
    use sha2::Digest as _;
    use std::os::unix::ffi::OsStrExt as _;
    let digest = sha2::Sha256::digest(home.as_os_str().as_bytes());
    let mut name = ContentHash::from_bytes(digest.into()).to_string();
    name.truncate(16);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_data_directory_gets_a_short_socket() {
        let base = tempfile::tempdir().unwrap();
        let home = base.path().join("x".repeat(120));
        std::fs::create_dir(&home).unwrap();
        let dir = socket_dir(&home, geteuid(), None).unwrap();
        assert!(!dir.starts_with(&home));
        assert!(dir.as_os_str().len() + SOCKET_NAME.len() < MAX_SOCKET_PATH);
        assert_eq!(socket_dir(&home, geteuid(), None).unwrap(), dir);
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(socket_dir(&home, geteuid(), None).is_err());
        std::fs::remove_dir(&dir).unwrap();
    }

    #[test]
    fn the_directory_that_keeps_the_user_out_is_named() {
        let base = tempfile::tempdir().unwrap();
        let home = base.path().join("postgres");
        std::fs::create_dir(&home).unwrap();
        let closed = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(base.path(), closed).unwrap();
        let stranger = (Uid::from_raw(4_000_001), Gid::from_raw(4_000_001));
        let error = check_reachable(&home, stranger.0, stranger.1).unwrap_err().to_string();
        assert!(error.contains(&base.path().display().to_string()), "{error}");
    }
}
