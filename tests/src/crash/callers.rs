//! Callers of the sidecar's file API.

use serde_json::json;

use super::content::{Rng, block};
use super::log::{Log, becomes, goes};
use super::oracle::{Effect, Op, Outcome, Who};
use crate::http::{Answer, Client};

/// Files that callers, the agent and pushes fight over.
pub(super) const SHARED: u64 = 6;

/// The path of a shared file.
#[must_use]
pub(super) fn shared(number: u64) -> String {
    format!("workspace/shared/{number}.md")
}

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `PUT`, whatever is there.
    Put,
    /// `PUT` with `If-Match`.
    PutOver,
    /// `PUT` with `If-None-Match: *`.
    PutNew,
    /// `DELETE`, whatever is there.
    Delete,
    /// `DELETE` with `If-Match`.
    DeleteOver,
    /// `POST /files/<path>?op=move`.
    Move,
    /// `POST /files/<path>?op=copy`.
    Copy,
    /// `POST /batch`.
    Batch,
    /// `DELETE` of a directory with `recursive=true`.
    DeleteTree,
}

/// Each kind, its name, how often it is used, and whether every sidecar has it.
pub(super) const KINDS: &[(Kind, &str, u64, bool)] = &[
    (Kind::Put, "put", 40, true),
    (Kind::PutOver, "put-if-match", 12, true),
    (Kind::PutNew, "put-if-none-match", 12, true),
    (Kind::Delete, "delete", 10, true),
    (Kind::DeleteOver, "delete-if-match", 6, true),
    (Kind::Move, "move", 6, false),
    (Kind::Copy, "copy", 6, false),
    (Kind::Batch, "batch", 8, false),
    (Kind::DeleteTree, "delete-tree", 4, false),
];

/// Where an operation got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// There was an answer.
    Answered,
    /// There was none: the server is gone.
    Gone,
}

/// One caller with a token.
pub(super) struct Caller<'a> {
    /// The sidecar.
    pub(super) client: &'a Client,
    /// Where everything is noted.
    pub(super) log: &'a Log,
    /// Draws what is done.
    pub(super) rng: Rng,
    /// Directory of its own.
    pub(super) home: String,
}

