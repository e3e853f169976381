//! What the real gateway wrote when it was made to fail in each of these ways, timestamps and paths shortened.

use super::super::Identity;
use super::super::exit::Unreadable;
use super::super::memory::OutOfMemory;
use super::*;

const SIGKILL: i32 = 9;

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

const UNKNOWN_KEY: &str = r#"[gateway] starting...
[gateway] spawn broker ready pid=8626
Gateway failed to start: Invalid config at /data/.openclaw/openclaw.json:
<root>: Unrecognized key: "noSuchKey"
Run "openclaw doctor --fix" to repair, then retry."#;
const WRONG_TYPE: &str = "Gateway failed to start: Invalid config at /data/.openclaw/openclaw.json:
openclaw.json:1 — gateway.port: Invalid input: expected number, received string
Run \"openclaw doctor --fix\" to repair, then retry.";
const NO_MODE: &str = "[gateway] resolving authentication…
Gateway start blocked: existing config is missing gateway.mode. Treat this as suspicious or clobbered config.
Config write audit: SQLite diagnostic_events/config-audit state (latest 50000 rows)";
const NO_AUTH: &str = "Refusing to bind gateway to lan without auth.
Set OPENCLAW_GATEWAY_TOKEN or OPENCLAW_GATEWAY_PASSWORD, or pass --token/--password *** start with auth.";
const UNREADABLE: &str = "[gateway] loading configuration…
read failed: Error: EACCES: permission denied, open '/data/.openclaw/openclaw.json'
Config file is not readable by the current process. If running in a container
Gateway start blocked: existing config is missing gateway.mode. Treat this as suspicious or clobbered config.";
const STATE_READ_ONLY: &str = "EACCES: permission denied, mkdir '/data/.openclaw/state'
[gateway] requires state migration. Stop the service with openclaw gateway stop (or its service owner).
Gateway failed to start: EACCES: permission denied, mkdir '/data/.openclaw/state' | gateway.maintenance_required | EACCES.";
const PORT: &str = "[shutdown] completed cleanly in 89ms
Gateway failed to start: another gateway instance is already listening on ws://127.0.0.1:18789 | listen EADDRINUSE: address already in use 127.0.0.1:18789 | EADDRINUSE
Port 18789 is already in use.
- Another process is listening on this port.";
const OWNED: &str = "Doctor could not enter maintenance. StateDatabaseCoordinatorContentionError: another OpenClaw process owns gateway-lifecycle Stop the Gateway service
[gateway] requires state migration. Stop the service with openclaw gateway stop (or its service owner).";
const OLD_NODE: &str = "openclaw: Node 20.20.2: node:sqlite is unavailable; use 24.16+/26.1+ or a build with the fix.
If you use nvm, run:";
const NO_NODE: &str = "/usr/bin/env: 'node': No such file or directory";
const HEAP: &str = "<--- Last few GCs --->
FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory
----- Native stack trace -----";

#[test]
fn what_a_plugin_may_not_write_does_not_excuse_the_configuration() {
    let both = lines(&format!("[plugin] EACCES: permission denied, open '/proc/1/mem'\n{UNKNOWN_KEY}"));
    let found = likely(Exit::Code(78), &Findings::default(), false, &both).unwrap();
    assert_eq!((found.cause, names_the_config(&both)), (LikelyCause::NoPermission, true));
    assert!(!names_the_config(&lines(STATE_READ_ONLY)) && !names_the_config(&lines(OWNED)));
}

#[test]
fn the_gateways_own_words_are_understood() {
    use LikelyCause::{BadConfig, NoPermission, OutOfMemory, PortInUse, StateInUse, WrongNode};
    let cases = [
        (Exit::Code(78), UNKNOWN_KEY, BadConfig, "Unrecognized key: \"noSuchKey\""),
        (Exit::Code(78), WRONG_TYPE, BadConfig, "gateway.port: Invalid input"),
        (Exit::Code(78), NO_MODE, BadConfig, "missing gateway.mode"),
        (Exit::Code(78), NO_AUTH, BadConfig, "without auth"),
        (Exit::Code(78), UNREADABLE, NoPermission, "openclaw.json"),
        (Exit::Code(78), STATE_READ_ONLY, NoPermission, "/data/.openclaw/state"),
        (Exit::Code(1), PORT, PortInUse, "18789"),
        (Exit::Code(78), OWNED, StateInUse, "gateway-lifecycle"),
        (Exit::Code(1), OLD_NODE, WrongNode, "24.16+"),
        (Exit::Code(127), NO_NODE, WrongNode, "'node'"),
        (Exit::Signal(6), HEAP, OutOfMemory, "heap out of memory"),
        (Exit::Code(134), HEAP, OutOfMemory, "heap out of memory"),
    ];
    for (exit, text, cause, evidence) in cases {
        let found = likely(exit, &Findings::default(), false, &lines(text)).expect(text);
        assert_eq!(found.cause, cause, "{text}");
        assert!(found.evidence.as_ref().is_some_and(|line| line.contains(evidence)), "{found:?}");
        assert!(!found.sentence.is_empty());
    }
}

