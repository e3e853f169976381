//! What the end of a gateway process means, in one sentence.
//!
//! The gateway's exit codes say less than they seem to: 0 is a stop as well as a restart, and 78, officially a
//! configuration error, also stands for a directory that cannot be written and for a second gateway.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;

use winston_wire::ExitCause;

use super::Identity;
use super::memory::OutOfMemory;
use super::state::{End, Why};

/// How the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// Nobody can tell: the status was lost.
    Unknown,
}

impl Exit {
    /// What a wait says.
    pub(super) fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }
}

/// What the shell saw when it looked for the cause.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// There is no `openclaw.json`.
    pub(super) no_config: bool,
    /// A directory that the gateway must be able to write and cannot.
    pub(super) unwritable: Option<PathBuf>,
    /// The configuration is there and the gateway's user cannot read it.
    pub(super) unreadable: Option<Unreadable>,
    /// Another living process that owns the state directory.
    pub(super) other_owner: Option<u32>,
    /// Its port, if somebody still listens there.
    pub(super) port_taken: Option<u16>,
    /// The kernel has killed for want of memory.
    pub(super) oom: Option<OutOfMemory>,
}

impl Findings {
    /// Nothing was found that would make every configuration fail.
    fn blame_the_config(&self) -> bool {
        self.unwritable.is_none() && self.unreadable.is_none() && self.other_owner.is_none()
    }
}

/// A configuration that the gateway's user cannot read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) path: PathBuf,
    /// Whom it has to be readable for.
    pub(super) user: Identity,
}

impl Unreadable {
    /// The sentence, with the remedy.
    pub(super) fn sentence(&self) -> String {
        let (path, Identity { uid, gid }) = (self.path.display(), self.user);
        format!("user {uid}, who runs the gateway, may not read {path}: chown {uid}:{gid} {path} && chmod u+rw {path}")
    }
}

/// Exit code of a configuration error, and of more.
pub(crate) const CONFIG: i32 = 78;

pub(super) const SIGKILL: i32 = 9;

const SIGHUP: i32 = 1;
const SIGABRT: i32 = 6;
const SIGSEGV: i32 = 11;
const SIGTERM: i32 = 15;

/// What the transition function has to know. Findings decide only about 78.
pub(super) fn end(exit: Exit, findings: &Findings) -> End {
    match exit {
        Exit::Code(0) => End::Clean,
        Exit::Code(CONFIG) if findings.no_config => End::NoConfig,
        Exit::Code(CONFIG) => End::Refused,
        _ => End::Failed,
    }
}

/// The word. `stopping` is why we were stopping it, if we were.
pub(super) fn cause(exit: Exit, findings: &Findings, stopping: Option<Why>) -> ExitCause {
    match (stopping, exit) {
        (Some(Why::Requested), _) => ExitCause::Asked,
        // A FIFO in its place keeps its reader waiting.
        (Some(Why::NeverReady), _) if findings.no_config => ExitCause::NoConfig,
        (Some(Why::NeverReady | Why::Unresponsive), _) => ExitCause::Hung,
        (None, Exit::Code(0)) => ExitCause::Clean,
        (None, Exit::Code(CONFIG)) if findings.no_config => ExitCause::NoConfig,
        (None, Exit::Code(CONFIG)) if findings.blame_the_config() => ExitCause::BadConfig,
        (None, Exit::Signal(SIGKILL)) if findings.oom.is_some() => ExitCause::OutOfMemory,
        (None, _) => ExitCause::Failed,
    }
}

