//! How real programs save, move and remove files, and what happens when watching is impossible. `WINSTON_LONG=1` makes the large trees larger.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use winston_tests::process::skip;
use winston_tests::sidecar::{Setup, Sidecar, journal_lines};
use winston_tests::wait::eventually;

/// The slow full comparison is out of the way, so that what is seen is seen by events.
fn setup() -> Result<Setup> {
    Ok(Setup::new()?.env("WINSTON_RESCAN_SECONDS", "3600"))
}

fn long() -> bool {
    std::env::var_os("WINSTON_LONG").is_some()
}

/// Waits until the agent's change of a file of its own is recorded: everything before it has been seen, and what is gone counts as gone.
fn settle(sidecar: &Sidecar, marker: &str) -> Result<()> {
    sidecar.agent_writes(marker, marker)?;
    sidecar.wait_for_history(marker, &["agent create"])?;
    fs::remove_file(sidecar.data().join(marker))?;
    sidecar.wait_for_history(marker, &["agent create", "agent delete"])
}

fn watch(sidecar: &Sidecar) -> Result<Value> {
    Ok(sidecar.status()?["watch"].take())
}

fn wait_for_watch(sidecar: &Sidecar, what: &str, condition: impl Fn(&Value) -> bool) -> Result<Value> {
    eventually(what, || {
        let watch = watch(sidecar)?;
        if condition(&watch) { Ok(Some(watch)) } else { bail!("is {watch}") }
    })
}

/// Every record of the journal, as JSON.
fn records(data: &Path) -> Result<Vec<Value>> {
    journal_lines(data)?.iter().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Records by action.
fn actions(data: &Path) -> Result<BTreeMap<String, usize>> {
    let mut actions = BTreeMap::new();
    for record in records(data)? {
        *actions.entry(record["action"].as_str().context("action")?.to_owned()).or_default() += 1;
    }
    Ok(actions)
}

/// inotify watches of the process.
fn watches(sidecar: &Sidecar) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(format!("/proc/{}/fdinfo", sidecar.pid()))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        count += text.lines().filter(|line| line.starts_with("inotify wd:")).count();
    }
    Ok(count)
}

#[test]
fn a_file_in_a_directory_that_is_still_being_made_is_seen() -> Result<()> {
    let sidecar = setup()?.start()?;
    for round in 0..50 {
        sidecar.agent_writes(&format!("workspace/new{round}/a/b/c/file.md"), format!("{round}"))?;
    }
    for round in 0..50 {
        sidecar.wait_for_history(&format!("workspace/new{round}/a/b/c/file.md"), &["agent create"])?;
    }
    assert_eq!(watch(&sidecar)?["rescans"], 1);
    Ok(())
}

#[test]
fn atomic_saves_are_updates() -> Result<()> {
    let sidecar = setup()?.start()?;
    sidecar.put("workspace/SOUL.md", "one")?.expect(200)?;
    let dir = sidecar.data().join("workspace");
    // A writer so slow that its temporary file has a history of its own.
    fs::write(dir.join("SOUL.md.new"), "two")?;
    sidecar.wait_for_history("workspace/SOUL.md.new", &["agent create"])?;
    fs::rename(dir.join("SOUL.md.new"), dir.join("SOUL.md"))?;
    sidecar.wait_for_history("workspace/SOUL.md", &["admin create", "agent update"])?;
    sidecar.wait_for_history("workspace/SOUL.md.new", &["agent create", "agent delete"])?;
    // A quick one.
    fs::write(dir.join("SOUL.md.tmp"), "three")?;
    fs::rename(dir.join("SOUL.md.tmp"), dir.join("SOUL.md"))?;
    sidecar.wait_for_history("workspace/SOUL.md", &["admin create", "agent update", "agent update"])
}

