//! `GET /files?path=`: the old form, pages, hashes, ranges of a file, and directories that are large or change.
//!
//! The large directory has 20,000 entries; with `WINSTON_LONG=1` it has 100,000.

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use winston_tests::http::Answer;
use winston_tests::sidecar::{Setup, Sidecar};

const RAW: (&str, &str) = ("Accept", "application/octet-stream");

fn names(listing: &Value, key: &str) -> Vec<String> {
    let items = listing["items"].as_array().into_iter().flatten();
    items.map(|item| item[key].as_str().unwrap_or("?").to_owned()).collect()
}

/// Every page of a listing, and how many there were.
fn pages(sidecar: &Sidecar, target: &str) -> Result<(Vec<Value>, usize)> {
    let (mut items, mut cursor, mut count) = (Vec::new(), String::new(), 0);
    loop {
        let answer = sidecar.get(&format!("{target}{cursor}"))?.expect(200)?.json()?;
        items.extend(answer["items"].as_array().context("items")?.iter().cloned());
        count += 1;
        match answer["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok((items, count)),
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Largest resident size so far, in KiB.
fn peak_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[test]
fn without_new_parameters_the_answer_is_the_old_one() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("b/x.md", "xx")?.expect(200)?;
    sidecar.put("a.md", "a")?.expect(200)?;
    symlink("nowhere", sidecar.data().join("link"))?;
    let listing = sidecar.get("/files")?.expect(200)?.json()?;
    assert_eq!(
        listing.as_object().map(|object| object.keys().cloned().collect()),
        Some(vec!["items".to_owned(), "path".to_owned()])
    );
    assert_eq!(names(&listing, "name"), ["a.md", "b", "link"]);
    for item in listing["items"].as_array().context("items")? {
        let keys: Vec<_> = item.as_object().context("item")?.keys().cloned().collect();
        assert_eq!(keys, ["modified", "name", "size", "type"]);
    }
    assert_eq!(listing["items"][2]["type"], "file");
    assert_eq!(listing["items"][2]["size"], Value::Null);
    assert_eq!(sidecar.get("/files?path=gone")?.expect(404)?.json()?["error"], "Directory not found");
    Ok(())
}

#[test]
fn a_tree_is_listed_in_order_page_by_page() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    for path in ["t/a/1.md", "t/a/2/deep.md", "t/a-b.md", "t/a.md", "t/b.md"] {
        sidecar.put(path, path)?.expect(200)?;
    }
    std::fs::create_dir(sidecar.data().join("t/empty"))?;
    symlink("a", sidecar.data().join("t/link"))?;
    nix::unistd::mkfifo(&sidecar.data().join("t/pipe"), nix::sys::stat::Mode::S_IRWXU)?;
    std::fs::set_permissions(sidecar.data().join("t/b.md"), std::fs::Permissions::from_mode(0o640))?;
    let whole =
        ["t/a", "t/a/1.md", "t/a/2", "t/a/2/deep.md", "t/a-b.md", "t/a.md", "t/b.md", "t/empty", "t/link", "t/pipe"];
    for limit in 1..=whole.len() + 1 {
        let (items, count) = pages(&sidecar, &format!("/files?path=t&depth=9&limit={limit}"))?;
        assert_eq!(names(&json!({ "items": items }), "path"), whole, "limit {limit}");
        assert_eq!(count, whole.len().div_ceil(limit), "limit {limit}");
    }
    let (items, _) = pages(&sidecar, "/files?path=t&depth=2")?;
    assert!(!names(&json!({ "items": items }), "path").contains(&"t/a/2/deep.md".to_owned()));
    let by_path = |path: &str| items.iter().find(|item| item["path"] == path).context("item");
    assert_eq!(by_path("t/link")?["type"], "symlink");
    assert_eq!(by_path("t/pipe")?["type"], "special");
    assert_eq!(by_path("t/b.md")?["mode"], "0640");
    assert_eq!(by_path("t/b.md")?["name"], "b.md");
    assert_eq!(by_path("t/b.md")?["size"], 6);
    assert!(by_path("t/b.md")?.get("hash").is_none());
    Ok(())
}

#[test]
fn hashes_are_of_what_is_there_and_not_of_secrets() -> Result<()> {
    let sidecar = Setup::new()?.env("WINSTON_MAX_FILE_BYTES", "1000").start()?;
    sidecar.put("workspace/known.md", "known")?.expect(200)?;
    sidecar.agent_writes("workspace/node_modules/x.js", "untracked")?;
    sidecar.agent_writes("workspace/large.md", [b'x'; 2000])?;
    sidecar.agent_writes(".openclaw/.env", "KEY=1")?;
    sidecar.agent_writes(".openclaw/credentials/one.json", "{}")?;
    let (items, _) = pages(&sidecar, "/files?depth=9&hashes=true")?;
    let hash = |path: &str| -> Result<Value> {
        Ok(items.iter().find(|item| item["path"] == path).with_context(|| path.to_owned())?["hash"].clone())
    };
    assert_eq!(hash("workspace/known.md")?, sha256(b"known"));
    assert_eq!(hash("workspace/node_modules/x.js")?, sha256(b"untracked"));
    for path in ["workspace/large.md", ".openclaw/.env", ".openclaw/credentials", "workspace"] {
        assert_eq!(hash(path)?, Value::Null, "{path}");
    }
    let paths = names(&json!({ "items": items }), "path");
    assert!(
        !paths.iter().any(|path| path.starts_with(".winston") || path.starts_with(".openclaw/credentials/")),
        "{paths:?}"
    );
    Ok(())
}

#[test]
fn links_are_listed_and_not_followed() -> Result<()> {
    let setup = Setup::new()?;
    std::fs::write(setup.outside().join("secret.md"), "secret")?;
    let sidecar = setup.start()?;
    symlink(setup.outside(), sidecar.data().join("out"))?;
    symlink(setup.outside().join("secret.md"), sidecar.data().join("file"))?;
    let (items, _) = pages(&sidecar, "/files?depth=9&hashes=true")?;
    assert_eq!(names(&json!({ "items": items }), "path"), ["file", "out"]);
    assert!(items.iter().all(|item| item["hash"].is_null() && item["type"] == "symlink"));
    Ok(())
}

#[test]
fn odd_parameters_are_refused() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    for query in ["depth=0", "depth=65", "depth=x", "hashes=maybe", "cursor=%25", "limit=1&cursor=***"] {
        assert_eq!(sidecar.get(&format!("/files?{query}"))?.expect(400)?.json()?["code"], "bad_query", "{query}");
    }
    // A cursor that leads nowhere, or out, lists what comes after it.
    sidecar.put("a.md", "a")?.expect(200)?;
    for cursor in ["Li4vLi4", "L2V0Yy9wYXNzd2Q", "enp6"] {
        sidecar.get(&format!("/files?cursor={cursor}"))?.expect(200)?;
    }
    Ok(())
}

