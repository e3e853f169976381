//! The defects of the JavaScript sidecars whose clients this one keeps, one test each. Each does what those sidecars got wrong and would
//! fail against them.

use std::os::unix::fs::symlink;

use anyhow::Result;
use serde_json::{Value, json};
use winston_tests::http::request;
use winston_tests::process::{TEST_TOKEN, skip};
use winston_tests::sidecar::{Setup, journal_lines};
use winston_tests::wait::eventually;

#[test]
fn without_a_token_it_does_not_start() -> Result<()> {
    let mut command = Setup::new()?.command()?;
    let output = command.env_remove("WINSTON_SIDECAR_TOKEN").output()?;
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("WINSTON_SIDECAR_TOKEN"));
    Ok(())
}

#[test]
fn the_bare_token_is_not_enough() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    for value in [TEST_TOKEN.to_owned(), format!("Basic {TEST_TOKEN}"), "Bearer".to_owned(), String::new()] {
        let answer = request(sidecar.address(), "GET", "/files", &[("Authorization", &value)], b"")?.expect(401)?;
        assert_eq!(answer.json()?["error"], "Unauthorized");
    }
    request(sidecar.address(), "GET", "/files", &[], b"")?.expect(401)?;
    sidecar.get("/files")?.expect(200)?;
    Ok(())
}

/// That the comparison takes constant time cannot be shown by a test without timing; that it is made on digests of equal length, for
/// prefixes and extensions of the token alike, is in the unit tests of the sidecar's `http::auth`. Here: all of those are refused.
#[test]
fn near_misses_of_the_token_are_refused_alike() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let last = TEST_TOKEN.len() - 1;
    for token in [&TEST_TOKEN[..last], &format!("{TEST_TOKEN}0"), &TEST_TOKEN.to_uppercase(), &"x".repeat(60_000)] {
        let value = format!("Bearer {token}");
        let answer = request(sidecar.address(), "GET", "/changes", &[("Authorization", &value)], b"")?;
        assert!([401, 431].contains(&answer.status), "{}", answer.status);
    }
    Ok(())
}

#[test]
fn a_sibling_directory_is_out_of_reach() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let evil = sidecar.data().with_file_name("data-evil");
    std::fs::create_dir(&evil)?;
    std::fs::write(evil.join("secret.md"), "secret")?;
    sidecar.get("/files/..%2fdata-evil/secret.md")?.expect(403)?;
    sidecar.get("/files?path=../data-evil")?.expect(403)?;
    sidecar.put("..%2fdata-evil/new.md", "x")?.expect(403)?;
    assert!(!evil.join("new.md").exists());
    Ok(())
}

#[test]
fn links_do_not_lead_out() -> Result<()> {
    let setup = Setup::new()?;
    let outside = setup.outside().join("outside");
    std::fs::create_dir(&outside)?;
    std::fs::write(outside.join("secret.md"), "secret")?;
    let sidecar = setup.start()?;
    symlink(outside.join("secret.md"), sidecar.data().join("file.md"))?;
    symlink(&outside, sidecar.data().join("dir"))?;
    symlink("/proc/self/root", sidecar.data().join("magic"))?;
    for path in ["file.md", "dir/secret.md", "magic/etc/passwd"] {
        sidecar.get(&format!("/files/{path}"))?.expect(403)?;
        sidecar.put(path, "x")?.expect(403)?;
    }
    for path in ["dir", "magic"] {
        let listed = sidecar.get(&format!("/files?path={path}"))?;
        assert!([403, 409].contains(&listed.status), "{}", listed.text());
    }
    assert_eq!(std::fs::read_to_string(outside.join("secret.md"))?, "secret");
    assert_eq!(std::fs::read_dir(&outside)?.count(), 1);
    Ok(())
}

