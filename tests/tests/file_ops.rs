//! Moving, copying, making and removing through the API.
//!
//! With `WINSTON_LONG` set, the agent is raced for 300 rounds instead of 20.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use winston_tests::http::Answer;
use winston_tests::sidecar::{Setup, Sidecar};

fn rounds() -> usize {
    if std::env::var_os("WINSTON_LONG").is_some() { 300 } else { 20 }
}

fn op(sidecar: &Sidecar, path: &str, op: &str, body: &Value, headers: &[(&str, &str)]) -> Result<Answer> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    sidecar.call("POST", &format!("/files/{path}?op={op}"), headers, body.as_bytes())
}

fn refused(answer: &Answer, status: u16, code: &str, what: &str) -> Result<()> {
    let body = answer.json()?;
    assert_eq!((answer.status, body["code"].as_str()), (status, Some(code)), "{what}: {body}");
    assert!(body["error"].is_string() && body["request_id"].is_string(), "{what}: {body}");
    Ok(())
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

fn nothing_staged(sidecar: &Sidecar) -> Result<()> {
    assert_eq!(std::fs::read_dir(sidecar.data().join(".winston/staging"))?.count(), 0);
    Ok(())
}

#[test]
fn a_file_is_moved() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let hash = sidecar.put("a.md", "content")?.expect(200)?.json()?["hash"].clone();
    sidecar.put("there.md", "old")?.expect(200)?;
    std::fs::set_permissions(sidecar.data().join("a.md"), PermissionsExt::from_mode(0o640))?;
    let wrong = format!("\"{}\"", "0".repeat(64));
    let to = |to: &str| json!({ "to": to });
    refused(
        &op(&sidecar, "a.md", "move", &to("b.md"), &[("If-Match", &wrong)])?,
        412,
        "precondition_failed",
        "source",
    )?;
    refused(&op(&sidecar, "a.md", "move", &to("there.md"), &[])?, 409, "exists", "target")?;
    refused(&op(&sidecar, "none.md", "move", &to("b.md"), &[])?, 404, "not_found", "no source")?;
    refused(&op(&sidecar, "a.md", "move", &to(".winston/b"), &[])?, 403, "internal_path", "into ours")?;
    refused(&op(&sidecar, "a.md", "move", &to(".openclaw/.env"), &[])?, 403, "secret_path", "into secrets")?;
    refused(&op(&sidecar, "a.md", "move", &to("a.md"), &[])?, 400, "duplicate_path", "onto itself")?;
    refused(&op(&sidecar, "a.md", "move", &to("a.md/b"), &[])?, 409, "not_a_directory", "below itself")?;
    refused(&op(&sidecar, "a.md", "fly", &to("b.md"), &[])?, 400, "bad_op", "op")?;
    assert_eq!(changes(&sidecar)?.len(), 2);

    let moved = op(&sidecar, "a.md", "move", &to("d/b.md"), &[("X-Winston-Actor", "ops")])?.expect(200)?.json()?;
    assert_eq!(
        moved,
        json!({"success": true, "path": "d/b.md", "previous_path": "a.md", "hash": hash, "created": true, "seq": 3})
    );
    let change = changes(&sidecar)?.pop().context("change")?;
    assert_eq!((&change["action"], &change["actor"], &change["hash"]), (&json!("rename"), &json!("ops"), &hash));
    assert_eq!(std::fs::metadata(sidecar.data().join("d/b.md"))?.permissions().mode() & 0o777, 0o640);

    let over = json!({"to": "there.md", "overwrite": true});
    op(&sidecar, "d/b.md", "move", &over, &[])?.expect(200)?;
    assert_eq!(std::fs::read_to_string(sidecar.data().join("there.md"))?, "content");
    let change = changes(&sidecar)?.pop().context("change")?;
    assert!(change["previous_hash"].is_string(), "{change}");

    // Places without a history: what has one there is created or deleted.
    op(&sidecar, "there.md", "move", &to(".cache/x"), &[])?.expect(200)?;
    op(&sidecar, ".cache/x", "move", &to("back.md"), &[])?.expect(200)?;
    let (_, setup) = sidecar.stop()?;
    let sidecar = setup.start()?;
    assert_eq!(
        history(&sidecar)?[2..],
        [
            "admin rename a.md -> d/b.md",
            "admin rename d/b.md -> there.md",
            "admin delete there.md",
            "admin create back.md"
        ]
    );
    nothing_staged(&sidecar)
}