/// The sentence. `stopping` is why we were stopping it, if we were.
pub(super) fn meaning(exit: Exit, findings: &Findings, stopping: Option<Why>) -> String {
    match stopping {
        Some(Why::NeverReady) if findings.no_config => {
            return "it was stopped because it did not become ready within the start budget: openclaw.json is no file"
                .into();
        }
        Some(Why::NeverReady) => {
            return "it was stopped because it did not become ready within the start budget".into();
        }
        Some(Why::Unresponsive) => {
            return "it was stopped because it did not answer /healthz within the liveness budget".into();
        }
        Some(Why::Requested) => return asked(exit),
        None => {}
    }
    match exit {
        Exit::Code(0) => "it ended by itself in order, which is how it asks to be restarted".into(),
        Exit::Code(1) => "it failed for a reason other than its configuration: a port in use, a lock, a \
             replaced installation or the wrong Node.js version"
            .into(),
        Exit::Code(CONFIG) => config_error(findings),
        Exit::Code(126 | 127) => {
            "its program could not be run: the interpreter (node) was not found in PATH or is not \
             executable"
                .into()
        }
        Exit::Code(code) => format!("it ended with code {code}, which it does not document"),
        Exit::Signal(SIGKILL) => match findings.oom {
            Some(oom) => out_of_memory(oom),
            None => "it was killed (SIGKILL): out of memory, or by someone's hand".into(),
        },
        Exit::Signal(SIGABRT) => "it aborted (SIGABRT): usually Node.js ran out of heap memory".into(),
        Exit::Signal(SIGSEGV) => "it crashed (SIGSEGV): a fault in Node.js or a native module".into(),
        Exit::Signal(SIGTERM) => "it was terminated (SIGTERM) by someone else before it could drain".into(),
        Exit::Signal(SIGHUP) => "it was ended by a hang-up (SIGHUP), which counts as a crash".into(),
        Exit::Signal(signal) => format!("it was ended by signal {signal}"),
        Exit::Unknown => "it ended, how is not known".into(),
    }
}

/// The sentence for a kill by the kernel.
pub(super) fn out_of_memory(oom: OutOfMemory) -> String {
    match oom.limit {
        Some(limit) => format!("it was killed: out of memory (cgroup limit {} MiB)", limit >> 20),
        None => "it was killed: out of memory (a cgroup above ours or the machine had none left)".into(),
    }
}

fn asked(exit: Exit) -> String {
    match exit {
        Exit::Code(0) => "it ended in order, as asked".into(),
        Exit::Signal(SIGTERM) => "it ended on SIGTERM, as asked, before it had started".into(),
        Exit::Signal(SIGKILL) => "it was killed (SIGKILL) because it did not end within its grace".into(),
        Exit::Code(code) => format!("it was asked to stop and ended with code {code}"),
        Exit::Signal(signal) => format!("it was asked to stop and ended by signal {signal}"),
        Exit::Unknown => "it was asked to stop and ended, how is not known".into(),
    }
}