#[test]
fn saves_with_a_backup_and_saves_in_place_are_updates() -> Result<()> {
    let sidecar = setup()?.start()?;
    for name in ["a.md", "b.md", "c.md"] {
        sidecar.put(name, "one")?.expect(200)?;
    }
    let file = |name: &str| sidecar.data().join(name);
    fs::rename(file("a.md"), file("a.md~"))?;
    fs::write(file("a.md"), "two")?;
    // The backup has a history too.
    fs::rename(file("b.md"), file("b.md.bak"))?;
    fs::write(file("b.md"), "two")?;
    let mut in_place = fs::File::options().write(true).truncate(true).open(file("c.md"))?;
    std::io::Write::write_all(&mut in_place, b"two")?;
    drop(in_place);
    for name in ["a.md", "b.md", "c.md"] {
        eventually(name, || {
            let last = records(sidecar.data())?.into_iter().rev().find(|record| record["path"] == name);
            Ok(last.filter(|record| record["content"] == "two" && record["action"] == "update").map(|_| ()))
        })?;
    }
    sidecar.wait_for_history("b.md.bak", &["agent create"])?;
    settle(&sidecar, "end.md")?;
    assert!(!actions(sidecar.data())?.contains_key("rename"), "{:?}", records(sidecar.data())?);
    assert!(sidecar.history("a.md~")?.is_empty());
    Ok(())
}

/// Kubernetes swaps a whole directory of settings by renaming the link `..data`. Links are not followed, so there is nothing to record, and the
/// directories behind it have a history of their own.
#[test]
fn a_swapped_link_is_no_change() -> Result<()> {
    let sidecar = setup()?.start()?;
    let dir = sidecar.data().join("workspace/config");
    for version in ["..v1", "..v2"] {
        fs::create_dir_all(dir.join(version))?;
        fs::write(dir.join(version).join("key"), version)?;
    }
    symlink("..v1", dir.join("..data"))?;
    symlink("..data/key", dir.join("key"))?;
    sidecar.wait_for_history("workspace/config/..v1/key", &["agent create"])?;
    sidecar.wait_for_history("workspace/config/..v2/key", &["agent create"])?;
    symlink("..v2", dir.join("..data_tmp"))?;
    fs::rename(dir.join("..data_tmp"), dir.join("..data"))?;
    fs::remove_dir_all(dir.join("..v1"))?;
    sidecar.wait_for_history("workspace/config/..v1/key", &["agent create", "agent delete"])?;
    settle(&sidecar, "end.md")?;
    let paths: Vec<_> = records(sidecar.data())?.into_iter().map(|record| record["path"].to_string()).collect();
    assert_eq!(paths.iter().filter(|path| path.contains("config")).count(), 3, "{paths:?}");
    assert_eq!(fs::read_to_string(dir.join("key"))?, "..v2");
    Ok(())
}

#[test]
fn a_directory_that_is_made_again_is_watched_again() -> Result<()> {
    let sidecar = setup()?.start()?;
    sidecar.agent_writes("keep.md", "x")?;
    sidecar.wait_for_history("keep.md", &["agent create"])?;
    let mut wanted = Vec::new();
    for round in 0..3 {
        sidecar.agent_writes("workspace/d/file.md", format!("{round}"))?;
        wanted.push("agent create");
        sidecar.wait_for_history("workspace/d/file.md", &wanted)?;
        fs::remove_dir_all(sidecar.data().join("workspace/d"))?;
        wanted.push("agent delete");
        sidecar.wait_for_history("workspace/d/file.md", &wanted)?;
    }
    Ok(())
}

#[test]
fn renames_are_renames() -> Result<()> {
    let sidecar = setup()?.start()?;
    sidecar.put("workspace/a.md", "a")?.expect(200)?;
    fs::create_dir_all(sidecar.data().join("workspace/other"))?;
    fs::rename(sidecar.data().join("workspace/a.md"), sidecar.data().join("workspace/other/b.md"))?;
    sidecar.wait_for_history("workspace/other/b.md", &["agent rename"])?;
    let record = records(sidecar.data())?.pop().context("a record")?;
    assert_eq!(record["previous_path"], "workspace/a.md");
    assert_eq!(record["previous_hash"], Value::Null);
    assert_eq!(sidecar.history("workspace/a.md")?, ["admin create"]);
    // A later edit knows what it replaces.
    fs::write(sidecar.data().join("workspace/other/b.md"), "b")?;
    sidecar.wait_for_history("workspace/other/b.md", &["agent rename", "agent update"])?;
    assert_eq!(records(sidecar.data())?.pop().context("a record")?["previous_hash"], record["hash"]);
    Ok(())
}