#[test]
fn links_are_moved_as_names() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let outside = sidecar.data().parent().context("parent")?.join("outside");
    std::fs::create_dir(&outside)?;
    std::fs::write(outside.join("secret"), "secret")?;
    symlink(&outside, sidecar.data().join("link"))?;
    op(&sidecar, "link", "move", &json!({"to": "moved"}), &[])?.expect(200)?;
    assert_eq!(std::fs::read_link(sidecar.data().join("moved"))?, outside);
    sidecar.put("a.md", "a")?.expect(200)?;
    for target in ["moved/a.md", "moved"] {
        let answer = op(&sidecar, "a.md", "move", &json!({"to": target, "overwrite": true}), &[])?;
        refused(&answer, 403, "access_denied", target)?;
        let answer = op(&sidecar, "a.md", "copy", &json!({"to": target, "overwrite": true}), &[])?;
        refused(&answer, 403, "access_denied", target)?;
    }
    for (path, name, body) in [
        ("moved/secret", "copy", json!({"to": "x"})),
        ("moved/secret", "move", json!({"to": "x"})),
        ("moved", "copy", json!({"to": "x"})),
        ("moved/secret", "mode", json!({"mode": "0777"})),
        ("moved", "mode", json!({"mode": "0777"})),
        ("moved/dir", "mkdir", Value::Null),
        ("moved", "mkdir", Value::Null),
    ] {
        refused(&op(&sidecar, path, name, &body, &[])?, 403, "access_denied", &format!("{name} {path}"))?;
    }
    assert_eq!(std::fs::read_dir(&outside)?.count(), 1);
    Ok(())
}

#[test]
fn a_directory_is_moved_with_its_history() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    for path in ["dir/a.md", "dir/sub/b.md", "other/c.md", "workspace/w.md"] {
        sidecar.put(path, path)?.expect(200)?;
    }
    sidecar.agent_writes("dir/new.md", "the agent's")?;
    std::fs::create_dir_all(sidecar.data().join(".openclaw/credentials"))?;
    let to = |to: &str| json!({ "to": to });
    refused(&op(&sidecar, "dir", "move", &to("other"), &[])?, 409, "exists", "target")?;
    refused(&op(&sidecar, "dir", "move", &to("dir/sub/x"), &[])?, 409, "into_itself", "into itself")?;
    refused(&op(&sidecar, "workspace", "move", &to("w"), &[])?, 403, "protected_path", "workspace")?;
    refused(&op(&sidecar, ".openclaw", "move", &to("w"), &[])?, 403, "protected_path", "state")?;
    refused(&op(&sidecar, "dir", "move", &to(".openclaw/agents"), &[])?, 403, "secret_path", "secret")?;
    let wrong = [("If-Match", "\"0\"")];
    refused(&op(&sidecar, "dir", "move", &to("x"), &wrong)?, 412, "precondition_failed", "version")?;
    assert!(!sidecar.data().join("x").exists());
    op(&sidecar, "dir", "move", &to("far/away"), &[])?.expect(200)?;
    sidecar.put("far/away/a.md", "changed")?.expect(200)?;
    let mut found = history(&sidecar)?.split_off(4);
    found.sort();
    assert_eq!(
        found,
        [
            "admin rename dir/a.md -> far/away/a.md",
            "admin rename dir/new.md -> far/away/new.md",
            "admin rename dir/sub/b.md -> far/away/sub/b.md",
            "admin update far/away/a.md",
            "agent create dir/new.md",
        ]
    );
    // Where nothing has a history its files are deleted, and created where they have one again.
    op(&sidecar, "far/away", "move", &to("node_modules/away"), &[])?.expect(200)?;
    op(&sidecar, "node_modules/away", "move", &to("again"), &[])?.expect(200)?;
    let (_, setup) = sidecar.stop()?;
    let sidecar = setup.start()?;
    let mut found = history(&sidecar)?.split_off(9);
    found.sort();
    assert_eq!(
        found,
        [
            "admin create again/a.md",
            "admin create again/new.md",
            "admin create again/sub/b.md",
            "admin delete far/away/a.md",
            "admin delete far/away/new.md",
            "admin delete far/away/sub/b.md",
        ]
    );
    nothing_staged(&sidecar)
}

