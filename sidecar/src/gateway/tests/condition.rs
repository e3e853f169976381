//! What a ready gateway says of itself, and what the supervisor does about it.

use serde_json::json;
use winston_wire::{ExitCause, LikelyCause};

use super::stand_in::SECRET;
use super::*;

/// A rig whose gateway is ready, waits, and can be called.
pub(super) async fn callable() -> Rig {
    let mut rig = Rig::new(&format!("{LOCK}; echo locked; {WAIT}; exit 0")).await;
    rig.config.rpc_secret = Some(Secret::new(SECRET));
    rig.config.limits.revive_after = Duration::ZERO;
    rig.config.limits.revive_pause = Duration::from_millis(1);
    let lock = rig.config.state_dir.join(format!("tmp/openclaw-{}", rustix::process::geteuid().as_raw()));
    std::fs::create_dir_all(lock).expect("a directory");
    rig
}

/// Starts it, and lets it become ready once it can be called.
pub(super) async fn started(rig: &Rig) -> GatewayHandle {
    let gateway = rig.start();
    eventually("the lock", || output(&gateway).contains(&"locked".to_owned())).await;
    rig.stand_in.answer(200);
    gateway
}

/// Writes the lock file as the gateway does.
const LOCK: &str = "d=../state/tmp/openclaw-$(id -u)
    printf '{\"pid\":%s,\"ownerId\":\"owner-1\",\"port\":1}' $$ > $d/x; mv $d/x $d/gateway.state.lock";

pub(super) fn silent() -> serde_json::Value {
    json!({"ready": true, "failing": [], "suppressed": ["telegram"]})
}

fn well() -> serde_json::Value {
    json!({"ready": true, "failing": [], "eventLoop": {"degraded": false}})
}

#[tokio::test]
async fn a_gateway_that_is_not_well_is_degraded_and_left_alone() {
    let rig = callable().await;
    let gateway = started(&rig).await;
    let ready = until_state(&gateway, GatewayState::Ready).await;
    for (says, words) in [
        (json!({"ready": false, "failing": ["telegram"]}), "not ready (telegram)"),
        (
            json!({"ready": true, "failing": [], "eventLoop": {"degraded": true, "reasons": ["event_loop_delay"]}}),
            "event loop is behind (event_loop_delay)",
        ),
    ] {
        rig.stand_in.say(says);
        let degraded = until_state(&gateway, GatewayState::Degraded).await;
        assert!(degraded.reason.contains(words), "{}", degraded.reason);
        assert!(degraded.since >= ready.since);
        // What it says is no reason to doubt what it said before.
        rig.stand_in.say(json!("nonsense"));
        assert_eq!(gateway.status().state, GatewayState::Degraded);
        rig.stand_in.say(well());
        let again = until_state(&gateway, GatewayState::Ready).await;
        assert_eq!((again.pid, again.restarts, again.reason.as_str()), (ready.pid, 0, ""));
    }
    // A degraded gateway is stopped like a ready one: it is asked to drain.
    rig.stand_in.say(json!({"ready": false}));
    until_state(&gateway, GatewayState::Degraded).await;
    let stopped = gateway.stop().await.expect("stopped");
    assert_eq!(stopped.last_exit.and_then(|exit| exit.code), Some(0));
    assert!(rig.stand_in.drained().is_some());
    gateway.shutdown().await;
}

#[tokio::test]
async fn silent_channels_are_started_again() {
    let rig = callable().await;
    rig.stand_in.say(silent());
    let gateway = started(&rig).await;
    let degraded = until(&gateway, |status| status.channel_starts > 0).await;
    assert_eq!((degraded.state, &degraded.suppressed[..]), (GatewayState::Degraded, &["telegram".to_owned()][..]));
    assert!(degraded.reason.contains("silent (telegram)"), "{}", degraded.reason);
    let starts = rig.stand_in.calls("channels.start");
    assert_eq!(starts[0], json!({"channel": "telegram", "accountId": "default"}));
    assert_eq!(starts[1], json!({"channel": "telegram", "accountId": "second"}));
    rig.stand_in.say(well());
    let ready = until_state(&gateway, GatewayState::Ready).await;
    assert_eq!(ready.suppressed, [] as [String; 0]);
    assert!(ready.channel_starts >= 2);
    gateway.shutdown().await;
}

#[tokio::test]
async fn channels_that_cannot_be_started_are_given_up_and_told() {
    let rig = callable().await;
    rig.stand_in.refuse(&["channels.start"]);
    rig.stand_in.say(silent());
    let gateway = started(&rig).await;
    let given_up = until(&gateway, |status| status.reason.contains("not tried any more")).await;
    assert!(given_up.reason.contains("telegram/second"), "{}", given_up.reason);
    // Two accounts, five tries.
    assert_eq!(rig.stand_in.calls("channels.start").len(), 10);
    assert_eq!(given_up.channel_starts, 0);
    gateway.shutdown().await;
}

