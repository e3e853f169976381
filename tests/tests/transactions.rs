//! Several edits at once: all or nothing, whatever happens in between.
//!
//! With `WINSTON_LONG` set, two writers meet 300 times instead of 15, and the agent races 2000 sets instead of 60.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use winston_tests::process::skip;
use winston_tests::sidecar::{Setup, Sidecar};
use winston_tests::wait::eventually;

/// Every regular file below the data directory but ours, with its content.
fn tree(data: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    let mut waiting = vec![data.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let path = entry.path();
            let name = path.strip_prefix(data)?.to_string_lossy().into_owned();
            if name == ".winston" {
                continue;
            }
            if entry.file_type()?.is_dir() {
                waiting.push(path);
            } else if entry.file_type()?.is_file() {
                files.insert(name, std::fs::read_to_string(&path)?);
            }
        }
    }
    Ok(files)
}

fn files(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect()
}

/// Every change, oldest first, with renames as such.
fn changes(sidecar: &Sidecar) -> Result<Vec<Value>> {
    let answer = sidecar.get("/changes?after=0&limit=1000")?.expect(200)?.json()?;
    answer["changes"].as_array().cloned().context("changes")
}

/// Every change as `source action path`, oldest first.
fn history(sidecar: &Sidecar) -> Result<Vec<String>> {
    let word = |change: &Value, key: &str| change[key].as_str().unwrap_or("?").to_owned();
    let told = |change: &Value| {
        let from = change["previous_path"].as_str().map(|from| format!("{from} -> ")).unwrap_or_default();
        format!("{} {} {from}{}", word(change, "source"), word(change, "action"), word(change, "path"))
    };
    Ok(changes(sidecar)?.iter().map(told).collect())
}

fn staged(data: &Path) -> Result<usize> {
    Ok(std::fs::read_dir(data.join(".winston/staging"))?.count())
}

fn batch(sidecar: &Sidecar, operations: &Value) -> Result<winston_tests::http::Answer> {
    sidecar.call("POST", "/batch", &[], json!({ "operations": operations }).to_string().as_bytes())
}

/// A directory with four files and their history, not running.
fn prepared() -> Result<Setup> {
    let sidecar = Setup::new()?.start()?;
    for (path, content) in OLD {
        sidecar.put(path, content)?.expect(200)?;
    }
    sidecar.kill()
}

const OLD: &[(&str, &str)] =
    &[("a.md", "old a"), ("b.md", "old b"), ("c.md", "old c"), ("m.md", "moved"), ("t.md", "old t")];
const CREATED: &[&str] =
    &["admin create a.md", "admin create b.md", "admin create c.md", "admin create m.md", "admin create t.md"];

fn operations() -> Value {
    json!([
        {"op": "put", "path": "a.md", "content": "new a"},
        {"op": "put", "path": "n/e/w.md", "content": "new"},
        {"op": "delete", "path": "b.md"},
        {"op": "move", "path": "m.md", "to": "t.md", "overwrite": true},
        {"op": "move", "path": "c.md", "to": "d/c.md"},
    ])
}

const NEW: &[(&str, &str)] = &[("a.md", "new a"), ("d/c.md", "old c"), ("n/e/w.md", "new"), ("t.md", "moved")];
const CHANGED: &[&str] = &[
    "admin update a.md",
    "admin create n/e/w.md",
    "admin delete b.md",
    "admin rename m.md -> t.md",
    "admin rename c.md -> d/c.md",
];

