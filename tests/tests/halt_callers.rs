//! While deletions are held back nobody records one that they only met: not the file API, not a push, not a repair of what control knows. What a
//! caller removes itself is recorded as ever.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use winston_tests::script::{ScriptedControl, check_in_answer, ordinary};
use winston_tests::sidecar::{Setup, Sidecar, journal_lines};
use winston_tests::tenant::{Tenant, hash};
use winston_tests::wait::eventually;

const FILES: &[&str] = &[".openclaw/openclaw.json", "a/kept.md", "b/1.md", "b/2.md", "c/1.md", "d.md", "e.md"];

fn wait_for_halt(sidecar: &Sidecar, halted: bool) -> Result<Value> {
    eventually("deletions are held back, or not", || {
        let watch = sidecar.status()?["watch"].take();
        if watch["halted"] == halted { Ok(Some(watch)) } else { bail!("is {watch}") }
    })
}

/// Removes every file and leaves the directories.
fn empty(data: &Path) -> Result<()> {
    FILES.iter().try_for_each(|file| Ok(fs::remove_file(data.join(file))?))
}

fn halted() -> Result<Sidecar> {
    let sidecar = Setup::new()?.env("WINSTON_RESCAN_SECONDS", "3600").start()?;
    for file in FILES {
        sidecar.put(file, file)?.expect(200)?;
    }
    empty(sidecar.data())?;
    wait_for_halt(&sidecar, true)?;
    Ok(sidecar)
}

fn deletions(data: &Path) -> Result<usize> {
    Ok(journal_lines(data)?.iter().filter(|line| line.contains("\"action\":\"delete\"")).count())
}

fn expect_history(sidecar: &Sidecar, path: &str, wanted: &[&str]) -> Result<()> {
    assert_eq!(sidecar.history(path)?, wanted, "{path}");
    Ok(())
}

fn post(sidecar: &Sidecar, target: &str, body: &Value) -> Result<winston_tests::http::Answer> {
    let json = [("Content-Type", "application/json")];
    sidecar.call("POST", target, &json, body.to_string().as_bytes())
}

/// Each operation that looks at a file which is held back, or at the directory that it was in.
#[test]
fn the_file_api_records_no_deletion_that_it_only_met() -> Result<()> {
    let sidecar = halted()?;
    // What is not there cannot be removed, moved or changed.
    for (method, target, body) in [
        ("GET", "/files/d.md", json!({})),
        ("DELETE", "/files/d.md", json!({})),
        ("PATCH", "/files/.openclaw/openclaw.json", json!({"a": 1})),
        ("POST", "/files/d.md?op=move", json!({"to": "moved.md"})),
        ("POST", "/files/d.md?op=copy", json!({"to": "copied.md"})),
        ("POST", "/files/d.md?op=mode", json!({"mode": "0600"})),
        ("POST", "/batch", json!({"operations": [{"op": "delete", "path": "d.md"}]})),
        ("POST", "/batch", json!({"operations": [{"op": "move", "path": "d.md", "to": "moved.md"}]})),
    ] {
        let json = [("Content-Type", "application/merge-patch+json")];
        let answer = sidecar.call(method, target, &json, body.to_string().as_bytes())?;
        assert_eq!(answer.status, 404, "{method} {target}: {answer:?}");
    }
    sidecar.put_with("d.md", "over", &[("If-Match", "*")])?.expect(412)?;
    // The directories are there. What is held back of them stays held back, whatever becomes of the directory.
    sidecar.call("DELETE", "/files/b?recursive=true", &[], b"")?.expect(200)?;
    post(&sidecar, "/files/c?op=move", &json!({"to": "moved"}))?.expect(200)?;
    assert_eq!(deletions(sidecar.data())?, 0, "{:?}", sidecar.changes()?);

    // A version over one that is gone follows it in history.
    sidecar.put("d.md", "new")?.expect(200)?;
    expect_history(&sidecar, "d.md", &["admin create", "admin update"])?;
    assert_eq!(sidecar.changes()?.last().context("a change")?["previous_hash"], hash("d.md"));
    let batch = json!({"operations": [
        {"op": "put", "path": "e.md", "content": "set"},
        {"op": "put", "path": "new.md", "content": "new"},
    ]});
    post(&sidecar, "/batch", &batch)?.expect(200)?;
    expect_history(&sidecar, "e.md", &["admin create", "admin update"])?;
    let changes = sidecar.changes()?;
    let set = changes.iter().rev().find(|change| change["path"] == "e.md").context("e.md")?;
    assert_eq!((&set["previous_hash"], &set["hash"]), (&json!(hash("e.md")), &json!(hash("set"))));

    // What a caller removes itself is recorded.
    for path in ["d.md", "new.md"] {
        sidecar.call("DELETE", &format!("/files/{path}"), &[], b"")?.expect(200)?;
    }
    expect_history(&sidecar, "d.md", &["admin create", "admin update", "admin delete"])?;
    assert_eq!(deletions(sidecar.data())?, 2);
    wait_for_halt(&sidecar, true)?;

    // And in the end each version and each deletion is there once.
    let accepted = post(&sidecar, "/watch/accept", &json!({}))?.expect(200)?.json()?;
    assert_eq!(accepted["files"], FILES.len() - 2, "without d.md and e.md");
    for path in [".openclaw/openclaw.json", "a/kept.md", "b/1.md", "b/2.md", "c/1.md"] {
        sidecar.wait_for_history(path, &["admin create", "agent delete"])?;
    }
    wait_for_halt(&sidecar, false)?;
    expect_history(&sidecar, "e.md", &["admin create", "admin update"])?;
    assert_eq!(deletions(sidecar.data())?, 2 + FILES.len() - 2);
    assert!(!sidecar.data().join(".winston/halted").exists());
    let setup = sidecar.kill()?;
    let sidecar = setup.start()?;
    assert_eq!(sidecar.status()?["watch"]["halted"], false);
    assert_eq!(deletions(sidecar.data())?, 2 + FILES.len() - 2);
    Ok(())
}

