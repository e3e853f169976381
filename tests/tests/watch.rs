//! What the agent does to its files, past the API.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use sha2::{Digest, Sha256};
use winston_tests::sidecar::{Setup, Sidecar, journal_lines};
use winston_tests::wait::eventually;

/// What the journal says is on disk: path to hash.
fn recorded(data: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for line in journal_lines(data)? {
        let Ok(record) = serde_json::from_str::<Value>(&line) else { continue };
        let path = record["path"].as_str().context("path")?.to_owned();
        if let Some(previous) = record["previous_path"].as_str() {
            files.remove(previous);
        }
        match record["hash"].as_str() {
            Some(hash) => files.insert(path, hash.to_owned()),
            None => files.remove(&path),
        };
    }
    Ok(files)
}

/// What is on disk.
fn on_disk(data: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    let mut waiting = vec![data.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name == ".winston" || name == "node_modules") {
                continue;
            }
            if path.is_dir() {
                waiting.push(path);
            } else {
                let hash = Sha256::digest(std::fs::read(&path)?).iter().map(|byte| format!("{byte:02x}")).collect();
                files.insert(path.strip_prefix(data)?.to_string_lossy().into_owned(), hash);
            }
        }
    }
    Ok(files)
}

fn wait_until_recorded(sidecar: &Sidecar) -> Result<()> {
    let disk = on_disk(sidecar.data())?;
    eventually("disk and journal agree", || {
        let journal = recorded(sidecar.data())?;
        let wrong: Vec<_> = disk.iter().filter(|(path, hash)| journal.get(*path) != Some(hash)).collect();
        let phantom: Vec<_> = journal.keys().filter(|path| !disk.contains_key(*path)).collect();
        if wrong.is_empty() && phantom.is_empty() {
            Ok(Some(()))
        } else {
            bail!("wrong {wrong:?}, phantom {phantom:?}")
        }
    })
}

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// Files and directories are made, changed, moved and removed at random while the sidecar watches; in the end the journal describes the
/// tree, by events alone: the slow full comparison is an hour away.
#[test]
fn a_busy_tree_is_described_by_the_journal() -> Result<()> {
    let sidecar = Setup::new()?.env("WINSTON_RESCAN_SECONDS", "3600").start()?;
    let root = sidecar.data().join("workspace");
    std::fs::create_dir(&root)?;
    let mut numbers = Numbers(42);
    for step in 0..3000 {
        let directory = root.join(format!("d{}/e{}", numbers.below(5), numbers.below(5)));
        let file = directory.join(format!("f{}.md", numbers.below(8)));
        // Failures are part of it: half of the names do not exist at any time.
        let _ = match numbers.below(12) {
            0..=5 => std::fs::create_dir_all(&directory).and_then(|()| std::fs::write(&file, format!("step {step}"))),
            6 => std::fs::remove_file(&file),
            7 => std::fs::rename(&file, root.join(format!("moved{}.md", numbers.below(5)))),
            8 => std::fs::rename(&directory, root.join(format!("d{}/e{}", numbers.below(5), numbers.below(5)))),
            9 => std::fs::rename(
                root.join(format!("d{}", numbers.below(5))),
                root.join(format!("d{}", numbers.below(5))),
            ),
            10 => std::fs::remove_dir_all(&directory),
            _ => std::fs::write(root.join("tmp"), "x").and_then(|()| std::fs::rename(root.join("tmp"), &file)),
        };
    }
    wait_until_recorded(&sidecar)?;
    assert_eq!(sidecar.status()?["watch"]["rescans"], 1);
    Ok(())
}