/// A kill at every step of a set: before its records are in the journal everything goes back, from then on everything stays.
#[test]
fn a_set_that_is_killed_is_whole_or_not_there() -> Result<()> {
    let swaps = (1..=5).map(|swap| (format!("tx-swapped=kill@{swap}"), false));
    let others = [
        ("tx-intent=kill", false),
        ("tx-dirs-synced=kill", false),
        ("journal-append=kill", false),
        ("journal-synced=kill", true),
        ("tx-journalled=kill", true),
    ];
    for (point, done) in swaps.chain(others.map(|(point, done)| (point.to_owned(), done))) {
        let setup = prepared()?;
        let failing = match setup.clone().failpoints(&point) {
            Ok(failing) => failing,
            Err(reason) => {
                skip("a_set_that_is_killed_is_whole_or_not_there", &reason);
                return Ok(());
            }
        };
        let sidecar = failing.start()?;
        assert!(batch(&sidecar, &operations()).is_err(), "{point}: it should have died");
        drop(sidecar);
        for start in 0..2 {
            let sidecar = setup.start()?;
            let (wanted, records) = if done { (NEW, [CREATED, CHANGED].concat()) } else { (OLD, CREATED.to_vec()) };
            assert_eq!(tree(setup.data())?, files(wanted), "{point}, start {start}");
            assert_eq!(history(&sidecar)?, records, "{point}, start {start}");
            assert_eq!(staged(setup.data())?, 0, "{point}");
            assert_eq!(setup.data().join("n").exists(), done, "{point}: directories go with what was in them");
            sidecar.kill()?;
        }
    }
    Ok(())
}

/// The append was torn between two of its records: the set was decided, and what is missing is added.
#[test]
fn a_torn_append_is_completed() -> Result<()> {
    let setup = prepared()?;
    let failing = match setup.clone().failpoints("tx-journalled=kill") {
        Ok(failing) => failing,
        Err(reason) => {
            skip("a_torn_append_is_completed", &reason);
            return Ok(());
        }
    };
    let sidecar = failing.start()?;
    assert!(batch(&sidecar, &operations()).is_err());
    drop(sidecar);
    let segment = setup.data().join(".winston/changes/00000000000000000001.jsonl");
    let whole = std::fs::read_to_string(&segment)?;
    // The first record of the set, and half of the second.
    let kept: usize = whole.split_inclusive('\n').take(CREATED.len() + 1).map(str::len).sum();
    std::fs::write(&segment, &whole.as_bytes()[..kept + 20])?;
    let sidecar = setup.start()?;
    assert_eq!(tree(setup.data())?, files(NEW));
    assert_eq!(history(&sidecar)?, [CREATED, CHANGED].concat());
    assert_eq!(staged(setup.data())?, 0);
    Ok(())
}

/// Between the crash and the next start the agent writes over what the set had put in place: its version stays, the rest goes back.
#[test]
fn what_the_agent_wrote_on_top_stays() -> Result<()> {
    let setup = prepared()?;
    let failing = match setup.clone().failpoints("tx-dirs-synced=kill") {
        Ok(failing) => failing,
        Err(reason) => {
            skip("what_the_agent_wrote_on_top_stays", &reason);
            return Ok(());
        }
    };
    let sidecar = failing.start()?;
    assert!(batch(&sidecar, &operations()).is_err());
    drop(sidecar);
    std::fs::write(setup.data().join("a.md"), "the agent's")?;
    std::fs::write(setup.data().join("n/e/own.md"), "the agent's")?;
    let sidecar = setup.start()?;
    let mut wanted = files(OLD);
    wanted.extend(files(&[("a.md", "the agent's"), ("n/e/own.md", "the agent's")]));
    assert_eq!(tree(setup.data())?, wanted);
    let mut found = history(&sidecar)?.split_off(CREATED.len());
    found.sort();
    assert_eq!(found, ["agent create n/e/own.md", "agent update a.md"]);
    assert_eq!(staged(setup.data())?, 0);
    Ok(())
}