/// The API may be the first to notice. What it then writes must not make the rest look like ordinary deletions.
#[test]
fn a_write_that_meets_an_emptied_directory_halts() -> Result<()> {
    let setup = Setup::new()?.env("WINSTON_WATCH_MODE", "polling").env("WINSTON_POLL_SECONDS", "3600");
    let sidecar = setup.start()?;
    for file in FILES {
        sidecar.put(file, file)?.expect(200)?;
    }
    empty(sidecar.data())?;
    sidecar.put("d.md", "new")?.expect(200)?;
    let watch = wait_for_halt(&sidecar, true)?;
    assert!(watch["reason"].as_str().is_some_and(|reason| reason.contains("all 6 files")), "{watch}");
    let setup = sidecar.kill()?;
    let sidecar = setup.start()?;
    wait_for_halt(&sidecar, true)?;
    assert_eq!(deletions(sidecar.data())?, 0);
    expect_history(&sidecar, "d.md", &["admin create", "admin update"])
}

/// What came into being since is no less worth than what was there before.
#[test]
fn a_tree_that_is_emptied_again_is_held_back_too() -> Result<()> {
    let sidecar = halted()?;
    let new = ["a/new.md", "f.md", "g.md"];
    for file in new {
        sidecar.agent_writes(file, file)?;
        sidecar.wait_for_history(file, &["agent create"])?;
    }
    new.iter().try_for_each(|file| fs::remove_file(sidecar.data().join(file)))?;
    eventually("they are held back with the others", || {
        let reason = sidecar.status()?["watch"]["reason"].take();
        if reason.as_str().is_some_and(|reason| reason.contains("all 10 files")) {
            Ok(Some(()))
        } else {
            bail!("{reason}")
        }
    })?;
    assert_eq!(deletions(sidecar.data())?, 0);
    post(&sidecar, "/watch/accept", &json!({}))?.expect(200)?;
    for file in new {
        sidecar.wait_for_history(file, &["agent create", "agent delete"])?;
    }
    eventually("all are deleted", || Ok((deletions(sidecar.data())? == 10).then_some(())))
}

/// With the directory that they are in, files come back as they were recorded, to the last time stamp.
#[test]
fn files_that_come_back_unchanged_end_the_halt() -> Result<()> {
    let sidecar = Setup::new()?.env("WINSTON_RESCAN_SECONDS", "3600").start()?;
    for file in ["a/1.md", "a/2.md", "b/1.md"] {
        sidecar.put(file, file)?.expect(200)?;
    }
    // Just after a write a stat does not vouch for a content yet.
    let sidecar = sidecar.kill()?.start()?;
    let aside = sidecar.data().with_file_name("aside");
    fs::create_dir(&aside)?;
    for directory in ["a", "b"] {
        fs::rename(sidecar.data().join(directory), aside.join(directory))?;
    }
    wait_for_halt(&sidecar, true)?;
    for directory in ["a", "b"] {
        fs::rename(aside.join(directory), sidecar.data().join(directory))?;
    }
    wait_for_halt(&sidecar, false)?;
    assert_eq!(sidecar.changes()?.len(), 3);
    Ok(())
}

