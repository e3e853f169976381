//! Every operation of the API, on a directory and a file whose names change meanwhile.

use anyhow::{Result, bail};
use winston_tests::process::TEST_TOKEN;
use winston_tests::sidecar::Sidecar;
use winston_tests::wire::Wire;

/// A request in parts.
pub(crate) struct Request {
    method: &'static str,
    /// Path and query.
    target: String,
    kind: &'static str,
    body: Vec<u8>,
}

impl Request {
    fn plain(method: &'static str, target: String) -> Self {
        Self { method, target, kind: "text/plain", body: vec![] }
    }

    fn json(method: &'static str, target: String, body: impl Into<Vec<u8>>) -> Self {
        Self { method, target, kind: "application/json", body: body.into() }
    }

    /// As it is sent.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let Self { method, target, kind, body } = self;

        let mut bytes = format!(
            "{method} {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TEST_TOKEN}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n",
            body.len()
        )
        .into_bytes();
        if kind.starts_with(RAW) {
            bytes.extend_from_slice(b"Accept: application/octet-stream\r\n");
        }
        if *kind == RANGE {
            bytes.extend_from_slice(b"Range: bytes=0-200\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        bytes
    }
}

/// One kind of request.
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    /// From a directory, a file and a number below 9.
    pub(crate) request: fn(&str, &str, usize) -> Request,
    /// Every sidecar has it.
    always: bool,
}

const RAW: &str = "application/octet-stream";

/// The same, of which a part is wanted.
const RANGE: &str = "application/octet-stream; part";

const fn always(name: &'static str, request: fn(&str, &str, usize) -> Request) -> Operation {
    Operation { name, request, always: true }
}

const fn perhaps(name: &'static str, request: fn(&str, &str, usize) -> Request) -> Operation {
    Operation { name, request, always: false }
}

/// In the form that docs/API.md gives them.
const OPERATIONS: &[Operation] = &[
    always("GET", |_, file, _| Request::plain("GET", format!("/files/{file}"))),
    always("GET raw", |_, file, _| Request { kind: RAW, ..Request::plain("GET", format!("/files/{file}")) }),
    always("HEAD", |_, file, _| Request::plain("HEAD", format!("/files/{file}"))),
    always("PUT", |_, file, number| {
        // A text that can be patched.
        Request::json("PUT", format!("/files/{file}"), format!("{{\"content\":\"{{\\\"v\\\":{number}}}\"}}"))
    }),
    always("PUT raw, large", |_, file, number| {
        let body = vec![b"abcdefghi"[number]; 70_000];
        Request { kind: RAW, body, ..Request::plain("PUT", format!("/files/{file}")) }
    }),
    always("DELETE", |_, file, _| Request::plain("DELETE", format!("/files/{file}"))),
    always("list", |directory, _, _| Request::plain("GET", format!("/files?path={directory}"))),
    always("changes", |_, _, _| Request::plain("GET", "/changes?limit=50".to_owned())),
    perhaps("list, deep with hashes", |directory, _, _| {
        Request::plain("GET", format!("/files?path={directory}&depth=5&hashes=true"))
    }),
    perhaps("list, everything with hashes", |_, _, _| {
        Request::plain("GET", "/files?path=&depth=9&hashes=true&limit=1000".to_owned())
    }),
    perhaps("GET a range", |_, file, _| Request { kind: RANGE, ..Request::plain("GET", format!("/files/{file}")) }),
    perhaps("move", |directory, file, number| {
        let body = format!("{{\"to\":\"{directory}/moved{number}.md\",\"overwrite\":true}}");
        Request::json("POST", format!("/files/{file}?op=move"), body)
    }),
    perhaps("move a directory", |directory, file, _| {
        Request::json("POST", format!("/files/{directory}/sub?op=move"), format!("{{\"to\":\"{file}.dir\"}}"))
    }),
    perhaps("copy", |directory, file, number| {
        let body = format!("{{\"to\":\"{directory}/copied{number}.md\",\"overwrite\":true}}");
        Request::json("POST", format!("/files/{file}?op=copy"), body)
    }),
    perhaps("copy a directory", |directory, _, number| {
        Request::json("POST", format!("/files/{directory}?op=copy"), format!("{{\"to\":\"copies/{number}\"}}"))
    }),
    perhaps("mkdir", |directory, _, number| {
        Request::json("POST", format!("/files/{directory}/made{number}?op=mkdir"), "{}")
    }),
    perhaps("mode", |_, file, number| {
        let mode = if number % 2 == 0 { "0600" } else { "0644" };
        Request::json("POST", format!("/files/{file}?op=mode"), format!("{{\"mode\":\"{mode}\"}}"))
    }),
    perhaps("mode of a directory", |directory, _, _| {
        Request::json("POST", format!("/files/{directory}?op=mode"), "{\"mode\":\"0755\"}")
    }),
    perhaps("DELETE recursive", |directory, _, number| {
        let below = ["", "/sub", "/new", "/made1"][number % 4];
        Request::plain("DELETE", format!("/files/{directory}{below}?recursive=true"))
    }),
    perhaps("batch", |directory, file, number| {
        let body = format!(
            "{{\"operations\":[{{\"op\":\"put\",\"path\":\"{file}\",\"content\":\"b{number}\"}},{{\"op\":\"put\",\"path\":\"{directory}/batch.md\",\"content\":\"b\"}}]}}"
        );
        Request::json("POST", "/batch".to_owned(), body)
    }),
    perhaps("PUT archive", |directory, _, _| {
        let body = tar("sub/deep.md", "from an archive");
        Request { kind: "application/x-tar", body, ..Request::plain("PUT", format!("/archive/{directory}")) }
    }),
    perhaps("GET archive", |directory, _, _| {
        Request::plain("GET", format!("/archive/{directory}?format=tar&all=true"))
    }),
    perhaps("search", |directory, _, _| Request::plain("GET", format!("/search?path={directory}&q=somebody"))),
    perhaps("search everywhere", |_, _, _| Request::plain("GET", "/search?q=canary".to_owned())),
    perhaps("PATCH", |_, file, number| Request {
        kind: "application/merge-patch+json",
        body: format!("{{\"a\":{number}}}").into_bytes(),
        ..Request::plain("PATCH", format!("/files/{file}"))
    }),
    always("winston GET", |_, _, number| Request::plain("GET", format!("/winston/files/{}", OLD_NAMES[number]))),
    always("winston PUT", |_, _, number| {
        let body = format!("{{\"content\":\"w{number}\"}}");
        Request::json("PUT", format!("/winston/files/{}", OLD_NAMES[number]), body)
    }),
    always("winston list", |_, _, number| {
        let directory = ["", "dir", "dir/sub", "memory", "workspace"][number % 5];
        Request::plain("GET", format!("/winston/files/{directory}"))
    }),
    always("winston changes", |_, _, _| Request::plain("GET", "/winston/changes?limit=50".to_owned())),
];