#[test]
fn a_name_that_only_begins_like_ours_is_an_ordinary_file() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put(".winston-notes.md", "mine")?.expect(200)?;
    assert_eq!(sidecar.get("/files/.winston-notes.md")?.expect(200)?.json()?["content"], "mine");
    let answer = sidecar.put(".winston/notes.md", "x")?.expect(403)?;
    assert_eq!(answer.json()?["error"], "Cannot modify .winston directory");
    Ok(())
}

#[test]
fn our_own_directory_does_not_exist_for_readers() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("a.md", "a")?.expect(200)?;
    symlink(".winston", sidecar.data().join("door"))?;
    for path in
        [".winston/epoch", ".winston/changes/00000000000000000001.jsonl", "./.winston//epoch", "x/../.winston/epoch"]
    {
        let status = sidecar.get(&format!("/files/{path}"))?.status;
        assert!([403, 404].contains(&status), "{path}: {status}");
    }
    sidecar.get("/files/door/epoch")?.expect(403)?;
    sidecar.get("/files?path=.winston")?.expect(404)?;
    let listing = sidecar.get("/files")?.expect(200)?.json()?;
    let names: Vec<_> = listing["items"].as_array().into_iter().flatten().map(|item| item["name"].clone()).collect();
    assert_eq!(names, ["a.md", "door"]);
    Ok(())
}

#[test]
fn credentials_are_not_served() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    for path in [
        ".openclaw/gateway.token",
        ".openclaw/credentials/whatsapp/creds.json",
        ".openclaw/.env",
        ".openclaw/openclaw.json.bak",
        ".openclaw/state/openclaw.sqlite",
    ] {
        sidecar.agent_writes(path, "test-secret")?;
        let answer = sidecar.get(&format!("/files/{path}"))?.expect(403)?;
        assert_eq!(answer.json()?["code"], "secret_path");
        sidecar.put(path, "x")?.expect(403)?;
        sidecar.call("DELETE", &format!("/files/{path}"), &[], b"")?.expect(403)?;
    }
    Ok(())
}

#[test]
fn readers_never_see_half_a_file() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let path = sidecar.data().join("big.md");
    let versions: Vec<String> = ["a", "b"].iter().map(|letter| letter.repeat(300_000)).collect();
    sidecar.put("big.md", &versions[0])?.expect(200)?;
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                match std::fs::read_to_string(&path) {
                    Ok(content) if versions.contains(&content) => reads += 1,
                    other => return Err(format!("torn: {:?}", other.map(|content| content.len()))),
                }
            }
            Ok(reads)
        });
        for round in 0..60 {
            sidecar.put("big.md", &versions[round % 2])?.expect(200)?;
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let reads = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
        assert!(reads.as_ref().is_ok_and(|reads| *reads > 0), "{reads:?}");
        Ok(())
    })
}

#[test]
fn racing_writers_make_one_create_and_can_exclude_each_other() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let sidecar = &sidecar;
            scope.spawn(move || sidecar.put("raced.md", &format!("writer {writer}")));
        }
    });
    let history = sidecar.history("raced.md")?;
    assert_eq!(history.len(), 8, "{history:?}");
    assert_eq!(history[0], "admin create");
    assert!(history[1..].iter().all(|change| change == "admin update"), "{history:?}");

    let hash = sidecar.get("/files/raced.md")?.json()?["hash"].as_str().unwrap_or_default().to_owned();
    let tag = format!("\"{hash}\"");
    let outcomes: Vec<u16> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (sidecar, tag) = (&sidecar, &tag);
                scope.spawn(move || sidecar.put_with("raced.md", &format!("cas {writer}"), &[("If-Match", tag)]))
            })
            .collect();
        writers.into_iter().filter_map(|writer| writer.join().ok()?.ok()).map(|answer| answer.status).collect()
    });
    assert_eq!(outcomes.iter().filter(|status| **status == 200).count(), 1, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|status| **status == 412).count(), 7, "{outcomes:?}");
    Ok(())
}

