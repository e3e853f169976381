//! kill -9, and what a crash between two steps of a write leaves behind.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use winston_tests::sidecar::{Setup, journal_lines};

fn hash(content: &str) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sequence numbers in the journal, in order.
fn sequence(setup: &Setup) -> Result<Vec<u64>> {
    let lines = journal_lines(setup.data())?;
    lines.iter().map(|line| serde_json::from_str::<Value>(line)?["seq"].as_u64().context("seq")).collect()
}

#[test]
fn what_was_acknowledged_survives_a_kill() -> Result<()> {
    let mut setup = Setup::new()?;
    let mut acknowledged = Vec::new();
    for round in 0..6 {
        let sidecar = setup.start()?;
        let stop = AtomicBool::new(false);
        let written: Vec<_> = std::thread::scope(|scope| -> Result<_> {
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    let (sidecar, stop) = (&sidecar, &stop);
                    scope.spawn(move || {
                        let mut written = Vec::new();
                        for count in 0.. {
                            let (path, content) =
                                (format!("w{writer}/r{round}-{count}.md"), format!("{writer} {count}"));
                            match sidecar.put(&path, &content) {
                                Ok(answer) if answer.status == 200 => written.push((path, content)),
                                _ => break,
                            }
                            if stop.load(Ordering::Relaxed) {
                                break;
                            }
                        }
                        written
                    })
                })
                .collect();
            // Killed in the middle of whatever the writers are doing, once enough has been acknowledged.
            winston_tests::wait::eventually("some writes", || {
                Ok((sidecar.status()?["journal"]["head_seq"].as_u64() > Some(acknowledged.len() as u64 + 40))
                    .then_some(()))
            })?;
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(sidecar.pid() as i32), nix::sys::signal::SIGKILL)?;
            stop.store(true, Ordering::Relaxed);
            Ok(writers.into_iter().flat_map(|writer| writer.join().unwrap_or_default()).collect())
        })?;
        assert!(!written.is_empty());
        acknowledged.extend(written);
        setup = sidecar.kill()?;
    }
    let sidecar = setup.start()?;
    for (path, content) in &acknowledged {
        assert_eq!(std::fs::read_to_string(sidecar.data().join(path)).ok().as_ref(), Some(content), "{path}");
    }
    let lines = journal_lines(sidecar.data())?;
    for (path, _) in &acknowledged {
        let records: Vec<_> = lines.iter().filter(|line| line.contains(&format!("\"path\":\"{path}\""))).collect();
        assert_eq!(records.len(), 1, "{path}: {records:?}");
        assert!(records[0].contains("\"source\":\"admin\""), "{records:?}");
    }
    let sequence = sequence(&setup)?;
    assert!(sequence.iter().copied().eq(1..=sequence.len() as u64), "{sequence:?}");
    assert_eq!(std::fs::read_dir(sidecar.data().join(".winston/staging"))?.count(), 0);
    Ok(())
}

#[test]
fn what_the_agent_did_meanwhile_is_found_at_the_next_start() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    for path in ["changed.md", "deleted.md", "untouched.md"] {
        sidecar.put(path, "old")?.expect(200)?;
    }
    let setup = sidecar.kill()?;
    std::fs::write(setup.data().join("changed.md"), "new")?;
    std::fs::remove_file(setup.data().join("deleted.md"))?;
    std::fs::write(setup.data().join("created.md"), "x")?;
    let sidecar = setup.start()?;
    assert_eq!(sidecar.history("changed.md")?, ["admin create", "agent update"]);
    assert_eq!(sidecar.history("deleted.md")?, ["admin create", "agent delete"]);
    assert_eq!(sidecar.history("created.md")?, ["agent create"]);
    assert_eq!(sidecar.history("untouched.md")?, ["admin create"]);
    Ok(())
}

#[test]
fn a_clean_stop_and_start_records_nothing() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("a.md", "a")?.expect(200)?;
    sidecar.agent_writes("b.md", "b")?;
    sidecar.wait_for_history("b.md", &["agent create"])?;
    let (status, setup) = sidecar.stop()?;
    assert!(status.success());
    assert!(setup.data().join(".winston/index").exists());
    let sidecar = setup.start()?;
    assert_eq!(sidecar.changes()?.len(), 2);
    Ok(())
}

#[test]
fn a_lost_index_costs_comparing_and_nothing_else() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("a.md", "a")?.expect(200)?;
    let (_, setup) = sidecar.stop()?;
    for damage in ["", "{\"format\":1", "not an index\n"] {
        std::fs::write(setup.data().join(".winston/index"), damage)?;
        let (_, _) = setup.start()?.stop()?;
    }
    let sidecar = setup.start()?;
    assert_eq!(sidecar.history("a.md")?, ["admin create"]);
    Ok(())
}

