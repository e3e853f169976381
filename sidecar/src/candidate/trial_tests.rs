use proptest::prelude::*;

use super::*;

const LIMITS: Limits =
    Limits { start: Duration::from_secs(100), probation: Duration::from_secs(10), silence: Duration::from_secs(15) };

fn look(state: GatewayState) -> Look {
    Look { state, ended: None, earlier_ended: false, answers: state == GatewayState::Ready, reloads: Vec::new() }
}

fn exit(cause: ExitCause) -> Look {
    Look { ended: Some((cause, "it ended".to_owned())), ..look(GatewayState::Backoff) }
}

/// A trial that is stepped through with the time in seconds.
struct Story {
    state: State,
    actions: Vec<Action>,
}

impl Story {
    fn swapped(effect: Effect, standing: Standing) -> Self {
        let mut story = Self { state: State::Validating, actions: Vec::new() };
        story.then(0, Event::Validated(Some(effect))).then(0, Event::Swapped(standing));
        story
    }

    fn then(&mut self, at: u64, event: Event) -> &mut Self {
        let (state, actions) = step(&LIMITS, self.state.clone(), event, Duration::from_secs(at));
        self.state = state;
        self.actions.extend(actions);
        self
    }

    fn looks(&mut self, at: u64, look: Look) -> &mut Self {
        self.then(at, Event::Looked(look))
    }

    fn did(&self, action: Action) -> bool {
        self.actions.contains(&action)
    }

    fn failure(&self) -> &Failure {
        match &self.state {
            State::Returning { failure } => failure,
            state => panic!("{state:?}"),
        }
    }
}

#[test]
fn what_is_wrong_is_never_swapped_in() {
    let mut story = Story { state: State::Validating, actions: Vec::new() };
    story.then(0, Event::Validated(None));
    assert_eq!(story.state, State::Ended(Ruling::Invalid));
    assert_eq!(story.actions, [Action::Report]);
    // Nothing that comes late changes that.
    story.then(1, Event::Swapped(Standing::Ready)).looks(2, look(GatewayState::Ready));
    assert_eq!(story.actions, [Action::Report]);
}

#[test]
fn a_hot_change_is_kept_after_its_time_and_not_before() {
    let applied = || Look { reloads: vec![Reload::Applied], ..look(GatewayState::Ready) };
    let mut story = Story::swapped(Effect::Hot, Standing::Ready);
    story.looks(5, look(GatewayState::Ready)).looks(20, applied()).looks(29, look(GatewayState::Ready));
    assert!(!story.did(Action::Report) && !story.did(Action::Restart));
    story.looks(30, look(GatewayState::Ready));
    assert_eq!(story.state, State::Ended(Ruling::Kept { proved: true }));

    // A gateway that says nothing is not waited for without end, and one that has nothing to take over says nothing.
    for (effect, end) in [(Effect::Hot, 100), (Effect::None, 10)] {
        let mut story = Story::swapped(effect, Standing::Ready);
        story.looks(end - 1, look(GatewayState::Ready));
        assert!(!story.did(Action::Report));
        story.looks(end, look(GatewayState::Ready));
        assert_eq!(story.state, State::Ended(Ruling::Kept { proved: true }));
    }
}

#[test]
fn a_change_that_needs_a_restart_gets_one_and_its_time_counts_from_ready() {
    let mut story = Story::swapped(Effect::Restart, Standing::Ready);
    assert!(story.did(Action::Restart));
    story
        .looks(1, look(GatewayState::Starting))
        .looks(60, look(GatewayState::Ready))
        .looks(69, look(GatewayState::Ready));
    assert!(!story.did(Action::Report));
    story.looks(70, look(GatewayState::Ready));
    assert_eq!(story.state, State::Ended(Ruling::Kept { proved: true }));
}

#[test]
fn whoever_waits_for_a_configuration_is_woken_and_whoever_is_off_is_left_alone() {
    assert!(Story::swapped(Effect::None, Standing::Waiting).did(Action::Wake));
    assert!(Story::swapped(Effect::None, Standing::Running).did(Action::Restart));
    let off = Story::swapped(Effect::Restart, Standing::Off);
    assert_eq!(off.state, State::Ended(Ruling::Kept { proved: false }));
    let ending = Story::swapped(Effect::Restart, Standing::Ending);
    assert!(!ending.did(Action::Restart) && ending.did(Action::Wake));
}