#[test]
fn a_large_directory_is_listed_completely_in_bounded_memory() -> Result<()> {
    let many = if std::env::var_os("WINSTON_LONG").is_some() { 100_000 } else { 20_000 };
    let setup = Setup::new()?;
    // No history, so that what grows is the listing and not the index.
    let directory = setup.data().join("workspace/node_modules");
    std::fs::create_dir_all(&directory)?;
    let staying: BTreeSet<String> = (0..many).map(|number| format!("entry-with-a-long-name-{number:06}.js")).collect();
    for name in &staying {
        std::fs::write(directory.join(name), "")?;
    }
    let sidecar = setup.start()?;
    sidecar.get("/files?path=workspace/node_modules&limit=10")?.expect(200)?;
    let before = peak_kib(sidecar.pid())?;

    let done = AtomicBool::new(false);
    let (listed, count) = std::thread::scope(|scope| {
        // Others come and go between the pages, before and behind the cursor.
        let churn = scope.spawn(|| -> Result<()> {
            for round in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                for place in ["a", "entry-with-a-long-name-015000", "z"] {
                    let path = directory.join(format!("{place}-{}", round % 50));
                    std::fs::write(&path, "")?;
                    std::fs::remove_file(&path)?;
                }
            }
            Ok(())
        });
        let listed = pages(&sidecar, "/files?path=workspace/node_modules&limit=1000");
        done.store(true, Ordering::Relaxed);
        churn.join().map_err(|_| anyhow::anyhow!("the churn panicked"))??;
        listed
    })?;
    let names = names(&json!({ "items": listed }), "name");
    let unique: BTreeSet<_> = names.iter().cloned().collect();
    assert_eq!(unique.len(), names.len(), "an entry was listed twice");
    assert!(staying.is_subset(&unique), "{} entries are missing", staying.difference(&unique).count());
    assert!(names.is_sorted());
    assert!(count >= many / 1000);

    // The old form is cut, and says so.
    let old = sidecar.get("/files?path=workspace/node_modules")?.expect(200)?.json()?;
    assert_eq!(old["items"].as_array().map(Vec::len), Some(15_000));
    let next = old["next"].as_str().context("next")?;
    let rest =
        sidecar.get(&format!("/files?path=workspace/node_modules&limit=1&cursor={next}"))?.expect(200)?.json()?;
    assert_eq!(rest["items"][0]["name"], "entry-with-a-long-name-015000.js");

    let grown = peak_kib(sidecar.pid())?.saturating_sub(before);
    assert!(grown < 12 * 1024, "listing took {grown} KiB");
    Ok(())
}