/// Directories that hold others are moved about, put in each other's place, removed and made again; after each round of it, what is written
/// into any of them is seen, by events alone.
#[test]
fn a_directory_is_watched_wherever_it_goes() -> Result<()> {
    let sidecar = Setup::new()?.env("WINSTON_RESCAN_SECONDS", "3600").start()?;
    let root = sidecar.data().join("workspace");
    std::fs::create_dir(&root)?;
    let mut numbers = Numbers(7);
    for round in 0..4 {
        for _ in 0..400 {
            // Looking sets the pace: sometimes the sidecar is between two of these, sometimes it sees many at once.
            for _ in 0..numbers.below(200) {
                let _ = std::fs::metadata(&root)?;
            }
            let outer = root.join(format!("d{}", numbers.below(4)));
            let inner = outer.join(format!("e{}", numbers.below(3)));
            let _ = match numbers.below(8) {
                0..=2 => std::fs::create_dir_all(&inner),
                3 | 4 => std::fs::rename(&outer, root.join(format!("d{}", numbers.below(4)))),
                5 => std::fs::rename(&inner, root.join(format!("d{}/e{}", numbers.below(4), numbers.below(3)))),
                6 => std::fs::remove_dir_all(&inner),
                _ => std::fs::remove_dir_all(&outer),
            };
        }
        sidecar.agent_writes("workspace/last.md", format!("round {round}"))?;
        wait_until_recorded(&sidecar)?;
        for directory in directories(&root)? {
            std::fs::write(directory.join("probe.md"), format!("round {round}"))?;
        }
        wait_until_recorded(&sidecar).with_context(|| format!("round {round}"))?;
    }
    assert_eq!(sidecar.status()?["watch"]["rescans"], 1);
    Ok(())
}

/// Directories below `root`, and itself.
fn directories(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![root.to_owned()];
    let mut next = 0;
    while let Some(directory) = found.get(next).cloned() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                found.push(entry.path());
            }
        }
        next += 1;
    }
    Ok(found)
}

#[test]
fn editors_that_save_by_rename_make_one_update() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("workspace/SOUL.md", "old")?.expect(200)?;
    let dir = sidecar.data().join("workspace");
    std::fs::write(dir.join(".SOUL.md.swp"), "swap")?;
    std::fs::rename(dir.join("SOUL.md"), dir.join("SOUL.md~"))?;
    std::fs::write(dir.join("SOUL.md"), "new")?;
    std::fs::remove_file(dir.join("SOUL.md~"))?;
    std::fs::remove_file(dir.join(".SOUL.md.swp"))?;
    sidecar.wait_for_history("workspace/SOUL.md", &["admin create", "agent update"])?;
    assert_eq!(sidecar.changes()?.len(), 2);
    Ok(())
}

#[test]
fn what_has_no_history_is_left_alone() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    for path in [
        "workspace/node_modules/x/index.js",
        "workspace/.git/HEAD",
        "workspace/cache.sqlite-wal",
        ".openclaw/agents/main/agent/openclaw-agent.sqlite",
        ".openclaw/logs/gateway.log",
        ".home/.npmrc",
    ] {
        sidecar.agent_writes(path, "x")?;
    }
    sidecar.agent_writes("workspace/last.md", "x")?;
    sidecar.wait_for_history("workspace/last.md", &["agent create"])?;
    assert_eq!(sidecar.changes()?.len(), 1);
    Ok(())
}

#[test]
fn an_edit_of_the_same_size_and_time_is_seen() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.agent_writes("a.md", "one")?;
    sidecar.wait_for_history("a.md", &["agent create"])?;
    let path = sidecar.data().join("a.md");
    let modified = std::fs::metadata(&path)?.modified()?;
    std::fs::write(&path, "two")?;
    std::fs::File::options().write(true).open(&path)?.set_modified(modified)?;
    sidecar.wait_for_history("a.md", &["agent create", "agent update"])
}

#[test]
fn touching_and_owning_are_no_changes() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let sidecar = Setup::new()?.start()?;
    sidecar.put("a.md", "x")?.expect(200)?;
    let path = sidecar.data().join("a.md");
    std::fs::write(&path, "x")?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640))?;
    sidecar.agent_writes("marker.md", "x")?;
    sidecar.wait_for_history("marker.md", &["agent create"])?;
    assert_eq!(sidecar.history("a.md")?, ["admin create"]);
    // The mode that the agent chose is kept by the next write.
    sidecar.put("a.md", "y")?.expect(200)?;
    assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o640);
    Ok(())
}