/// A step that cannot be taken back now keeps no other from it, and is taken back later.
#[test]
fn one_step_that_cannot_be_taken_back_keeps_no_other() -> Result<()> {
    const TEST: &str = "one_step_that_cannot_be_taken_back_keeps_no_other";
    const PATHS: [&str; 3] = ["a/x.md", "b/x.md", "c/x.md"];
    let sidecar = Setup::new()?.start()?;
    for path in PATHS {
        sidecar.put(path, "old")?.expect(200)?;
    }
    let setup = sidecar.kill()?;
    let failing = match setup.clone().failpoints("tx-dirs-synced=kill") {
        Ok(failing) => failing,
        Err(reason) => {
            skip(TEST, &reason);
            return Ok(());
        }
    };
    let sidecar = failing.start()?;
    let puts = PATHS.map(|path| json!({"op": "put", "path": path, "content": "new"}));
    assert!(batch(&sidecar, &json!(puts)).is_err());
    drop(sidecar);
    let stuck = setup.data().join("b");
    let chattr = |how: &str| std::process::Command::new("chattr").arg(how).arg(&stuck).output();
    if !chattr("+i").is_ok_and(|output| output.status.success()) {
        skip(TEST, "chattr +i does not work here (needs root and ext4, XFS or btrfs)");
        return Ok(());
    }
    let begun = setup.start().and_then(|sidecar| Ok((tree(setup.data())?, sidecar.kill()?)));
    chattr("-i")?;
    let (found, setup) = begun?;
    assert_eq!(found, files(&[("a/x.md", "old"), ("b/x.md", "new"), ("c/x.md", "old")]));
    let _sidecar = setup.start()?;
    assert_eq!(tree(setup.data())?, files(&PATHS.map(|path| (path, "old"))));
    assert_eq!(staged(setup.data())?, 0);
    Ok(())
}

