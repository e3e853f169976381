//! The gateway's output while there is no sidecar to read it.
//!
//! A gateway whose pipe is full waits in write(2), and with it everything else that it does. So for as long as no sidecar can be started, the
//! oldest output gives way. Never while there is a sidecar: it looks at what is in the pipes before it takes it out.

use std::time::{Duration, Instant};

use crate::handover::Handover;
use crate::log;

/// Pause between two looks; a sidecar that follows at once finds everything.
const PAUSE: Duration = Duration::from_secs(1);

/// The same while the gateway writes faster than that.
const SHORT: Duration = Duration::from_millis(50);

/// Pause between two lines about it.
const TOLD: Duration = Duration::from_secs(60);

/// Makes room, and says so.
pub(crate) struct Relief {
    due: Instant,
    /// Bytes since our start, and how many of them were told, when.
    lost: u64,
    told: Option<(u64, Instant)>,
}

impl Relief {
    /// Begins to wait.
    pub(crate) fn new(now: Instant) -> Self {
        Self { due: now + PAUSE, lost: 0, told: None }
    }

    /// A sidecar has ended.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.due = now + PAUSE;
    }

    /// When to look next, while there is no sidecar.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Looks at the pipes.
    pub(crate) fn look(&mut self, now: Instant, handover: &Handover) {
        let lost = handover.relieve();
        self.lost += lost;
        self.due = now + if lost > 0 { SHORT } else { PAUSE };
        if self.told.is_none_or(|(_, at)| now.saturating_duration_since(at) >= TOLD) {
            self.tell(now);
        }
    }

    /// Says how much is lost by now, unless that is known.
    pub(crate) fn tell(&mut self, now: Instant) {
        if self.lost > self.told.map_or(0, |(told, _)| told) {
            self.told = Some((self.lost, now));
            log::warn(
                "no sidecar reads the gateway's output: the oldest of it is thrown away, so that the gateway goes on",
                &[("bytes", self.lost.into())],
            );
        }
    }
}
