//! The diagram in `docs/ARCHITECTURE.md` is what the transition function does: every state that can be reached is taken, every
//! event is delivered to it, and the arrows that come out are compared with those that are drawn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;

const PAGE: &str = include_str!("../../../../../docs/ARCHITECTURE.md");

/// An arrow for each pair of nodes, with every event that leads from one to the other.
type Arrows = BTreeMap<(String, String), BTreeSet<&'static str>>;

/// The node of a phase, as the page names it.
fn node(phase: Phase) -> String {
    match phase {
        Phase::ShutDown => "ShutDown".into(),
        phase => format!("{:?}", phase.public()),
    }
}

/// The words for an event.
fn words(event: Event) -> &'static str {
    match event {
        Event::Start => "start",
        Event::Stop => "stop",
        Event::Restart => "restart",
        Event::Shutdown => "shutdown",
        Event::Release => "release",
        Event::Resumed(_) => "resumed",
        Event::ConfigReady => "config",
        Event::SpawnFailed => "not spawned",
        Event::Exited(_) => "ended",
        Event::Started => "started",
        Event::NotYet => "not yet",
        Event::Alive => "alive",
        Event::Silent => "silent",
        Event::Well => "well",
        Event::Impaired => "impaired",
        Event::DrainRefused => "drain refused",
        Event::Deadline => "time over",
    }
}

/// Everything that can happen in a phase; whoever adds an event is told by `words` above.
fn events(phase: Phase) -> Vec<Event> {
    use Event::{
        Alive, ConfigReady, Deadline, DrainRefused, Exited, Impaired, NotYet, Release, Restart, Shutdown, Silent,
        SpawnFailed, Start, Started, Stop, Well,
    };
    let mut events = vec![Start, Stop, Restart, Shutdown, Release, ConfigReady, DrainRefused, Deadline];
    events.extend([Started, NotYet, Alive, Silent, Well, Impaired]);
    if phase.probe().is_some() || matches!(phase, Phase::Stopping { .. }) {
        events.extend([End::Clean, End::NoConfig, End::Refused, End::Failed].map(Exited));
    }
    if matches!(phase, Phase::Starting { .. }) {
        events.push(SpawnFailed);
    }
    events
}

/// What one sidecar can leave to the next.
fn memories() -> Vec<Memory> {
    let running = |ready_for| Some(Running { age: secs(100), ready_for });
    let mut memories = Vec::new();
    for running in [None, running(None), running(Some(secs(50)))] {
        for (stopped, configured) in [(false, false), (false, true), (true, false), (true, true)] {
            memories.extend([0, 1, 9].map(|failures| Memory { running, stopped, failures, configured }));
        }
    }
    memories
}

/// A state without its times, which are different in each and lead to the same.
fn essence(state: &State) -> String {
    let text = format!("{:?} {} {}", state.phase, state.configured, state.failures.min(9));
    text.chars().filter(|letter| !letter.is_ascii_digit() && *letter != '.').collect::<String>()
        + &state.failures.min(9).to_string()
}

/// Follows every event from every state that can be reached.
fn arrows() -> Arrows {
    let limits = Limits::default();
    let mut arrows = Arrows::new();
    let mut seen = BTreeSet::new();
    let mut open = VecDeque::from([(State::initial(), secs(1000))]);
    let mut first = memories().into_iter().map(Event::Resumed).collect::<Vec<_>>();
    while let Some((state, now)) = open.pop_front() {
        if !seen.insert(essence(&state)) {
            continue;
        }
        let mut events = events(state.phase);
        events.append(&mut first);
        for event in events {
            // At once, when its time is over, and after it has run well.
            let moments = [Some(now), state.phase.deadline(), Some(now + limits.ran_well)];
            for now in moments.into_iter().flatten() {
                let (next, _) = step(&limits, &state, event, Moment { now, jitter: Jitter(0) });
                let (from, to) = (node(state.phase), node(next.phase));
                if matches!(event, Event::Resumed(_)) {
                    arrows.entry(("[*]".into(), to)).or_default().insert(words(event));
                } else if from != to {
                    arrows.entry((from, to)).or_default().insert(words(event));
                }
                open.push_back((next, now));
            }
        }
    }
    arrows
}

/// The lines of the diagram. What the page says in words is left out: the end of everything, and what `Degraded` shares with `Ready`.
fn drawn(arrows: &Arrows) -> Vec<String> {
    let mut lines = Vec::new();
    for ((from, to), events) in arrows {
        let events: Vec<&str> = events.iter().copied().filter(|event| to != "ShutDown" || *event == "ended").collect();
        if !events.is_empty() && (from != "Degraded" || to == "Ready") {
            lines.push(format!("    {from} --> {to}: {}", events.join(", ")));
        }
    }
    lines
}

#[test]
fn the_page_draws_what_the_function_does() {
    let start = PAGE.find("```mermaid\nstateDiagram-v2\n").expect("a diagram");
    let diagram = PAGE[start..].lines().skip(2).take_while(|line| *line != "```");
    let there: Vec<&str> = diagram.filter(|line| line.contains("-->")).collect();
    let expected = drawn(&arrows());
    assert!(there == expected, "docs/ARCHITECTURE.md should have these arrows:\n{}", expected.join("\n"));
}

#[test]
fn what_the_page_says_of_every_state_holds() {
    let arrows = arrows();
    let nodes: BTreeSet<&String> = arrows.keys().map(|(from, _)| from).filter(|from| *from != "[*]").collect();
    assert_eq!(nodes.len(), 10, "{nodes:?}");
    for from in nodes {
        let ends = &arrows[&(from.clone(), "ShutDown".to_owned())];
        assert!(ends.contains("release"), "{from}");
        let has_process = arrows.contains_key(&(from.clone(), "Stopping".to_owned())) || from == "Stopping";
        assert_eq!(ends.contains("shutdown"), !has_process, "{from}");
    }
    assert!(arrows.keys().all(|(from, _)| from != "ShutDown"), "it is final");
    let leads = |node: &str, other: &str| -> Arrows {
        let mut arrows = arrows.clone();
        arrows.retain(|(from, to), _| from == node && to != other);
        arrows.into_iter().map(|((_, to), events)| ((String::new(), to), events)).collect()
    };
    assert_eq!(leads("Ready", "Degraded"), leads("Degraded", "Ready"));
}