#[test]
fn files_and_directories_are_copied() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    for path in ["dir/a.md", "dir/sub/b.md"] {
        sidecar.put(path, path)?.expect(200)?;
    }
    std::fs::create_dir(sidecar.data().join("dir/empty"))?;
    symlink("/etc/passwd", sidecar.data().join("dir/link"))?;
    std::fs::set_permissions(sidecar.data().join("dir/a.md"), PermissionsExt::from_mode(0o750))?;
    let to = |to: &str| json!({ "to": to });
    let copied = op(&sidecar, "dir", "copy", &to("copy/of"), &[])?.expect(200)?.json()?;
    assert_eq!((&copied["files"], &copied["bytes"], &copied["skipped"]), (&json!(2), &json!(20), &json!(["dir/link"])));
    assert_eq!(std::fs::read_to_string(sidecar.data().join("copy/of/sub/b.md"))?, "dir/sub/b.md");
    assert_eq!(std::fs::metadata(sidecar.data().join("copy/of/a.md"))?.permissions().mode() & 0o777, 0o750);
    assert!(sidecar.data().join("copy/of/empty").is_dir() && !sidecar.data().join("copy/of/link").exists());
    refused(&op(&sidecar, "dir", "copy", &to("copy/of"), &[])?, 409, "exists", "target")?;
    refused(&op(&sidecar, "dir", "copy", &to("dir/x"), &[])?, 409, "into_itself", "into itself")?;
    refused(&op(&sidecar, "dir/a.md", "copy", &to("copy/of/a.md"), &[])?, 409, "exists", "target file")?;
    refused(
        &op(&sidecar, "dir/a.md", "copy", &to("x"), &[("If-Match", "\"0\"")])?,
        412,
        "precondition_failed",
        "version",
    )?;
    sidecar.put("dir/a.md", "newer")?.expect(200)?;
    op(&sidecar, "dir", "copy", &json!({"to": "copy/of", "overwrite": true}), &[])?.expect(200)?;
    assert_eq!(sidecar.history("copy/of/a.md")?, ["admin create", "admin update"]);
    assert_eq!(sidecar.history("copy/of/sub/b.md")?, ["admin create"]);
    // Secrets are not copied out.
    std::fs::create_dir_all(sidecar.data().join(".openclaw/credentials"))?;
    std::fs::write(sidecar.data().join(".openclaw/credentials/x"), "x")?;
    refused(&op(&sidecar, ".openclaw", "copy", &to("stolen"), &[])?, 403, "secret_path", "secrets")?;
    assert!(!sidecar.data().join("stolen").exists());
    nothing_staged(&sidecar)
}

