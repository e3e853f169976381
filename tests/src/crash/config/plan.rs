//! What happens in a round. Everything follows from the seed; what the machine does in the same milliseconds does not.

use std::time::Duration;

use super::deed::{Act, Behaviour};
use crate::crash::content::Rng;

/// What can be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victim {
    /// `winston-sidecar`, entrypoint's child.
    Sidecar,
    /// The gateway.
    Gateway,
    /// Entrypoint, sidecar and gateway, as a platform ends a container.
    Container,
}

/// When the first one is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// So long after everybody has begun.
    After(Duration),
    /// As soon as a change is there, and so long after that.
    During(&'static str, Duration),
}

/// What `GET /config` calls the steps of a change.
const ACTIVITIES: &[&str] = &["validating", "swapping", "starting", "watching", "returning"];

/// One round.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The place at which the sidecar kills itself, and at which visit.
    pub(super) failpoint: Option<(String, u64)>,
    pub(super) moment: Moment,
    /// Who is killed, in order, and the time between two kills.
    pub(super) victims: Vec<Victim>,
    pub(super) between: Duration,
    /// What each actor does, with the pause before it: operator, administrator, agent.
    pub(super) acts: [Vec<(Duration, Act)>; 3],
    /// The round ends with the container's death instead of a stop in order.
    pub(super) hard_end: bool,
}

impl Plan {
    /// Draws a round. Every other one goes to a failpoint, each name in turn.
    pub(super) fn draw(rng: &mut Rng, round: u64, names: &[String]) -> Self {
        let turn = usize::try_from(round / 2).unwrap_or(0);
        let name = (round.is_multiple_of(2) && !names.is_empty()).then(|| names[turn % names.len()].clone());
        let mut acts = [operator(rng), administrator(rng), agent(rng)];
        let mut victims = match rng.below(100) {
            0..40 => vec![Victim::Sidecar],
            40..60 => vec![Victim::Gateway],
            60..75 => vec![Victim::Container],
            75..90 => vec![Victim::Sidecar, Victim::Gateway],
            _ => vec![Victim::Sidecar, Victim::Sidecar],
        };
        if victims.len() > 1 && rng.percent(50) {
            victims.reverse();
        }
        let pause = Duration::from_millis(rng.below(120));
        let mut moment = match rng.pick(ACTIVITIES) {
            Some(activity) if rng.percent(65) => Moment::During(activity, pause),
            _ => Moment::After(Duration::from_millis(rng.below(1200))),
        };
        if let Some(name) = &name {
            if rng.percent(70) {
                victims = Vec::new();
            }
            if name.contains("return") && rng.percent(80) {
                // Only a bad one goes back.
                acts[1].insert(0, (Duration::ZERO, Act::Put(Behaviour::Refused)));
            }
            if matches!(name.as_str(), "config-rejected" | "config-repaired") {
                // Only an edit by hand is repaired, when the gateway starts with it.
                acts = [Vec::new(), Vec::new(), vec![(Duration::ZERO, Act::Break)]];
                victims = vec![Victim::Gateway];
                moment = Moment::After(Duration::from_millis(150 + rng.below(300)));
            }
        }
        let most = if rng.percent(70) { 1 } else { 3 };
        let visit = 1 + rng.below(most);
        Self {
            failpoint: name.map(|name| (name, visit)),
            moment,
            victims,
            between: Duration::from_millis(rng.below(150)),
            acts,
            hard_end: rng.percent(30),
        }
    }

    /// Whether what became of a good change may be the round's fault: its gateway was killed, or the agent gave it what it refuses.
    pub(super) fn disturbs(&self) -> bool {
        let kills = self.victims.iter().any(|victim| matches!(victim, Victim::Gateway | Victim::Container));
        kills || self.acts[2].iter().any(|(_, act)| *act == Act::Break)
    }
}

fn operator(rng: &mut Rng) -> Vec<(Duration, Act)> {
    let count = if rng.percent(20) { 0 } else { 1 + rng.below(2) };
    let one = |rng: &mut Rng| match rng.below(100) {
        0..45 => Act::Set(Behaviour::draw(rng)),
        45..80 => Act::Push(Behaviour::draw(rng)),
        80..94 => Act::Own,
        _ => Act::Disown,
    };
    (0..count).map(|_| (Duration::from_millis(rng.below(400)), one(rng))).collect()
}

fn administrator(rng: &mut Rng) -> Vec<(Duration, Act)> {
    let count = if rng.percent(40) { 0 } else { 1 + rng.below(2) };
    let one = |rng: &mut Rng| if rng.percent(75) { Act::Put(Behaviour::draw(rng)) } else { Act::Rollback };
    (0..count).map(|_| (Duration::from_millis(rng.below(400)), one(rng))).collect()
}

fn agent(rng: &mut Rng) -> Vec<(Duration, Act)> {
    let count = if rng.percent(60) { 0 } else { 1 + rng.below(2) };
    let one = |rng: &mut Rng| match rng.below(100) {
        0..50 => Act::Edit,
        50..75 => Act::Overwrite,
        _ => Act::Break,
    };
    (0..count).map(|_| (Duration::from_millis(rng.below(900)), one(rng))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_plans_the_same() {
        let names = ["config-x".to_owned(), "gateway-y".to_owned()];
        let plan = |seed| {
            (0..50).map(|round| format!("{:?}", Plan::draw(&mut Rng::new(seed).fork(round), round, &names))).collect()
        };
        let plans: Vec<String> = plan(1);
        assert_eq!(plans, plan(1));
        assert_ne!(plans, plan(2));
    }

    #[test]
    fn a_repair_can_only_follow_an_edit_that_the_gateway_starts_with() {
        let plan = Plan::draw(&mut Rng::new(3), 0, &["config-repaired".to_owned()]);
        assert_eq!((plan.victims.as_slice(), plan.acts[2].len()), ([Victim::Gateway].as_slice(), 1));
        assert!(plan.disturbs());
    }
}