#[test]
fn a_write_through_the_api_is_recorded_once() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    for round in 0..20 {
        sidecar.put("workspace/SOUL.md", &format!("round {round}"))?.expect(200)?;
    }
    // The watcher has looked at everything before this once it has recorded this.
    sidecar.agent_writes("workspace/marker.md", "x")?;
    sidecar.wait_for_history("workspace/marker.md", &["agent create"])?;
    let history = sidecar.history("workspace/SOUL.md")?;
    assert_eq!(history.len(), 20);
    assert!(history.iter().all(|change| change.starts_with("admin ")), "{history:?}");
    Ok(())
}

#[test]
fn the_agents_changes_are_recorded() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.agent_writes("workspace/memory/2026-01-01.md", "first")?;
    sidecar.wait_for_history("workspace/memory/2026-01-01.md", &["agent create"])?;
    sidecar.agent_writes("workspace/memory/2026-01-01.md", "second")?;
    sidecar.wait_for_history("workspace/memory/2026-01-01.md", &["agent create", "agent update"])?;
    sidecar.agent_writes(".openclaw/openclaw.json", "{}")?;
    sidecar.wait_for_history(".openclaw/openclaw.json", &["agent create"])
}

#[test]
fn deletes_and_creations_have_their_own_words() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("by-admin.md", "x")?.expect(200)?;
    sidecar.call("DELETE", "/files/by-admin.md", &[], b"")?.expect(200)?;
    assert_eq!(sidecar.history("by-admin.md")?, ["admin create", "admin delete"]);
    sidecar.put("by-agent.md", "x")?.expect(200)?;
    std::fs::remove_file(sidecar.data().join("by-agent.md"))?;
    sidecar.wait_for_history("by-agent.md", &["admin create", "agent delete"])
}

/// The journal is made unwritable under the running sidecar with the immutable attribute.
#[test]
fn what_cannot_be_recorded_is_not_done() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("a.md", "old")?.expect(200)?;
    let segment = sidecar.data().join(".winston/changes/00000000000000000001.jsonl");
    let chattr = |how: &str| std::process::Command::new("chattr").arg(how).arg(&segment).output();
    if !chattr("+i").is_ok_and(|output| output.status.success()) {
        skip("what_cannot_be_recorded_is_not_done", "chattr +i does not work here (needs root and ext4, XFS or btrfs)");
        return Ok(());
    }
    let answers =
        [sidecar.put("a.md", "new"), sidecar.put("b.md", "new"), sidecar.call("DELETE", "/files/a.md", &[], b"")];
    chattr("-i")?;
    for answer in answers {
        let answer = answer?.expect(503)?;
        assert_eq!(answer.json()?["code"], "journal_unavailable");
    }
    assert_eq!(std::fs::read_to_string(sidecar.data().join("a.md"))?, "old");
    assert!(!sidecar.data().join("b.md").exists());
    sidecar.put("a.md", "new")?.expect(200)?;
    assert_eq!(sidecar.history("a.md")?, ["admin create", "admin update"]);
    Ok(())
}

#[test]
fn a_bad_line_does_not_break_the_history_and_limits_hold() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    for round in 0..5 {
        sidecar.put("a.md", &round.to_string())?.expect(200)?;
    }
    let setup = sidecar.kill()?;
    let segment = setup.data().join(".winston/changes/00000000000000000001.jsonl");
    let text = std::fs::read_to_string(&segment)?;
    std::fs::write(&segment, text.replacen("\"seq\":2", "\"seq\":7", 1))?;
    let sidecar = setup.start()?;
    assert_eq!(sidecar.status()?["journal"]["corrupt_records"], 1);
    assert_eq!(sidecar.history("a.md")?.len(), 4);
    for (query, count) in [("limit=2", 2), ("limit=0", 4), ("limit=-1", 4), ("limit=x", 4), ("", 4)] {
        let answer = sidecar.get(&format!("/changes?{query}"))?.expect(200)?.json()?;
        assert_eq!(answer["changes"].as_array().map(Vec::len), Some(count), "{query}");
    }
    let newest = sidecar.get("/changes?limit=1")?.json()?;
    assert_eq!(newest["changes"][0]["seq"], 5);
    Ok(())
}

