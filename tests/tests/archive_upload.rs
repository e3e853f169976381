//! Archives that are laid out in the tree: the whole of one, or nothing of it.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;
use winston_tests::http::Answer;
use winston_tests::sidecar::{Setup, Sidecar};

fn refused(answer: &Answer, status: u16, code: &str, what: &str) -> Result<()> {
    let body = answer.json()?;
    assert_eq!((answer.status, body["code"].as_str()), (status, Some(code)), "{what}: {body}");
    assert!(body["error"].is_string() && body["request_id"].is_string(), "{what}: {body}");
    Ok(())
}

fn nothing_staged(sidecar: &Sidecar) -> Result<()> {
    assert_eq!(std::fs::read_dir(sidecar.data().join(".winston/staging"))?.count(), 0);
    Ok(())
}

/// One entry of an archive.
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
    let changes = sidecar.changes()?;
    assert_eq!(changes.iter().map(|change| &change["path"]).collect::<Vec<_>>(), ["t/file"], "{changes:?}");
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
    assert!(sidecar.changes()?.is_empty());
    Ok(())
}
