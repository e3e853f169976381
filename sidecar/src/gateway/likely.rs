//! What probably made a gateway end, for whoever has to repair it: from how it ended, from what is found around it, and from its
//! last lines.
//!
//! What is found counts before what is said: a directory that cannot be written cannot be written, a line is only a line. Only a port
//! that somebody holds comes last: the start may have failed long before it would have come to that. The lines are those of the gateway
//! 2026.9.6. A later one may word them otherwise, then there is no cause and still every line.

use winston_wire::LikelyCause;

use super::exit::{CONFIG, Exit, Findings};

/// The cause and what shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Likely {
    pub(super) cause: LikelyCause,
    /// In one sentence.
    pub(super) sentence: String,
    /// The line that tells, if it was a line.
    pub(super) evidence: Option<String>,
}

/// Aborted, as a shell between us and it reports that.
const ABORTED: i32 = 128 + 6;
const SIGABRT: i32 = 6;

/// Longest line that is passed on, in characters.
const LONGEST_LINE: usize = 400;

/// Which ends a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// It gave up before it was ready.
    Start,
    /// Its heap was full, at any time.
    Abort,
    /// Its program could not be run.
    Program,
}

struct Rule {
    when: When,
    /// The line contains this.
    mark: &'static str,
    cause: LikelyCause,
    /// The line after it tells more.
    next: bool,
}

const fn rule(when: When, mark: &'static str, cause: LikelyCause) -> Rule {
    Rule { when, mark, cause, next: false }
}

/// The first one that fits decides, so what follows from another trouble stands below it: a file that it may not read it takes for
/// one without a mode.
const RULES: &[Rule] = &[
    rule(When::Program, "'node': No such file or directory", LikelyCause::WrongNode),
    rule(When::Program, "'node': Permission denied", LikelyCause::WrongNode),
    rule(When::Abort, "JavaScript heap out of memory", LikelyCause::OutOfMemory),
    rule(When::Start, "node:sqlite is unavailable", LikelyCause::WrongNode),
    rule(When::Start, "another OpenClaw process owns", LikelyCause::StateInUse),
    rule(When::Start, "EADDRINUSE", LikelyCause::PortInUse),
    rule(When::Start, "ENOSPC", LikelyCause::DiskFull),
    rule(When::Start, "EACCES", LikelyCause::NoPermission),
    rule(When::Start, "EROFS", LikelyCause::NoPermission),
    Rule { when: When::Start, mark: "Invalid config at", cause: LikelyCause::BadConfig, next: true },
    rule(When::Start, "Gateway start blocked: existing config is missing gateway.mode", LikelyCause::BadConfig),
    rule(When::Start, "Refusing to bind gateway", LikelyCause::BadConfig),
    rule(When::Start, "gateway.maintenance_required", LikelyCause::Maintenance),
    rule(When::Start, "requires state migration", LikelyCause::Maintenance),
];

/// Whether its last lines can tell why it ended.
pub(super) fn asks_for_lines(exit: Exit, was_ready: bool) -> bool {
    when(exit, was_ready).is_some()
}

/// Whether it can have ended because somebody holds its port. To look takes long where there are many connections.
pub(super) fn asks_for_port(exit: Exit, was_ready: bool) -> bool {
    exit == Exit::Code(1) && when(exit, was_ready) == Some(When::Start)
}

/// Judges an end that nobody asked for. `lines` are its own, oldest first; `was_ready`: it served before.
pub(super) fn likely(exit: Exit, findings: &Findings, was_ready: bool, lines: &[String]) -> Option<Likely> {
    let when = when(exit, was_ready);
    found(when, findings).or_else(|| said(when?, lines)).or_else(|| {
        let port = findings.port_taken.filter(|_| asks_for_port(exit, was_ready))?;
        because(LikelyCause::PortInUse, format!("port {port} is in use by another process"))
    })
}

fn because(cause: LikelyCause, sentence: String) -> Option<Likely> {
    Some(Likely { cause, sentence, evidence: None })
}

fn when(exit: Exit, was_ready: bool) -> Option<When> {
    match exit {
        Exit::Code(1 | CONFIG) if !was_ready => Some(When::Start),
        Exit::Code(126 | 127) => Some(When::Program),
        Exit::Code(ABORTED) | Exit::Signal(SIGABRT) => Some(When::Abort),
        _ => None,
    }
}

/// What the surroundings show.
fn found(when: Option<When>, findings: &Findings) -> Option<Likely> {
    if let Some(oom) = findings.oom {
        return because(LikelyCause::OutOfMemory, super::exit::out_of_memory(oom));
    }
    if when != Some(When::Start) {
        return None;
    }
    if let Some(directory) = &findings.unwritable {
        let sentence = format!("{} is not writable for the gateway", directory.display());
        return because(LikelyCause::NoPermission, sentence);
    }
    if let Some(unreadable) = &findings.unreadable {
        return because(LikelyCause::NoPermission, unreadable.sentence());
    }
    let owner = findings.other_owner?;
    because(LikelyCause::StateInUse, format!("another gateway (pid {owner}) owns this state directory"))
}

/// Whether a line says that it refuses its configuration, whatever others say: a plugin that may not write somewhere says so at each start.
pub(super) fn names_the_config(lines: &[String]) -> bool {
    let rules = || RULES.iter().filter(|rule| rule.cause == LikelyCause::BadConfig);
    lines.iter().any(|line| rules().any(|rule| line.contains(rule.mark)))
}

/// What its lines say.
fn said(when: When, lines: &[String]) -> Option<Likely> {
    let (rule, at) = RULES.iter().filter(|rule| rule.when == when).find_map(|rule| {
        let at = lines.iter().position(|line| line.contains(rule.mark))?;
        Some((rule, at))
    })?;
    let line = lines.get(at + 1).filter(|_| rule.next).unwrap_or(&lines[at]);
    let evidence: String = line.trim().chars().take(LONGEST_LINE).collect();
    let sentence = match rule.cause {
        LikelyCause::BadConfig => format!("its configuration was refused: {evidence}"),
        LikelyCause::PortInUse => "its port is in use by another process".into(),
        LikelyCause::NoPermission => "it may not read or write a file or directory that it needs".into(),
        LikelyCause::OutOfMemory => "Node.js ran out of heap memory".into(),
        LikelyCause::StateInUse => "another gateway owns this state directory".into(),
        LikelyCause::Maintenance => format!("its state directory has to be looked after first: {evidence}"),
        LikelyCause::WrongNode => "Node.js is missing or has the wrong version".into(),
        LikelyCause::DiskFull => "the volume is full".into(),
        LikelyCause::Unknown => return None,
    };
    Some(Likely { cause: rule.cause, sentence, evidence: Some(evidence) })
}

#[cfg(test)]
mod tests;
