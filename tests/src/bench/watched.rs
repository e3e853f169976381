//! A sidecar that is watched from its start: when it has compared its tree, and what it did for that.

use std::fs::File;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::http::{Client, free_address};
use crate::sidecar::Setup;
use crate::wait::within;

/// Pause between two looks at `/status`: the resolution of the time. Each look costs the sidecar a request.
const PAUSE: Duration = Duration::from_millis(3);

/// Longest wait for a first listing, and for an end.
const PATIENCE: Duration = Duration::from_secs(300);

/// A sidecar process. Killed when dropped.
pub(super) struct Watched {
    child: Child,
    client: Client,
}

/// What `/status` said when the tree had been compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Compared {
    /// Since before the process was made.
    pub(super) time: Duration,
    /// Files whose content was read, by the sidecar's own count.
    pub(super) hashed: u64,
    /// The newest record.
    pub(super) head_seq: u64,
}

impl Watched {
    /// Starts one and waits until it has listed its tree, has a record for each of `files`, and says so in `/status`.
    pub(super) fn start(setup: &Setup, files: usize) -> Result<(Self, Compared)> {
        let address = free_address()?;
        let mut command = setup.clone().env("WINSTON_SIDECAR_LISTEN", &address.to_string()).command()?;
        let log = setup.outside().join("sidecar.log");
        let file = File::create(&log)?;
        command.stdout(file.try_clone()?).stderr(file);
        let client = Client::new(address, setup.token_text());
        let started = Instant::now();
        let mut watched = Self { child: command.spawn().context("winston-sidecar")?, client };
        loop {
            if let Some(status) = watched.child.try_wait()? {
                bail!("the sidecar ended with {status}: {}", std::fs::read_to_string(&log)?);
            }
            // Until it listens, it refuses.
            if let Some((hashed, head_seq)) = watched.status().ok().and_then(|status| compared(&status, files)) {
                return Ok((watched, Compared { time: started.elapsed(), hashed, head_seq }));
            }
            if started.elapsed() > PATIENCE {
                let said = watched.status().map_or_else(|error| format!("{error:#}"), |status| status.to_string());
                bail!("{files} files were not compared within {} s: {said}", PATIENCE.as_secs());
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// `GET /status`.
    pub(super) fn status(&self) -> Result<Value> {
        self.client.get("/status")
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM; its index is on disk afterwards.
    pub(super) fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        let status = within(PATIENCE, "the sidecar ends", || Ok(self.child.try_wait()?))?;
        if !status.success() {
            bail!("the sidecar ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Files hashed and the newest record, once the whole tree was listed and every file in it has a record.
fn compared(status: &Value, files: usize) -> Option<(u64, u64)> {
    let watch = &status["watch"];
    // Directories are counted at the end of a full listing, and none before the first.
    let listed = watch["directories"].as_u64()? > 0;
    let recorded = watch["files"].as_u64()? >= files as u64;
    if !listed || !recorded {
        return None;
    }
    Some((watch["hashed"].as_u64()?, status["journal"]["head_seq"].as_u64()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn compared_is_listed_and_recorded() {
        let status = |directories: u64, files: u64| json!({ "watch": { "directories": directories, "files": files, "hashed": 3 }, "journal": { "head_seq": 9 } });
        assert_eq!(compared(&status(4, 100), 100), Some((3, 9)));
        assert_eq!(compared(&status(0, 100), 100), None, "what an earlier process recorded is no listing");
        assert_eq!(compared(&status(4, 99), 100), None);
        assert_eq!(compared(&json!({}), 0), None);
    }
}