fn ranged(sidecar: &Sidecar, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    let mut all = vec![RAW];
    all.extend_from_slice(headers);
    sidecar.call("GET", &format!("/files/{path}"), &all, b"")
}

#[test]
fn ranges_of_files_in_memory_and_on_disk() -> Result<()> {
    let sidecar = Setup::new()?.env("WINSTON_MAX_FILE_BYTES", "100000").start()?;
    // Below the fast path's limit, above it, and above what is held in memory.
    for (path, size) in [("small.bin", 1000), ("middle.bin", 90_000), ("large.bin", 300_000)] {
        let content: Vec<u8> = (0..size).map(|index: u32| (index * 7 % 251) as u8).collect();
        sidecar.agent_writes(path, &content)?;
        let whole = ranged(&sidecar, path, &[])?.expect(200)?;
        assert_eq!(whole.body, content);
        assert_eq!(whole.header("accept-ranges"), Some("bytes"));
        let end = content.len();
        for (range, from, to) in [
            ("bytes=0-0", 0, 1),
            ("bytes=10-19", 10, 20),
            ("bytes=500-", 500, end),
            ("bytes=-7", end - 7, end),
            ("bytes=990-99999999", 990, end),
        ] {
            let answer = ranged(&sidecar, path, &[("Range", range)])?.expect(206)?;
            assert_eq!(answer.body, content[from..to], "{path} {range}");
            assert_eq!(answer.header("content-range"), Some(format!("bytes {from}-{}/{size}", to - 1).as_str()));
            assert_eq!(answer.header("content-length"), Some((to - from).to_string().as_str()));
        }
        let outside = ranged(&sidecar, path, &[("Range", "bytes=300000-")])?.expect(416)?;
        assert_eq!(outside.header("content-range"), Some(format!("bytes */{size}").as_str()));
        assert_eq!(outside.json()?["code"], "range_not_satisfiable");
        for range in ["bytes=0-1,5-6", "lines=1-2", "bytes=5-1"] {
            assert_eq!(ranged(&sidecar, path, &[("Range", range)])?.expect(200)?.body.len(), content.len(), "{range}");
        }
        // A tag is there as soon as the file is older than a tick of the kernel's clock.
        let etag = winston_tests::wait::eventually("a tag", || {
            Ok(ranged(&sidecar, path, &[])?.expect(200)?.header("etag").map(str::to_owned))
        })?;
        let part = ("Range", "bytes=0-9");
        ranged(&sidecar, path, &[part, ("If-Range", &etag)])?.expect(206)?;
        ranged(&sidecar, path, &[part, ("If-Range", "\"other\"")])?.expect(200)?;
        ranged(&sidecar, path, &[("If-None-Match", &etag)])?.expect(304)?;
        ranged(&sidecar, path, &[("If-Match", &etag)])?.expect(200)?;
        ranged(&sidecar, path, &[("If-Match", "\"other\"")])?.expect(412)?;
        let head = sidecar.call("HEAD", &format!("/files/{path}"), &[RAW, part], b"")?.expect(200)?;
        assert_eq!((head.header("content-length"), head.body.len()), (Some(size.to_string().as_str()), 0));
        // The same size and another content: the old tag is no good any more.
        let mut other = content.clone();
        other[0] ^= 1;
        sidecar.agent_writes(path, &other)?;
        assert_eq!(ranged(&sidecar, path, &[part, ("If-Range", &etag)])?.expect(200)?.body, other);
    }
    // In JSON a range means nothing.
    let json = sidecar.call("GET", "/files/small.bin", &[("Range", "bytes=0-1")], b"")?.expect(200)?;
    assert_eq!(json.json()?["size"], 1000);
    assert_eq!(ranged(&sidecar, "", &[])?.expect(409)?.json()?["code"], "is_directory");
    Ok(())
}
