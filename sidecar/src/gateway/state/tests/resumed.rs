//! A sidecar that follows another one.

use super::*;

#[test]
fn an_adopted_gateway_is_ready_starting_or_unresponsive_after_its_first_answer() {
    let cases = [
        (Some(secs(50)), Event::Started, GatewayState::Ready),
        (None, Event::Started, GatewayState::Ready),
        (Some(secs(50)), Event::NotYet, GatewayState::Unresponsive),
        (None, Event::NotYet, GatewayState::Starting),
    ];
    for (ready_for, answer, expected) in cases {
        let mut walk = Walk::adopted(ready_for);
        assert_eq!(walk.state.phase.probe(), Some(Probe::First));
        assert_eq!(walk.take(answer), [], "{answer:?}");
        walk.expect(expected);
    }
}

#[test]
fn what_is_left_of_the_start_budget_is_kept() {
    let mut walk = Walk::adopted(None);
    walk.take(Event::NotYet);
    let left = walk.limits.start_budget - secs(100);
    assert_eq!(walk.state.phase.deadline(), Some(walk.now + left));
    assert_eq!(walk.pass(), [Action::Terminate]);
}

#[test]
fn its_end_is_that_of_the_gateway_that_it_was() {
    let mut walk = Walk::adopted(Some(secs(50)));
    assert_eq!(walk.exit(End::Clean), [Action::Sweep, Action::Spawn], "it asked for a restart");
    let mut walk = Walk::adopted(None);
    assert_eq!(walk.exit(End::Clean), [Action::Sweep]);
    walk.expect(GatewayState::Backoff);
    for ready_for in [None, Some(secs(50))] {
        let mut walk = Walk::adopted(ready_for);
        assert_eq!(walk.exit(End::Failed), [Action::Sweep]);
        walk.expect(GatewayState::Backoff);
    }
}

#[test]
fn its_stop_is_that_of_the_gateway_that_it_was() {
    assert_eq!(Walk::adopted(Some(secs(50))).take(Event::Stop), [Action::Drain]);
    assert_eq!(Walk::adopted(None).take(Event::Stop), [Action::Terminate]);
    let mut walk = Walk::adopted(Some(secs(50)));
    assert_eq!(walk.take(Event::Restart), [Action::Drain]);
    assert_eq!(walk.exit(End::Clean), [Action::Sweep, Action::Spawn]);
}

#[test]
fn ends_in_a_row_are_counted_on() {
    let limits = Limits::default();
    let running = Running { age: secs(100), ready_for: Some(secs(1)) };
    let failures = limits.quick_ends - 1;
    let mut walk = Walk::resumed(Memory { running: Some(running), failures, ..NOTHING });
    walk.exit(End::Failed);
    walk.expect(GatewayState::CrashLooping);

    let mut walk = Walk::resumed(Memory {
        running: Some(Running { ready_for: Some(limits.ran_well), ..running }),
        failures,
        ..NOTHING
    });
    walk.exit(End::Failed);
    walk.expect(GatewayState::Backoff);
}

#[test]
fn waits_and_orders_go_on_without_a_process() {
    let mut walk = Walk::resumed(Memory { stopped: true, ..NOTHING });
    walk.expect(GatewayState::Stopped);
    assert_eq!(walk.take(Event::ConfigReady), []);
    walk.expect(GatewayState::Stopped);

    let mut walk = Walk::resumed(Memory { failures: 1, ..NOTHING });
    walk.expect(GatewayState::Backoff);
    assert_eq!(walk.state.phase.deadline(), Some(walk.now + secs(2)));
    assert_eq!(walk.pass(), [Action::Spawn]);

    let walk = Walk::resumed(Memory { failures: walk.limits.quick_ends, ..NOTHING });
    walk.expect(GatewayState::CrashLooping);

    let walk = Walk::resumed(Memory { configured: false, ..NOTHING });
    walk.expect(GatewayState::WaitingForConfig);

    let mut walk = Walk { limits: Limits::default(), state: State::initial(), now: secs(0) };
    assert_eq!(walk.take(Event::Resumed(NOTHING)), [Action::Spawn]);
}

#[test]
fn a_release_leaves_everything_as_it_is_and_is_final() {
    for mut walk in everywhere() {
        assert_eq!(walk.take(Event::Release), []);
        assert_eq!(walk.state.phase, Phase::ShutDown);
        assert_eq!(walk.take(Event::Start), []);
    }
}
