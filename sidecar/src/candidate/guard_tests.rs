use super::*;

fn hash(number: u8) -> ContentHash {
    ContentHash::from_bytes([number; 32])
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn running(config: u8, pid: u32) -> Scene {
    Scene {
        config: Some(hash(config)),
        state: GatewayState::Ready,
        pid: Some(pid),
        starts: 1,
        exit: None,
        is_doubtful: false,
        good: Vec::new(),
        drifted: false,
    }
}

fn refused(config: u8, exit: i64, good: &[(u64, u8)]) -> Scene {
    Scene {
        state: GatewayState::Backoff,
        pid: None,
        exit: Some((at(exit), ExitCause::BadConfig)),
        good: good.iter().map(|(seq, config)| (*seq, hash(*config))).collect(),
        ..running(config, 0)
    }
}

#[test]
fn a_start_with_a_configuration_proves_it() {
    let mut guard = Guard::new(seconds(10));
    let waiting = Scene { state: GatewayState::Starting, pid: None, ..running(1, 7) };
    guard.look(&waiting, seconds(0));
    assert_eq!(guard.look(&running(1, 7), seconds(5)), Order::Wait(Some(seconds(15))));
    assert_eq!(guard.look(&running(1, 7), seconds(15)), Order::Keep);
    guard.proved(hash(1), seconds(15));
    assert_eq!(guard.look(&running(1, 7), seconds(99)), Order::Wait(None));
}

#[test]
fn an_edit_under_a_running_gateway_is_validated_first() {
    let mut guard = Guard::new(seconds(10));
    guard.look(&running(1, 7), seconds(0));
    guard.look(&running(2, 7), seconds(5));
    assert_eq!(guard.look(&running(2, 7), seconds(15)), Order::Validate);
    guard.judged(hash(2), false);
    assert_eq!(guard.look(&running(2, 7), seconds(99)), Order::Wait(None));
    guard.look(&running(3, 7), seconds(100));
    guard.judged(hash(2), true);
    assert_eq!(guard.look(&running(3, 7), seconds(110)), Order::Validate);
    guard.judged(hash(3), true);
    assert_eq!(guard.look(&running(3, 7), seconds(110)), Order::Keep);
}

#[test]
fn a_refused_configuration_gives_way_to_the_newest_good_one_and_then_to_older_ones() {
    let mut guard = Guard::new(seconds(10));
    let good = [(3, 30), (2, 20), (1, 30)];
    assert_eq!(guard.look(&refused(9, 1, &good), seconds(1)), Order::Restore(3));
    guard.restored(at(1), seconds(1));
    // Still down for the same reason: it has been dealt with.
    assert_eq!(guard.look(&refused(30, 1, &good), seconds(2)), Order::Wait(None));
    assert_eq!(guard.look(&refused(30, 2, &good), seconds(3)), Order::Restore(2));
    guard.restored(at(2), seconds(3));
    // The first one has the same content as the third. All are refused, so the trouble is another one: the newest is to be there when it is over.
    assert_eq!(guard.look(&refused(20, 3, &good), seconds(4)), Order::Restore(3));
    guard.restored(at(3), seconds(4));
    assert_eq!(guard.look(&refused(30, 4, &good), seconds(99)), Order::Wait(None));
}

#[test]
fn a_configuration_that_has_run_is_not_blamed_for_what_else_is_wrong() {
    let mut guard = Guard::new(seconds(10));
    let good = [(2, 20), (1, 10)];
    let doubtful = |config, exit| {
        let scene = refused(config, exit, &good);
        Scene { exit: Some((at(exit), ExitCause::Failed)), is_doubtful: true, ..scene }
    };
    assert_eq!(guard.look(&doubtful(20, 1), seconds(1)), Order::Wait(None));
    // One that nobody knows may be to blame all the same.
    assert_eq!(guard.look(&doubtful(9, 2), seconds(2)), Order::Restore(2));
    guard.restored(at(2), seconds(2));
    assert_eq!(guard.look(&doubtful(20, 3), seconds(99)), Order::Wait(None));
}

#[test]
fn a_process_that_could_not_read_the_configuration_says_nothing_about_it() {
    let mut guard = Guard::new(seconds(10));
    let good = [(1, 10)];
    let second = |exit| Scene { starts: 2, ..refused(9, exit, &good) };
    guard.look(&running(9, 7), seconds(1));
    guard.mended(1);
    assert_eq!(guard.look(&refused(9, 1, &good), seconds(2)), Order::Retry);
    assert_eq!(guard.look(&refused(9, 1, &good), seconds(3)), Order::Wait(None), "it has been told");
    assert_eq!(guard.proof, Proof::None);
    assert_eq!(guard.look(&second(2), seconds(4)), Order::Restore(1));
}

#[test]
fn whoever_makes_it_unreadable_in_each_life_does_not_go_round_for_ever() {
    let mut guard = Guard::new(seconds(10));
    let mut tries = 0;
    for life in 1..=60 {
        let refused = Scene { starts: life, ..refused(9, i64::try_from(life).unwrap(), &[]) };
        guard.mended(life);
        tries += u32::from(guard.look(&refused, seconds(2 * life)) == Order::Retry);
    }
    assert!((1..10).contains(&tries), "{tries} of 60");
}

#[test]
fn what_is_not_the_configurations_fault_is_not_repaired() {
    let mut guard = Guard::new(seconds(10));
    let good = [(1, 10)];
    for cause in [ExitCause::Failed, ExitCause::Clean, ExitCause::Asked, ExitCause::Hung] {
        let scene = Scene { exit: Some((at(1), cause)), ..refused(9, 1, &good) };
        assert_eq!(guard.look(&scene, seconds(1)), Order::Wait(None), "{cause:?}");
    }
    let starting = Scene { state: GatewayState::Starting, ..refused(9, 1, &good) };
    assert_eq!(guard.look(&starting, seconds(1)), Order::Wait(None));
    assert_eq!(guard.look(&refused(9, 1, &[]), seconds(1)), Order::Wait(None));
}

#[test]
fn a_missing_configuration_comes_back_too() {
    let mut guard = Guard::new(seconds(10));
    let scene = Scene {
        config: None,
        state: GatewayState::WaitingForConfig,
        exit: Some((at(1), ExitCause::NoConfig)),
        ..refused(9, 1, &[(1, 10)])
    };
    assert_eq!(guard.look(&scene, seconds(1)), Order::Restore(1));
}

#[test]
fn repairs_are_paced() {
    let mut guard = Guard::new(seconds(10));
    let good = [(1, 10)];
    for round in 0..3u8 {
        let scene = refused(100 + round, i64::from(round) + 1, &good);
        assert_eq!(guard.look(&scene, seconds(u64::from(round))), Order::Restore(1));
        guard.restored(at(i64::from(round) + 1), seconds(u64::from(round)));
        guard.look(&running(10, 1), seconds(u64::from(round)));
        guard.proved(hash(10), seconds(u64::from(round)));
    }
    assert_eq!(guard.look(&refused(200, 9, &good), seconds(5)), Order::Wait(Some(seconds(62))));
    assert_eq!(guard.look(&refused(200, 9, &good), seconds(62)), Order::Restore(1));
}

#[test]
fn a_war_about_owned_keys_gets_slower() {
    let mut guard = Guard::new(seconds(10));
    let drifted = |config| Scene { drifted: true, ..running(config, 7) };
    let mut now = seconds(100);
    let mut pauses = Vec::new();
    for round in 0..6u8 {
        let began = now;
        loop {
            match guard.look(&drifted(round), now) {
                Order::Enforce => break,
                Order::Wait(Some(due)) => now = due,
                order => panic!("{order:?}"),
            }
        }
        guard.enforced(now);
        pauses.push((now - began).as_secs());
        guard.look(&running(100, 7), now);
    }
    assert_eq!(pauses, [1, 5, 30, 120, 600, 600]);
    assert!(guard.enforcements() >= WAR);
    // An hour later it is forgotten.
    guard.look(&running(100, 7), now + seconds(3601));
    assert_eq!(guard.enforcements(), 0);
}
