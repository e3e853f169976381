//! What holds after any sequence of events.

use proptest::prelude::*;

use super::*;

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => Just(Event::Start),
        2 => Just(Event::Stop),
        2 => Just(Event::Restart),
        2 => Just(Event::ConfigReady),
        2 => Just(Event::Started),
        1 => Just(Event::NotYet),
        1 => Just(Event::Alive),
        2 => Just(Event::Silent),
        1 => Just(Event::DrainRefused),
        4 => Just(Event::Deadline),
        1 => Just(Event::SpawnFailed),
        1 => Just(Event::Exited(End::NoConfig)),
        2 => Just(Event::Exited(End::Clean)),
        3 => Just(Event::Exited(End::Failed)),
        1 => Just(Event::Exited(End::Refused)),
    ]
}

fn any_memory() -> impl Strategy<Value = Memory> {
    let running = (0u64..1000, proptest::option::of(0u64..1000))
        .prop_map(|(age, ready)| Running { age: secs(age), ready_for: ready.map(secs) });
    (proptest::option::of(running), any::<bool>(), 0u32..8, any::<bool>())
        .prop_map(|(running, stopped, failures, configured)| Memory { running, stopped, failures, configured })
}

/// The world as the transition function cannot see it: whether there is a process.
struct World {
    walk: Walk,
    alive: bool,
    /// The process was started here, not by an earlier sidecar.
    spawned: bool,
}

impl World {
    /// Delivers an event if it is possible in this world, and checks what must always hold.
    fn deliver(&mut self, event: Event) -> Result<(), TestCaseError> {
        match event {
            Event::Exited(_) if !self.alive => return Ok(()),
            Event::Exited(_) => self.alive = false,
            // Only ever the answer to `Spawn`.
            Event::SpawnFailed if !self.spawned || !matches!(self.walk.state.phase, Phase::Starting { .. }) => {
                return Ok(());
            }
            Event::SpawnFailed => self.alive = false,
            _ => {}
        }
        for action in self.walk.take(event) {
            match action {
                Action::Spawn => {
                    prop_assert!(!self.alive, "two processes");
                    (self.alive, self.spawned) = (true, true);
                }
                Action::Drain | Action::Terminate | Action::Kill => {
                    prop_assert!(self.alive, "{action:?} without a process");
                }
                Action::Sweep => {}
            }
        }
        let phase = self.walk.state.phase;
        let has_process = phase.probe().is_some() || matches!(phase, Phase::Stopping { .. });
        prop_assert_eq!(has_process, self.alive, "{:?}", phase);
        Ok(())
    }

    /// Lets time pass with a process that ends only when killed.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..4 {
            if let Phase::Stopping { step, .. } = self.walk.state.phase {
                if step == StopStep::Killing {
                    self.deliver(Event::Exited(End::Failed))?;
                } else if let Some(deadline) = self.walk.state.phase.deadline() {
                    self.walk.now = self.walk.now.max(deadline);
                    self.deliver(Event::Deadline)?;
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn whatever_happens(
        memory in proptest::option::of(any_memory()),
        events in proptest::collection::vec((any_event(), 0u64..400), 0..120),
        shutdown: bool,
    ) {
        let walk = Walk { limits: Limits::default(), state: State::initial(), now: secs(0) };
        let mut world = World { walk, alive: false, spawned: false };
        if let Some(memory) = memory {
            world.alive = memory.running.is_some();
            world.deliver(Event::Resumed(memory))?;
        }
        for (event, seconds) in events {
            world.walk.now += secs(seconds);
            world.deliver(event)?;
        }
        world.deliver(if shutdown { Event::Shutdown } else { Event::Stop })?;
        world.settle()?;
        let expected = if shutdown { Phase::ShutDown } else { Phase::Stopped };
        prop_assert_eq!(world.walk.state.phase, expected);
        prop_assert!(!world.alive);
    }
}
