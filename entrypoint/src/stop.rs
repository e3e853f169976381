//! What a signal or the passing of time asks for: the decisions of PID 1, without the doing.
//!
//! ```text
//!            TERM, INT                 grace over, or TERM, INT again
//! Running ───────────────► Stopping ──────────────────────────────────► Killed ──5 s──► gives up
//!    └── HUP: forwarded, in every state before Killed; USR1, USR2, QUIT: refused ──┘
//! ```

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

/// How long a killed sidecar may take to disappear. Only a process stuck in the kernel needs it.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nobody asked for the end.
    Running,
    /// The sidecar was asked to end, and has until then.
    Stopping(Instant),
    /// The sidecar was killed, and is waited for until then.
    Killed(Instant),
}

/// What is to be done to the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Nothing.
    Nothing,
    /// Pass the signal on.
    Forward(Signal),
    /// Say that the signal is not passed on, and why.
    Refuse(&'static str),
    /// Kill it.
    Kill,
    /// Stop waiting for it.
    GiveUp,
}

impl Phase {
    /// A signal came, other than `SIGCHLD`.
    pub(crate) fn on_signal(&mut self, signal: Signal, now: Instant, grace: Duration) -> Act {
        match (signal, *self) {
            // The gateway would open its inspector: a shell for whoever reaches the port.
            (Signal::SIGUSR1, _) => Act::Refuse("SIGUSR1 is not passed on: it would open a debugger"),
            // The sidecar would end, and every connection through the front door with it.
            (Signal::SIGUSR2, _) => Act::Refuse("SIGUSR2 is not passed on; POST /gateway/restart restarts the gateway"),
            (Signal::SIGQUIT, _) => Act::Refuse("SIGQUIT is not passed on; POST /gateway/restart restarts the gateway"),
            (_, Self::Killed(_)) => Act::Nothing,
            (Signal::SIGTERM | Signal::SIGINT, Self::Running) => {
                *self = Self::Stopping(now + grace);
                Act::Forward(signal)
            }
            (Signal::SIGTERM | Signal::SIGINT, Self::Stopping(_)) => self.kill(now),
            (other, _) => Act::Forward(other),
        }
    }

    /// The deadline passed.
    pub(crate) fn on_deadline(&mut self, now: Instant) -> Act {
        match *self {
            Self::Running => Act::Nothing,
            Self::Stopping(_) => self.kill(now),
            Self::Killed(_) => Act::GiveUp,
        }
    }

    /// When [`Phase::on_deadline`] is due.
    pub(crate) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Running => None,
            Self::Stopping(at) | Self::Killed(at) => Some(at),
        }
    }

    fn kill(&mut self, now: Instant) -> Act {
        *self = Self::Killed(now + KILL_WAIT);
        Act::Kill
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(25);

    #[test]
    fn a_stop_gets_its_grace_and_no_more() {
        let now = Instant::now();
        let mut phase = Phase::Running;
        assert_eq!(phase.deadline(), None);
        let act = phase.on_signal(Signal::SIGTERM, now, GRACE);
        assert_eq!(act, Act::Forward(Signal::SIGTERM));
        assert_eq!(phase.deadline(), Some(now + GRACE));
        assert_eq!(phase.on_deadline(now + GRACE), Act::Kill);
        assert_eq!(phase.deadline(), Some(now + GRACE + KILL_WAIT));
        assert_eq!(phase.on_deadline(now + GRACE + KILL_WAIT), Act::GiveUp);
    }

    #[test]
    fn the_second_stop_hurries() {
        let now = Instant::now();
        for (first, second) in
            [(Signal::SIGTERM, Signal::SIGTERM), (Signal::SIGINT, Signal::SIGINT), (Signal::SIGINT, Signal::SIGTERM)]
        {
            let mut phase = Phase::Running;
            phase.on_signal(first, now, GRACE);
            assert_eq!(phase.on_signal(second, now, GRACE), Act::Kill);
            assert_eq!(phase.on_signal(second, now, GRACE), Act::Nothing);
        }
    }

    #[test]
    fn a_hangup_passes_and_does_not_stop() {
        let (now, signal) = (Instant::now(), Signal::SIGHUP);
        let mut phase = Phase::Running;
        assert_eq!(phase.on_signal(signal, now, GRACE), Act::Forward(signal));
        assert_eq!(phase, Phase::Running);
        phase.on_signal(Signal::SIGTERM, now, GRACE);
        assert_eq!(phase.on_signal(signal, now, GRACE), Act::Forward(signal));
    }

    #[test]
    fn signals_that_would_do_harm_never_pass() {
        let now = Instant::now();
        for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGQUIT] {
            for mut phase in [Phase::Running, Phase::Stopping(now), Phase::Killed(now)] {
                let before = phase;
                let act = phase.on_signal(signal, now, GRACE);
                assert!(matches!(act, Act::Refuse(why) if why.starts_with(signal.as_str())), "{act:?}");
                assert_eq!(phase, before);
            }
        }
    }
}
