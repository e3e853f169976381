//! Every arrow of the diagram.

use super::*;

use walk::{NOTHING, Walk, everywhere, secs};

mod diagram;
mod properties;
mod resumed;
mod walk;

#[test]
fn without_a_config_nothing_starts() {
    let mut walk = Walk { limits: Limits::default(), state: State::initial(), now: secs(0) };
    for request in [Event::Start, Event::Restart] {
        assert_eq!(walk.take(request), []);
        walk.expect(GatewayState::WaitingForConfig);
    }
    walk.take(Event::Stop);
    walk.expect(GatewayState::Stopped);
    assert_eq!(walk.take(Event::ConfigReady), []);
    walk.expect(GatewayState::Stopped);
    assert_eq!(walk.take(Event::Start), [Action::Spawn]);
}

#[test]
fn never_ready_is_stopped_and_tried_again() {
    let mut walk = Walk::starting();
    assert_eq!(walk.pass(), [Action::Terminate]);
    walk.expect(GatewayState::Stopping);
    assert_eq!(walk.pass(), [Action::Kill]);
    assert_eq!(walk.exit(End::Failed), [Action::Sweep]);
    walk.expect(GatewayState::Backoff);
    assert_eq!(walk.pass(), [Action::Spawn]);
    walk.expect(GatewayState::Starting);
}

#[test]
fn an_unasked_end_leads_to_a_delayed_start() {
    for end in [End::Clean, End::Failed] {
        let mut walk = Walk::starting();
        assert_eq!(walk.exit(end), [Action::Sweep]);
        walk.expect(GatewayState::Backoff);
        assert_eq!(walk.pass(), [Action::Spawn]);
    }
    for mut walk in [Walk::ready(), Walk::unresponsive()] {
        assert_eq!(walk.exit(End::Failed), [Action::Sweep]);
        walk.expect(GatewayState::Backoff);
    }
}

#[test]
fn a_gateway_that_asks_for_a_restart_gets_it_at_once_but_not_for_ever() {
    let mut walk = Walk::ready();
    assert_eq!(walk.exit(End::Clean), [Action::Sweep, Action::Spawn]);
    walk.expect(GatewayState::Starting);
    walk.take(Event::Started);
    assert_eq!(walk.exit(End::Clean), [Action::Sweep]);
    walk.expect(GatewayState::Backoff);
}

#[test]
fn no_config_waits_for_one() {
    let mut walk = Walk::starting();
    assert_eq!(walk.exit(End::NoConfig), [Action::Sweep]);
    walk.expect(GatewayState::WaitingForConfig);
    assert_eq!(walk.take(Event::Start), []);
    assert_eq!(walk.take(Event::ConfigReady), [Action::Spawn]);
}

#[test]
fn a_crash_loop_tries_rarely_and_stays_one() {
    let mut walk = Walk::crash_looping();
    let entered = walk.now;
    assert_eq!(walk.pass(), [Action::Spawn]);
    assert_eq!(walk.now - entered, walk.limits.crash_loop_retry);
    walk.exit(End::Failed);
    walk.expect(GatewayState::CrashLooping);
}

#[test]
fn a_request_or_a_new_config_ends_backoff_and_crash_loop() {
    for event in [Event::Start, Event::Restart, Event::ConfigReady] {
        for mut walk in [Walk::backoff(), Walk::crash_looping()] {
            assert_eq!(walk.take(event), [Action::Spawn], "{event:?}");
            walk.exit(End::Failed);
            walk.expect(GatewayState::Backoff);
        }
    }
}

/// A gateway that writes its configuration at each start makes a new one appear in each of its lives.
#[test]
fn a_new_config_under_a_process_is_no_fresh_count() {
    let mut walk = Walk::starting();
    for _ in 1..walk.limits.quick_ends {
        assert_eq!(walk.take(Event::ConfigReady), []);
        walk.exit(End::Failed);
        walk.expect(GatewayState::Backoff);
        walk.pass();
        walk.take(Event::Started);
    }
    for event in [Event::ConfigReady, Event::Silent, Event::ConfigReady, Event::Alive] {
        assert_eq!(walk.take(event), []);
    }
    walk.exit(End::Failed);
    walk.expect(GatewayState::CrashLooping);
}

