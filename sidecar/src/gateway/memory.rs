//! How much memory the gateway takes: read when somebody asks, never by a timer.
//!
//! The kernel's figures: `/proc/<pid>/statm` for processes, and the files of cgroup v2 for what the platform counts and limits.
//! Where there is no cgroup v2 memory controller (cgroup v1, the root cgroup, no container) those figures are absent.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Where cgroup v2 is mounted. In a container it is the container's own cgroup.
const CGROUPS: &str = "/sys/fs/cgroup";

/// How long figures are good enough: whoever polls the state does not make us read the process table all the time.
const FRESH: Duration = Duration::from_secs(1);

/// Memory of the gateway, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// Resident size of the gateway process itself.
    pub(crate) rss: Option<u64>,
    /// Sum of the resident sizes of it and of everything that it started. What they share counts once for each.
    pub(crate) tree_rss: u64,
    /// How many processes that are.
    pub(crate) processes: usize,
    /// The cgroup that the gateway and the sidecar are in.
    pub(crate) cgroup: Option<CgroupMemory>,
}

/// The memory of a cgroup v2, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct CgroupMemory {
    /// `memory.current`: caches included.
    pub(crate) current: u64,
    /// `memory.max`; `null` when there is no limit here.
    pub(crate) max: Option<u64>,
    /// `oom_kill` of `memory.events`: processes that the kernel has killed for want of memory.
    pub(crate) oom_kills: u64,
}

/// The last figures.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Option<(Instant, Option<u32>, Memory)>>);

impl Recent {
    /// Figures of the gateway with this process id, not older than [`FRESH`].
    pub(super) fn get(&self, pid: Option<u32>, family: impl FnOnce() -> Vec<i32>) -> Memory {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, of, memory)) = &*last
            && *of == pid
            && at.elapsed() < FRESH
        {
            return memory.clone();
        }
        let memory = read(pid, &family());
        *last = Some((Instant::now(), pid, memory.clone()));
        memory
    }
}

/// Of the gateway with this process id, and of the processes that came from it. Reads `/proc`.
fn read(pid: Option<u32>, family: &[i32]) -> Memory {
    let sizes: Vec<u64> = family.iter().filter_map(|pid| rss(pid.unsigned_abs())).collect();
    let cgroup = Cgroup::own().and_then(|cgroup| cgroup.memory());
    Memory { rss: pid.and_then(rss), tree_rss: sizes.iter().sum(), processes: sizes.len(), cgroup }
}

/// Resident size of a process; `None` once it is gone.
pub(super) fn rss(pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(u64::try_from(rustix::param::page_size()).ok()?)
}

/// A cgroup v2 with the memory controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cgroup(PathBuf);

impl Cgroup {
    /// The one that we are in, and the gateway with us.
    pub(super) fn own() -> Option<Self> {
        Self::find(Path::new(CGROUPS), &fs::read_to_string("/proc/self/cgroup").ok()?)
    }

    /// From a table as in cgroups(7). A path that is not there is one that is seen from outside of our container.
    fn find(root: &Path, table: &str) -> Option<Self> {
        let path = table.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let candidates = [root.join(path), root.to_owned()];
        candidates.into_iter().find(|path| path.join("memory.current").is_file()).map(Self)
    }

    pub(super) fn memory(&self) -> Option<CgroupMemory> {
        let current = self.number("memory.current")?;
        // The word `max` is no number.
        Some(CgroupMemory { current, max: self.number("memory.max"), oom_kills: self.oom_kills().unwrap_or(0) })
    }

    /// Processes in it that the kernel has killed for want of memory.
    pub(super) fn oom_kills(&self) -> Option<u64> {
        let events = fs::read_to_string(self.0.join("memory.events")).ok()?;
        events.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
    }

    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.0.join(file)).ok()?.trim().parse().ok()
    }
}

/// Tells whether the kernel has killed for want of memory since this was made.
#[derive(Debug, Default)]
pub(super) struct OomWatch {
    cgroup: Option<Cgroup>,
    before: u64,
}