#[test]
fn the_end_of_a_process_that_never_read_it_is_not_its_fault() {
    let earlier = |state| Look { earlier_ended: true, ..look(state) };
    let mut story = Story::swapped(Effect::Hot, Standing::Ending);
    story.looks(90, look(GatewayState::Stopping));
    story.actions.clear();
    // Its successor gets all of its time, and does not wait for the end of a pause.
    story.looks(99, earlier(GatewayState::CrashLooping));
    assert_eq!(story.state, State::Starting { budget_ends: Duration::from_secs(199), restarts: 0 });
    assert_eq!(story.actions, [Action::Wake, Action::Look]);
    story.looks(198, look(GatewayState::Starting));
    assert!(!story.did(Action::Return));
    story.looks(199, exit(ExitCause::Failed));
    assert!(story.did(Action::Return), "the end of its successor is");

    // Somebody wanted it to stay off.
    let mut story = Story::swapped(Effect::Hot, Standing::Ending);
    story.looks(1, earlier(GatewayState::Stopped));
    assert_eq!(story.state, State::Ended(Ruling::Kept { proved: false }));

    // It had ended when the set came, and that is told together with the end of its successor.
    let mut story = Story::swapped(Effect::Restart, Standing::Ending);
    story.looks(1, exit(ExitCause::BadConfig));
    assert!(story.failure().is_refusal());
}

#[test]
fn every_way_to_fail_takes_the_set_back() {
    for cause in [ExitCause::BadConfig, ExitCause::NoConfig, ExitCause::Failed, ExitCause::Hung] {
        for (effect, standing) in [(Effect::Hot, Standing::Ready), (Effect::Restart, Standing::Ready)] {
            let mut story = Story::swapped(effect, standing);
            story.looks(1, exit(cause));
            assert!(story.did(Action::Return), "{cause:?}");
            story.then(2, Event::Returned);
            assert!(matches!(story.state, State::Ended(Ruling::RolledBack(_))));
            assert_eq!(&story.actions[story.actions.len() - 2..], [Action::Revive, Action::Report]);
        }
    }
    let mut story = Story::swapped(Effect::Restart, Standing::Ready);
    story.looks(99, look(GatewayState::Starting));
    assert!(!story.did(Action::Return));
    story.looks(100, look(GatewayState::Starting));
    assert_eq!(story.failure(), &Failure::NotReady(LIMITS.start));

    let mut story = Story::swapped(Effect::Hot, Standing::Ready);
    let silent = || Look { answers: false, ..look(GatewayState::Ready) };
    story.looks(3, silent()).looks(12, silent());
    // Its time is over, and yet it is not kept.
    assert!(!story.did(Action::Report) && !story.did(Action::Return));
    story.looks(18, silent());
    assert_eq!(story.failure(), &Failure::Silent);

    let mut story = Story::swapped(Effect::Hot, Standing::Ready);
    let refused = Reload::Refused("config reload skipped (invalid config): x".to_owned());
    story.looks(1, Look { reloads: vec![refused], ..look(GatewayState::Ready) });
    assert!(matches!(story.failure(), Failure::ReloadRefused(_)));
}

#[test]
fn a_first_configuration_stays_unless_it_was_refused() {
    let mut story = Story::swapped(Effect::Restart, Standing::Waiting);
    story.looks(1, exit(ExitCause::Failed));
    assert!(story.did(Action::Return) && !story.failure().is_refusal());
    story.then(2, Event::NothingToReturn);
    assert!(matches!(story.state, State::Ended(Ruling::First(Failure::Ended(_)))));
    assert!(!story.did(Action::Revive) && story.did(Action::Report));

    let mut story = Story::swapped(Effect::Restart, Standing::Waiting);
    story.looks(1, exit(ExitCause::BadConfig));
    assert!(story.failure().is_refusal());
}

#[test]
fn a_gateway_that_restarts_itself_is_followed_but_not_for_ever() {
    let mut story = Story::swapped(Effect::Hot, Standing::Ready);
    story.looks(1, exit(ExitCause::Clean)).looks(20, look(GatewayState::Ready)).looks(30, look(GatewayState::Ready));
    assert_eq!(story.state, State::Ended(Ruling::Kept { proved: true }));

    let mut story = Story::swapped(Effect::Hot, Standing::Ready);
    for at in 1..=3 {
        story.looks(at, exit(ExitCause::Clean));
    }
    assert_eq!(story.failure(), &Failure::Restless);
}

#[test]
fn restarts_that_somebody_asked_for_are_not_the_candidates() {
    let mut story = Story::swapped(Effect::Restart, Standing::Ready);
    for at in 1..=20 {
        story.looks(at, exit(ExitCause::Asked));
    }
    story.looks(21, exit(ExitCause::Clean)).looks(22, exit(ExitCause::Clean));
    assert!(matches!(story.state, State::Starting { restarts: 2, .. }), "{:?}", story.state);
    // Each has the whole time to get ready.
    story.looks(119, exit(ExitCause::Asked)).looks(150, look(GatewayState::Starting));
    story.looks(160, look(GatewayState::Ready)).looks(170, look(GatewayState::Ready));
    assert_eq!(story.state, State::Ended(Ruling::Kept { proved: true }));
}

#[test]
fn a_gateway_that_says_that_it_has_to_restart_is_restarted() {
    let mut story = Story::swapped(Effect::Hot, Standing::Ready);
    story.looks(1, Look { reloads: vec![Reload::NeedsRestart], ..look(GatewayState::Ready) });
    assert!(story.did(Action::Restart) && matches!(story.state, State::Starting { .. }));
}