#[test]
fn what_is_found_counts_before_what_is_said() {
    let unwritable = Findings { unwritable: Some("/data/.home".into()), ..Findings::default() };
    let found = likely(Exit::Code(78), &unwritable, false, &lines(UNKNOWN_KEY)).expect("a cause");
    assert_eq!((found.cause, found.evidence), (LikelyCause::NoPermission, None));
    assert!(found.sentence.contains("/data/.home"), "{}", found.sentence);

    let user = Identity { uid: 1000, gid: 1000 };
    let unreadable = Some(Unreadable { path: "/data/.openclaw/openclaw.json".into(), user });
    let locked = Findings { unreadable, ..Findings::default() };
    let found = likely(Exit::Code(78), &locked, false, &lines(NO_MODE)).expect("a cause");
    assert_eq!((found.cause, found.evidence), (LikelyCause::NoPermission, None));
    assert!(found.sentence.contains("/data/.openclaw/openclaw.json"), "{}", found.sentence);

    let owned = Findings { other_owner: Some(42), ..Findings::default() };
    let found = likely(Exit::Code(78), &owned, false, &lines(NO_MODE)).expect("a cause");
    assert_eq!(found.cause, LikelyCause::StateInUse);

    let taken = Findings { port_taken: Some(18_789), ..Findings::default() };
    let found = likely(Exit::Code(1), &taken, false, &[]).expect("a cause");
    assert_eq!(found.sentence, "port 18789 is in use by another process");
    let found = likely(Exit::Code(1), &taken, false, &lines(OLD_NODE)).expect("a cause");
    assert_eq!(found.cause, LikelyCause::WrongNode, "it never came as far as the port");
    assert_eq!(
        likely(Exit::Code(78), &taken, false, &lines(UNKNOWN_KEY)).map(|l| l.cause),
        Some(LikelyCause::BadConfig)
    );

    let oom = Findings { oom: Some(OutOfMemory { limit: Some(512 << 20) }), ..Findings::default() };
    let found = likely(Exit::Signal(SIGKILL), &oom, true, &[]).expect("a cause");
    assert_eq!(found.cause, LikelyCause::OutOfMemory);
    assert!(found.sentence.contains("512 MiB"), "{}", found.sentence);
}

#[test]
fn words_of_a_gateway_that_served_are_not_taken_for_a_failed_start() {
    let none = Findings::default();
    for text in [UNKNOWN_KEY, UNREADABLE, PORT, OWNED] {
        assert_eq!(likely(Exit::Code(1), &none, true, &lines(text)), None, "it served: {text}");
        for exit in [Exit::Code(0), Exit::Code(2), Exit::Signal(11), Exit::Signal(SIGKILL), Exit::Unknown] {
            assert_eq!(likely(exit, &none, false, &lines(text)), None, "{exit:?}");
        }
    }
    assert!(likely(Exit::Signal(6), &none, true, &lines(HEAP)).is_some(), "a heap fills up later");
    assert_eq!(likely(Exit::Code(1), &none, false, &lines("all is well")), None);
}

#[test]
fn a_line_without_end_is_bounded() {
    let long = format!("EACCES {}", "x".repeat(100_000));
    let found = likely(Exit::Code(1), &Findings::default(), false, &[long]).expect("a cause");
    assert_eq!(found.evidence.expect("a line").chars().count(), LONGEST_LINE);
}

/// What is not asked for before an end is judged must not be able to tell anything.
#[test]
fn whatever_can_tell_is_asked_for_and_nothing_else() {
    let everything = lines(&[OLD_NODE, NO_NODE, HEAP, PORT].join("\n"));
    let exits = [0, 1, 2, 78, 126, 127, 134].map(Exit::Code);
    let signals = [1, 6, SIGKILL, 15].map(Exit::Signal);
    for exit in exits.into_iter().chain(signals).chain([Exit::Unknown]) {
        for was_ready in [false, true] {
            let said = likely(exit, &Findings::default(), was_ready, &everything).is_some();
            assert_eq!(asks_for_lines(exit, was_ready), said, "{exit:?} {was_ready}");
            let taken = Findings { port_taken: Some(18_789), ..Findings::default() };
            let port = likely(exit, &taken, was_ready, &[]).is_some();
            assert_eq!(asks_for_port(exit, was_ready), port, "{exit:?} {was_ready}");
            assert_eq!(port, exit == Exit::Code(1) && !was_ready, "{exit:?} {was_ready}");
        }
    }
}
