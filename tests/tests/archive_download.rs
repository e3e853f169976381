//! `GET /archive/<directory>`: what is in an archive, what is not, and what happens to slow and impatient clients.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use winston_tests::process::TEST_TOKEN;
use winston_tests::sidecar::{Setup, Sidecar};
use winston_tests::stream::Stream;
use winston_tests::wait::eventually;

const NOTES: &str = ".winston-archive.json";

/// Contents of files by path.
type Files = BTreeMap<String, Vec<u8>>;

/// Paths of a tar stream in order, and the contents of its files. Reads every entry to its end, so that a wrong size shows.
fn unpack(tar: impl Read) -> Result<(Vec<String>, Files)> {
    let (mut paths, mut files) = (Vec::new(), Files::new());
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        if entry.header().entry_type().is_file() {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            files.insert(path.clone(), content);
        }
        paths.push(path);
    }
    Ok((paths, files))
}

fn notes(files: &Files) -> Result<Vec<(String, String)>> {
    let Some(text) = files.get(NOTES) else { return Ok(Vec::new()) };
    let text: Value = serde_json::from_slice(text)?;
    let word = |note: &Value, key: &str| note[key].as_str().unwrap_or("?").to_owned();
    let notes = text["notes"].as_array().context("notes")?;
    Ok(notes.iter().map(|note| (word(note, "path"), word(note, "reason"))).collect())
}

fn tenant() -> Result<(Setup, Sidecar)> {
    let setup = Setup::new()?.env("WINSTON_MAX_FILE_BYTES", "100000");
    std::fs::write(setup.outside().join("secret.md"), "secret")?;
    let sidecar = setup.start()?;
    sidecar.agent_writes("workspace/SOUL.md", "soul")?;
    sidecar.agent_writes("workspace/empty.md", "")?;
    sidecar.agent_writes("workspace/memory/day.md", "day")?;
    sidecar.agent_writes(&format!("workspace/{}/long.md", "long-name-".repeat(20)), "long")?;
    sidecar.agent_writes("workspace/large.bin", vec![7; 300_000])?;
    sidecar.agent_writes("workspace/node_modules/x.js", "x")?;
    sidecar.agent_writes(".openclaw/openclaw.json", "{}")?;
    sidecar.agent_writes(".openclaw/logs/gateway.log", "log")?;
    sidecar.agent_writes(".openclaw/credentials/x.json", "credential")?;
    symlink(setup.outside().join("secret.md"), sidecar.data().join("workspace/link.md"))?;
    symlink(setup.outside(), sidecar.data().join("workspace/out"))?;
    nix::unistd::mkfifo(&sidecar.data().join("workspace/pipe"), nix::sys::stat::Mode::S_IRWXU)?;
    std::fs::set_permissions(sidecar.data().join("workspace/SOUL.md"), std::fs::Permissions::from_mode(0o4750))?;
    Ok((setup, sidecar))
}

#[test]
fn every_format_holds_the_same_tree() -> Result<()> {
    let (_setup, sidecar) = tenant()?;
    let tar = sidecar.get("/archive/workspace")?.expect(200)?;
    assert_eq!(tar.header("content-type"), Some("application/x-tar"));
    assert_eq!(tar.header("content-disposition"), Some("attachment; filename=\"workspace.tar\""));
    let (paths, files) = unpack(tar.body.as_slice())?;
    let long = "long-name-".repeat(20);
    assert_eq!(
        paths,
        [
            "SOUL.md",
            "empty.md",
            "large.bin",
            &format!("{long}/"),
            &format!("{long}/long.md"),
            "memory/",
            "memory/day.md",
            NOTES
        ]
    );
    assert_eq!(files["SOUL.md"], b"soul");
    assert_eq!(files["large.bin"], vec![7; 300_000]);
    assert_eq!(files["empty.md"], b"");
    let noted = [("link.md", "link"), ("out", "link"), ("pipe", "special")];
    assert_eq!(notes(&files)?, noted.map(|(path, reason)| (path.to_owned(), reason.to_owned())));
    let mut archive = tar::Archive::new(tar.body.as_slice());
    let first = archive.entries()?.next().context("entry")??;
    assert_eq!((first.header().mode()?, first.header().uid()?), (0o750, 0));

    let gz = sidecar.get("/archive/workspace?format=tar.gz")?.expect(200)?;
    assert_eq!(gz.header("content-type"), Some("application/gzip"));
    assert_eq!(unpack(flate2::read::GzDecoder::new(gz.body.as_slice()))?, (paths.clone(), files.clone()));
    let zst = sidecar.get("/archive/workspace?format=tar.zst")?.expect(200)?;
    assert_eq!(zst.header("content-type"), Some("application/zstd"));
    assert_eq!(unpack(zstd::stream::read::Decoder::new(zst.body.as_slice())?)?, (paths, files));
    Ok(())
}

