//! SIGKILL at the moment that the plan names.

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::plan::{Moment, Plan, Victim};
use crate::control::signal;
use crate::household::Home;
use crate::wait::{eventually, within};

/// How long a round waits for the step at which it kills.
const MOMENT: Duration = Duration::from_secs(2);

/// Waits for the moment, and kills.
pub(super) fn kills(home: &Home, plan: &Plan) -> Result<Vec<Victim>> {
    match plan.moment {
        Moment::After(time) => std::thread::park_timeout(time),
        Moment::During(activity, pause) => {
            let end = Instant::now() + MOMENT;
            while Instant::now() < end {
                if home.client.get("/config").is_ok_and(|report| report["activity"] == activity) {
                    std::thread::park_timeout(pause);
                    break;
                }
                std::thread::park_timeout(Duration::from_millis(2));
            }
        }
    }
    for victim in &plan.victims {
        match victim {
            Victim::Sidecar => {
                home.kill_sidecar()?;
            }
            Victim::Gateway => {
                if let Some(pid) = home.starts()?.last() {
                    signal(pid.parse()?, Signal::SIGKILL);
                }
            }
            Victim::Container => kill_container(home)?,
        }
        std::thread::park_timeout(plan.between);
    }
    Ok(plan.victims.clone())
}

/// Entrypoint first, so that nobody starts what is killed after it.
pub(super) fn kill_container(home: &Home) -> Result<()> {
    let entrypoint = home.entrypoint.entrypoint()?;
    kill(entrypoint, Signal::SIGSTOP)?;
    let sidecar = within(Duration::from_secs(1), "a sidecar", || home.sidecar().map(Some));
    kill(entrypoint, Signal::SIGKILL)?;
    if let Ok(sidecar) = sidecar {
        kill(sidecar, Signal::SIGKILL)?;
        // Somebody else's child by now, so nobody can wait for it: its listener goes last.
        let address = home.client.address();
        eventually("the end of the sidecar", || Ok(std::net::TcpListener::bind(address).is_ok().then_some(())))?;
    }
    eventually("the end of the gateways", || {
        for pid in home.gateway_pids()? {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        Ok(home.gateway_pids()?.is_empty().then_some(()))
    })
}
