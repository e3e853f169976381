//! Bad input: a clear answer in JSON each time, nothing lost, nobody hangs.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use anyhow::Result;
use nix::sys::stat::Mode;
use winston_tests::http::{Answer, request, send_raw};
use winston_tests::process::TEST_TOKEN;
use winston_tests::sidecar::Setup;

fn assert_json_error(answer: &Answer, status: u16, code: &str, what: &str) -> Result<()> {
    assert_eq!(answer.status, status, "{what}: {}", answer.text());
    let body = answer.json()?;
    assert_eq!(body["code"], code, "{what}");
    assert!(body["error"].as_str().is_some_and(|error| !error.is_empty()), "{what}: {body}");
    assert_eq!(body["request_id"].as_str(), answer.header("x-request-id"), "{what}");
    Ok(())
}

#[test]
fn paths_that_cannot_be() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("file.md", "x")?.expect(200)?;
    let long = "x/".repeat(2048);
    let wide = "y".repeat(300);
    let table = [
        ("a%00b", 400, "bad_path"),
        ("%ff%fe", 400, "bad_path"),
        (long.as_str(), 400, "path_too_long"),
        (wide.as_str(), 400, "path_too_long"),
        ("../x", 403, "access_denied"),
        ("%2e%2e%2fx", 403, "access_denied"),
        ("a/..%2f..%2fx", 403, "access_denied"),
        ("missing.md", 404, "not_found"),
        ("missing/deep/er.md", 404, "not_found"),
        ("file.md/below", 404, "not_found"),
        ("", 409, "is_directory"),
        (".", 409, "is_directory"),
    ];
    for (path, status, code) in table {
        assert_json_error(&sidecar.get(&format!("/files/{path}"))?, status, code, path)?;
        if status < 404 {
            assert_json_error(&sidecar.put(path, "x")?, status, code, path)?;
            let (status, code) = if code == "is_directory" { (403, "protected_path") } else { (status, code) };
            assert_json_error(&sidecar.call("DELETE", &format!("/files/{path}"), &[], b"")?, status, code, path)?;
        }
    }
    assert_json_error(&sidecar.put("file.md/below", "x")?, 409, "not_a_directory", "PUT below a file")?;
    // Decoded once: this names a file with percent signs.
    sidecar.put("%252e%252e", "x")?.expect(200)?;
    assert!(sidecar.data().join("%2e%2e").exists());
    Ok(())
}

#[test]
fn things_that_are_no_files() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    std::fs::create_dir(sidecar.data().join("dir"))?;
    nix::unistd::mkfifo(&sidecar.data().join("fifo"), Mode::S_IRWXU)?;
    let _socket = std::os::unix::net::UnixListener::bind(sidecar.data().join("socket"))?;
    std::os::unix::fs::symlink("nowhere", sidecar.data().join("dangling"))?;
    for method in ["GET", "PUT"] {
        for (path, status, code) in [
            ("dir", 409, "is_directory"),
            ("fifo", 409, "not_a_file"),
            ("socket", 409, "not_a_file"),
            ("dangling", 403, "access_denied"),
        ] {
            let answer = match method {
                "GET" => sidecar.get(&format!("/files/{path}"))?,
                _ => sidecar.put(path, "x")?,
            };
            assert_json_error(&answer, status, code, &format!("{method} {path}"))?;
        }
    }
    std::fs::write(sidecar.data().join("dir/file.md"), "x")?;
    assert_json_error(&sidecar.call("DELETE", "/files/dir", &[], b"")?, 409, "directory_not_empty", "DELETE")?;
    // A version was named and there is none: nothing is removed.
    let answer = sidecar.call("DELETE", "/files/dangling", &[("If-Match", "\"x\"")], b"")?;
    assert_json_error(&answer, 412, "precondition_failed", "DELETE of a link with a version")?;
    // Names that are not files can be removed, never followed.
    for path in ["fifo", "socket", "dangling"] {
        sidecar.call("DELETE", &format!("/files/{path}"), &[], b"")?.expect(200)?;
        assert!(std::fs::symlink_metadata(sidecar.data().join(path)).is_err(), "{path}");
    }
    assert_json_error(&sidecar.get("/files?path=nothing")?, 404, "not_found", "listing")?;
    assert_eq!(sidecar.get("/files?path=nothing")?.json()?["error"], "Directory not found");
    sidecar.put("file.md", "x")?.expect(200)?;
    assert_json_error(&sidecar.get("/files?path=file.md")?, 409, "not_a_directory", "listing a file")?;
    Ok(())
}