/// Directories: moved and removed as one, also by a crash.
#[test]
fn a_directory_that_is_killed_is_whole_or_not_there() -> Result<()> {
    let moved = ("POST", "/files/dir?op=move", r#"{"to":"far/away"}"#);
    let removed = ("DELETE", "/files/dir?recursive=true", "");
    for (method, target, body) in [moved, removed] {
        for (point, done) in [
            ("tx-intent=kill", false),
            ("tx-swapped=kill", false),
            ("tx-dirs-synced=kill", false),
            ("journal-synced=kill", true),
            ("tx-journalled=kill", true),
        ] {
            let sidecar = Setup::new()?.start()?;
            let old = [("dir/a.md", "a"), ("dir/node_modules/x.js", "x"), ("dir/sub/b.md", "b")];
            for path in ["dir/a.md", "dir/sub/b.md"] {
                sidecar.put(path, &path[path.len() - 4..path.len() - 3])?.expect(200)?;
            }
            sidecar.agent_writes("dir/node_modules/x.js", "x")?;
            let setup = sidecar.kill()?;
            let failing = match setup.clone().failpoints(point) {
                Ok(failing) => failing,
                Err(reason) => {
                    skip("a_directory_that_is_killed_is_whole_or_not_there", &reason);
                    return Ok(());
                }
            };
            let sidecar = failing.start()?;
            assert!(sidecar.call(method, target, &[], body.as_bytes()).is_err(), "{target} {point}");
            drop(sidecar);
            for _ in 0..2 {
                let sidecar = setup.start()?;
                let mut records = vec!["admin create dir/a.md", "admin create dir/sub/b.md"];
                let wanted = match (done, method) {
                    (false, _) => files(&old),
                    (true, "POST") => {
                        records.extend([
                            "admin rename dir/a.md -> far/away/a.md",
                            "admin rename dir/sub/b.md -> far/away/sub/b.md",
                        ]);
                        files(&[
                            ("far/away/a.md", "a"),
                            ("far/away/node_modules/x.js", "x"),
                            ("far/away/sub/b.md", "b"),
                        ])
                    }
                    (true, _) => {
                        records.extend(["admin delete dir/a.md", "admin delete dir/sub/b.md"]);
                        files(&[])
                    }
                };
                assert_eq!(tree(setup.data())?, wanted, "{target} {point}");
                let mut found = history(&sidecar)?;
                // The order of files in a directory is the file system's.
                found[2..].sort();
                assert_eq!(found, records, "{target} {point}");
                assert_eq!(staged(setup.data())?, 0, "{target} {point}");
                sidecar.kill()?;
            }
        }
    }
    Ok(())
}

/// One operation that cannot be done leaves all of them undone, and is named.
#[test]
fn one_refusal_is_everybodys() -> Result<()> {
    let sidecar = prepared()?.start()?;
    std::fs::create_dir(sidecar.data().join("dir"))?;
    std::os::unix::fs::symlink("dir", sidecar.data().join("link"))?;
    let wrong = "0".repeat(64);
    for (operation, status, code) in [
        (json!({"op": "put", "path": "b.md", "content": "x", "if_match": wrong}), 412, "precondition_failed"),
        (json!({"op": "put", "path": "b.md", "content": "x", "if_none_match": "*"}), 412, "precondition_failed"),
        (json!({"op": "put", "path": "none.md", "content": "x", "if_match": "*"}), 412, "precondition_failed"),
        (json!({"op": "delete", "path": "none.md"}), 404, "not_found"),
        (json!({"op": "delete", "path": "b.md", "if_match": wrong}), 412, "precondition_failed"),
        (json!({"op": "move", "path": "none.md", "to": "x.md"}), 404, "not_found"),
        (json!({"op": "move", "path": "m.md", "to": "b.md"}), 409, "exists"),
        (
            json!({"op": "move", "path": "m.md", "to": "b.md", "overwrite": true, "to_hash": wrong}),
            412,
            "precondition_failed",
        ),
        (json!({"op": "put", "path": "dir", "content": "x"}), 409, "is_directory"),
        (json!({"op": "put", "path": "b.md/x", "content": "x"}), 409, "not_a_directory"),
        (json!({"op": "put", "path": "link/x", "content": "x"}), 403, "access_denied"),
        (json!({"op": "put", "path": "link", "content": "x"}), 403, "access_denied"),
        (json!({"op": "put", "path": ".winston/x", "content": "x"}), 403, "internal_path"),
        (json!({"op": "put", "path": ".openclaw/.env", "content": "x"}), 403, "secret_path"),
        (json!({"op": "put", "path": "../x", "content": "x"}), 403, "access_denied"),
        (json!({"op": "put", "path": "a.md", "content": "x"}), 400, "duplicate_path"),
        (json!({"op": "put", "path": "b.md"}), 400, "missing_content"),
        (json!({"op": "put", "path": "b.md", "content": "x", "mode": "4755"}), 400, "bad_mode"),
        (json!({"op": "put", "path": "b.md", "content_base64": "?"}), 400, "bad_base64"),
        (json!({"op": "delete", "path": "b.md", "content": "x"}), 400, "bad_field"),
        (json!({"op": "chmod", "path": "b.md"}), 400, "bad_op"),
    ] {
        let answer = batch(
            &sidecar,
            &json!([{"op": "put", "path": "a.md", "content": "new"}, operation, {"op": "put", "path": "z/z.md", "content": "z"}]),
        )?;
        let body = answer.json()?;
        assert_eq!((answer.status, body["code"].as_str()), (status, Some(code)), "{operation}: {body}");
        if code != "not_a_directory" && operation["path"] != "link/x" {
            assert_eq!(body["index"], 1, "{operation}: {body}");
        }
        assert_eq!(tree(sidecar.data())?, files(OLD), "{operation}");
    }
    for body in ["", "[]", "{}", r#"{"operations":[{"op":"put"}]}"#, r#"{"operations":[],"more":1}"#] {
        let answer = sidecar.call("POST", "/batch", &[], body.as_bytes())?;
        assert_eq!((answer.status, answer.json()?["code"].as_str()), (400, Some("bad_json")), "{body}");
    }
    assert_eq!(history(&sidecar)?, CREATED);
    assert_eq!(staged(sidecar.data())?, 0);
    assert!(!sidecar.data().join("z").exists());
    Ok(())
}

/// A set that the disk or the journal refuses goes back.
#[test]
fn a_failing_disk_leaves_everything_as_it_was() -> Result<()> {
    for point in ["tx-dir-sync=eio", "journal-write=enospc", "journal-sync=eio", "stage-write=enospc@2"] {
        let setup = prepared()?;
        let failing = match setup.clone().failpoints(point) {
            Ok(failing) => failing,
            Err(reason) => {
                skip("a_failing_disk_leaves_everything_as_it_was", &reason);
                return Ok(());
            }
        };
        let sidecar = failing.start()?;
        let answer = batch(&sidecar, &operations())?;
        assert!(matches!(answer.status, 500 | 503 | 507), "{point}: {}", answer.text());
        assert_eq!(tree(setup.data())?, files(OLD), "{point}");
        assert_eq!(staged(setup.data())?, 0, "{point}");
        sidecar.kill()?;
        let sidecar = setup.start()?;
        assert_eq!(history(&sidecar)?, CREATED, "{point}");
        batch(&sidecar, &operations())?.expect(200)?;
        assert_eq!(tree(setup.data())?, files(NEW), "{point}");
    }
    Ok(())
}

/// What does not fit into records goes through `.winston/objects`, and nothing else is left there.
#[test]
fn a_set_with_large_contents_is_recorded_whole() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let content = |index: usize| format!("{index:04}").repeat(40_000);
    let operations: Vec<_> = (0..30)
        .map(|index| json!({"op": "put", "path": format!("big/{index}.md"), "content": content(index)}))
        .collect();
    let answer = batch(&sidecar, &json!(operations))?.expect(200)?.json()?;
    assert_eq!(answer["results"].as_array().map(Vec::len), Some(30));
    for (index, result) in answer["results"].as_array().context("results")?.iter().enumerate() {
        assert_eq!((&result["seq"], &result["created"]), (&json!(index + 1), &json!(true)));
        let object = sidecar.data().join(".winston/objects").join(result["hash"].as_str().context("hash")?);
        assert_eq!(std::fs::read_to_string(object)?, content(index));
    }
    // One that fails leaves no content behind.
    let mut more = vec![json!({"op": "put", "path": "big/x.md", "content": content(9999)})];
    more.push(json!({"op": "delete", "path": "none.md"}));
    batch(&sidecar, &json!(more))?.expect(404)?;
    assert_eq!(std::fs::read_dir(sidecar.data().join(".winston/objects"))?.count(), 30);
    // The same set again changes nothing.
    let again = batch(&sidecar, &json!(operations))?.expect(200)?.json()?;
    assert_eq!(again["results"][0]["seq"], Value::Null);
    assert_eq!(changes(&sidecar)?.len(), 30);
    let setup = sidecar.kill()?;
    let sidecar = setup.start()?;
    assert_eq!(changes(&sidecar)?.len(), 30);
    assert_eq!(std::fs::read_dir(sidecar.data().join(".winston/objects"))?.count(), 30);
    Ok(())
}

