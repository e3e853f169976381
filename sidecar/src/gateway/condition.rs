//! What a gateway that answers says of itself: `/readyz` with the details that it gives to callers on loopback.
//!
//! ```text
//!  503 {"ready":false,"failing":["gateway-draining"],"eventLoop":{"degraded":false,"reasons":[],…},…}
//!  200 {"ready":true,"failing":[],"suppressed":["telegram"],"eventLoop":{"degraded":true,"reasons":["event_loop_delay"],…},…}
//! ```
//!
//! Nothing of this is a reason to restart it. `suppressed` names channels that it does not start because it crashed several
//! times within minutes; see `channels`.

use serde::Deserialize;

/// Readings in a row that show a trouble before it counts: a busy moment is none.
const ENOUGH: u32 = 2;

/// Most names that are kept of a list, and the longest name, in characters: they come from a process that runs an agent.
const MOST_NAMES: usize = 20;
const LONGEST_NAME: usize = 64;

/// One look at `/readyz`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Reading {
    ready: bool,
    failing: Vec<String>,
    suppressed: Vec<String>,
    event_loop: EventLoop,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct EventLoop {
    degraded: bool,
    reasons: Vec<String>,
}

impl Reading {
    /// Understands a body; `None` for one that says nothing about being ready.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Known {
            ready: Option<bool>,
        }
        serde_json::from_slice::<Known>(body).ok()?.ready?;
        let mut reading: Self = serde_json::from_slice(body).ok()?;
        for names in [&mut reading.failing, &mut reading.suppressed, &mut reading.event_loop.reasons] {
            names.truncate(MOST_NAMES);
            names.retain(|name| !name.is_empty() && name.chars().count() <= LONGEST_NAME);
        }
        Some(reading)
    }

    /// What is wrong, without the channels that are kept silent; `None` if nothing is.
    fn trouble(&self) -> Option<String> {
        let list = |what: &str, names: &[String]| match names {
            [] => what.to_owned(),
            names => format!("{what} ({})", names.join(", ")),
        };
        let mut troubles = Vec::new();
        if !self.ready || !self.failing.is_empty() {
            troubles.push(list("it says that it is not ready", &self.failing));
        }
        if self.event_loop.degraded {
            troubles.push(list("its event loop is behind", &self.event_loop.reasons));
        }
        (!troubles.is_empty()).then(|| troubles.join("; "))
    }
}

/// What the readings of one process amount to.
#[derive(Debug, Default)]
pub(super) struct Condition {
    trouble: Option<String>,
    /// Readings in a row with a trouble.
    troubled: u32,
    suppressed: Vec<String>,
}

impl Condition {
    /// Takes one in.
    pub(super) fn take(&mut self, reading: Reading) {
        self.trouble = reading.trouble();
        self.troubled = if self.trouble.is_some() { self.troubled.saturating_add(1) } else { 0 };
        self.suppressed = reading.suppressed;
    }

    /// Whether others are to see it as degraded.
    pub(super) fn is_impaired(&self) -> bool {
        self.troubled >= ENOUGH || !self.suppressed.is_empty()
    }

    /// The channels that it keeps silent.
    pub(super) fn suppressed(&self) -> &[String] {
        &self.suppressed
    }

    /// Why it is degraded, in one sentence; empty when it is not.
    pub(super) fn words(&self) -> String {
        let trouble = self.trouble.as_ref().filter(|_| self.troubled >= ENOUGH).cloned();
        let silent = (!self.suppressed.is_empty())
            .then(|| format!("after several crashes it keeps channels silent ({})", self.suppressed.join(", ")));
        [silent, trouble].into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // As the gateway 2026.9.6 gave them, shortened.
    const WELL: &str = r#"{"ready":true,"failing":[],"uptimeMs":9,"eventLoop":{"degraded":false,"degradedSinceMs":null,"reasons":[]}}"#;
    const SILENT: &str =
        r#"{"ready":true,"failing":[],"suppressed":["telegram"],"eventLoop":{"degraded":false,"reasons":[]}}"#;
    const BROKEN: &str = r#"{"ready":false,"failing":["telegram"],"eventLoop":{"degraded":false,"reasons":[]}}"#;
    const DRAINING: &str = r#"{"ready":false,"failing":["gateway-draining"],"eventLoop":{"degraded":false}}"#;
    const LATE: &str =
        r#"{"ready":true,"failing":[],"eventLoop":{"degraded":true,"reasons":["event_loop_delay","cpu"]}}"#;

    fn after(bodies: &[&str]) -> Condition {
        let mut condition = Condition::default();
        for body in bodies {
            condition.take(Reading::parse(body.as_bytes()).expect("a reading"));
        }
        condition
    }

    #[test]
    fn trouble_counts_when_it_stays_and_ends_at_once() {
        for (body, words) in [
            (DRAINING, "it says that it is not ready (gateway-draining)"),
            (BROKEN, "it says that it is not ready (telegram)"),
            (LATE, "its event loop is behind (event_loop_delay, cpu)"),
            (r#"{"ready":false}"#, "it says that it is not ready"),
        ] {
            for (readings, impaired) in [
                (&[body][..], false),
                (&[body, body], true),
                (&[body, WELL, body], false),
                (&[body, body, WELL], false),
            ] {
                let condition = after(readings);
                assert_eq!(condition.is_impaired(), impaired, "{readings:?}");
                assert_eq!(condition.words(), if impaired { words } else { "" });
            }
        }
        assert!(after(&[DRAINING, LATE]).is_impaired(), "one trouble after another");
    }

    #[test]
    fn silent_channels_count_at_once() {
        let condition = after(&[SILENT]);
        assert_eq!((condition.is_impaired(), condition.suppressed()), (true, &["telegram".to_owned()][..]));
        assert_eq!(condition.words(), "after several crashes it keeps channels silent (telegram)");
        assert!(!after(&[SILENT, WELL]).is_impaired());
    }

    #[test]
    fn what_is_no_reading_is_none() {
        for body in ["", "{", "[]", "null", r#"{"ok":true}"#, r#"{"ready":"yes"}"#, r#"{"ready":true,"failing":1}"#] {
            assert_eq!(Reading::parse(body.as_bytes()), None, "{body}");
        }
        // A caller that is not trusted gets no details.
        assert_eq!(after(&[r#"{"ready":true}"#]).words(), "");
    }

    #[test]
    fn names_without_end_are_bounded() {
        let names = vec!["x".repeat(LONGEST_NAME); 1000];
        let body = serde_json::json!({"ready": false, "failing": names, "suppressed": ["y".repeat(LONGEST_NAME + 1)]});
        let condition = after(&[&body.to_string(), &body.to_string()]);
        assert!(condition.words().len() < 2000);
        assert_eq!(condition.suppressed(), [] as [String; 0]);
    }
}