#[test]
fn directories_are_made_and_modes_set() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("file.md", "x")?.expect(200)?;
    for created in [true, false] {
        let made = op(&sidecar, "a/b/c", "mkdir", &Value::Null, &[])?.expect(200)?.json()?;
        assert_eq!(made, json!({"success": true, "path": "a/b/c", "created": created}));
    }
    refused(&op(&sidecar, "file.md", "mkdir", &Value::Null, &[])?, 409, "exists", "over a file")?;
    refused(&op(&sidecar, "file.md/x", "mkdir", &Value::Null, &[])?, 409, "not_a_directory", "below a file")?;
    refused(&op(&sidecar, ".winston/x", "mkdir", &Value::Null, &[])?, 403, "internal_path", "ours")?;
    let only_new = [("If-None-Match", "*")];
    refused(&op(&sidecar, "a/b", "mkdir", &Value::Null, &only_new)?, 412, "precondition_failed", "only new")?;
    let mode = |mode: &str| json!({ "mode": mode });
    for bad in ["4755", "2755", "999", ""] {
        refused(&op(&sidecar, "file.md", "mode", &mode(bad), &[])?, 400, "bad_mode", bad)?;
    }
    refused(&op(&sidecar, "none.md", "mode", &mode("0600"), &[])?, 404, "not_found", "nothing")?;
    refused(
        &op(&sidecar, "file.md", "mode", &mode("0600"), &[("If-Match", "\"0\"")])?,
        412,
        "precondition_failed",
        "version",
    )?;
    for path in ["file.md", "a/b"] {
        let answer = op(&sidecar, path, "mode", &mode("0750"), &[])?.expect(200)?.json()?;
        assert_eq!(answer["mode"], "0750");
        assert_eq!(std::fs::metadata(sidecar.data().join(path))?.permissions().mode() & 0o7777, 0o750);
    }
    let (_, setup) = sidecar.stop()?;
    assert_eq!(changes(&setup.start()?)?.len(), 1, "a mode is no version");
    Ok(())
}

#[test]
fn directories_are_removed() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let outside = sidecar.data().parent().context("parent")?.join("outside");
    std::fs::create_dir(&outside)?;
    std::fs::write(outside.join("kept"), "kept")?;
    sidecar.put("dir/a.md", "a")?.expect(200)?;
    sidecar.agent_writes("dir/agent.md", "unseen until now")?;
    sidecar.agent_writes("dir/node_modules/deep/x.js", "x")?;
    let deep = vec!["d"; 400].join("/");
    std::fs::create_dir_all(sidecar.data().join("dir").join(&deep))?;
    symlink(&outside, sidecar.data().join("dir/link"))?;
    nix::unistd::mkfifo(&sidecar.data().join("dir/fifo"), nix::sys::stat::Mode::S_IRWXU)?;
    std::fs::create_dir(sidecar.data().join("dir/closed"))?;
    std::fs::set_permissions(sidecar.data().join("dir/closed"), PermissionsExt::from_mode(0o000))?;
    let delete = |path: &str, headers: &[(&str, &str)]| sidecar.call("DELETE", &format!("/files/{path}"), headers, b"");
    refused(&delete("dir", &[])?, 409, "directory_not_empty", "not empty")?;
    refused(&delete("dir?recursive=maybe", &[])?, 400, "bad_query", "query")?;
    refused(&delete("dir?recursive=true", &[("If-Match", "\"0\"")])?, 412, "precondition_failed", "version")?;
    let removed = delete("dir?recursive=true", &[("X-Winston-Actor", "ops")])?.expect(200)?.json()?;
    assert_eq!(removed["success"], true);
    assert!(!sidecar.data().join("dir").exists());
    assert_eq!(std::fs::read_to_string(outside.join("kept"))?, "kept");
    assert_eq!(sidecar.history("dir/a.md")?, ["admin create", "admin delete"]);
    assert_eq!(sidecar.history("dir/agent.md")?, ["agent create", "admin delete"]);
    nothing_staged(&sidecar)?;
    op(&sidecar, "empty", "mkdir", &Value::Null, &[])?.expect(200)?;
    delete("empty", &[])?.expect(200)?;
    assert!(!sidecar.data().join("empty").exists());
    Ok(())
}