/// A process was killed because there was no memory left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfMemory {
    /// The cgroup's limit in bytes, if the limit is this cgroup's own.
    pub(super) limit: Option<u64>,
}

impl OomWatch {
    /// From now on.
    pub(super) fn begin() -> Self {
        Self::of(Cgroup::own())
    }

    fn of(cgroup: Option<Cgroup>) -> Self {
        let before = cgroup.as_ref().and_then(Cgroup::oom_kills).unwrap_or(0);
        Self { cgroup, before }
    }

    /// What happened since, if anything did.
    pub(super) fn seen(&self) -> Option<OutOfMemory> {
        let memory = self.cgroup.as_ref()?.memory()?;
        (memory.oom_kills > self.before).then_some(OutOfMemory { limit: memory.max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "4:memory:/other\n0::/tenant.slice/one\n";

    fn cgroup(directory: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(directory).expect("a directory");
        for (name, content) in files {
            fs::write(directory.join(name), content).expect("written");
        }
    }

    #[test]
    fn the_cgroup_of_the_process_comes_before_the_root() {
        let root = tempfile::tempdir().expect("a directory");
        let inner = root.path().join("tenant.slice/one");
        assert_eq!(Cgroup::find(root.path(), TABLE), None, "no memory controller");
        cgroup(root.path(), &[("memory.current", "1\n")]);
        // Without a cgroup namespace the path is one outside.
        assert_eq!(Cgroup::find(root.path(), TABLE), Some(Cgroup(root.path().to_owned())));
        cgroup(&inner, &[("memory.current", "2\n")]);
        assert_eq!(Cgroup::find(root.path(), TABLE), Some(Cgroup(inner)));
        assert_eq!(Cgroup::find(root.path(), "4:memory:/tenant.slice/one\n"), None, "cgroup v1");
    }

    #[test]
    fn figures_are_read_and_what_is_missing_is_absent() {
        let root = tempfile::tempdir().expect("a directory");
        let one = Cgroup(root.path().to_owned());
        assert_eq!(one.memory(), None);
        cgroup(root.path(), &[("memory.current", "123\n"), ("memory.max", "max\n")]);
        assert_eq!(one.memory(), Some(CgroupMemory { current: 123, max: None, oom_kills: 0 }));
        cgroup(
            root.path(),
            &[("memory.max", "456\n"), ("memory.events", "low 0\noom 9\noom_kill 3\noom_group_kill 1\n")],
        );
        assert_eq!(one.memory(), Some(CgroupMemory { current: 123, max: Some(456), oom_kills: 3 }));
    }

    #[test]
    fn only_a_kill_since_the_beginning_counts() {
        let root = tempfile::tempdir().expect("a directory");
        let events = |kills: u32| {
            let events = format!("oom 1\noom_kill {kills}\n");
            cgroup(root.path(), &[("memory.current", "1"), ("memory.max", "456"), ("memory.events", &events)]);
        };
        events(2);
        let watch = OomWatch::of(Some(Cgroup(root.path().to_owned())));
        assert_eq!(watch.seen(), None);
        events(3);
        assert_eq!(watch.seen(), Some(OutOfMemory { limit: Some(456) }));
        assert_eq!(OomWatch::of(None).seen(), None);
    }

    #[test]
    fn another_process_is_never_told_old_figures() {
        let recent = Recent::default();
        let own = std::process::id();
        let first = recent.get(Some(own), || vec![own.cast_signed()]);
        assert_eq!(recent.get(Some(own), Vec::new), first, "the process table is left alone");
        assert_eq!(recent.get(None, Vec::new), Memory { rss: None, tree_rss: 0, processes: 0, cgroup: first.cgroup });
    }

    #[test]
    fn our_own_size_is_read() {
        let own = std::process::id();
        let memory = read(Some(own), &[own.cast_signed(), i32::MAX]);
        assert!(memory.rss.is_some_and(|rss| rss > 1 << 20), "{memory:?}");
        assert_eq!(memory.processes, 1);
        assert!(memory.tree_rss > 1 << 20);
        assert_eq!(rss(u32::MAX), None);
    }
}
