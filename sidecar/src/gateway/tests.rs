//! The supervisor with real processes: shell scripts in place of the gateway, a listener of this test on its port.
//!
//! The tests take turns: orphans belong to the test process, and one supervisor cannot tell them from another's.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::*;
use rig::{PATIENCE, Rig, eventually, exists, output, until, until_state};
use winston_wire::env::Secret;

mod condition;
mod rig;
mod stand_in;
mod suspend;

const WAIT: &str = "read _ < $CTL";

#[tokio::test]
async fn quick_exits_become_a_crash_loop_that_a_restart_clears() {
    for (script, code, signal, starts) in [
        ("exit 0", Some(0), None, 5),
        ("exit 1", Some(1), None, 5),
        // Refused, and tried once more.
        ("exit 78", Some(78), None, 2),
        ("kill -9 $$", None, Some(9), 5),
    ] {
        let rig = Rig::new(script).await;
        let gateway = rig.start();
        let status = until_state(&gateway, GatewayState::CrashLooping).await;
        let last = status.last_exit.expect("it ended");
        assert_eq!((last.code, last.signal), (code, signal));
        assert!(status.reason.contains(&last.meaning), "{}", status.reason);
        assert_eq!((status.restarts, status.pid), (starts - 1, None));

        gateway.restart().await.expect("started once more");
        let status = until_state(&gateway, GatewayState::CrashLooping).await;
        assert_eq!(status.restarts, 2 * starts - 1);
        gateway.shutdown().await;
    }
}

#[tokio::test]
async fn no_config_is_waited_for() {
    let rig = Rig::new(&format!("test -e ../state/openclaw.json || exit 78; {WAIT}")).await;
    std::fs::remove_file(rig.config_file()).expect("removed");
    let gateway = rig.start();
    assert_eq!(gateway.start().await, Err(GatewayError::NoConfig));
    assert_eq!(gateway.status().state, GatewayState::WaitingForConfig);

    std::fs::write(rig.config_file(), "{}").expect("written");
    gateway.config_ready();
    let first = until_state(&gateway, GatewayState::Starting).await;

    std::fs::remove_file(rig.config_file()).expect("removed");
    gateway.restart().await.expect("a process");
    let status = until_state(&gateway, GatewayState::WaitingForConfig).await;
    let last = status.last_exit.expect("it ended");
    assert_eq!(last.meaning, "there is no openclaw.json");
    assert!(!exists(first.pid.expect("a pid")));
    gateway.shutdown().await;
}

#[tokio::test]
async fn ready_then_stopped_then_started() {
    let rig = Rig::new(&format!("echo one; echo two >&2; {WAIT}")).await;
    rig.stand_in.answer(200);
    let gateway = rig.start();
    let ready = until_state(&gateway, GatewayState::Ready).await;
    assert!(ready.ready_after_ms.is_some() && ready.pid.is_some_and(exists));

    let stopped = gateway.stop().await.expect("stopped");
    assert_eq!(stopped.state, GatewayState::Stopped);
    assert_eq!(stopped.last_exit.and_then(|exit| exit.signal), Some(15));
    assert!(!exists(ready.pid.expect("a pid")));
    let mut lines = output(&gateway);
    lines.sort();
    assert_eq!(lines, ["one", "two"]);
    gateway.config_ready();

    gateway.start().await.expect("started");
    let again = until_state(&gateway, GatewayState::Ready).await;
    assert_eq!(again.restarts, 1);
    assert_ne!(again.pid, ready.pid);
    gateway.shutdown().await;
    assert!(!exists(again.pid.expect("a pid")));
    assert_eq!(gateway.start().await, Err(GatewayError::ShuttingDown));
}

#[tokio::test]
async fn what_ignores_sigterm_is_killed() {
    let rig = Rig::new(&format!("trap '' TERM; echo up; while :; do {WAIT}; done")).await;
    let gateway = rig.start();
    eventually("the trap is set", || output(&gateway) == ["up"]).await;
    let stopped = gateway.stop().await.expect("stopped");
    assert_eq!(stopped.last_exit.and_then(|exit| exit.signal), Some(9));
    gateway.shutdown().await;
}

#[tokio::test]
async fn nothing_outlives_its_gateway() {
    // A child that holds the pipes, one in a session of its own, and one that lost its parent and ignores SIGTERM.
    let script = format!(
        "sleep 1000 & echo $!
         setsid sh -c 'echo $$; sleep 1000' &
         setsid sh -c '(trap \"\" TERM HUP; setsid sh -c \"echo \\$\\$; sleep 1000; :\") & exit 0'
         {WAIT}; exit 1"
    );
    let rig = Rig::new(&script).await;
    let gateway = rig.start();
    for (ending, expected) in [("stop", 3), ("crash", 6)] {
        gateway.start().await.expect("started");
        eventually("three children", || output(&gateway).len() == expected).await;
        let pids = output(&gateway);
        assert!(pids.iter().rev().take(3).all(exists), "{pids:?}");
        if ending == "stop" {
            gateway.stop().await.expect("stopped");
        } else {
            rig.stand_in.release().await;
            until(&gateway, |status| status.restarts == 2).await;
        }
        assert!(!pids.iter().any(exists), "after {ending}: {pids:?}");
    }
    gateway.shutdown().await;
}