/// Also the only test of zstd on the way in.
#[test]
fn a_download_can_be_laid_out_again() -> Result<()> {
    let (_setup, sidecar) = tenant()?;
    std::fs::remove_file(sidecar.data().join("workspace/large.bin"))?; // Over the limit of one file.
    // A file of that name is the tenant's.
    sidecar.agent_writes("notes/.winston-archive.json", "mine")?;
    let archive = sidecar.get("/archive/notes")?.expect(200)?;
    sidecar.call("PUT", "/archive/copies/notes", &[], &archive.body)?.expect(200)?;
    assert_eq!(std::fs::read(sidecar.data().join("copies/notes").join(NOTES))?, b"mine");
    for (format, target) in [("tar", "one"), ("tar.gz", "two"), ("tar.zst", "three")] {
        let archive = sidecar.get(&format!("/archive/workspace?format={format}"))?.expect(200)?;
        let laid_out = sidecar.call("PUT", &format!("/archive/copies/{target}"), &[], &archive.body)?.expect(200)?;
        assert_eq!(laid_out.json()?["files"], 4, "{format}: {}", laid_out.text());
        let again = sidecar.get(&format!("/archive/copies/{target}"))?.expect(200)?;
        let (before, after) = (sidecar.get("/archive/workspace")?.expect(200)?, again);
        let tree = |archive: &[u8]| -> Result<(Vec<String>, Files)> {
            let (mut paths, mut files) = unpack(archive)?;
            paths.retain(|path| path != NOTES);
            files.remove(NOTES);
            Ok((paths, files))
        };
        assert_eq!(tree(&before.body)?, tree(&after.body)?, "{format}");
        assert!(!sidecar.data().join("copies").join(target).join(NOTES).exists());
    }
    Ok(())
}

#[test]
fn secrets_stay_and_untracked_files_come_only_when_asked_for() -> Result<()> {
    let (_setup, sidecar) = tenant()?;
    let (paths, files) = unpack(sidecar.get("/archive/")?.expect(200)?.body.as_slice())?;
    assert!(paths.contains(&".openclaw/openclaw.json".to_owned()), "{paths:?}");
    for word in ["node_modules", "gateway.log", "credentials/", ".winston/"] {
        assert!(!paths.iter().any(|path| path.contains(word)), "{word}: {paths:?}");
    }
    assert!(notes(&files)?.contains(&(".openclaw/credentials".to_owned(), "secret".to_owned())));
    let (paths, _) = unpack(sidecar.get("/archive/?all=true")?.expect(200)?.body.as_slice())?;
    for path in ["workspace/node_modules/x.js", ".openclaw/logs/gateway.log"] {
        assert!(paths.contains(&path.to_owned()), "{path}: {paths:?}");
    }
    assert!(!paths.iter().any(|path| path.contains("credentials/") || path.starts_with(".winston/")), "{paths:?}");
    Ok(())
}

#[test]
fn what_cannot_be_packed_is_refused_before_the_first_byte() -> Result<()> {
    let (_setup, sidecar) = tenant()?;
    for (target, status, code) in [
        ("/archive/gone", 404, "not_found"),
        ("/archive/workspace/SOUL.md", 409, "not_a_directory"),
        ("/archive/.openclaw/credentials", 403, "secret_path"),
        ("/archive/.winston", 404, "not_found"),
        ("/archive/workspace/out", 403, "access_denied"),
        ("/archive/..", 403, "access_denied"),
        ("/archive/workspace?format=zip", 400, "bad_query"),
    ] {
        let answer = sidecar.get(target)?;
        assert_eq!((answer.status, answer.json()?["code"].clone()), (status, json!(code)), "{target}");
    }
    let head = sidecar.call("HEAD", "/archive/workspace", &[], b"")?.expect(200)?;
    assert_eq!((head.body.len(), head.header("content-length")), (0, None));
    sidecar.call("POST", "/archive/workspace", &[], b"")?.expect(405)?;
    Ok(())
}

/// Files that grow, shrink and go while they are read: the archive is whole and says which files it does not vouch for.
#[test]
fn files_that_change_while_they_are_read_do_not_spoil_the_archive() -> Result<()> {
    let sidecar = Setup::new()?.env("WINSTON_MAX_FILE_BYTES", "1000").start()?;
    let size = 16 * 1024 * 1024;
    sidecar.agent_writes("workspace/a-shrinks.bin", vec![1; size])?;
    sidecar.agent_writes("workspace/b-last.md", "last")?;
    // The sidecar waits for us in the middle of the first file: sockets and channel hold less than that.
    let mut stream = Stream::open(sidecar.address(), TEST_TOKEN, "/archive/workspace", &[])?;
    let mut begun = vec![0; 64 * 1024];
    stream.read_exact(&mut begun)?;
    sidecar.agent_writes("workspace/a-shrinks.bin", "short")?;
    let (paths, files) = unpack(begun.as_slice().chain(stream))?;
    assert_eq!(paths, ["a-shrinks.bin", "b-last.md", NOTES]);
    assert_eq!(files["a-shrinks.bin"].len(), size);
    assert_eq!(files["a-shrinks.bin"].last(), Some(&0));
    assert_eq!(files["b-last.md"], b"last");
    assert_eq!(notes(&files)?, [("a-shrinks.bin".to_owned(), "changed".to_owned())]);
    Ok(())
}

#[test]
fn archives_at_once_are_limited_and_a_client_that_goes_frees_its_place() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.agent_writes("workspace/large.bin", vec![1; 32 * 1024 * 1024])?;
    let open = || Stream::open(sidecar.address(), TEST_TOKEN, "/archive/workspace", &[]);
    let mut streams = Vec::new();
    for _ in 0..4 {
        let stream = open()?;
        assert_eq!(stream.status, 200);
        streams.push(stream);
    }
    let refused = open()?;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    streams.pop();
    eventually("a place is free again", || Ok((open()?.status == 200).then_some(())))
}