/// What the API put where the agent's changes are not recorded has a history all the same: it ends with its caller, not with the agent.
#[test]
fn a_file_of_the_api_keeps_its_history_anywhere() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    for path in ["a/node_modules/x.js", "b/node_modules/x.js"] {
        sidecar.put(path, "x")?.expect(200)?;
    }
    let sidecar = sidecar.kill()?.start()?;
    sidecar.call("DELETE", "/files/a?recursive=true", &[], b"")?.expect(200)?;
    op(&sidecar, "b", "move", &json!({"to": "c"}), &[])?.expect(200)?;
    let found = history(&sidecar)?.split_off(2);
    assert_eq!(found, ["admin delete a/node_modules/x.js", "admin delete b/node_modules/x.js"]);
    Ok(())
}

#[test]
fn what_is_needed_is_not_removed() -> Result<()> {
    let sidecar = Setup::new()?.env("OPENCLAW_STATE_DIR", "").start()?;
    std::fs::create_dir_all(sidecar.data().join(".openclaw/skills/x"))?;
    std::fs::create_dir_all(sidecar.data().join(".openclaw/credentials"))?;
    std::fs::create_dir_all(sidecar.data().join("workspace"))?;
    std::fs::write(sidecar.data().join(".openclaw/skills/x/SKILL.md"), "x")?;
    std::fs::write(sidecar.data().join(".openclaw/skills/x/private.key"), "x")?;
    for (path, code) in [
        ("", "protected_path"),
        ("workspace", "protected_path"),
        (".openclaw", "protected_path"),
        (".winston", "internal_path"),
        (".winston/changes", "internal_path"),
        (".openclaw/credentials", "secret_path"),
        (".openclaw/skills", "secret_path"),
        ("..", "access_denied"),
    ] {
        let answer = sidecar.call("DELETE", &format!("/files/{path}?recursive=true"), &[], b"")?;
        refused(&answer, 403, code, path)?;
    }
    assert!(sidecar.data().join(".openclaw/skills/x/SKILL.md").exists());
    assert!(sidecar.data().join(".openclaw/skills/x/private.key").exists());
    nothing_staged(&sidecar)
}

/// The agent writes into a directory while it is removed and moved about: every version that it wrote before it had to stop is in history or on disk.
#[test]
fn the_agent_loses_nothing_to_a_removal_or_a_move() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    for round in 0..rounds() {
        let dir = format!("r{round}");
        sidecar.put(&format!("{dir}/0.md"), "0")?.expect(200)?;
        let stop = AtomicBool::new(false);
        let written = std::thread::scope(|scope| -> Result<Vec<String>> {
            let agent = scope.spawn(|| {
                let mut written = Vec::new();
                for count in 0.. {
                    let content = format!("{round} {count}");
                    // A whole version at once, as editors do; it fails once the directory is gone.
                    let (new, path) = (format!("{dir}/new.tmp"), format!("{dir}/agent.md"));
                    let done = std::fs::write(sidecar.data().join(&new), &content)
                        .and_then(|()| std::fs::rename(sidecar.data().join(&new), sidecar.data().join(&path)));
                    match done {
                        Ok(()) => written.push(content),
                        Err(_) => break,
                    }
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
                written
            });
            winston_tests::wait::eventually("the agent writes", || {
                Ok(sidecar.data().join(&dir).join("agent.md").exists().then_some(()))
            })?;
            if round % 2 == 0 {
                sidecar.call("DELETE", &format!("/files/{dir}?recursive=true"), &[], b"")?.expect(200)?;
            } else {
                op(&sidecar, &dir, "move", &json!({"to": format!("m{round}")}), &[])?.expect(200)?;
            }
            stop.store(true, Ordering::Relaxed);
            Ok(agent.join().unwrap_or_default())
        })?;
        let last = written.last().context("the agent wrote nothing")?;
        let hash: String =
            <sha2::Sha256 as sha2::Digest>::digest(last).iter().map(|byte| format!("{byte:02x}")).collect();
        winston_tests::wait::eventually("the last version is in history", || {
            Ok(changes(&sidecar)?.iter().any(|change| change["hash"] == hash.as_str()).then_some(()))
        })?;
    }
    nothing_staged(&sidecar)
}
