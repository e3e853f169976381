//! A data directory that is emptied or taken away is not a thousand deletions.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::Value;
use winston_tests::sidecar::{Setup, Sidecar, journal_lines};
use winston_tests::wait::eventually;

const FILES: &[&str] = &[".openclaw/openclaw.json", "workspace/SOUL.md", "workspace/memory/a.md", "notes.md"];

fn start() -> Result<Sidecar> {
    let sidecar = Setup::new()?.env("WINSTON_RESCAN_SECONDS", "3600").env("WINSTON_POLL_SECONDS", "1").start()?;
    for file in FILES {
        sidecar.put(file, file)?.expect(200)?;
    }
    Ok(sidecar)
}

fn wait_for_halt(sidecar: &Sidecar, halted: bool) -> Result<Value> {
    eventually("the watch is halted, or not", || {
        let watch = sidecar.status()?["watch"].take();
        if watch["halted"] == halted { Ok(Some(watch)) } else { bail!("is {watch}") }
    })
}

fn deletions(data: &Path) -> Result<usize> {
    Ok(journal_lines(data)?.iter().filter(|line| line.contains("\"action\":\"delete\"")).count())
}

/// Everything but our own directory goes to `to`, or comes back.
fn move_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        if name != ".winston" {
            fs::rename(from.join(&name), to.join(&name))?;
        }
    }
    Ok(())
}

#[test]
fn an_emptied_directory_halts_until_the_files_are_back() -> Result<()> {
    let sidecar = start()?;
    let aside = sidecar.data().with_file_name("aside");
    move_all(sidecar.data(), &aside)?;
    let watch = wait_for_halt(&sidecar, true)?;
    assert!(watch["reason"].as_str().is_some_and(|reason| reason.contains("all 4 files")), "{watch}");
    // What is new is recorded all the same.
    sidecar.agent_writes("workspace/new.md", "new")?;
    sidecar.wait_for_history("workspace/new.md", &["agent create"])?;
    fs::remove_file(sidecar.data().join("workspace/new.md"))?;
    fs::remove_dir(sidecar.data().join("workspace"))?;
    sidecar.wait_for_history("workspace/new.md", &["agent create", "agent delete"])?;
    move_all(&aside, sidecar.data())?;
    wait_for_halt(&sidecar, false)?;
    assert_eq!(deletions(sidecar.data())?, 1);
    // And it watches as before.
    fs::remove_file(sidecar.data().join("notes.md"))?;
    sidecar.wait_for_history("notes.md", &["admin create", "agent delete"])
}

#[test]
fn a_halt_survives_restarts_and_other_contents() -> Result<()> {
    let sidecar = start()?;
    let aside = sidecar.data().with_file_name("aside");
    let (_, setup) = sidecar.stop()?;
    move_all(setup.data(), &aside)?;
    let sidecar = setup.start()?;
    wait_for_halt(&sidecar, true)?;
    // Somebody fills the empty tree again: that is not the files' return.
    sidecar.agent_writes("workspace/SOUL.md", "the default")?;
    sidecar.wait_for_history("workspace/SOUL.md", &["admin create", "agent update"])?;
    let setup = sidecar.kill()?;
    let sidecar = setup.start()?;
    wait_for_halt(&sidecar, true)?;
    assert_eq!(deletions(sidecar.data())?, 0);
    Ok(())
}

#[test]
fn an_operator_accepts_a_wipe() -> Result<()> {
    let sidecar = start()?;
    let refused = sidecar.call("POST", "/watch/accept", &[], b"")?.expect(409)?.json()?;
    assert_eq!(refused["code"], "not_halted");
    move_all(sidecar.data(), &sidecar.data().with_file_name("aside"))?;
    wait_for_halt(&sidecar, true)?;
    assert_eq!(sidecar.call("GET", "/watch/accept", &[], b"")?.status, 405);
    let accepted = sidecar.call("POST", "/watch/accept", &[], b"")?.expect(200)?.json()?;
    assert_eq!(accepted["files"], FILES.len());
    for file in FILES {
        sidecar.wait_for_history(file, &["admin create", "agent delete"])?;
    }
    wait_for_halt(&sidecar, false)?;
    Ok(())
}