/// Two writers with the same precondition: one set is applied, whole, the other refused, whole. The agent's versions in between are in history.
#[test]
fn sets_that_meet_are_applied_one_after_the_other() -> Result<()> {
    let rounds = if std::env::var_os("WINSTON_LONG").is_some() { 300 } else { 15 };
    let sidecar = Setup::new()?.start()?;
    for path in ["x.md", "y.md"] {
        sidecar.put(path, "0")?.expect(200)?;
    }
    let mut hash = sidecar.get("/files/x.md")?.json()?["hash"].as_str().context("hash")?.to_owned();
    for round in 0..rounds {
        let answers: Vec<_> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..2)
                .map(|writer| {
                    let (sidecar, hash) = (&sidecar, &hash);
                    scope.spawn(move || {
                        let content = format!("{round} {writer}");
                        let put = |path: &str| json!({"op": "put", "path": path, "content": content, "if_match": hash});
                        batch(sidecar, &json!([put("x.md"), put("y.md")]))
                    })
                })
                .collect();
            writers.into_iter().filter_map(|writer| writer.join().ok()).collect::<Result<_>>()
        })?;
        let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 412], "{round}");
        let read = |path: &str| std::fs::read_to_string(sidecar.data().join(path));
        assert_eq!(read("x.md")?, read("y.md")?, "{round}");
        let winner = answers.iter().find(|answer| answer.status == 200).context("winner")?.json()?;
        winner["results"][1]["hash"].as_str().context("hash")?.clone_into(&mut hash);
    }
    assert_eq!(sidecar.history("x.md")?.len(), rounds + 1);
    eventually("staging is empty", || Ok((staged(sidecar.data())? == 0).then_some(())))
}

