//! Suspending a gateway: who may, what it keeps from happening, and how it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use winston_wire::Source;

use super::condition::{callable, silent, started};
use super::*;
use crate::candidate::{self, Configs, NewFile, Origin, Submission, SubmitError, Times};
use crate::edits::{Author, Edits, Precondition};
use crate::fs::{Layout, Root, Selection, TenantPath};

fn no_trial() -> bool {
    false
}

/// Busy, and for as long as it says so.
fn draining() -> Value {
    json!({"status": "draining", "suspensionId": "s1", "expiresAtMs": 1_000, "retryAfterMs": 20_000,
        "blockers": [{"kind": "root-request", "count": 1, "message": "1 active request"}]})
}

fn idle(id: &str) -> Value {
    json!({"status": "ready", "suspensionId": id, "expiresAtMs": 4_000_000_000_000_u64})
}

/// Whoever changes the configuration of this gateway.
async fn configs(rig: &Rig, gateway: &GatewayHandle) -> Configs {
    let path = |text: &str| TenantPath::parse(text).expect("a path");
    let layout = Layout { state: path("state"), workspace: path("workspace"), selection: Selection::default() };
    let limits = crate::journal::Limits { segment_bytes: 1 << 20, max_bytes: 1 << 30 };
    let root = Root::open(rig.dir.path(), None).expect("a directory");
    let edits = Edits::open(Arc::new(root), layout, 1 << 20, limits).expect("edits");
    let times = Times { validation: PATIENCE, start: PATIENCE, probation: PATIENCE };
    candidate::start(Arc::new(edits), gateway.clone(), Cli::of(&rig.config), times).await.expect("started")
}

fn change() -> Submission {
    let path = TenantPath::parse("state/openclaw.json").expect("a path");
    let author = Author { source: Source::Admin, actor: None, generation: None };
    let content = Some("{\"gateway\":{\"mode\":\"local\"}}".into());
    let files = vec![NewFile { path, content, over: Precondition::None }];
    Submission { origin: Origin::Local, author, files, owned: None, pushed: None }
}