/// The journal is cut at every byte of its last record: whatever is left is read, the rest is found on disk again.
#[test]
fn a_torn_tail_is_cut_at_every_byte() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("a.md", "first")?.expect(200)?;
    sidecar.put("a.md", "second")?.expect(200)?;
    let setup = sidecar.kill()?;
    let segment = setup.data().join(".winston/changes/00000000000000000001.jsonl");
    let whole = std::fs::read(&segment)?;
    let first = whole.iter().position(|byte| *byte == b'\n').context("no line")? + 1;
    for cut in (first..whole.len()).step_by(7).chain([first, whole.len() - 1]) {
        std::fs::write(&segment, &whole[..cut])?;
        let sidecar = setup.start()?;
        // The record is gone, so nobody knows any more that the admin wrote the second version; the first is intact.
        assert_eq!(sidecar.history("a.md")?, ["admin create", "agent update"], "cut at {cut}");
        assert_eq!(sidecar.changes()?[1]["seq"], 2);
        assert_eq!(sidecar.status()?["journal"]["corrupt_records"], 0);
        sidecar.kill()?;
    }
    Ok(())
}

struct Interrupted<'a> {
    intent: Value,
    staged: Option<&'a str>,
    in_place: Option<&'a str>,
    history: &'a [&'a str],
}

/// Each state that a crash can leave between the steps of a write, made by hand, and what must become of it.
#[test]
fn an_interrupted_write_keeps_its_author() -> Result<()> {
    let put = |content: &str| json!({"path": "a.md", "source": "admin", "actor": "ops", "hash": hash(content)});
    let delete = json!({"path": "a.md", "source": "admin", "hash": null});
    let cases = [
        (
            "staged, not swapped",
            Interrupted { intent: put("new"), staged: Some("new"), in_place: Some("old"), history: &["agent create"] },
        ),
        (
            "swapped",
            Interrupted {
                intent: put("new"),
                staged: Some("old"),
                in_place: Some("new"),
                history: &["agent create", "admin update"],
            },
        ),
        (
            "swapped over a version that the agent slipped in",
            Interrupted {
                intent: put("new"),
                staged: Some("slipped in"),
                in_place: Some("new"),
                history: &["agent create", "agent update", "admin update"],
            },
        ),
        (
            "swapped, and the agent has written since",
            Interrupted {
                intent: put("new"),
                staged: Some("old"),
                in_place: Some("newer"),
                history: &["agent create", "agent update"],
            },
        ),
        (
            "undone",
            Interrupted { intent: put("new"), staged: Some("new"), in_place: Some("old"), history: &["agent create"] },
        ),
        (
            "delete not begun",
            Interrupted { intent: delete.clone(), staged: None, in_place: Some("old"), history: &["agent create"] },
        ),
        (
            "deleted",
            Interrupted {
                intent: delete.clone(),
                staged: Some("old"),
                in_place: None,
                history: &["agent create", "admin delete"],
            },
        ),
        (
            "deleted, and the agent has made it again",
            Interrupted {
                intent: delete,
                staged: Some("old"),
                in_place: Some("again"),
                history: &["agent create", "agent update"],
            },
        ),
    ];
    for (name, case) in cases {
        let sidecar = Setup::new()?.start()?;
        sidecar.agent_writes("a.md", "old")?;
        sidecar.wait_for_history("a.md", &["agent create"])?;
        let setup = sidecar.kill()?;
        let staging = setup.data().join(".winston/staging");
        symlink(case.intent.to_string(), staging.join("0000000000000000.intent"))?;
        if let Some(content) = case.staged {
            std::fs::write(staging.join("0000000000000000"), content)?;
        }
        let path = setup.data().join("a.md");
        match case.in_place {
            Some(content) => std::fs::write(&path, content)?,
            None => std::fs::remove_file(&path)?,
        }
        for start in 0..2 {
            let sidecar = setup.start()?;
            assert_eq!(sidecar.history("a.md")?, case.history, "{name}, start {start}");
            assert_eq!(std::fs::read_dir(&staging)?.count(), 0, "{name}");
            assert_eq!(std::fs::read_to_string(&path).ok().as_deref(), case.in_place, "{name}");
            sidecar.kill()?;
        }
    }
    Ok(())
}

/// The content that was about to be written is in history already, from earlier: that does not make this write recorded.
#[test]
fn an_interrupted_return_to_an_earlier_content_loses_nothing() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("a.md", "content")?.expect(200)?;
    let setup = sidecar.kill()?;
    let staging = setup.data().join(".winston/staging");
    let intent = json!({"path": "a.md", "source": "admin", "hash": hash("content"), "after_seq": 1});
    symlink(intent.to_string(), staging.join("1.intent"))?;
    std::fs::write(staging.join("1"), "the agent's")?;
    let sidecar = setup.start()?;
    assert_eq!(sidecar.history("a.md")?, ["admin create", "agent update", "admin update"]);
    assert!(journal_lines(sidecar.data())?[1].contains("\"content\":\"the agent's\""));
    Ok(())
}

