//! The gateway's own program, run beside it for a question: as its user, with its environment, for a bounded time.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::helper::Helper;
use super::{GatewayConfig, Identity, env};

/// Output that is kept, in bytes of each stream.
const MAX_OUTPUT: usize = 256 * 1024;

/// How the gateway's own program is run.
#[derive(Debug, Clone)]
pub(crate) struct Cli {
    /// The program.
    pub(crate) program: PathBuf,
    /// Where it runs when it is asked about the tenant: its home.
    pub(crate) home: PathBuf,
    /// Whom to run it as; `None`: as ourselves.
    pub(crate) identity: Option<Identity>,
    /// The gateway's whole environment.
    pub(crate) environment: Vec<(String, String)>,
    /// Values that must not show in what is passed on, longest first.
    pub(crate) secrets: Vec<String>,
    /// Port on which the gateway is supervised.
    pub(crate) port: u16,
}

/// What it said until it ended; the beginning, if that was long.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// Why it said nothing.
#[derive(Debug)]
pub(crate) enum Unsaid {
    /// It did not end in time, and was ended with everything that it had started.
    Late,
    /// It could not be run.
    Failed(io::Error),
}

impl Cli {
    /// Like the gateway of this configuration.
    pub(crate) fn of(config: &GatewayConfig) -> Self {
        Self {
            program: config.program.clone(),
            home: config.home.clone(),
            identity: config.identity,
            environment: env::complete(config),
            secrets: env::secrets(config),
            port: config.port,
        }
    }

    /// Runs it in `directory`, with `more` variables. When it is not waited for any more, it is killed.
    pub(crate) async fn ask(
        &self,
        arguments: &[&str],
        more: &[(&str, &Path)],
        directory: &Path,
        limit: Duration,
    ) -> Result<Said, Unsaid> {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut helper = Helper::start(&mut command, self.identity, directory).map_err(Unsaid::Failed)?;
        let (stdout, stderr) = helper.streams();
        let all = async { tokio::join!(read(stdout), read(stderr), helper.ended()) };
        let Ok((stdout, stderr, status)) = tokio::time::timeout(limit, all).await else {
            helper.end().await;
            return Err(Unsaid::Late);
        };
        Ok(Said { status: status.map_err(Unsaid::Failed)?, stdout, stderr })
    }
}

/// Reads a stream to its end and keeps the beginning.
async fn read(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let Some(mut stream) = stream else { return Vec::new() };
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
    while let Ok(read) = stream.read(&mut buffer).await
        && read > 0
    {
        let room = MAX_OUTPUT - kept.len();
        kept.extend_from_slice(&buffer[..read.min(room)]);
    }
    kept
}
