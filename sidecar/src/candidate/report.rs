//! What others are told about the configuration.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::watch;
use winston_wire::{ConfigVerdict, ContentHash, Timestamp};

use super::record::{MIXED, Mixed, Origin, Record, TRANSACTION, VERDICTS, Verdicts};
use super::store::{GoodSet, Store};

/// What the owner task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Activity {
    /// Nothing.
    #[default]
    Idle,
    /// A candidate is being checked.
    Validating,
    /// It is being put in place.
    Swapping,
    /// The gateway starts with it.
    Starting,
    /// The gateway runs with it and is watched.
    Watching,
    /// The set before it is being put back.
    Returning,
}

/// What is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Standing {
    /// Not known yet.
    #[default]
    Unknown,
    /// The gateway runs with it.
    Good,
    /// A start would refuse it; a gateway that runs goes on with what it had.
    Refused,
}

/// A change that is being tried out.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Open {
    pub(crate) origin: Origin,
    pub(crate) generation: Option<u64>,
    pub(crate) since: Timestamp,
}

/// The keys that control owns.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct OwnedKeys {
    pub(crate) generation: u64,
    pub(crate) keys: Vec<String>,
    /// Enforced within the last hour, because somebody had changed them.
    pub(crate) enforced: usize,
    /// Somebody changes them again and again; they are enforced with growing pauses.
    pub(crate) contested: bool,
    /// Why they are not as control wants them, when that cannot be had.
    pub(crate) problem: Option<String>,
}

/// The last time that a last-known-good configuration came back by itself.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Repair {
    pub(crate) at: Timestamp,
    /// The set.
    pub(crate) seq: u64,
    /// Path of what the gateway had refused.
    pub(crate) rejected: Option<String>,
}

/// See [`super::Configs::report`].
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Report {
    /// Content of `openclaw.json`; `null` when there is none.
    pub(crate) hash: Option<ContentHash>,
    pub(crate) standing: Standing,
    pub(crate) activity: Activity,
    pub(crate) open: Option<Open>,
    pub(crate) last: Option<ConfigVerdict>,
    pub(crate) owned: Option<OwnedKeys>,
    pub(crate) repair: Option<Repair>,
    /// Something that keeps it from doing its work.
    pub(crate) trouble: Option<String>,
}

/// Between the owner task and everybody else.
pub(super) struct Shared {
    state: Mutex<State>,
    news: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    report: Report,
    good: Vec<GoodSet>,
    verdicts: Verdicts,
    mixed: Mixed,
}

impl Shared {
    pub(super) fn new(store: &Store) -> Self {
        let verdicts: Verdicts = store.read(VERDICTS).unwrap_or_default();
        let mixed = store.read(MIXED).unwrap_or_default();
        // What an earlier process began is open from the beginning.
        let open = store.read::<Record>(TRANSACTION).map(|record| Open {
            origin: record.origin,
            generation: record.generation,
            since: record.started_at,
        });
        let report = Report { last: verdicts.0.last().cloned(), open, ..Report::default() };
        let good = store.good();
        Self { state: Mutex::new(State { report, good, verdicts, mixed }), news: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Plain values: nothing a panic could leave half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn report(&self) -> Report {
        self.lock().report.clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.lock().report);
    }

    pub(super) fn verdicts(&self) -> Vec<ConfigVerdict> {
        self.lock().verdicts.0.clone()
    }

    pub(super) fn verdict_of(&self, generation: u64) -> Option<ConfigVerdict> {
        self.lock().verdicts.of(generation).cloned()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    pub(super) fn is_mixed(&self, path: &str, hash: ContentHash) -> bool {
        self.lock().mixed.has(path, hash)
    }

    /// The verdicts with one more, for the disk.
    pub(super) fn verdicts_with(&self, verdict: &ConfigVerdict) -> Verdicts {
        let mut verdicts = self.lock().verdicts.clone();
        verdicts.add(verdict.clone());
        verdicts
    }

    /// They are on disk.
    pub(super) fn set_verdicts(&self, verdicts: Verdicts) {
        {
            let mut state = self.lock();
            state.report.last = verdicts.0.last().cloned();
            state.verdicts = verdicts;
        }
        self.news.send_modify(|count| *count += 1);
    }

    /// The versions that hold others' work, with these, for the disk and from now on.
    pub(super) fn note_mixed(&self, versions: &[(String, ContentHash)]) -> Mixed {
        let mut state = self.lock();
        for (path, hash) in versions {
            state.mixed.note(path, *hash);
        }
        state.mixed.clone()
    }

    pub(super) fn good(&self) -> Vec<GoodSet> {
        self.lock().good.clone()
    }

    pub(super) fn set_good(&self, good: Vec<GoodSet>) {
        self.lock().good = good;
    }
}