/// Files in the names of `/winston`, which are relative to the state directory or mean the workspace.
const OLD_NAMES: [&str; 9] = [
    "dir/secret.md",
    "dir/sub/deep.md",
    "dir/large.bin",
    "dir/new/dir/new.md",
    "memory/secret.md",
    "memory/new.md",
    "workspace/secret.md",
    "workspace/sub/deep.md",
    "workspace/new.md",
];

/// A tar archive with one file of this name: a head of 512 bytes, the content, two empty blocks.
fn tar(name: &str, content: &str) -> Vec<u8> {
    let mut head = [0; 512];
    head[..name.len()].copy_from_slice(name.as_bytes());
    head[100..108].copy_from_slice(b"0000644\0");
    head[108..116].copy_from_slice(b"0000000\0");
    head[116..124].copy_from_slice(b"0000000\0");
    head[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    head[136..148].copy_from_slice(b"00000000000\0");
    head[148..156].copy_from_slice(b"        ");
    head[156] = b'0';
    head[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = head.to_vec();
    archive.extend_from_slice(content.as_bytes());
    archive.resize(512 + content.len().next_multiple_of(512) + 1024, 0);
    archive
}

/// The operations that this sidecar has, tried on names that nobody changes. The others are named.
pub(crate) fn available(sidecar: &Sidecar) -> Result<Vec<&'static Operation>> {
    let mut found = Vec::new();
    for operation in OPERATIONS {
        let mut wire = Wire::open(sidecar.address())?;
        let request = (operation.request)("quiet", "quiet/file.md", 1);
        let answer = wire.exchange(&request.bytes())?;
        let missing = match answer.status {
            405 => true,
            404 => request.method != "HEAD" && answer.json().is_ok_and(|body| body["code"] == "no_route"),
            _ => false,
        };
        if !missing {
            found.push(operation);
        } else if operation.always {
            bail!("{}: {}", operation.name, answer.text());
        } else {
            eprintln!("not here: {}", operation.name);
        }
    }
    Ok(found)
}