#[tokio::test]
async fn no_configuration_is_tried_out_while_a_gateway_becomes_idle() {
    let rig = callable().await;
    rig.stand_in.suspend(draining());
    let gateway = started(&rig).await;
    until_state(&gateway, GatewayState::Ready).await;
    let configs = configs(&rig, &gateway).await;
    let (suspending, reported) = (gateway.clone(), configs.clone());
    let on_trial = move || reported.report().open.is_some();
    let suspending = tokio::spawn(async move { suspending.suspend(PATIENCE, on_trial).await });
    eventually("it is asked", || !rig.stand_in.calls("gateway.suspend.prepare").is_empty()).await;
    assert_eq!(gateway.status().suspension, None, "not yet");
    let refused = tokio::time::timeout(PATIENCE / 2, configs.submit(change())).await.expect("at once");
    assert!(matches!(refused, Err(SubmitError::Suspended)), "{refused:?}");
    rig.stand_in.suspend(idle("s1"));
    let suspended = suspending.await.expect("no panic").expect("suspended");
    assert!(suspended.suspension.is_some() && gateway.is_fenced());
    gateway.resume().await.expect("resumed");
    assert!(!gateway.is_fenced());
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_gateway_with_a_configuration_on_trial_is_not_suspended() {
    let rig = callable().await;
    rig.stand_in.suspend(idle("s1"));
    let gateway = started(&rig).await;
    until_state(&gateway, GatewayState::Ready).await;
    // When that is asked nobody can begin one any more.
    let fenced = Arc::new(AtomicBool::new(false));
    let (seen, asked) = (Arc::clone(&fenced), gateway.clone());
    let on_trial = move || {
        seen.store(asked.is_fenced(), Ordering::Relaxed);
        true
    };
    let refused = gateway.suspend(PATIENCE, on_trial).await;
    assert_eq!(refused, Err(GatewayError::Occupied("a configuration is on trial".into())));
    assert!(fenced.load(Ordering::Relaxed) && !gateway.is_fenced());
    assert_eq!(rig.stand_in.calls("gateway.suspend.prepare"), [] as [Value; 0]);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_question_that_is_not_answered_is_asked_again() {
    for ignored in ["gateway.suspend.prepare", "gateway.suspend.status"] {
        let mut rig = callable().await;
        rig.config.limits.rpc_limit = Duration::from_millis(200);
        rig.stand_in.suspend(draining());
        rig.stand_in.ignore(&[ignored]);
        let gateway = started(&rig).await;
        until_state(&gateway, GatewayState::Ready).await;
        let waiting = gateway.clone();
        let suspending = tokio::spawn(async move { waiting.suspend(PATIENCE, no_trial).await });
        eventually("it is asked again", || rig.stand_in.calls(ignored).len() >= 2).await;
        rig.stand_in.suspend(idle("s1"));
        rig.stand_in.ignore(&[]);
        let suspended = suspending.await.expect("no panic").expect("suspended");
        assert!(suspended.suspension.is_some());
        let requests = rig.stand_in.calls("gateway.suspend.prepare");
        assert!(requests.iter().all(|request| request["requestId"] == requests[0]["requestId"]), "{requests:?}");
        gateway.shutdown().await;
    }
}

#[tokio::test]
async fn what_has_begun_is_taken_back_whatever_goes_wrong() {
    let rig = callable().await;
    let gateway = started(&rig).await;
    until_state(&gateway, GatewayState::Ready).await;
    for (round, refused, answer) in [
        (1, &[][..], json!({"status": "running"})),
        (2, &["gateway.suspend.status"][..], draining()),
        (3, &[][..], json!({"status": "ready", "suspensionId": "s1", "expiresAtMs": i64::MAX})),
    ] {
        rig.stand_in.suspend(draining());
        rig.stand_in.refuse(&[]);
        let (waiting, asked) = (gateway.clone(), rig.stand_in.calls("gateway.suspend.status").len());
        let suspending = tokio::spawn(async move { waiting.suspend(PATIENCE, no_trial).await });
        eventually("it is asked", || rig.stand_in.calls("gateway.suspend.status").len() > asked).await;
        rig.stand_in.refuse(refused);
        rig.stand_in.suspend(answer);
        let error = suspending.await.expect("no panic").expect_err("refused");
        assert!(matches!(error, GatewayError::Refused(_)), "{error:?}");
        assert_eq!(rig.stand_in.calls("gateway.suspend.resume"), vec![json!({"suspensionId": "s1"}); round]);
    }
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_suspended_gateway_is_left_alone_until_it_is_resumed() {
    let rig = callable().await;
    let gateway = rig.start();
    assert_eq!(gateway.suspend(Duration::ZERO, no_trial).await, Err(GatewayError::NotReady));
    assert_eq!(gateway.resume().await, Err(GatewayError::NotSuspended));
    eventually("the lock", || output(&gateway).contains(&"locked".to_owned())).await;
    rig.stand_in.answer(200);
    until_state(&gateway, GatewayState::Ready).await;

    // Busy for longer than anybody waits: what has begun is taken back.
    rig.stand_in.suspend(draining());
    let busy = gateway.suspend(Duration::ZERO, no_trial).await.expect_err("busy");
    assert_eq!(busy, GatewayError::Occupied("1 active request".into()));
    assert_eq!(rig.stand_in.calls("gateway.suspend.resume"), [json!({"suspensionId": "s1"})]);
    assert_eq!(gateway.status().suspension, None);

    rig.stand_in.suspend(idle("s2"));
    let suspended = gateway.suspend(PATIENCE, no_trial).await.expect("suspended");
    assert!(suspended.suspension.is_some());
    let prepared = rig.stand_in.calls("gateway.suspend.prepare").len();
    gateway.suspend(PATIENCE, no_trial).await.expect("suspended already");
    assert_eq!(rig.stand_in.calls("gateway.suspend.prepare").len(), prepared, "once is enough");
    // What it says of itself then is no trouble, and nothing that needs work is asked of it.
    rig.stand_in.say(silent());
    let told = until_state(&gateway, GatewayState::Degraded).await;
    assert!(told.reason.contains("suspended on request"), "{}", told.reason);
    let before = rig.stand_in.looks();
    eventually("more looks", || rig.stand_in.looks() >= before + 3).await;
    assert_eq!(rig.stand_in.calls("channels.start").len(), 0);

    gateway.resume().await.expect("resumed");
    assert_eq!(rig.stand_in.calls("gateway.suspend.resume").last(), Some(&json!({"suspensionId": "s2"})));
    until(&gateway, |status| status.suspension.is_none() && status.channel_starts > 0).await;

    // Another process was never suspended.
    gateway.suspend(PATIENCE, no_trial).await.expect("suspended");
    gateway.restart().await.expect("restarted");
    assert_eq!(gateway.status().suspension, None);
    gateway.resume().await.expect("nothing to resume any more");
    gateway.shutdown().await;
    assert_eq!(disabled().suspend(PATIENCE, no_trial).await, Err(GatewayError::Disabled));
}

#[tokio::test]
async fn a_suspension_is_renewed_and_ends_by_itself_when_nobody_resumes() {
    let mut rig = callable().await;
    rig.config.limits.suspend_renewal = Duration::from_millis(5);
    let lease = |id: &str, ends: u64| json!({"status": "ready", "suspensionId": id, "expiresAtMs": ends});
    rig.stand_in.suspend(lease("s1", 4_000_000_000_000));
    let gateway = started(&rig).await;
    until_state(&gateway, GatewayState::Ready).await;
    let first = gateway.suspend(PATIENCE, no_trial).await.expect("suspended").suspension.expect("a lease");
    // Its lease is over, as after a pause of the whole machine: the next one has another name.
    rig.stand_in.suspend(lease("s2", 4_000_000_001_000));
    let renewed = until(&gateway, |status| status.suspension.as_ref().is_some_and(|now| *now != first)).await;
    assert_eq!(renewed.suspension.map(|now| now.since), Some(first.since));
    let asked = rig.stand_in.calls("gateway.suspend.prepare");
    assert!(asked.iter().all(|params| params["requestId"] == asked[0]["requestId"]), "{asked:?}");
    gateway.resume().await.expect("resumed");
    assert_eq!(rig.stand_in.calls("gateway.suspend.resume"), [json!({"suspensionId": "s2"})]);
    gateway.shutdown().await;

    rig.config.limits.suspend_longest = Duration::ZERO;
    rig.stand_in.answer(503);
    let gateway = started(&rig).await;
    until_state(&gateway, GatewayState::Ready).await;
    gateway.suspend(PATIENCE, no_trial).await.expect("suspended");
    until(&gateway, |status| status.suspension.is_none()).await;
    eventually("it is resumed", || rig.stand_in.calls("gateway.suspend.resume").len() == 2).await;
    gateway.shutdown().await;
}