#[test]
fn a_new_config_while_giving_up_on_a_process_is_tried_after_its_end() {
    for mut walk in [Walk::starting(), Walk::unresponsive()] {
        walk.state.failures = walk.limits.quick_ends;
        walk.pass();
        walk.expect(GatewayState::Stopping);
        assert_eq!(walk.take(Event::ConfigReady), []);
        assert_eq!(walk.exit(End::Failed), [Action::Sweep, Action::Spawn]);
        assert_eq!(walk.state.failures, 0);
    }
    // Whatever somebody asked for holds.
    let mut walk = Walk::unresponsive();
    walk.pass();
    walk.take(Event::Stop);
    walk.take(Event::ConfigReady);
    walk.exit(End::Failed);
    walk.expect(GatewayState::Stopped);
}

#[test]
fn running_well_is_rewarded() {
    let mut walk = Walk::crash_looping();
    walk.pass();
    walk.take(Event::Started);
    walk.now += walk.limits.ran_well;
    walk.exit(End::Failed);
    walk.expect(GatewayState::Backoff);
    assert_eq!(walk.state.phase.deadline(), Some(walk.now + secs(2)), "the first delay again");
}

#[test]
fn a_ready_gateway_drains_first_then_sterner_means_follow() {
    let mut walk = Walk::stopping();
    assert_eq!(walk.pass(), [Action::Terminate]);
    assert_eq!(walk.pass(), [Action::Kill]);
    assert_eq!(walk.pass(), [Action::Kill]);
    assert_eq!(walk.exit(End::Failed), [Action::Sweep]);
    walk.expect(GatewayState::Stopped);
}

#[test]
fn what_cannot_be_drained_is_terminated_at_once() {
    for mut walk in [Walk::starting(), Walk::unresponsive()] {
        assert_eq!(walk.take(Event::Stop), [Action::Terminate]);
    }
    let mut walk = Walk::stopping();
    assert_eq!(walk.take(Event::DrainRefused), [Action::Terminate]);
    assert_eq!(walk.take(Event::DrainRefused), [], "an old answer");
}

#[test]
fn stop_without_a_process_is_stopped_at_once() {
    for mut walk in [Walk::backoff(), Walk::crash_looping(), Walk::stopped()] {
        assert_eq!(walk.take(Event::Stop), []);
        walk.expect(GatewayState::Stopped);
        assert_eq!(walk.take(Event::ConfigReady), []);
        walk.expect(GatewayState::Stopped);
    }
}

#[test]
fn the_last_request_during_a_stop_decides_what_follows() {
    use Event::{Restart, Start, Stop};
    let cases: &[(&[Event], GatewayState)] = &[
        (&[Start], GatewayState::Starting),
        (&[Restart], GatewayState::Starting),
        (&[Restart, Restart, Start], GatewayState::Starting),
        (&[Start, Stop], GatewayState::Stopped),
        (&[Stop, Start], GatewayState::Starting),
    ];
    for (requests, expected) in cases {
        let mut walk = Walk::stopping();
        for request in *requests {
            assert_eq!(walk.take(*request), [], "nothing happens twice");
            walk.expect(GatewayState::Stopping);
        }
        walk.exit(End::Clean);
        walk.expect(*expected);
    }
}

#[test]
fn a_double_restart_starts_once() {
    let mut walk = Walk::ready();
    assert_eq!(walk.take(Event::Restart), [Action::Drain]);
    assert_eq!(walk.take(Event::Restart), []);
    assert_eq!(walk.exit(End::Clean), [Action::Sweep, Action::Spawn]);
    walk.expect(GatewayState::Starting);
}