/// A push of a file that is held back waits for the answer to what became of it; one that is made for any version does not.
#[test]
fn a_push_waits_until_it_is_known_what_became_of_its_file() -> Result<()> {
    let control = Tenant::control()?;
    let tenant = Tenant::create(&control, "halted@test.example")?;
    let sidecar = tenant.sidecar()?.env("WINSTON_RESCAN_SECONDS", "3600").start()?;
    for file in ["a/1.md", "a/2.md", "a/3.md"] {
        sidecar.agent_writes(file, file)?;
        sidecar.wait_for_history(file, &["agent create"])?;
    }
    tenant.wait_until_even(&sidecar)?;
    let aside = sidecar.data().with_file_name("aside");
    fs::rename(sidecar.data().join("a"), &aside)?;
    wait_for_halt(&sidecar, true)?;
    tenant.push("a/1.md", "pushed")?;
    sidecar.wait_for_log("could not apply pushed files; trying again")?;
    assert_eq!(sidecar.status()?["sync"]["conflicts"], json!([]));
    assert_eq!(deletions(sidecar.data())?, 0);
    fs::rename(&aside, sidecar.data().join("a"))?;
    wait_for_halt(&sidecar, false)?;
    tenant.wait_until_even(&sidecar)?;
    expect_history(&sidecar, "a/1.md", &["agent create", "system update"])?;
    assert_eq!(fs::read_to_string(sidecar.data().join("a/1.md"))?, "pushed");
    assert_eq!(sidecar.status()?["sync"]["conflicts"], json!([]));
    assert_eq!(deletions(sidecar.data())?, 0);

    // An accepted loss is a deletion, and a push that meets one is a conflict.
    fs::remove_dir_all(sidecar.data().join("a"))?;
    wait_for_halt(&sidecar, true)?;
    tenant.push("a/2.md", "pushed too")?;
    post(&sidecar, "/watch/accept", &json!({}))?.expect(200)?;
    tenant.wait_until_even(&sidecar)?;
    let listed = sidecar.get("/conflicts")?.expect(200)?.json()?;
    assert_eq!(listed["conflicts"][0]["path"], "a/2.md", "{listed}");
    expect_history(&sidecar, "a/2.md", &["agent create", "agent delete"])
}

/// Control has what the index has not, and the disk has nothing at all: that is no reason to delete what control has.
#[test]
fn a_comparison_with_control_deletes_nothing_in_an_emptied_tree() -> Result<()> {
    let agree = |head: &Value| (200, check_in_answer(head.as_u64().unwrap_or(0)));
    let control = ScriptedControl::start(move |seen| ordinary(seen).unwrap_or_else(|| agree(&seen.body["head_seq"])))?;
    let setup = Setup::new()?.env("WINSTON_CONTROL_URL", &control.url()).env("WINSTON_RESCAN_SECONDS", "3600");
    let sidecar = setup.start()?;
    for file in ["a.md", "b.md"] {
        sidecar.put(file, file)?.expect(200)?;
    }
    for file in ["a.md", "b.md"] {
        fs::remove_file(sidecar.data().join(file))?;
    }
    wait_for_halt(&sidecar, true)?;
    let differing: Vec<_> = ["a.md", "b.md", "c.md", "d.md"]
        .map(|path| json!({"path": path, "present": true, "hash": hash("another")}))
        .into();
    control.change(move |seen| match seen.call.as_str() {
        "POST /api/sidecar/check-in" => {
            let mut answer = check_in_answer(seen.body["head_seq"].as_u64().unwrap_or(0));
            answer["manifest_differs"] = json!(true);
            (200, answer)
        }
        "POST /api/sidecar/manifest" => (200, json!({ "stale": false, "differing": differing.clone() })),
        _ => ordinary(seen).unwrap_or_default(),
    });
    eventually("a comparison", || Ok((control.count("POST /api/sidecar/manifest") > 0).then_some(())))?;
    // It is over once the next check-in has asked in vain for another.
    let asked = control.count("POST /api/sidecar/check-in");
    eventually("more check-ins", || Ok((control.count("POST /api/sidecar/check-in") > asked + 1).then_some(())))?;
    assert_eq!(sidecar.status()?["sync"]["repairs"], 0);
    assert_eq!(deletions(sidecar.data())?, 0);
    Ok(())
}
