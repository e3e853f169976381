//! Starts one sidecar.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::Pid;
use winston_wire::HANDOVER_FDS;

use crate::handover::Handover;
use crate::log;
use crate::settings::{Settings, seed_variables};
use crate::{Failure, sys};

const SIDECAR: &str = "winston-sidecar";

/// The executable: the one that was named, else the one beside ours.
pub(crate) fn program(settings: &Settings) -> PathBuf {
    settings.sidecar.clone().unwrap_or_else(beside_us)
}

/// Starts it with what is handed on. `temporary`: the gateway's directory for temporary files.
pub(crate) fn launch(
    program: &Path,
    settings: &Settings,
    temporary: Option<&Path>,
    handover: &Handover,
) -> io::Result<Pid> {
    let mut command = Command::new(program);
    command
        .stdin(Stdio::null())
        .envs(settings.exports())
        .envs(temporary.map(|path| ("WINSTON_GATEWAY_TMPDIR", path)))
        .env(HANDOVER_FDS, handover.fds().to_string());
    // Seeds are files by now; a hundred kilobytes of environment would be copied into every process of the agent.
    for name in seed_variables() {
        command.env_remove(name);
    }
    let pid = sys::spawn(&mut command, handover.inherit())?;
    log::info(
        "started the sidecar",
        &[
            ("pid", pid.as_raw().into()),
            ("tenant", settings.tenant.as_str().into()),
            ("data_dir", settings.data_dir.display().to_string().into()),
            ("program", program.display().to_string().into()),
        ],
    );
    Ok(pid)
}

fn beside_us() -> PathBuf {
    let ours = std::env::current_exe();
    let beside = ours.ok().map(|path| path.with_file_name(SIDECAR));
    beside.unwrap_or_else(|| SIDECAR.into())
}

/// The line for a person when it could not be started.
pub(crate) fn not_started(program: &Path, error: &io::Error) -> Failure {
    let (code, reason) = match error.kind() {
        ErrorKind::NotFound => (127, "not found".to_owned()),
        _ => (126, error.to_string()),
    };
    Failure {
        code,
        message: format!(
            "the sidecar {} cannot be started: {reason}; set WINSTON_SIDECAR_BIN to its executable",
            program.display()
        ),
    }
}