#[test]
fn a_request_while_giving_up_on_a_process_wins() {
    for (request, expected) in [(Event::Stop, GatewayState::Stopped), (Event::Start, GatewayState::Starting)] {
        let mut walk = Walk::unresponsive();
        walk.pass();
        walk.take(request);
        walk.exit(End::Failed);
        walk.expect(expected);
    }
}

#[test]
fn unresponsive_recovers_or_is_replaced() {
    let mut walk = Walk::unresponsive();
    walk.take(Event::Alive);
    walk.expect(GatewayState::Ready);

    let mut walk = Walk::unresponsive();
    let began = walk.now;
    walk.now += secs(1);
    walk.take(Event::Silent);
    assert_eq!(walk.pass(), [Action::Terminate]);
    assert_eq!(walk.now - began, walk.limits.liveness_budget);
    walk.pass();
    assert_eq!(walk.exit(End::Failed), [Action::Sweep]);
    walk.expect(GatewayState::Backoff);
}

#[test]
fn answers_to_old_questions_change_nothing() {
    for mut walk in everywhere() {
        let before = walk.state.clone();
        let stale = match before.phase {
            Phase::Starting { .. } | Phase::Adopted { .. } => [Event::Alive, Event::Silent],
            Phase::Ready { .. } => [Event::Started, Event::Alive],
            Phase::Unresponsive { .. } => [Event::Started, Event::Silent],
            _ => [Event::Started, Event::Silent],
        };
        for event in stale {
            assert_eq!(walk.take(event), []);
            assert_eq!(walk.state, before);
        }
    }
}

#[test]
fn a_refused_configuration_is_tried_once_more_and_then_waits_for_a_change() {
    let mut walk = Walk::starting();
    walk.exit(End::Refused);
    walk.expect(GatewayState::Backoff);
    assert_eq!(walk.pass(), [Action::Spawn]);
    walk.exit(End::Refused);
    walk.expect(GatewayState::CrashLooping);
    assert_eq!(walk.take(Event::ConfigReady), [Action::Spawn]);
    walk.expect(GatewayState::Starting);
}

#[test]
fn a_program_that_cannot_be_started_backs_off() {
    let mut walk = Walk::starting();
    assert_eq!(walk.take(Event::SpawnFailed), []);
    walk.expect(GatewayState::Backoff);
    for _ in 1..walk.limits.quick_ends {
        walk.pass();
        walk.take(Event::SpawnFailed);
    }
    walk.expect(GatewayState::CrashLooping);
}

#[test]
fn shutdown_ends_everywhere_and_is_final() {
    for mut walk in everywhere() {
        walk.take(Event::Shutdown);
        for request in [Event::Start, Event::Restart, Event::Stop, Event::ConfigReady] {
            assert!(!walk.take(request).contains(&Action::Spawn));
        }
        // A process that not even SIGKILL ends.
        for _ in 0..4 {
            if walk.state.phase != Phase::ShutDown {
                walk.pass();
            }
        }
        assert_eq!(walk.state.phase, Phase::ShutDown);
        let before = walk.state.clone();
        for event in [Event::Start, Event::ConfigReady, Event::Exited(End::Clean)] {
            assert_eq!(walk.take(event), []);
            assert_eq!(walk.state, before);
        }
    }
}

/// A stop that is under way gets no more time than there is when it turns out to be the last one.
#[test]
fn a_shutdown_shortens_a_stop_that_is_under_way() {
    for grace in [secs(8), secs(300)] {
        let mut walk = Walk::ready();
        walk.limits = walk.limits.clone().within(grace);
        assert_eq!(walk.take(Event::Stop), [Action::Drain]);
        let last = walk.limits.stop(true);
        let (now, planned) = (walk.now, walk.state.phase.deadline());
        assert_eq!(planned, Some(now + walk.limits.stop(false).drain_step));
        walk.take(Event::Shutdown);
        assert_eq!(walk.state.phase.deadline(), planned.min(Some(now + last.drain_step)));
        assert_eq!(walk.pass(), [Action::Terminate]);
        assert_eq!(walk.state.phase.deadline(), Some(walk.now + last.term));
    }
}