#[test]
fn a_renamed_directory_is_a_rename_of_every_file() -> Result<()> {
    let files = if long() { 3000 } else { 400 };
    let setup = setup()?;
    for file in 0..files {
        let path = setup.data().join(format!("workspace/old/d{}/{file}.md", file % 7));
        fs::create_dir_all(path.parent().context("parent")?)?;
        fs::write(path, format!("{file}"))?;
    }
    fs::write(setup.data().join("workspace/keep.md"), "x")?;
    let sidecar = setup.start()?;
    let workspace = sidecar.data().join("workspace");
    fs::rename(workspace.join("old"), workspace.join("new"))?;
    eventually("every file is renamed", || {
        let actions = actions(sidecar.data())?;
        if actions.get("rename") == Some(&files) { Ok(Some(())) } else { bail!("{actions:?}") }
    })?;
    // And while nobody watches.
    let (_, setup) = sidecar.stop()?;
    fs::rename(workspace.join("new"), workspace.join("newer"))?;
    let sidecar = setup.start()?;
    settle(&sidecar, "workspace/end.md")?;
    let actions = actions(sidecar.data())?;
    let expected = [("create", files + 2), ("delete", 1), ("rename", 2 * files)];
    assert_eq!(actions, expected.map(|(action, count)| (action.to_owned(), count)).into());
    Ok(())
}

#[test]
fn links_and_copies_are_no_renames() -> Result<()> {
    let sidecar = setup()?.start()?;
    let file = |name: &str| sidecar.data().join(name);
    for name in ["a.md", "c.md"] {
        sidecar.agent_writes(name, name)?;
        sidecar.wait_for_history(name, &["agent create"])?;
    }
    // Two names for a.md; one of them is replaced by a third.
    fs::hard_link(file("a.md"), file("b.md"))?;
    sidecar.wait_for_history("b.md", &["agent create"])?;
    fs::hard_link(file("a.md"), file("d.md"))?;
    fs::remove_file(file("a.md"))?;
    sidecar.wait_for_history("a.md", &["agent create", "agent delete"])?;
    sidecar.wait_for_history("d.md", &["agent create"])?;
    // Renamed and edited in one breath: the new content is a version, the old one stays in history.
    sidecar.pause()?;
    fs::rename(file("c.md"), file("e.md"))?;
    fs::write(file("e.md"), "other")?;
    sidecar.resume()?;
    sidecar.wait_for_history("e.md", &["agent create"])?;
    sidecar.wait_for_history("c.md", &["agent create", "agent delete"])?;
    Ok(())
}

#[test]
fn a_burst_of_files_is_recorded_once_each() -> Result<()> {
    let files = 10_000;
    let sidecar = setup()?.start()?;
    for file in 0..files {
        sidecar.agent_saves(&format!("workspace/b{}/{file}.md", file % 50), format!("{file}"))?;
    }
    wait_for_watch(&sidecar, "all are recorded", |watch| watch["files"] == files)?;
    settle(&sidecar, "workspace/end.md")?;
    let mut creations: BTreeMap<String, usize> = BTreeMap::new();
    for record in records(sidecar.data())? {
        *creations.entry(format!("{} {}", record["action"], record["path"])).or_default() += 1;
    }
    assert_eq!(creations.len(), files + 2);
    assert!(creations.values().all(|count| *count == 1));
    Ok(())
}

/// What is excluded costs neither a watch nor a look, however large it is.
#[test]
fn what_is_excluded_costs_nothing() -> Result<()> {
    let files = if long() { 100_000 } else { 5_000 };
    let setup =
        setup()?.env("WINSTON_WATCH_EXCLUDE", "/workspace/build/, *.log").env("WINSTON_WATCH_INCLUDE", "notes.sqlite");
    for tree in ["workspace/app/node_modules", "workspace/build"] {
        for file in 0..files {
            let path = setup.data().join(format!("{tree}/p{}/{file}.js", file % 500));
            if file < 500 {
                fs::create_dir_all(path.parent().context("parent")?)?;
            }
            fs::write(path, "")?;
        }
    }
    for name in ["workspace/SOUL.md", "workspace/app/a.log", "workspace/notes.sqlite", "workspace/other.sqlite"] {
        fs::write(setup.data().join(name), name)?;
    }
    let sidecar = setup.start()?;
    let watch = watch(&sidecar)?;
    assert_eq!((&watch["files"], &watch["mode"]), (&2.into(), &"events".into()));
    // The root, the workspace and the application; and what is in them.
    assert_eq!(watches(&sidecar)?, 3);
    assert_eq!(watch["examined"], 9, "{watch}");
    sidecar.agent_writes("workspace/build/p0/new.js", "x")?;
    settle(&sidecar, "workspace/end.md")?;
    assert!(sidecar.history("workspace/build/p0/new.js")?.is_empty());
    assert_eq!(sidecar.history("workspace/notes.sqlite")?, ["agent create"]);
    Ok(())
}