#[test]
fn a_repeated_parameter_is_an_error_and_no_crash() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.get("/files?path=a&path=b")?.expect(400)?;
    sidecar.get("/health")?.expect(200)?;
    Ok(())
}

#[test]
fn a_dangling_link_does_not_hide_its_directory() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("dir/a.md", "a")?.expect(200)?;
    symlink("nowhere", sidecar.data().join("dir/dangling"))?;
    let listing = sidecar.get("/files?path=dir")?.expect(200)?.json()?;
    let item = |name: &str| {
        listing["items"].as_array().and_then(|items| items.iter().find(|item| item["name"] == name)).cloned()
    };
    assert_eq!(item("a.md").map(|item| item["size"].clone()), Some(json!(1)));
    let dangling = item("dangling").unwrap_or_default();
    assert_eq!((&dangling["type"], &dangling["size"]), (&json!("file"), &Value::Null));
    Ok(())
}

#[test]
fn json_is_stored_byte_for_byte() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let content = "{\"big\": 9007199254740993,\n  \"twice\":1, \"twice\":2}\n";
    sidecar.put("workspace/data.json", content)?.expect(200)?;
    assert_eq!(std::fs::read_to_string(sidecar.data().join("workspace/data.json"))?, content);
    assert_eq!(sidecar.get("/files/workspace/data.json")?.json()?["content"], content);
    Ok(())
}

#[test]
fn an_empty_file_is_a_file() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let answer = sidecar.put("empty.md", "")?.expect(200)?.json()?;
    assert_eq!(answer["size"], 0);
    assert_eq!(sidecar.get("/files/empty.md")?.json()?["content"], "");
    Ok(())
}

#[test]
fn a_missing_body_is_a_clear_error_in_json() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    for body in
        ["", "null", "{}", "[]", "{\"content\":null}", "{\"content\":false}", "{\"content\":0}", "{\"content\":{}}"]
    {
        let answer = sidecar.call("PUT", "/files/a.md", &[], body.as_bytes())?.expect(400)?;
        assert_eq!(answer.json()?["error"], "Missing content field", "{body}");
    }
    for body in ["{", "content=x", "\u{0}"] {
        let answer = sidecar.call("PUT", "/files/a.md", &[], body.as_bytes())?.expect(400)?;
        assert_eq!(answer.json()?["code"], "bad_json", "{body}");
    }
    assert!(!sidecar.data().join("a.md").exists());
    Ok(())
}

#[test]
fn bytes_survive_the_round_trip() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
    let raw = ("Content-Type", "application/octet-stream");
    let put = sidecar.call("PUT", "/files/image.bin", &[raw], &bytes)?.expect(200)?.json()?;
    assert_eq!(std::fs::read(sidecar.data().join("image.bin"))?, bytes);
    let got = sidecar.call("GET", "/files/image.bin", &[("Accept", "application/octet-stream")], b"")?.expect(200)?;
    assert_eq!(got.body, bytes);
    assert_eq!(got.header("etag"), Some(format!("\"{}\"", put["hash"].as_str().unwrap_or("")).as_str()));
    let form = sidecar.get("/files/image.bin")?.json()?;
    assert_eq!(form["content"], Value::Null);
    let again = json!({ "content_base64": form["content_base64"] }).to_string();
    let same = sidecar.call("PUT", "/files/copy.bin", &[], again.as_bytes())?.expect(200)?.json()?;
    assert_eq!(same["hash"], put["hash"]);
    // History keeps the bytes too.
    eventually("the journal", || {
        let lines = journal_lines(sidecar.data())?;
        Ok(lines.iter().any(|line| line.contains("content_base64")).then_some(()))
    })
}
