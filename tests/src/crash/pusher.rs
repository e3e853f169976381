//! Pushes from control.

use super::callers::{SHARED, filler, outcome, shared};
use super::content::{Rng, block};
use super::log::{Log, becomes, goes};
use super::oracle::{Op, Outcome, Who};
use crate::tenant::Tenant;

/// An operator who pushes files.
pub(super) struct Pusher<'a> {
    /// The tenant, in control.
    pub(super) tenant: &'a Tenant,
    /// Where everything is noted.
    pub(super) log: &'a Log,
    /// Draws what is done.
    pub(super) rng: Rng,
}

impl Pusher<'_> {
    /// One push.
    pub(super) fn step(&mut self) {
        let path = if self.rng.percent(60) {
            shared(self.rng.below(SHARED))
        } else {
            format!("workspace/pushed/{}.md", self.rng.below(4))
        };
        let id = self.log.next_id();
        let actor = Op::actor(id);
        let mut headers = vec![("X-Winston-Actor", actor.as_str()), ("Content-Type", "application/octet-stream")];
        let etag = if self.rng.percent(30) { self.etag(&path) } else { None };
        if let Some(etag) = &etag {
            headers.push(("If-Match", etag));
        }
        let force = if etag.is_none() && self.rng.percent(30) { "?force=true" } else { "" };
        let target = format!("/files/{path}{force}");
        let (method, effect, body) = if self.rng.percent(15) {
            ("DELETE", goes(&path), Vec::new())
        } else {
            ("PUT", becomes(&path, id), block(id, filler(&mut self.rng)))
        };
        self.log.run(id, Who::Push, vec![effect], || match self.tenant.call(method, &target, &headers, &body) {
            Ok(answer) => outcome(&answer, "generation"),
            Err(_) => Outcome::Unknown,
        });
    }

    fn etag(&self, path: &str) -> Option<String> {
        let answer = self.tenant.call("GET", &format!("/files/{path}"), &[], b"").ok()?;
        answer.header("etag").map(str::to_owned)
    }
}