/// The agent's right, in one burst or one by one.
#[test]
fn a_wiped_workspace_and_single_deletions_are_recorded() -> Result<()> {
    let sidecar = start()?;
    for file in 0..300 {
        sidecar.agent_writes(&format!("workspace/many/{file}.md"), format!("{file}"))?;
    }
    sidecar.wait_for_history("workspace/many/299.md", &["agent create"])?;
    fs::remove_dir_all(sidecar.data().join("workspace"))?;
    eventually("all are deleted", || Ok((deletions(sidecar.data())? == 302).then_some(())))?;
    // Down to none, one by one.
    for file in ["notes.md", ".openclaw/openclaw.json"] {
        fs::remove_file(sidecar.data().join(file))?;
        sidecar.wait_for_history(file, &["admin create", "agent delete"])?;
    }
    assert_eq!(sidecar.status()?["watch"]["files"], 0);
    Ok(())
}

#[test]
fn a_replaced_directory_halts_until_the_right_one_is_back() -> Result<()> {
    let sidecar = start()?;
    let data = sidecar.data().to_owned();
    let aside = data.with_file_name("aside");
    fs::rename(&data, &aside)?;
    fs::create_dir(&data)?;
    fs::write(data.join("other.md"), "of another volume")?;
    let watch = wait_for_halt(&sidecar, true)?;
    assert!(watch["reason"].as_str().is_some_and(|reason| reason.contains("replaced")), "{watch}");
    let refused = sidecar.call("POST", "/watch/accept", &[], b"")?.expect(409)?.json()?;
    assert_eq!(refused["code"], "data_dir_away");
    fs::write(aside.join("notes.md"), "changed meanwhile")?;
    fs::remove_dir_all(&data)?;
    fs::rename(&aside, &data)?;
    wait_for_halt(&sidecar, false)?;
    sidecar.wait_for_history("notes.md", &["admin create", "agent update"])?;
    assert_eq!(deletions(&data)?, 0);
    Ok(())
}

/// Where the agent is the same user as the sidecar, it can move the history away. That must be noticed, and nothing recorded elsewhere.
#[test]
fn a_history_that_is_moved_away_is_noticed() -> Result<()> {
    let sidecar = start()?;
    let (ours, own) = (sidecar.data().join(".winston"), sidecar.data().join("workspace/own"));
    fs::create_dir(&own)?;
    fs::write(own.join("epoch"), "forged")?;
    let exchange = || renameat_with(CWD, &ours, CWD, &own, RenameFlags::EXCHANGE);
    exchange()?;
    sidecar.agent_writes("notes.md", "while it is away")?;
    let watch = wait_for_halt(&sidecar, true)?;
    assert!(watch["reason"].as_str().is_some_and(|reason| reason.contains(".winston")), "{watch}");
    exchange()?;
    wait_for_halt(&sidecar, false)?;
    sidecar.wait_for_history("notes.md", &["admin create", "agent update"])?;

    // A start without it begins a new history, and says so.
    let setup = sidecar.kill()?;
    fs::rename(setup.data().join(".winston"), setup.outside().join("aside"))?;
    let sidecar = setup.start()?;
    assert!(sidecar.log_text().contains("no history of them"), "{}", sidecar.log_text());
    let setup = sidecar.kill()?;
    let sidecar = setup.start()?;
    assert!(!sidecar.log_text().contains("no history of them"), "said once");
    Ok(())
}

/// The first listing of a restart has so much to look at that it records some of it before it is through: that is not its end, and what is held back
/// stays so.
#[test]
fn a_restart_that_finds_a_large_change_first_holds_back_all_the_same() -> Result<()> {
    const LARGE: usize = 17 * 1024 * 1024;
    let sidecar = start()?;
    for file in ["workspace/USER.md", "z.md"] {
        sidecar.put(file, file)?.expect(200)?;
    }
    for file in FILES.iter().chain(&["workspace/USER.md", "z.md"]) {
        fs::remove_file(sidecar.data().join(file))?;
    }
    wait_for_halt(&sidecar, true)?;
    sidecar.agent_saves("a-large.bin", vec![b'1'; LARGE])?;
    sidecar.wait_for_history("a-large.bin", &["agent create"])?;
    let (_, setup) = sidecar.stop()?;
    fs::write(setup.data().join("a-large.bin"), vec![b'2'; LARGE])?;
    let sidecar = setup.start()?;
    let watch = wait_for_halt(&sidecar, true)?;
    assert!(watch["reason"].as_str().is_some_and(|reason| reason.contains("all 6 files")), "{watch}");
    sidecar.wait_for_history("a-large.bin", &["agent create", "agent update"])?;
    assert_eq!(deletions(sidecar.data())?, 0);
    let accepted = sidecar.call("POST", "/watch/accept", &[], b"")?.expect(200)?.json()?;
    assert_eq!(accepted["files"], 6);
    eventually("all are deleted", || Ok((deletions(sidecar.data())? == 6).then_some(())))?;
    assert_eq!(sidecar.history("a-large.bin")?, ["agent create", "agent update"]);
    Ok(())
}