/// The agent writes to the files of a set while sets are applied, with and without a precondition. Every set that was answered with 200 is in history once
/// and whole, one that was refused not at all, and the agent's last version is on disk or in history.
#[test]
fn the_agent_races_sets() -> Result<()> {
    let rounds = if std::env::var_os("WINSTON_LONG").is_some() { 2000 } else { 60 };
    let sidecar = Setup::new()?.start()?;
    for path in ["x.md", "y.md", "z.md"] {
        sidecar.put(path, "start")?.expect(200)?;
    }
    let stop = AtomicBool::new(false);
    let (answers, last) = std::thread::scope(|scope| -> Result<_> {
        let agent = scope.spawn(|| -> Result<String> {
            let mut content = String::new();
            for count in 0.. {
                content = format!("agent {count}");
                std::fs::write(sidecar.data().join("new.tmp"), &content)?;
                std::fs::rename(sidecar.data().join("new.tmp"), sidecar.data().join("y.md"))?;
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::yield_now();
            }
            Ok(content)
        });
        let mut answers = Vec::new();
        for round in 0..rounds {
            let content = format!("set {round}");
            let put = |path: &str| json!({"op": "put", "path": path, "content": content});
            let mut second = put("y.md");
            if round % 2 == 1 {
                second["if_match"] = "*".into();
            }
            let (from, to) = if round % 3 == 0 { ("z.md", "v.md") } else { ("z.md", "z.md") };
            let third = if from == to { put("w.md") } else { json!({"op": "move", "path": from, "to": to}) };
            let answer = batch(&sidecar, &json!([put("x.md"), second, third]))?;
            if round % 3 == 0 && answer.status == 200 {
                batch(&sidecar, &json!([{"op": "move", "path": to, "to": from}]))?.expect(200)?;
            }
            answers.push((content, answer.status));
        }
        stop.store(true, Ordering::Relaxed);
        let last = agent.join().ok().context("agent")??;
        Ok((answers, last))
    })?;
    eventually("staging is empty", || Ok((staged(sidecar.data())? == 0).then_some(())))?;
    let setup = sidecar.kill()?;
    let _sidecar = setup.start()?;
    let lines = winston_tests::sidecar::journal_lines(setup.data())?;
    let mut applied = 0;
    for (content, status) in &answers {
        assert!(matches!(status, 200 | 409), "{content}: {status}");
        let quoted = format!("\"content\":\"{content}\"");
        let records: Vec<_> = lines.iter().filter(|line| line.contains(&quoted)).collect();
        for path in ["x.md", "y.md"] {
            let found = records.iter().filter(|line| line.contains(&format!("\"path\":\"{path}\""))).count();
            assert_eq!(found, usize::from(*status == 200), "{content} {path}: {records:?}");
        }
        assert!(records.iter().all(|line| line.contains("\"source\":\"admin\"")), "{content}: {records:?}");
        applied += usize::from(*status == 200);
    }
    assert!(applied > 0, "no set was ever applied");
    let quoted = format!("\"content\":\"{last}\"");
    assert!(lines.iter().any(|line| line.contains(&quoted)), "{last} is lost");
    // The newest record of the path is what is on disk.
    let place = std::fs::read_to_string(setup.data().join("y.md"))?;
    let newest = winston_tests::sidecar::journal_lines(setup.data())?;
    let newest = newest.iter().rev().find(|line| line.contains("\"path\":\"y.md\"")).context("y.md")?;
    assert!(newest.contains(&format!("\"content\":\"{place}\"")), "{place}: {newest}");
    Ok(())
}