#[test]
fn writers_on_both_sides_lose_no_version() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let path = sidecar.data().join("both.md");
    sidecar.put("both.md", "start")?.expect(200)?;
    std::thread::scope(|scope| -> Result<()> {
        let admin = scope.spawn(|| -> Result<()> {
            for round in 0..100 {
                sidecar.put("both.md", &format!("admin {round}"))?.expect(200)?;
            }
            Ok(())
        });
        for round in 0..100 {
            let temporary = sidecar.data().join("agent.tmp");
            std::fs::write(&temporary, format!("agent {round}"))?;
            std::fs::rename(&temporary, &path)?;
            // The agent takes its version to be there until somebody replaces it; the next round waits for that or for its record.
            let mine = format!("agent {round}");
            eventually("the version is recorded", || {
                let lines = journal_lines(sidecar.data())?;
                Ok(lines.iter().any(|line| line.contains(&format!("\"content\":\"{mine}\""))).then_some(()))
            })?;
        }
        admin.join().map_err(|_| anyhow::anyhow!("the admin panicked"))?
    })?;
    let lines = journal_lines(sidecar.data())?;
    for round in 0..100 {
        for (who, source) in [("admin", "admin"), ("agent", "agent")] {
            let versions: Vec<_> =
                lines.iter().filter(|line| line.contains(&format!("\"content\":\"{who} {round}\""))).collect();
            assert_eq!(versions.len(), 1, "{who} {round}: {versions:?}");
            assert!(versions[0].contains(&format!("\"source\":\"{source}\"")), "{versions:?}");
        }
    }
    Ok(())
}

/// Writers that name a version race with an agent that saves by rename. A swap that has to be undone must not undo the agent: after its
/// last save, its version is there, or one that somebody wrote over exactly that version.
#[test]
fn a_writer_that_loses_the_race_never_undoes_the_agent() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let path = sidecar.data().join("raced.md");
    let temporary = sidecar.data().join("agent.tmp");
    // Large, so that looking at what was displaced takes long enough for the agent to come again.
    let body = "x".repeat(200_000);
    let version = |save: u32| format!("agent {save} {body}");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        for writer in 0..3 {
            let (sidecar, stop) = (&sidecar, &stop);
            scope.spawn(move || {
                for count in 0.. {
                    if stop.load(std::sync::atomic::Ordering::Relaxed) {
                        return;
                    }
                    let tag =
                        sidecar.get("/files/raced.md").ok().and_then(|answer| answer.header("etag").map(str::to_owned));
                    let tag = tag.unwrap_or_else(|| "*".to_owned());
                    let _ = sidecar.put_with("raced.md", &format!("admin {writer} {count}"), &[("If-Match", &tag)]);
                }
            });
        }
        let mut raced = Ok(());
        let mut numbers = Numbers(7);
        for save in 0..1500 {
            // Looking again and again is also what sets the pace: sometimes the writers get through, sometimes not.
            for _ in 0..numbers.below(40) {
                // For a moment an older version may pass by while a swap is undone; it must not stay.
                raced = eventually("the last save is there, or what was written over it", || {
                    let content = std::fs::read_to_string(&path).unwrap_or_default();
                    let old = save > 0 && content.starts_with("agent") && content != version(save - 1);
                    if old { bail!("after save {}: {} is there again", save - 1, &content[..12]) } else { Ok(Some(())) }
                });
            }
            if raced.is_err() {
                break;
            }
            std::fs::write(&temporary, version(save))?;
            std::fs::rename(&temporary, &path)?;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        raced
    })?;
    // The last save is there, or in history under what replaced it.
    wait_until_recorded(&sidecar)?;
    let hash: String = Sha256::digest(version(1499)).iter().map(|byte| format!("{byte:02x}")).collect();
    let lines = journal_lines(sidecar.data())?;
    assert!(lines.iter().any(|line| line.contains(&format!("\"hash\":\"{hash}\""))), "the last save is not in history");
    Ok(())
}
