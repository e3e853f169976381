//! A gateway made of a script, and ways to wait for it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;

use super::stand_in::StandIn;
use crate::gateway::{
    Backoff, GatewayConfig, GatewayHandle, GatewayState, GatewayStatus, Limits, LogSettings, logs::Stream, start,
};

static TURN: Mutex<()> = Mutex::const_new(());

/// Far beyond what anything here takes; only a defect reaches it.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A gateway made of a script, and everything around it.
pub(super) struct Rig {
    _turn: MutexGuard<'static, ()>,
    pub(super) dir: TempDir,
    pub(super) config: GatewayConfig,
    pub(super) stand_in: StandIn,
}

impl Rig {
    /// `script` runs with `$CTL`: a FIFO that blocks whoever reads it until the test writes a line.
    pub(super) async fn new(script: &str) -> Self {
        let turn = TURN.lock().await;
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        for name in ["state", "workspace", "home"] {
            std::fs::create_dir(at(name)).expect("a directory");
        }
        std::fs::write(at("state/openclaw.json"), "{}").expect("a config");
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
        nix::unistd::mkfifo(&at("ctl"), mode).expect("a fifo");
        let text = format!("#!/bin/sh\nCTL={}\n{script}\n", at("ctl").display());
        std::fs::write(at("openclaw"), text).expect("a program");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(at("openclaw"), executable).expect("executable");
        let stand_in = StandIn::bind(at("ctl")).await;
        let config = GatewayConfig {
            program: at("openclaw"),
            state_dir: at("state"),
            workspace_dir: at("workspace"),
            home: at("home"),
            port: stand_in.port,
            identity: None,
            environment: vec![("PATH".into(), std::env::var("PATH").unwrap_or_default())],
            rpc_secret: None,
            memory_limit: None,
            limits: Limits {
                probe_starting: Duration::from_millis(5),
                probe_ready: Duration::from_millis(5),
                probe_unresponsive: Duration::from_millis(5),
                term_grace: Duration::from_millis(300),
                backoff: Backoff::new(Duration::from_millis(1), Duration::from_millis(5)).expect("valid"),
                crash_loop_retry: PATIENCE * 10,
                ..Limits::default()
            },
            logs: LogSettings::default(),
        };
        Self { _turn: turn, dir, config, stand_in }
    }

    pub(super) fn start(&self) -> GatewayHandle {
        start(self.config.clone(), None).expect("pipes")
    }

    pub(super) fn config_file(&self) -> PathBuf {
        self.config.state_dir.join("openclaw.json")
    }
}

/// Waits until the supervisor shows a status that satisfies `wanted`.
pub(super) async fn until(handle: &GatewayHandle, wanted: impl FnMut(&GatewayStatus) -> bool) -> GatewayStatus {
    let mut status = handle.subscribe();
    let found = timeout(PATIENCE, status.wait_for(wanted)).await;
    match found {
        Ok(Ok(status)) => status.clone(),
        _ => panic!("stays in {:?}\n{:#?}", handle.status(), handle.logs(50)),
    }
}

pub(super) async fn until_state(handle: &GatewayHandle, state: GatewayState) -> GatewayStatus {
    until(handle, |status| status.state == state).await
}

/// Waits for something that nobody announces.
pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if timeout(PATIENCE, waiting).await.is_err() {
        panic!("never: {what}");
    }
}

pub(super) fn exists(pid: impl std::fmt::Display) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// The lines that the script wrote.
pub(super) fn output(handle: &GatewayHandle) -> Vec<String> {
    handle.logs(usize::MAX).into_iter().filter(|line| line.stream != Stream::Winston).map(|line| line.line).collect()
}
