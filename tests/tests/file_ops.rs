//! Moving, copying, making and removing through the API, and archives that are laid out.
//!
//! With `WINSTON_LONG` set, the agent is raced for 300 rounds instead of 20.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
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

enum Made<'a> {
    File(&'a str, &'a str),
    Directory(&'a str),
    Kind(&'a str, u8, &'a str),
}

/// A tar as it is asked for, also one that no tool would make.
fn tar(entries: &[Made<'_>]) -> Vec<u8> {
    let mut archive = Vec::new();
    for entry in entries {
        let (name, kind, link, content) = match entry {
            Made::File(name, content) => (*name, b'0', "", *content),
            Made::Directory(name) => (*name, b'5', "", ""),
            Made::Kind(name, kind, link) => (*name, *kind, *link, ""),
        };
        let mut header = [0u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0006755\0");
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[148..156].copy_from_slice(b"        ");
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(content.as_bytes());
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

fn extract(sidecar: &Sidecar, dir: &str, archive: &[u8], headers: &[(&str, &str)]) -> Result<Answer> {
    sidecar.call("PUT", &format!("/archive/{dir}"), headers, archive)
}

/// Through a program of the system, so that what is read is not only what we write ourselves.
fn compressed(program: &str, archive: &[u8]) -> Result<Vec<u8>> {
    let mut child = std::process::Command::new(program)
        .arg("-c")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .with_context(|| program.to_owned())?;
    let mut input = child.stdin.take().context("stdin")?;
    let archive = archive.to_owned();
    let writer = std::thread::spawn(move || input.write_all(&archive));
    let output = child.wait_with_output()?;
    writer.join().ok().context("writer")??;
    Ok(output.stdout)
}

#[test]
fn an_archive_is_laid_out() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("site/old.md", "old")?.expect(200)?;
    sidecar.put("site/kept.md", "kept")?.expect(200)?;
    let archive = tar(&[
        Made::Directory("./"),
        Made::File("./old.md", "new"),
        Made::File("sub/deep/a.md", "a"),
        Made::Directory("empty/"),
    ]);
    let answer = extract(&sidecar, "site", &archive, &[("X-Winston-Actor", "ops")])?.expect(200)?.json()?;
    assert_eq!((&answer["files"], &answer["created"], &answer["bytes"]), (&json!(2), &json!(1), &json!(4)), "{answer}");
    assert_eq!(std::fs::read_to_string(sidecar.data().join("site/old.md"))?, "new");
    assert_eq!(std::fs::read_to_string(sidecar.data().join("site/kept.md"))?, "kept");
    assert!(sidecar.data().join("site/empty").is_dir());
    let mode = std::fs::metadata(sidecar.data().join("site/old.md"))?.permissions().mode() & 0o7777;
    assert_eq!(mode, 0o755, "setuid bits are dropped");
    assert_eq!(sidecar.history("site/old.md")?, ["admin create", "admin update"]);
    let zipped = compressed("gzip", &archive)?;
    extract(&sidecar, "zipped", &zipped, &[("If-None-Match", "*")])?.expect(200)?;
    assert_eq!(std::fs::read_to_string(sidecar.data().join("zipped/sub/deep/a.md"))?, "a");
    refused(&extract(&sidecar, "zipped", &zipped, &[("If-None-Match", "*")])?, 412, "precondition_failed", "again")?;
    extract(&sidecar, "", &tar(&[Made::File("top.md", "top")]), &[])?.expect(200)?;
    assert_eq!(std::fs::read_to_string(sidecar.data().join("top.md"))?, "top");
    nothing_staged(&sidecar)
}

#[test]
fn a_bad_archive_changes_nothing() -> Result<()> {
    let sidecar =
        Setup::new()?.env("WINSTON_MAX_ARCHIVE_BYTES", "200000").env("WINSTON_MAX_FILE_BYTES", "100000").start()?;
    std::fs::create_dir_all(sidecar.data().join("t/dir"))?;
    std::fs::write(sidecar.data().join("t/file"), "x")?;
    let outside = sidecar.data().parent().context("parent")?.join("outside");
    std::fs::create_dir(&outside)?;
    symlink(&outside, sidecar.data().join("t/link"))?;
    let big = "x".repeat(100_001);
    let half = "x".repeat(90_000);
    let good = || Made::File("good.md", "good");
    let whole = tar(&[good(), Made::File("more.md", "more")]);
    let flipped = {
        let mut zipped = compressed("gzip", &whole)?;
        let last = zipped.len() - 6;
        zipped[last] ^= 0xff;
        zipped
    };
    let bomb = compressed("gzip", &tar(&[Made::File("a", &half), Made::File("b", &half), Made::File("c", &half)]))?;
    for (what, archive, status, code) in [
        ("symlink", tar(&[good(), Made::Kind("l", b'2', "/etc/passwd")]), 400, "bad_entry"),
        ("hard link", tar(&[good(), Made::Kind("l", b'1', "good.md")]), 400, "bad_entry"),
        ("character device", tar(&[good(), Made::Kind("c", b'3', "")]), 400, "bad_entry"),
        ("block device", tar(&[good(), Made::Kind("b", b'4', "")]), 400, "bad_entry"),
        ("fifo", tar(&[good(), Made::Kind("f", b'6', "")]), 400, "bad_entry"),
        ("sparse", tar(&[good(), Made::Kind("s", b'S', "")]), 400, "bad_entry"),
        ("parent", tar(&[good(), Made::File("../x", "x")]), 400, "bad_entry"),
        ("hidden parent", tar(&[good(), Made::File("a/../../x", "x")]), 400, "bad_entry"),
        ("absolute", tar(&[good(), Made::File("/etc/x", "x")]), 400, "bad_entry"),
        ("twice", tar(&[good(), Made::File("./good.md", "x")]), 400, "bad_entry"),
        ("file and directory", tar(&[good(), Made::File("good.md/x", "x")]), 400, "bad_entry"),
        ("over a directory", tar(&[good(), Made::File("dir", "x")]), 409, "is_directory"),
        ("below a file", tar(&[good(), Made::File("file/x", "x")]), 409, "not_a_directory"),
        ("a directory over a file", tar(&[good(), Made::Directory("file/")]), 409, "not_a_directory"),
        ("through a link", tar(&[good(), Made::File("link/x", "x")]), 403, "access_denied"),
        ("over a link", tar(&[good(), Made::File("link", "x")]), 403, "access_denied"),
        ("too large a file", tar(&[good(), Made::File("big", &big)]), 413, "too_large"),
        ("a bomb", bomb, 413, "too_many"),
        ("cut in a header", whole[..700].to_vec(), 400, "bad_archive"),
        ("cut in a file", whole[..514].to_vec(), 400, "bad_body"),
        ("cut gzip", compressed("gzip", &whole)?[..60].to_vec(), 400, "bad_archive"),
        ("wrong checksum", flipped, 400, "bad_archive"),
        ("no tar", b"hello, this is text".repeat(40), 400, "bad_archive"),
        ("nothing", Vec::new(), 400, "bad_archive"),
        ("only zeros", vec![0; 2048], 400, "bad_archive"),
        ("a body over the limit", vec![b'x'; 200_001], 413, "too_large"),
    ] {
        let answer = extract(&sidecar, "t", &archive, &[])?;
        refused(&answer, status, code, what)?;
        if code == "bad_entry" {
            assert!(answer.json()?["entry"].is_string(), "{what}");
        }
        assert!(!sidecar.data().join("t/good.md").exists(), "{what}");
    }
    let ours = tar(&[Made::File(".winston/x", "x")]);
    refused(&extract(&sidecar, "", &ours, &[])?, 403, "internal_path", "ours")?;
    let secret = tar(&[Made::File(".openclaw/credentials/x", "x")]);
    refused(&extract(&sidecar, "", &secret, &[])?, 403, "secret_path", "secret")?;
    refused(&extract(&sidecar, "t", &whole, &[("If-Match", "*")])?, 400, "bad_precondition", "If-Match")?;
    assert_eq!(std::fs::read_dir(&outside)?.count(), 0);
    assert_eq!(std::fs::read_dir(sidecar.data().join("t"))?.count(), 3);
    assert_eq!(history(&sidecar)?, ["agent create t/file"]);
    nothing_staged(&sidecar)
}

/// The connection breaks in the middle of an archive, at a place where it could be a whole one.
#[test]
fn a_broken_upload_changes_nothing() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let archive = tar(&[Made::File("a.md", "a"), Made::File("b.md", "b")]);
    let mut stream = std::net::TcpStream::connect(sidecar.address())?;
    let token = winston_tests::process::TEST_TOKEN;
    write!(
        stream,
        "PUT /archive/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
        archive.len()
    )?;
    stream.write_all(&archive[..1024])?;
    winston_tests::wait::eventually("the first file is staged", || {
        Ok((std::fs::read_dir(sidecar.data().join(".winston/staging"))?.count() > 0).then_some(()))
    })?;
    drop(stream);
    winston_tests::wait::eventually("what was staged is gone", || {
        Ok((std::fs::read_dir(sidecar.data().join(".winston/staging"))?.count() == 0).then_some(()))
    })?;
    assert!(!Path::new(&sidecar.data().join("x")).exists());
    assert!(changes(&sidecar)?.is_empty());
    Ok(())
}
