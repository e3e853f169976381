//! What one sidecar notes about the gateway for the next one.
//!
//! A memory file that entrypoint holds, so it lives exactly as long as what it is about can: it does not depend on the volume
//! having room, a restored volume cannot bring an old one, and the agent has no way to it. One page, written by one call that a
//! kill cannot interrupt in the middle.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use serde::{Deserialize, Serialize};
use winston_wire::{GatewayExit, Timestamp};

/// A write within one page is not interrupted by a signal, not even by SIGKILL.
const PAGE: usize = 4096;

/// The whole record. What a newer sidecar adds, an older one skips.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The process, if there is one.
    #[serde(default)]
    pub(super) process: Option<Known>,
    /// What somebody has asked for and still holds.
    #[serde(default)]
    pub(super) order: Order,
    /// Starts so far.
    #[serde(default)]
    pub(super) starts: u64,
    /// Ends in a row, as the transition function counts them.
    #[serde(default)]
    pub(super) failures: u32,
    /// The last end.
    #[serde(default)]
    pub(super) last_exit: Option<GatewayExit>,
}

/// A gateway process as it can be recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: with the id, the identity of a process within one boot.
    pub(super) started: u64,
    /// Whose it is.
    pub(super) uid: u32,
    pub(super) port: u16,
    /// When it was started.
    pub(super) at: Timestamp,
    /// Since when it is ready; gone if it never was.
    #[serde(default)]
    pub(super) ready: Option<Timestamp>,
}

/// An order that must survive the sidecar that took it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// None: it is to run.
    #[default]
    Run,
    /// It is to be stopped, or stay so.
    Stop,
    /// It is being stopped in order to be started.
    Restart,
}

/// Where the record is kept.
pub(super) struct Store {
    file: File,
    /// What is there already.
    last: Option<Record>,
}

impl Store {
    pub(super) fn new(file: OwnedFd) -> Self {
        Self { file: file.into(), last: None }
    }

    /// What the sidecar before us noted; `None` for the first one, and for what cannot be understood.
    pub(super) fn read(&mut self) -> Option<Record> {
        let mut page = [0; PAGE];
        let read = self.file.read_at(&mut page, 0).unwrap_or(0);
        if read == 0 {
            return None;
        }
        match serde_json::from_slice(&page[..read]) {
            Ok(record) => Some(record),
            Err(error) => {
                tracing::warn!(%error, "the record about the gateway is damaged; what runs is ended and started anew");
                None
            }
        }
    }

    /// Replaces the record, if it differs.
    pub(super) fn write(&mut self, record: Record) {
        if self.last.as_ref() == Some(&record) {
            return;
        }
        let Some(page) = page(&record) else { return };
        match self.file.write_at(&page, 0) {
            Ok(PAGE) => self.last = Some(record),
            Ok(_) => tracing::warn!("the record about the gateway was not written whole"),
            Err(error) => tracing::warn!(%error, "the record about the gateway was not written"),
        }
    }
}

/// The record as JSON, filled up with spaces. The words about the last end give way when there are too many.
fn page(record: &Record) -> Option<[u8; PAGE]> {
    let fits = |record: &Record| {
        let text = serde_json::to_vec(record).ok()?;
        let mut page = [b' '; PAGE];
        page.get_mut(..text.len())?.copy_from_slice(&text);
        Some(page)
    };
    fits(record).or_else(|| fits(&Record { last_exit: None, ..record.clone() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Store {
        Store::new(tempfile::tempfile().expect("a file").into())
    }

    fn record(meaning: &str) -> Record {
        let at = Timestamp::UNIX_EPOCH;
        let process = Known { pid: 7, started: 9, uid: 1000, port: 18_789, at, ready: Some(at) };
        let cause = winston_wire::ExitCause::Failed;
        let last_exit = GatewayExit {
            at,
            code: Some(1),
            signal: None,
            meaning: meaning.to_owned(),
            cause,
            likely: None,
            evidence: None,
        };
        Record { process: Some(process), order: Order::Restart, starts: 3, failures: 2, last_exit: Some(last_exit) }
    }

    #[test]
    fn the_next_one_reads_what_was_written_last() {
        let mut store = store();
        assert_eq!(store.read(), None);
        store.write(record(&"long ".repeat(100)));
        store.write(record("short"));
        assert_eq!(store.read(), Some(record("short")), "nothing of the longer one is left");
    }

    #[test]
    fn words_give_way_and_the_process_stays() {
        let mut store = store();
        store.write(record(&"x".repeat(PAGE)));
        assert_eq!(store.read(), Some(Record { last_exit: None, ..record("") }));
    }

    #[test]
    fn damage_counts_as_nothing_and_news_are_skipped() {
        let mut store = store();
        store.file.write_at(b"{\"process\":{\"pid\":", 0).expect("written");
        assert_eq!(store.read(), None);
        store.file.write_at(b"{\"starts\":4,\"colour\":\"red\"}", 0).expect("written");
        assert_eq!(store.read(), Some(Record { starts: 4, ..Record::default() }));
    }
}