/// The edit named a version and met another one: it is undone, and the agent's version returns.
#[test]
fn an_interrupted_edit_of_another_version_is_undone() -> Result<()> {
    let only_over = hash("old");
    for (name, intent, in_place) in [
        ("put", json!({"path": "a.md", "source": "admin", "hash": hash("new"), "only_over": only_over}), Some("new")),
        ("delete", json!({"path": "a.md", "source": "admin", "hash": null, "only_over": only_over}), None),
        ("delete of a link", json!({"path": "a.md", "source": "admin", "hash": null, "only_over": null}), None),
        (
            "put, and the agent wrote again",
            json!({"path": "a.md", "source": "admin", "hash": hash("new"), "only_over": only_over}),
            Some("newest"),
        ),
    ] {
        let sidecar = Setup::new()?.start()?;
        sidecar.agent_writes("a.md", "old")?;
        sidecar.wait_for_history("a.md", &["agent create"])?;
        let setup = sidecar.kill()?;
        let staging = setup.data().join(".winston/staging");
        symlink(intent.to_string(), staging.join("1.intent"))?;
        std::fs::write(staging.join("1"), "slipped in")?;
        let path = setup.data().join("a.md");
        match in_place {
            Some(content) => std::fs::write(&path, content)?,
            None => std::fs::remove_file(&path)?,
        }
        let sidecar = setup.start()?;
        let (content, history) = match in_place {
            Some("newest") => ("newest", vec!["agent create", "agent update", "agent update"]),
            _ => ("slipped in", vec!["agent create", "agent update"]),
        };
        assert_eq!(std::fs::read_to_string(&path)?, content, "{name}");
        assert_eq!(sidecar.history("a.md")?, history, "{name}");
        assert_eq!(std::fs::read_dir(&staging)?.count(), 0, "{name}");
    }
    Ok(())
}

/// What the swap took out was not a file: it goes back, and nothing is recorded.
#[test]
fn a_name_that_was_swapped_out_returns() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("a.md", "old")?.expect(200)?;
    let setup = sidecar.kill()?;
    let staging = setup.data().join(".winston/staging");
    let intent = json!({"path": "a.md", "source": "admin", "hash": hash("new"), "after_seq": 1});
    symlink(intent.to_string(), staging.join("1.intent"))?;
    symlink("elsewhere", staging.join("1"))?;
    std::fs::write(setup.data().join("a.md"), "new")?;
    let sidecar = setup.start()?;
    assert_eq!(std::fs::read_link(sidecar.data().join("a.md"))?, Path::new("elsewhere"));
    assert_eq!(sidecar.history("a.md")?, ["admin create", "agent delete"]);
    Ok(())
}

/// An intent that is too long for a link on some file systems is a file.
#[test]
fn a_long_path_has_an_intent_too() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let path = vec!["d".repeat(200); 12].join("/");
    sidecar.put(&path, "old")?.expect(200)?;
    sidecar.put(&path, "new")?.expect(200)?;
    let setup = sidecar.kill()?;
    let staging = setup.data().join(".winston/staging");
    let intent = json!({"path": path, "source": "admin", "hash": hash("newer"), "after_seq": 2});
    std::fs::write(staging.join("1.intent"), intent.to_string())?;
    std::fs::write(staging.join("1"), "new")?;
    std::fs::write(setup.data().join(&path), "newer")?;
    let sidecar = setup.start()?;
    assert_eq!(sidecar.history(&path)?, ["admin create", "admin update", "admin update"]);
    Ok(())
}

#[test]
fn a_large_file_is_recorded_once() -> Result<()> {
    let mut setup = Setup::new()?.env("WINSTON_MAX_FILE_BYTES", "1000");
    std::fs::write(setup.data().join("large.bin"), vec![b'x'; 5000])?;
    for _ in 0..3 {
        let sidecar = setup.start()?;
        assert_eq!(sidecar.history("large.bin")?, ["agent create"]);
        setup = sidecar.kill()?;
    }
    std::fs::write(setup.data().join("large.bin"), vec![b'y'; 5001])?;
    assert_eq!(setup.start()?.history("large.bin")?, ["agent create", "agent update"]);
    Ok(())
}

/// The same for a file that did not exist, and for a write whose record made it to the journal.
#[test]
fn an_interrupted_creation_keeps_its_author() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put_with("recorded.md", "x", &[("X-Winston-Actor", "ops")])?.expect(200)?;
    let setup = sidecar.kill()?;
    let staging = setup.data().join(".winston/staging");
    for (id, path, source) in [("a", "new.md", "system"), ("b", "recorded.md", "admin")] {
        let intent = json!({"path": path, "source": source, "generation": 3, "hash": hash("x")});
        symlink(intent.to_string(), staging.join(format!("{id}.intent")))?;
    }
    std::fs::write(setup.data().join("new.md"), "x")?;
    std::fs::write(staging.join("c"), "left over")?;
    let sidecar = setup.start()?;
    assert_eq!(sidecar.history("new.md")?, ["system create"]);
    assert_eq!(sidecar.history("recorded.md")?, ["admin create"]);
    assert_eq!(sidecar.changes()?[1]["generation"], 3);
    Ok(())
}
