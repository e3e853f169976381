//! What is done to a configuration, and how a content says whose it is.
//!
//! Every whole configuration has the number of its deed in `ui.marker` and, beside what the gateway does with it, in `tools.standIn.deed`: two places that only
//! a torn configuration has from two deeds. The agent signs in `messages.agent`, control's keys are in `logging.level`.

use serde_json::{Value, json};

use crate::crash::content::Rng;

/// What the gateway does with a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// Takes it over while it runs.
    Good,
    /// Has to start anew, and is well.
    Restarts,
    /// Takes it over and stamps the file.
    Rewrites,
    /// Says that it has to start anew.
    WantsRestart,
    /// Ends in order, to be started with it.
    Leaves,
    /// Its validation refuses it.
    Invalid,
    /// Neither starts with it nor takes it over.
    Refused,
    /// Ends with an error, at its start or when it takes it over.
    Crashes,
    /// Never gets ready.
    Hangs,
}

/// Each with how often it is drawn.
const BEHAVIOURS: &[(Behaviour, u64)] = &[
    (Behaviour::Good, 26),
    (Behaviour::Restarts, 12),
    (Behaviour::Rewrites, 8),
    (Behaviour::WantsRestart, 6),
    (Behaviour::Leaves, 6),
    (Behaviour::Invalid, 6),
    (Behaviour::Refused, 20),
    (Behaviour::Crashes, 14),
    (Behaviour::Hangs, 2),
];

impl Behaviour {
    /// One of all.
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let mut at = rng.below(BEHAVIOURS.iter().map(|(_, weight)| weight).sum());
        for (behaviour, weight) in BEHAVIOURS {
            if at < *weight {
                return *behaviour;
            }
            at -= weight;
        }
        Self::Good
    }

    /// Whether a gateway can run with it.
    pub(super) fn is_good(self) -> bool {
        matches!(self, Self::Good | Self::Restarts | Self::Rewrites | Self::WantsRestart | Self::Leaves)
    }

    fn stand_in(self) -> Value {
        match self {
            Self::Good | Self::Restarts => json!({}),
            Self::Rewrites => json!({"reload": "rewrite"}),
            Self::WantsRestart => json!({"reload": "restart"}),
            Self::Leaves => json!({"reload": "exit"}),
            Self::Invalid => json!({"validate": "invalid", "start": "refuse", "reload": "refuse"}),
            Self::Refused => json!({"start": "refuse", "reload": "refuse"}),
            Self::Crashes => json!({"start": "crash", "reload": "crash"}),
            Self::Hangs => json!({"start": "hang", "reload": "restart"}),
        }
    }
}

/// What somebody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Control pushes a configuration and a file of the workspace in one generation.
    Set(Behaviour),
    /// Control pushes a configuration.
    Push(Behaviour),
    /// Control owns `logging.level` from then on.
    Own,
    /// Control owns nothing any more.
    Disown,
    /// `PUT /config`.
    Put(Behaviour),
    /// `POST /config/rollback`.
    Rollback,
    /// The agent saves what was there when the round began, signed.
    Edit,
    /// The same with another `logging.level`.
    Overwrite,
    /// The agent saves what a gateway refuses.
    Break,
}

impl Act {
    /// Whether it goes through control.
    pub(super) fn is_push(self) -> bool {
        matches!(self, Self::Set(_) | Self::Push(_) | Self::Own | Self::Disown)
    }

    /// Whether the agent does it.
    pub(super) fn is_agents(self) -> bool {
        matches!(self, Self::Edit | Self::Overwrite | Self::Break)
    }

    /// What the gateway does with the configuration that it brings, if it brings one.
    pub(super) fn behaviour(self) -> Option<Behaviour> {
        match self {
            Self::Set(behaviour) | Self::Push(behaviour) | Self::Put(behaviour) => Some(behaviour),
            Self::Break => Some(Behaviour::Refused),
            Self::Own | Self::Disown | Self::Rollback | Self::Edit | Self::Overwrite => None,
        }
    }
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Applied,
    RolledBack,
    Invalid,
    Conflict,
}

impl Verdict {
    /// From its name on the wire.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "applied" => Self::Applied,
            "rolled_back" => Self::RolledBack,
            "invalid" => Self::Invalid,
            "conflict" => Self::Conflict,
            _ => return None,
        })
    }
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Control took it as this generation.
    Generation(u64),
    /// The sidecar's verdict.
    Verdict(Verdict),
    /// It is on disk: the agent's own.
    Saved,
    /// It was refused, so nothing happened.
    Refused,
    /// No answer: it happened, or not.
    Unknown,
}

/// One act, done.
#[derive(Debug, Clone)]
pub(super) struct Deed {
    /// Unlike every other's; the actor is made from it.
    pub(super) id: u64,
    pub(super) act: Act,
    pub(super) told: Told,
    /// What the agent saved, byte by byte.
    pub(super) saved: Option<String>,
    /// In which round.
    pub(super) round: u64,
}

impl Deed {
    /// `X-Winston-Actor` of a deed.
    pub(super) fn actor(id: u64) -> String {
        format!("deed-{id}")
    }
}

/// The whole configuration of a deed.
pub(super) fn config(id: u64, behaviour: Behaviour) -> String {
    let mut stand_in = behaviour.stand_in();
    stand_in["deed"] = json!(id);
    let mut config = crate::trial::value(&Deed::actor(id), &stand_in);
    if behaviour == Behaviour::Restarts {
        config["discovery"] = json!({"wideArea": id});
    }
    format!("{config:#}\n")
}

/// What a configuration says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signed {
    /// Whose it is.
    pub(super) id: u64,
    /// `logging.level`.
    pub(super) level: Option<String>,
}

/// Reads a configuration; nothing when it is none, or has parts of two.
pub(super) fn signed(content: &[u8]) -> Option<Signed> {
    let config: Value = serde_json::from_slice(content).ok()?;
    let id = config["tools"]["standIn"]["deed"].as_u64()?;
    let level = config["logging"]["level"].as_str().map(str::to_owned);
    (config["ui"]["marker"] == Deed::actor(id)).then_some(Signed { id, level })
}

/// The file that comes with a set.
pub(super) fn soul(id: u64) -> String {
    format!("# {}\n", Deed::actor(id))
}