#[test]
fn a_stop_by_somebody_else_ends_the_trial_without_a_judgement() {
    let mut story = Story::swapped(Effect::Restart, Standing::Ready);
    story.looks(1, look(GatewayState::Stopping)).looks(2, look(GatewayState::Stopped));
    assert_eq!(story.state, State::Ended(Ruling::Kept { proved: false }));
}

#[test]
fn the_gateways_own_words_are_understood() {
    let refused = |line| matches!(reload_in(line), Some(Reload::Refused(_)));
    assert!(refused("config reload skipped (invalid config): noSuchKey: Unrecognized key"));
    assert!(refused("2026-01-01T00:00:00Z [reload] config reload skipped (config file not found)"));
    assert!(refused("[reload] config reload failed: Error: x"));
    assert_eq!(reload_in("[reload] config change requires gateway restart (gateway.bind)"), Some(Reload::NeedsRestart));
    assert_eq!(reload_in("[reload] config hot reload applied (logging.level)"), Some(Reload::Applied));
    for line in [
        "[reload] config reload skipped by writer intent (plugins)",
        "[agent] config hot reload applied (logging.level)",
        "[agent] the user says: config reload skipped (invalid config)",
        "",
    ] {
        assert_eq!(reload_in(line), None, "{line}");
    }
}

fn any_look() -> impl Strategy<Value = Look> {
    let states = prop::sample::select(vec![
        GatewayState::WaitingForConfig,
        GatewayState::Stopped,
        GatewayState::Starting,
        GatewayState::Ready,
        GatewayState::Unresponsive,
        GatewayState::Stopping,
        GatewayState::Backoff,
        GatewayState::CrashLooping,
    ]);
    let causes = prop::sample::select(vec![
        ExitCause::Asked,
        ExitCause::Clean,
        ExitCause::NoConfig,
        ExitCause::BadConfig,
        ExitCause::Hung,
        ExitCause::Failed,
    ]);
    let reloads = prop::sample::select(vec![Reload::NeedsRestart, Reload::Refused("x".to_owned())]);
    (states, prop::option::weighted(0.1, causes), any::<bool>(), prop::option::weighted(0.1, reloads)).prop_map(
        |(state, cause, answers, reload)| Look {
            state,
            ended: cause.map(|cause| (cause, "it ended".to_owned())),
            earlier_ended: false,
            answers,
            reloads: reload.into_iter().collect(),
        },
    )
}

proptest! {
    /// Whatever the gateway does, a trial ends, in time, unless somebody restarts the gateway again and again; the set is kept or returned, never
    /// both; and it is called proved only while the gateway serves.
    #[test]
    fn every_trial_ends(
        effect in prop::sample::select(vec![Effect::None, Effect::Hot, Effect::Restart]),
        standing in prop::sample::select(vec![Standing::Ready, Standing::Running, Standing::Waiting, Standing::Ending]),
        looks in prop::collection::vec(any_look(), 1..80),
    ) {
        let mut story = Story::swapped(effect, standing);
        let mut last = None;
        let (mut at, most_asked) = (0, looks.len() as u64);
        for mut look in looks.into_iter().cycle() {
            if matches!(story.state, State::Ended(_) | State::Returning { .. }) {
                break;
            }
            at += 1;
            look.ended = look.ended.filter(|(cause, _)| at <= most_asked || *cause != ExitCause::Asked);
            last = Some(look.clone());
            story.looks(at, look);
            prop_assert!(at < 1000, "does not end: {:?}", story.state);
        }
        match &story.state {
            State::Ended(Ruling::Kept { proved: true }) => {
                prop_assert!(last.is_some_and(|look| look.state == GatewayState::Ready && look.answers));
            }
            State::Ended(Ruling::Kept { proved: false }) => {
                prop_assert!(last.is_some_and(|look| look.state == GatewayState::Stopped));
            }
            State::Returning { .. } => prop_assert!(!story.did(Action::Report)),
            state => prop_assert!(false, "{state:?}"),
        }
    }
}

/// The sidecar was ended in the middle of it: the gateway is not, where it takes the set over while it runs.
#[test]
fn a_trial_that_goes_on_restarts_only_what_has_to_start() {
    let now = Duration::from_secs(5);
    for effect in [Effect::None, Effect::Hot, Effect::Restart] {
        let (state, actions) = resumed(&LIMITS, Some(Standing::Ready), effect, now);
        let restarts = actions.contains(&Action::Restart);
        assert_eq!(restarts, effect == Effect::Restart, "{effect:?}");
        assert_eq!(matches!(state, State::Watching { until, .. } if until == now + LIMITS.probation), !restarts);
        // Whether it had read the old set or the new one is not known.
        assert!(resumed(&LIMITS, Some(Standing::Running), effect, now).1.contains(&Action::Restart));
        let (state, actions) = resumed(&LIMITS, None, effect, now);
        assert!(matches!(state, State::Starting { .. }) && !actions.contains(&Action::Restart), "{effect:?}");
    }
}