#[tokio::test]
async fn orphans_are_reaped_while_the_gateway_runs() {
    let script =
        format!("i=0; while [ $i -lt 100 ]; do (setsid sh -c 'exit 3' &); i=$((i+1)); done; echo done; {WAIT}");
    let rig = Rig::new(&script).await;
    let gateway = rig.start();
    eventually("100 orphans", || output(&gateway) == ["done"]).await;
    eventually("no zombie is left", || descendants::zombies() == 0).await;
    assert_eq!(gateway.status().state, GatewayState::Starting);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_flood_neither_blocks_the_gateway_nor_fills_memory() {
    let script = "yes | head -c 20000000 & head -c 100000000 /dev/zero | tr '\\0' x >&2; wait
                  echo; echo last; exit 0";
    let mut rig = Rig::new(script).await;
    rig.config.limits.quick_ends = 1;
    let gateway = rig.start();
    until_state(&gateway, GatewayState::CrashLooping).await;
    let kept: usize = gateway.logs(usize::MAX).iter().map(|line| line.line.len()).sum();
    assert!(kept <= 256 * 1024);
    gateway.shutdown().await;
}

#[tokio::test]
async fn never_ready_is_given_up() {
    let mut rig = Rig::new(WAIT).await;
    rig.config.limits.start_budget = Duration::from_millis(50);
    let gateway = rig.start();
    let status = until_state(&gateway, GatewayState::CrashLooping).await;
    assert!(status.reason.contains("start budget"), "{}", status.reason);
    gateway.shutdown().await;
}

#[tokio::test]
async fn an_unresponsive_gateway_is_replaced() {
    let mut rig = Rig::new(WAIT).await;
    rig.config.limits.liveness_budget = Duration::from_millis(50);
    rig.stand_in.answer(200);
    let gateway = rig.start();
    let first = until_state(&gateway, GatewayState::Ready).await;
    rig.stand_in.answer(503);
    let status = until(&gateway, |status| status.last_exit.is_some()).await;
    let last = status.last_exit.expect("checked");
    assert!(last.meaning.contains("/healthz"), "{}", last.meaning);
    rig.stand_in.answer(200);
    let second = until_state(&gateway, GatewayState::Ready).await;
    assert_ne!(first.pid, second.pid);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_missing_program_is_an_error_that_says_what_to_do() {
    let mut rig = Rig::new("exit 0").await;
    rig.config.program = rig.dir.path().join("nowhere");
    let gateway = rig.start();
    let status = until_state(&gateway, GatewayState::CrashLooping).await;
    assert!(status.reason.contains("WINSTON_OPENCLAW_BIN"), "{}", status.reason);
    let error = gateway.start().await.expect_err("cannot start");
    assert!(error.to_string().contains("nowhere"), "{error}");
    gateway.shutdown().await;
}

#[tokio::test]
async fn the_child_has_its_own_environment_and_nothing_else_of_ours() {
    let script = format!(
        "env; pwd; echo args $@; ls -l /proc/self/fd | wc -l
         grep -E '^(SigBlk|NoNewPrivs)' /proc/self/status; read line && echo stdin; {WAIT}"
    );
    let mut rig = Rig::new(&script).await;
    let path = rig.config.environment.clone();
    rig.config.environment.push(("MY_API_KEY".into(), "sk-test-value-0001".into()));
    let gateway = rig.start();
    eventually("all lines", || output(&gateway).iter().any(|line| line.starts_with("SigBlk"))).await;
    gateway.stop().await.expect("stopped");
    let lines = output(&gateway);
    let has = |line: &str| lines.iter().any(|found| found == line);
    assert!(has("OPENCLAW_SUPERVISOR_MODE=external"));
    assert!(has(&format!("OPENCLAW_STATE_DIR={}", rig.config.state_dir.display())));
    assert!(has(&rig.config.home.display().to_string()), "works in its home");
    assert!(has(&format!("PATH={}", path[0].1)));
    assert!(has("MY_API_KEY=[redacted]"), "{lines:#?}");
    assert!(has("args gateway run") && has("SigBlk:\t0000000000000000"));
    assert!(!has("stdin") && has("NoNewPrivs:\t0"));
    // Four descriptors (ls has its directory open too) and the heading.
    assert!(has("5"), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.starts_with("CARGO")));
    gateway.shutdown().await;
}

#[tokio::test]
async fn another_identity_has_no_way_back() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let script = format!("id -u; id -g; id -G; grep NoNewPrivs /proc/self/status; {WAIT}");
    let mut rig = Rig::new(&script).await;
    let reachable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(rig.dir.path(), reachable).expect("reachable");
    rig.config.identity = Some(Identity { uid: 64_001, gid: 64_002 });
    let gateway = rig.start();
    eventually("four lines", || output(&gateway).len() == 4).await;
    assert_eq!(output(&gateway), ["64001", "64002", "64002", "NoNewPrivs:\t1"]);
    gateway.shutdown().await;
}

