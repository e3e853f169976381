//! The agent: edits files where they are, in the ways in which editors do, and asks nobody.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use super::callers::{SHARED, filler, shared};
use super::content::{Rng, block, parse};
use super::log::{Log, becomes, goes};
use super::oracle::{Outcome, Who};

/// One agent; there is only one.
pub(super) struct Agent<'a> {
    /// The data directory.
    pub(super) data: &'a Path,
    /// A directory on the same volume that nobody watches.
    pub(super) outside: &'a Path,
    /// Where everything is noted.
    pub(super) log: &'a Log,
    /// Draws what is done.
    pub(super) rng: Rng,
}

impl Agent<'_> {
    /// One edit, and the time until the next one.
    pub(super) fn step(&mut self) -> std::io::Result<Duration> {
        let own = format!("workspace/agent/{}.md", self.rng.below(4));
        let path = if self.rng.percent(50) { shared(self.rng.below(SHARED)) } else { own.clone() };
        let file = self.data.join(&path);
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match self.rng.below(100) {
            0..35 => self.save_from_outside(&path)?,
            35..50 => self.save_beside(&path)?,
            50..70 => self.truncate_and_write(&path)?,
            70..82 => self.append(&path)?,
            82..92 => self.delete(&path),
            _ => self.rename(&own)?,
        }
        // Bursts and rests: some versions are seen, some are replaced before.
        let pause = if self.rng.percent(50) { self.rng.below(4) } else { self.rng.below(60) };
        Ok(Duration::from_millis(pause))
    }

    fn save_from_outside(&mut self, path: &str) -> std::io::Result<()> {
        let id = self.log.next_id();
        let staged = self.outside.join("saved");
        std::fs::write(&staged, block(id, filler(&mut self.rng)))?;
        self.done(id, Who::Agent, vec![becomes(path, id)], || std::fs::rename(&staged, self.data.join(path)))
    }

    /// As editors do: a new file beside the old one, which takes its place.
    fn save_beside(&mut self, path: &str) -> std::io::Result<()> {
        let (id, rename) = (self.log.next_id(), self.log.next_id());
        let beside = format!("{path}.{id}.tmp");
        let content = block(id, filler(&mut self.rng));
        self.done(id, Who::AgentInPlace, vec![becomes(&beside, id)], || {
            std::fs::write(self.data.join(&beside), &content)
        })?;
        let (from, to) = (self.data.join(&beside), self.data.join(path));
        self.done(rename, Who::Agent, vec![goes(&beside), becomes(path, id)], || std::fs::rename(from, to))
    }

    fn truncate_and_write(&mut self, path: &str) -> std::io::Result<()> {
        let id = self.log.next_id();
        let content = block(id, filler(&mut self.rng));
        let pause = Duration::from_millis(self.rng.below(3));
        self.done(id, Who::AgentInPlace, vec![becomes(path, id)], || {
            let mut file = File::create(self.data.join(path))?;
            std::thread::park_timeout(pause);
            file.write_all(&content)
        })
    }

    fn append(&mut self, path: &str) -> std::io::Result<()> {
        let Ok(mut file) = OpenOptions::new().append(true).open(self.data.join(path)) else { return Ok(()) };
        let id = self.log.next_id();
        let content = block(id, 20);
        self.done(id, Who::AgentInPlace, vec![becomes(path, id)], || file.write_all(&content))
    }

    fn delete(&self, path: &str) {
        let id = self.log.next_id();
        self.log.run(id, Who::Agent, vec![goes(path)], || match std::fs::remove_file(self.data.join(path)) {
            Ok(()) => Outcome::Done(None),
            Err(_) => Outcome::Refused,
        });
    }

    /// A file that only the agent writes, so that what is renamed is known.
    fn rename(&self, path: &str) -> std::io::Result<()> {
        let Ok(content) = std::fs::read(self.data.join(path)) else { return Ok(()) };
        let Some(version) = parse(&content).version() else { return Ok(()) };
        let id = self.log.next_id();
        let to = format!("workspace/agent/renamed-{id}.md");
        let effects = vec![goes(path), becomes(&to, version)];
        self.done(id, Who::Agent, effects, || std::fs::rename(self.data.join(path), self.data.join(&to)))
    }

    fn done(
        &self,
        id: u64,
        who: Who,
        effects: Vec<super::oracle::Effect>,
        work: impl FnOnce() -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let mut result = Ok(());
        self.log.run(id, who, effects, || {
            result = work();
            // A failed write may have done something all the same.
            if result.is_ok() { Outcome::Done(None) } else { Outcome::Unknown }
        });
        result
    }
}