impl Caller<'_> {
    /// One request of one of `kinds`.
    pub(super) fn step(&mut self, kinds: &[Kind]) -> Flow {
        let usable = || KINDS.iter().filter(|(kind, ..)| kinds.contains(kind));
        let mut at = self.rng.below(usable().map(|(_, _, weight, _)| weight).sum());
        for (kind, _, weight, _) in usable() {
            if at < *weight {
                return self.request(*kind);
            }
            at -= weight;
        }
        Flow::Answered
    }

    /// One request of this kind.
    pub(super) fn request(&mut self, kind: Kind) -> Flow {
        let path = if self.rng.percent(60) {
            shared(self.rng.below(SHARED))
        } else {
            format!("{}/{}.md", self.home, self.rng.below(4))
        };
        let id = self.log.next_id();
        match kind {
            Kind::Put => self.put(id, &path, &[]),
            Kind::PutNew => self.put(id, &path, &[("If-None-Match", "*")]),
            Kind::PutOver => match self.etag(&path) {
                Ok(Some(etag)) => self.put(id, &path, &[("If-Match", &etag)]),
                Ok(None) => Flow::Answered,
                Err(flow) => flow,
            },
            Kind::Delete => self.send(id, vec![goes(&path)], "DELETE", &format!("/files/{path}"), &[], b""),
            Kind::DeleteOver => match self.etag(&path) {
                Ok(Some(etag)) => {
                    self.send(id, vec![goes(&path)], "DELETE", &format!("/files/{path}"), &[("If-Match", &etag)], b"")
                }
                Ok(None) => Flow::Answered,
                Err(flow) => flow,
            },
            Kind::Move | Kind::Copy => self.transfer(id, kind == Kind::Move),
            Kind::Batch => self.batch(id),
            Kind::DeleteTree => self.delete_tree(id),
        }
    }

    fn put(&mut self, id: u64, path: &str, headers: &[(&str, &str)]) -> Flow {
        let body = block(id, filler(&mut self.rng));
        let mut all = vec![("Content-Type", "application/octet-stream")];
        all.extend_from_slice(headers);
        self.send(id, vec![becomes(path, id)], "PUT", &format!("/files/{path}"), &all, &body)
    }

    /// A new file of its own, and then that file elsewhere.
    fn transfer(&mut self, id: u64, is_move: bool) -> Flow {
        let (from, to) = (format!("{}/from-{id}.md", self.home), format!("{}/to-{id}.md", self.home));
        if self.put(id, &from, &[]) == Flow::Gone {
            return Flow::Gone;
        }
        let op = self.log.next_id();
        let (word, mut effects) = if is_move { ("move", vec![goes(&from)]) } else { ("copy", Vec::new()) };
        effects.push(becomes(&to, id));
        let body = json!({"to": to}).to_string();
        self.send(op, effects, "POST", &format!("/files/{from}?op={word}&to={to}"), &[JSON], body.as_bytes())
    }

    /// Several files at once.
    fn batch(&mut self, id: u64) -> Flow {
        let paths: Vec<_> = (0..3)
            .map(|number| format!("{}/batch-{number}.md", self.home))
            .chain([shared(self.rng.below(SHARED))])
            .collect();
        let blocks: Vec<_> = paths.iter().map(|_| self.log.next_id()).collect();
        let effects = paths.iter().zip(&blocks).map(|(path, block)| becomes(path, *block)).collect();
        let operations: Vec<_> = paths
            .iter()
            .zip(&blocks)
            .map(|(path, id)| json!({"op": "put", "path": path, "content": String::from_utf8_lossy(&block(*id, 40))}))
            .collect();
        let body = json!({"operations": operations}).to_string();
        self.send(id, effects, "POST", "/batch", &[JSON], body.as_bytes())
    }

    /// A new directory of its own, and then without it.
    fn delete_tree(&mut self, id: u64) -> Flow {
        let tree = format!("{}/tree-{id}", self.home);
        let paths = [format!("{tree}/a.md"), format!("{tree}/below/b.md")];
        for path in &paths {
            let id = self.log.next_id();
            if self.put(id, path, &[]) == Flow::Gone {
                return Flow::Gone;
            }
        }
        let effects = paths.iter().map(|path| goes(path)).collect();
        self.send(id, effects, "DELETE", &format!("/files/{tree}?recursive=true"), &[], b"")
    }

    /// The current version of a path.
    fn etag(&self, path: &str) -> Result<Option<String>, Flow> {
        match self.client.call("GET", &format!("/files/{path}"), &[("Accept", "application/octet-stream")], b"") {
            Ok(answer) => Ok(answer.header("etag").map(str::to_owned)),
            Err(_) => Err(Flow::Gone),
        }
    }

    fn send(
        &self,
        id: u64,
        effects: Vec<Effect>,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Flow {
        let actor = Op::actor(id);
        let mut all = vec![("X-Winston-Actor", actor.as_str())];
        all.extend_from_slice(headers);
        let mut flow = Flow::Answered;
        self.log.run(id, Who::Api, effects, || match self.client.call(method, target, &all, body) {
            Ok(answer) => outcome(&answer, "seq"),
            Err(_) => {
                flow = Flow::Gone;
                Outcome::Unknown
            }
        });
        flow
    }
}

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// What an answer says about its request. A sentence that broke off is no answer.
#[must_use]
pub(super) fn outcome(answer: &Answer, number: &str) -> Outcome {
    match (answer.status, answer.json()) {
        (200..300, Ok(json)) => Outcome::Done(json[number].as_u64()),
        (400..500, _) => Outcome::Refused,
        _ => Outcome::Unknown,
    }
}

/// How long contents are: most are short, some are too long for a journal line.
pub(super) fn filler(rng: &mut Rng) -> usize {
    let most = match rng.below(100) {
        0..80 => 200,
        80..97 => 8_000,
        _ => 200_000,
    };
    usize::try_from(rng.below(most)).unwrap_or(0)
}