#[test]
fn bodies_over_the_limit() -> Result<()> {
    let sidecar = Setup::new()?.env("WINSTON_MAX_FILE_BYTES", "1000").start()?;
    sidecar.put("a.md", &"a".repeat(1000))?.expect(200)?;
    assert_json_error(&sidecar.put("a.md", &"b".repeat(1001))?, 413, "too_large", "content")?;
    let raw = ("Content-Type", "application/octet-stream");
    let large = vec![b'c'; 1001];
    assert_json_error(&sidecar.call("PUT", "/files/a.md", &[raw], &large)?, 413, "too_large", "raw")?;
    // Announced ten gigabytes: refused before a byte of it is read.
    let announced = ("Content-Length", "10737418240");
    assert_json_error(&sidecar.call("PUT", "/files/a.md", &[raw, announced], b"")?, 413, "too_large", "announced")?;
    assert_eq!(std::fs::read_to_string(sidecar.data().join("a.md"))?, "a".repeat(1000));
    // A large file that the agent made can be had raw, and is recorded without its content.
    sidecar.agent_writes("large.bin", vec![b'x'; 200_000])?;
    sidecar.wait_for_history("large.bin", &["agent create"])?;
    assert_eq!(sidecar.changes()?.last().map(|change| change["content_omitted"].clone()), Some(true.into()));
    assert_json_error(&sidecar.get("/files/large.bin")?, 413, "too_large", "read as JSON")?;
    let read = sidecar.call("GET", "/files/large.bin", &[("Accept", "application/octet-stream")], b"")?.expect(200)?;
    assert_eq!(read.body.len(), 200_000);
    Ok(())
}

#[test]
fn routes_and_methods_that_do_not_exist() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    assert_json_error(&sidecar.get("/nothing")?, 404, "no_route", "unknown route")?;
    assert_json_error(&sidecar.get("/")?, 404, "no_route", "root")?;
    for (method, target, allow) in [
        ("GET", "/batch", "POST"),
        ("BREW", "/files/a.md", "GET, HEAD, PUT, PATCH, DELETE, POST"),
        ("PUT", "/files", "GET, HEAD"),
        ("DELETE", "/health", "GET, HEAD"),
        ("GET", "/gateway/restart", "POST"),
        ("BREW", "/changes", "GET, HEAD"),
    ] {
        let answer = sidecar.call(method, target, &[], b"")?;
        assert_json_error(&answer, 405, "method_not_allowed", target)?;
        assert_eq!(answer.header("allow"), Some(allow));
    }
    assert_json_error(&sidecar.call("POST", "/gateway/start", &[], b"")?, 409, "gateway_disabled", "gateway")?;
    for (target, value) in [("/files", "wrong"), ("/nothing", "wrong"), ("/status", ""), ("/gateway/logs", "x y")] {
        let answer = request(sidecar.address(), "GET", target, &[("Authorization", &format!("Bearer {value}"))], b"")?;
        assert_json_error(&answer, 401, "unauthorized", target)?;
    }
    Ok(())
}