#[test]
fn a_bad_pattern_is_named() -> Result<()> {
    let output = setup()?.env("WINSTON_WATCH_INCLUDE", "*.md,[a-").command()?.output()?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("WINSTON_WATCH_INCLUDE") && error.contains("[a-"), "{error}");
    Ok(())
}

/// Files that an excluded path had before are neither deleted nor forgotten.
#[test]
fn an_excluded_file_keeps_its_history() -> Result<()> {
    let sidecar = setup()?.start()?;
    sidecar.agent_writes("workspace/a.log", "one")?;
    sidecar.agent_writes("workspace/a.md", "one")?;
    sidecar.wait_for_history("workspace/a.log", &["agent create"])?;
    sidecar.wait_for_history("workspace/a.md", &["agent create"])?;
    let (_, setup) = sidecar.stop()?;
    let sidecar = setup.clone().env("WINSTON_WATCH_EXCLUDE", "*.log").start()?;
    sidecar.agent_writes("workspace/a.log", "two")?;
    settle(&sidecar, "workspace/end.md")?;
    assert_eq!(sidecar.history("workspace/a.log")?, ["agent create"]);
    drop(sidecar);
    let sidecar = setup.start()?;
    sidecar.wait_for_history("workspace/a.log", &["agent create", "agent update"])
}

#[test]
fn polling_finds_everything_too() -> Result<()> {
    let setup = setup()?.env("WINSTON_WATCH_MODE", "polling").env("WINSTON_POLL_SECONDS", "1");
    let sidecar = setup.start()?;
    let watch = watch(&sidecar)?;
    assert_eq!((&watch["mode"], &watch["polling"]), (&"polling".into(), &true.into()));
    assert!(watch["reason"].as_str().is_some_and(|reason| reason.contains("WINSTON_WATCH_MODE")), "{watch}");
    assert_eq!(watches(&sidecar)?, 0);
    sidecar.agent_writes("workspace/d/a.md", "one")?;
    sidecar.agent_writes("workspace/keep.md", "x")?;
    sidecar.wait_for_history("workspace/d/a.md", &["agent create"])?;
    fs::rename(sidecar.data().join("workspace/d"), sidecar.data().join("workspace/e"))?;
    sidecar.wait_for_history("workspace/e/a.md", &["agent rename"])?;
    fs::remove_file(sidecar.data().join("workspace/e/a.md"))?;
    sidecar.wait_for_history("workspace/e/a.md", &["agent rename", "agent delete"])
}

#[test]
fn without_watches_left_the_rest_is_listed() -> Result<()> {
    let test = "without_watches_left_the_rest_is_listed";
    let setup = setup()?.env("WINSTON_POLL_SECONDS", "1");
    for directory in 0..20 {
        let path = setup.data().join(format!("workspace/d{directory:02}/e"));
        fs::create_dir_all(&path)?;
        fs::write(path.join("a.md"), "one")?;
    }
    // A user namespace has limits of its own below the user's.
    let script = "echo 10 > /proc/sys/user/max_inotify_watches && exec \"$0\" \"$@\"";
    let unshared = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(["-Ur", "sh", "-c", script, program]);
        command
    };
    let tried = unshared("true").output()?;
    if !tried.status.success() {
        skip(test, String::from_utf8_lossy(&tried.stderr).trim());
        return Ok(());
    }
    let sidecar = setup.wrapped(&["unshare", "-Ur", "sh", "-c", script]).start()?;
    let watch = watch(&sidecar)?;
    assert_eq!((&watch["mode"], &watch["polling"]), (&"events".into(), &true.into()), "{watch}");
    assert!(watch["reason"].as_str().is_some_and(|reason| reason.contains("max_user_watches")), "{watch}");
    assert!(watch["unwatched"].as_u64() > Some(0) && watches(&sidecar)? <= 10, "{watch}");
    for directory in 0..20 {
        sidecar.agent_writes(&format!("workspace/d{directory:02}/e/a.md"), "two")?;
    }
    for directory in 0..20 {
        let path = format!("workspace/d{directory:02}/e/a.md");
        sidecar.wait_for_history(&path, &["agent create", "agent update"])?;
    }
    // Only what is not watched is listed again.
    assert_eq!(self::watch(&sidecar)?["rescans"], 1);
    Ok(())
}