#[tokio::test]
async fn what_the_gateway_says_has_an_end_and_no_secrets() {
    let rig = callable().await;
    rig.stand_in.complain(&format!("{SECRET} {} {SECRET}", "because ".repeat(100_000)));
    rig.stand_in.say(silent());
    let gateway = started(&rig).await;
    let harmless = |words: &str| words.contains("[redacted] because") && !words.contains(SECRET) && words.len() < 2000;
    let told = until(&gateway, |status| status.reason.contains("could not be started")).await;
    assert!(harmless(&told.reason), "{}", told.reason);
    rig.stand_in.refuse(&["channels.start"]);
    let refused = until(&gateway, |status| status.reason.contains("refused channels.start")).await;
    assert!(harmless(&refused.reason), "{}", refused.reason);
    for (refused, busy) in [(true, json!({})), (false, json!({"status": "busy", "reason": SECRET.repeat(1000)}))] {
        rig.stand_in.refuse(if refused { &["gateway.suspend.prepare"] } else { &[] });
        rig.stand_in.suspend(busy);
        let error = gateway.suspend(Duration::ZERO, || false).await.expect_err("refused").to_string();
        assert!(error.contains("[redacted]") && !error.contains(SECRET) && error.len() < 2000, "{error}");
    }
    gateway.shutdown().await;
}

#[tokio::test]
async fn without_the_token_channels_stay_silent_and_the_reason_says_so() {
    let mut rig = callable().await;
    rig.config.rpc_secret = None;
    rig.stand_in.say(silent());
    let gateway = started(&rig).await;
    let told = until(&gateway, |status| status.reason.contains("could not be started")).await;
    assert!(told.reason.contains("OPENCLAW_GATEWAY_TOKEN"), "{}", told.reason);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_gateway_that_has_just_come_up_keeps_its_channels_silent() {
    let mut rig = callable().await;
    rig.config.limits.revive_after = PATIENCE * 10;
    rig.stand_in.say(silent());
    let gateway = started(&rig).await;
    until_state(&gateway, GatewayState::Degraded).await;
    let looks = || rig.stand_in.looks();
    let before = looks();
    eventually("three more looks", || looks() >= before + 3).await;
    assert_eq!(rig.stand_in.calls("channels.start").len(), 0);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_gateway_above_its_memory_limit_is_asked_to_start_anew_once() {
    let mut rig = callable().await;
    // Whatever a shell takes.
    rig.config.memory_limit = Some(1);
    let gateway = started(&rig).await;
    let first = until_state(&gateway, GatewayState::Ready).await;
    let second = until(&gateway, |status| status.restarts == 1 && status.state == GatewayState::Ready).await;
    assert_ne!(first.pid, second.pid);
    let asked = rig.stand_in.calls("gateway.restart.request");
    assert_eq!(asked[0]["safe"], true, "it decides when: {asked:?}");
    assert_eq!(asked[0]["target"]["pid"].as_u64(), first.pid.map(u64::from));
    let exit = second.last_exit.expect("it ended");
    assert_eq!((exit.code, exit.cause), (Some(0), ExitCause::Clean));
    assert!(exit.meaning.contains("WINSTON_GATEWAY_MEMORY_LIMIT_MB"), "{}", exit.meaning);
    // The next one is above the limit too, and left alone.
    let before = rig.stand_in.looks();
    eventually("many looks", || rig.stand_in.looks() >= before + 10).await;
    assert_eq!(rig.stand_in.calls("gateway.restart.request").len(), 1);
    gateway.shutdown().await;
}

#[tokio::test]
async fn memory_is_told_on_request() {
    let rig = Rig::new(&format!("sleep 1000 & {WAIT}")).await;
    rig.stand_in.answer(200);
    let gateway = rig.start();
    until_state(&gateway, GatewayState::Ready).await;
    eventually("the whole tree", || gateway.memory().is_some_and(|memory| memory.processes == 2)).await;
    let memory = gateway.memory().expect("a gateway");
    assert!(memory.rss.is_some_and(|rss| rss > 0 && memory.tree_rss > rss), "{memory:?}");
    gateway.stop().await.expect("stopped");
    let memory = gateway.memory().expect("a gateway");
    assert_eq!((memory.rss, memory.processes), (None, 0));
    gateway.shutdown().await;
    assert_eq!(disabled().memory(), None);
}

#[tokio::test]
async fn a_crash_loop_says_what_probably_causes_it() {
    let said = |text: &str, code: u8| format!("echo '{text}' >&2; exit {code}");
    for (script, cause, words) in [
        (said("Refusing to bind gateway to lan without auth.", 78), LikelyCause::BadConfig, "without auth"),
        (said("openclaw: Node 20: node:sqlite is unavailable", 1), LikelyCause::WrongNode, "Node.js"),
        // The stand-in of this test holds the port.
        (said("no idea", 1), LikelyCause::PortInUse, "in use"),
    ] {
        let rig = Rig::new(&script).await;
        let gateway = rig.start();
        let status = until_state(&gateway, GatewayState::CrashLooping).await;
        let exit = status.last_exit.expect("it ended");
        assert_eq!(exit.likely, Some(cause), "{}", exit.meaning);
        assert!(exit.meaning.contains(words) && status.reason.contains(&exit.meaning), "{}", status.reason);
        gateway.shutdown().await;
    }
}