#[test]
fn preconditions() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let answer = sidecar.put_with("a.md", "one", &[("If-Match", "*")])?;
    assert_json_error(&answer, 412, "precondition_failed", "If-Match: * without a file")?;
    sidecar.put_with("a.md", "one", &[("If-None-Match", "*")])?.expect(200)?;
    let answer = sidecar.put_with("a.md", "two", &[("If-None-Match", "*")])?;
    assert_json_error(&answer, 412, "precondition_failed", "If-None-Match: * with a file")?;
    let current = sidecar.get("/files/a.md")?.header("etag").map(str::to_owned).unwrap_or_default();
    let stale = format!("\"{}\"", "0".repeat(64));
    for tag in [stale.as_str(), "\"another\"", "another"] {
        let answer = sidecar.put_with("a.md", "two", &[("If-Match", tag)])?;
        assert_json_error(&answer, 412, "precondition_failed", tag)?;
        assert_eq!(answer.header("etag"), Some(current.as_str()));
        assert_eq!(answer.json()?["current_hash"], current.trim_matches('"'));
        let answer = sidecar.call("DELETE", "/files/a.md", &[("If-Match", tag)], b"")?;
        assert_json_error(&answer, 412, "precondition_failed", tag)?;
    }
    assert_eq!(sidecar.get("/files/a.md")?.json()?["content"], "one");
    // The agent was faster: its version stays, and both are in history.
    sidecar.agent_writes("a.md", "agent's")?;
    let answer = sidecar.put_with("a.md", "two", &[("If-Match", &current)])?;
    assert_json_error(&answer, 412, "precondition_failed", "after the agent's edit")?;
    assert_eq!(sidecar.history("a.md")?, ["admin create", "agent update"]);
    let current = answer.header("etag").map(str::to_owned).unwrap_or_default();
    sidecar.put_with("a.md", "two", &[("If-Match", &current)])?.expect(200)?;
    sidecar.call("GET", "/files/a.md", &[("If-None-Match", &current)], b"")?.expect(200)?;
    let current = sidecar.get("/files/a.md")?.header("etag").map(str::to_owned).unwrap_or_default();
    let unchanged = sidecar.call("GET", "/files/a.md", &[("If-None-Match", &current)], b"")?.expect(304)?;
    assert!(unchanged.body.is_empty());
    for headers in [
        [("If-Match", current.as_str()), ("If-None-Match", "*")].as_slice(),
        &[("If-None-Match", &current)],
        &[("If-Match", "\"a\", \"b\"")],
        &[("X-Winston-Actor", " ")],
    ] {
        let answer = sidecar.put_with("a.md", "three", headers)?;
        assert_eq!(answer.status, 400, "{headers:?}: {}", answer.text());
    }
    Ok(())
}

#[test]
fn a_directory_of_ten_thousand_is_listed() -> Result<()> {
    let setup = Setup::new()?;
    let dir = setup.data().join("many");
    std::fs::create_dir(&dir)?;
    for number in 0..10_000 {
        std::fs::write(dir.join(format!("{number:05}.md")), b"")?;
    }
    std::fs::write(dir.join(std::ffi::OsStr::from_bytes(b"\xff\xfe.md")), b"")?;
    let sidecar = setup.start()?;
    let listing = sidecar.get("/files?path=many")?.expect(200)?.json()?;
    assert_eq!(listing["items"].as_array().map(Vec::len), Some(10_001));
    assert_eq!(listing["items"][42]["name"], "00042.md");
    assert_eq!(sidecar.status()?["watch"]["files"], 10_000);
    Ok(())
}

#[test]
fn requests_that_are_no_requests() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let bearer = format!("Authorization: Bearer {TEST_TOKEN}\r\n");
    for (bytes, statuses) in [
        (b"nonsense\r\n\r\n".to_vec(), [400].as_slice()),
        (b"GET /health HTTP/9.9\r\n\r\n".to_vec(), &[400, 505]),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000)).into_bytes(), &[414, 431]),
        (format!("PUT /files/a.md HTTP/1.1\r\n{bearer}Content-Length: x\r\n\r\n").into_bytes(), &[400]),
        (
            format!("PUT /files/a.md HTTP/1.1\r\n{bearer}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello")
                .into_bytes(),
            &[400],
        ),
    ] {
        let answer = send_raw(sidecar.address(), &bytes)?;
        assert!(statuses.contains(&answer.status), "{}", answer.status);
    }
    // A body that ends early changes nothing.
    sidecar.put("a.md", "old")?.expect(200)?;
    let mut stream = TcpStream::connect(sidecar.address())?;
    write!(stream, "PUT /files/a.md HTTP/1.1\r\nHost: x\r\n{bearer}Content-Length: 100\r\n\r\n{{\"content\":\"ne")?;
    drop(stream);
    assert_eq!(sidecar.get("/files/a.md")?.json()?["content"], "old");
    Ok(())
}

#[test]
fn a_connection_that_says_nothing_is_cut() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let mut idle = TcpStream::connect(sidecar.address())?;
    idle.set_read_timeout(Some(Duration::from_secs(60)))?;
    idle.write_all(b"GET /health HT")?;
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest)?;
    sidecar.get("/health")?.expect(200)?;
    Ok(())
}