fn config_error(findings: &Findings) -> String {
    if findings.no_config {
        "there is no openclaw.json".into()
    } else if let Some(directory) = &findings.unwritable {
        format!("{} is not writable for the gateway", directory.display())
    } else if let Some(unreadable) = &findings.unreadable {
        unreadable.sentence()
    } else if let Some(pid) = findings.other_owner {
        format!("another gateway (pid {pid}) owns this state directory")
    } else {
        "its configuration was refused: its last log lines name the key".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreadable() -> Unreadable {
        Unreadable { path: "/data/c".into(), user: Identity { uid: 1000, gid: 100 } }
    }

    #[test]
    fn seventy_eight_is_not_always_the_configuration() {
        let cases = [
            (Findings::default(), "configuration was refused"),
            (Findings { unwritable: Some("/data/.home".into()), ..Findings::default() }, "/data/.home is not writable"),
            (Findings { other_owner: Some(42), ..Findings::default() }, "pid 42"),
            (
                Findings { unreadable: Some(unreadable()), ..Findings::default() },
                "user 1000, who runs the gateway, may not read /data/c: chown 1000:100 /data/c && chmod u+rw /data/c",
            ),
            (
                Findings {
                    no_config: true,
                    unwritable: Some("/data/.home".into()),
                    other_owner: Some(42),
                    ..Findings::default()
                },
                "no openclaw.json",
            ),
        ];
        for (findings, expected) in cases {
            let meaning = meaning(Exit::Code(CONFIG), &findings, None);
            assert!(meaning.contains(expected), "{meaning}");
        }
    }

    #[test]
    fn only_seventy_eight_without_a_config_waits_for_one() {
        let none = Findings { no_config: true, ..Findings::default() };
        assert_eq!(end(Exit::Code(CONFIG), &none), End::NoConfig);
        assert_eq!(end(Exit::Code(CONFIG), &Findings::default()), End::Refused);
        assert_eq!(end(Exit::Code(1), &none), End::Failed);
        assert_eq!(end(Exit::Signal(9), &none), End::Failed);
        assert_eq!(end(Exit::Code(0), &none), End::Clean);
    }

    #[test]
    fn only_a_refusal_without_another_reason_is_the_configurations_fault() {
        let none = Findings::default();
        let other = Findings { other_owner: Some(42), ..Findings::default() };
        let locked = Findings { unreadable: Some(unreadable()), ..Findings::default() };
        let missing = Findings { no_config: true, ..Findings::default() };
        assert_eq!(cause(Exit::Code(CONFIG), &none, None), ExitCause::BadConfig);
        assert_eq!(cause(Exit::Code(CONFIG), &other, None), ExitCause::Failed);
        assert_eq!(cause(Exit::Code(CONFIG), &locked, None), ExitCause::Failed);
        assert_eq!(cause(Exit::Code(CONFIG), &missing, None), ExitCause::NoConfig);
        assert_eq!(cause(Exit::Code(CONFIG), &none, Some(Why::Requested)), ExitCause::Asked);
        assert_eq!(cause(Exit::Signal(9), &none, Some(Why::NeverReady)), ExitCause::Hung);
        assert_eq!(cause(Exit::Signal(9), &missing, Some(Why::NeverReady)), ExitCause::NoConfig);
        assert_eq!(cause(Exit::Signal(9), &missing, Some(Why::Unresponsive)), ExitCause::Hung);
        assert_eq!(cause(Exit::Code(0), &none, None), ExitCause::Clean);
        assert_eq!(cause(Exit::Signal(9), &none, None), ExitCause::Failed);
    }

    #[test]
    fn a_kill_for_want_of_memory_is_named() {
        let limit = Findings { oom: Some(OutOfMemory { limit: Some(3 << 29) }), ..Findings::default() };
        assert_eq!(cause(Exit::Signal(SIGKILL), &limit, None), ExitCause::OutOfMemory);
        assert!(meaning(Exit::Signal(SIGKILL), &limit, None).contains("out of memory (cgroup limit 1536 MiB)"));
        let elsewhere = Findings { oom: Some(OutOfMemory { limit: None }), ..Findings::default() };
        assert!(meaning(Exit::Signal(SIGKILL), &elsewhere, None).contains("out of memory"));
        // Somebody else was killed for it, or we did it.
        assert_eq!(cause(Exit::Signal(SIGSEGV), &limit, None), ExitCause::Failed);
        assert_eq!(cause(Exit::Signal(SIGKILL), &limit, Some(Why::Requested)), ExitCause::Asked);
    }

    #[test]
    fn every_end_has_a_sentence_of_its_own() {
        let exits = [0, 1, 2, 78, 127]
            .map(Exit::Code)
            .into_iter()
            .chain([1, 6, 9, 11, 15, 31].map(Exit::Signal))
            .chain([Exit::Unknown]);
        let none = Findings::default();
        let sentences: Vec<String> =
            exits.flat_map(|exit| [None, Some(Why::Requested)].map(|why| meaning(exit, &none, why))).collect();
        let mut unique = sentences.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), sentences.len());
    }

    #[test]
    fn giving_up_on_it_is_said_before_the_code() {
        let none = Findings::default();
        for exit in [Exit::Code(0), Exit::Signal(9)] {
            assert!(meaning(exit, &none, Some(Why::NeverReady)).contains("start budget"));
            assert!(meaning(exit, &none, Some(Why::Unresponsive)).contains("liveness budget"));
            let missing = Findings { no_config: true, ..Findings::default() };
            assert!(meaning(exit, &missing, Some(Why::NeverReady)).ends_with("openclaw.json is no file"));
        }
    }
}