/// Writes its lock file, and ends in order when it is asked to.
fn drainable() -> String {
    format!(
        "mkdir -p ../state/tmp/openclaw-$(id -u)
         echo '{{\"pid\":'$$',\"ownerId\":\"owner-1\",\"port\":'$OPENCLAW_GATEWAY_PORT'}}' \
           > ../state/tmp/openclaw-$(id -u)/gateway.state.lock
         echo locked; {WAIT}; echo drained; exit 0"
    )
}

#[tokio::test]
async fn the_last_stop_has_all_the_time_that_there_is() {
    let mut rig = Rig::new(&drainable()).await;
    rig.config.rpc_secret = Some(Secret::new(stand_in::SECRET));
    rig.config.limits = rig.config.limits.clone().within(Duration::from_secs(300));
    let gateway = rig.start();
    eventually("the lock", || output(&gateway) == ["locked"]).await;
    rig.stand_in.answer(200);
    until_state(&gateway, GatewayState::Ready).await;
    gateway.shutdown().await;
    let asked = rig.stand_in.drained().expect("asked");
    let budget = rig.config.limits.stop(true).drain.as_millis() as u64;
    assert!(budget > 200_000 && asked["restartIntent"]["drainBudgetMs"] == budget, "{asked}");
}

#[tokio::test]
async fn a_stop_asks_for_a_drain() {
    let mut rig = Rig::new(&drainable()).await;
    rig.config.rpc_secret = Some(Secret::new(stand_in::SECRET));
    let gateway = rig.start();
    eventually("the lock", || output(&gateway) == ["locked"]).await;
    rig.stand_in.answer(200);
    let ready = until_state(&gateway, GatewayState::Ready).await;
    let stopped = gateway.stop().await.expect("stopped");
    assert_eq!(stopped.last_exit.and_then(|exit| exit.code), Some(0));
    assert_eq!(output(&gateway), ["locked", "drained"]);
    let asked = rig.stand_in.drained().expect("asked");
    assert_eq!(asked["target"]["pid"].as_u64(), ready.pid.map(u64::from));
    assert_eq!(asked["target"]["ownerId"], "owner-1");
    assert_eq!(asked["restartIntent"]["force"], true);
    assert_eq!(asked["restartIntent"]["drainBudgetMs"], Limits::default().drain.as_millis() as u64);

    // With the wrong secret there is no drain, and SIGTERM comes at once.
    rig.config.rpc_secret = Some(Secret::new("not the secret"));
    gateway.shutdown().await;
    let gateway = rig.start();
    until_state(&gateway, GatewayState::Ready).await;
    eventually("the lock", || output(&gateway).contains(&"locked".to_owned())).await;
    let stopped = gateway.stop().await.expect("stopped");
    assert_eq!(stopped.last_exit.and_then(|exit| exit.signal), Some(15));
    gateway.shutdown().await;
}

#[tokio::test]
async fn requests_that_cross_are_answered_and_start_one_process() {
    let rig = Rig::new(WAIT).await;
    rig.stand_in.answer(200);
    let gateway = rig.start();
    until_state(&gateway, GatewayState::Ready).await;
    let (first, second) = tokio::join!(gateway.restart(), gateway.restart());
    assert_eq!(first.expect("restarted").restarts, 1);
    assert_eq!(second.expect("restarted").restarts, 1);
    until_state(&gateway, GatewayState::Ready).await;

    let (stop, start) = tokio::join!(gateway.stop(), gateway.start());
    assert_eq!(stop, Err(GatewayError::Overtaken));
    assert_eq!(start.expect("started").restarts, 2);

    let (restart, stop) = tokio::join!(gateway.restart(), gateway.stop());
    assert_eq!(restart, Err(GatewayError::Overtaken));
    assert_eq!(stop.expect("stopped").state, GatewayState::Stopped);
    gateway.shutdown().await;
}

#[tokio::test]
async fn without_handles_the_gateway_ends() {
    let rig = Rig::new(WAIT).await;
    rig.stand_in.answer(200);
    let gateway = rig.start();
    let pid = until_state(&gateway, GatewayState::Ready).await.pid.expect("a pid");
    drop(gateway);
    eventually("it ends", || !exists(pid)).await;
}

#[tokio::test]
async fn a_disabled_gateway_refuses_everything() {
    let gateway = disabled();
    assert_eq!(gateway.status().state, GatewayState::Disabled);
    assert_eq!(gateway.start().await, Err(GatewayError::Disabled));
    assert_eq!(gateway.stop().await, Err(GatewayError::Disabled));
    gateway.config_ready();
    gateway.shutdown().await;
    assert!(gateway.logs(10).is_empty());
}
