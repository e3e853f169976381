//! Operator, administrator and agent: each does what the plan says, one act after the other, and notes what came back.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::deed::{Act, Deed, Told, Verdict, config, soul};
use super::operator::Database;
use super::stage::SOUL;
use crate::http::{Answer, Client};
use crate::tenant::Tenant;
use crate::trial::CONFIG;

/// Everything that was done to a tenant.
#[derive(Debug, Default)]
pub(super) struct Deeds {
    next: AtomicU64,
    done: Mutex<Vec<Deed>>,
}

impl Deeds {
    /// A number for a deed.
    pub(super) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn note(&self, deed: Deed) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(deed);
    }

    /// A copy of everything so far.
    pub(super) fn all(&self) -> Vec<Deed> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Who acts.
pub(super) struct Actors<'a> {
    pub(super) tenant: &'a Tenant,
    pub(super) database: &'a Database,
    pub(super) sidecar: &'a Client,
    pub(super) data: PathBuf,
    pub(super) deeds: &'a Deeds,
    pub(super) round: u64,
    /// The configuration when the round began.
    pub(super) before: &'a Value,
}

const OCTETS: (&str, &str) = ("Content-Type", "application/octet-stream");

impl Actors<'_> {
    /// One actor's part of a round.
    pub(super) fn play(&self, acts: &[(Duration, Act)]) -> Result<()> {
        for (pause, act) in acts {
            std::thread::park_timeout(*pause);
            let (id, act, round) = (self.deeds.next_id(), *act, self.round);
            let (told, saved) = self.one(id, act)?;
            self.deeds.note(Deed { id, act, told, saved, round });
        }
        Ok(())
    }

    fn one(&self, id: u64, act: Act) -> Result<(Told, Option<String>)> {
        let actor = Deed::actor(id);
        let signed = ("X-Winston-Actor", actor.as_str());
        let file = format!("/files/{CONFIG}");
        let told = match act {
            Act::Set(behaviour) => {
                let files = [(SOUL, &*soul(id)), (CONFIG, &*config(id, behaviour))];
                self.database.push(&self.tenant.id, &actor, &files).map_or(Told::Unknown, Told::Generation)
            }
            Act::Push(behaviour) => {
                pushed(self.tenant.call("PUT", &file, &[signed, OCTETS], config(id, behaviour).as_bytes()))
            }
            Act::Own => {
                let patch = json!({"logging": {"level": actor}}).to_string();
                pushed(self.tenant.call("PUT", &format!("{file}?merge=true"), &[signed, OCTETS], patch.as_bytes()))
            }
            Act::Disown => pushed(self.tenant.call("DELETE", &format!("{file}?merge=true"), &[signed], b"")),
            Act::Put(behaviour) => {
                let content = config(id, behaviour);
                judged(self.sidecar.call("PUT", "/config", &[signed, OCTETS], content.as_bytes()))
            }
            Act::Rollback => judged(self.sidecar.call("POST", "/config/rollback", &[signed], b"")),
            Act::Edit | Act::Overwrite | Act::Break => return self.save(id, act),
        };
        Ok((told, None))
    }

    /// As an editor does that was opened when the round began: a new file takes the old one's place.
    fn save(&self, id: u64, act: Act) -> Result<(Told, Option<String>)> {
        let content = match act {
            Act::Break => config(id, super::deed::Behaviour::Refused),
            _ => {
                let mut edited = self.before.clone();
                edited["messages"] = json!({"agent": Deed::actor(id)});
                if act == Act::Overwrite {
                    edited["logging"] = json!({"level": Deed::actor(id)});
                }
                format!("{edited:#}\n")
            }
        };
        // Beside the data directory, where nobody looks.
        let beside = self.data.with_extension(format!("saving-{id}"));
        std::fs::write(&beside, &content)?;
        std::fs::rename(&beside, self.data.join(CONFIG))?;
        Ok((Told::Saved, Some(content)))
    }
}

fn pushed(answer: Result<Answer>) -> Told {
    match answer.map(|answer| (answer.status, answer.json())) {
        Ok((200, Ok(json))) => json["generation"].as_u64().map_or(Told::Unknown, Told::Generation),
        Ok((400..500, _)) => Told::Refused,
        _ => Told::Unknown,
    }
}

fn judged(answer: Result<Answer>) -> Told {
    let Ok(answer) = answer else { return Told::Unknown };
    let verdict = answer.json().ok().and_then(|json| Verdict::parse(json["verdict"].as_str()?));
    match (answer.status, verdict) {
        (_, Some(verdict)) => Told::Verdict(verdict),
        (400..500, None) => Told::Refused,
        _ => Told::Unknown,
    }
}
