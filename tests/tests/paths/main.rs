//! Paths that try to get out, or to what is not theirs: one table, each row asked with `GET`, `PUT`, `DELETE` and as a listing.
//!
//! A row says what the path means; a meaning says what each method answers and what it does to the disk. After every row the tree outside
//! and everything inside that the row does not name are compared with what was there before. Requests are written byte by byte, so nothing
//! tidies them up on the way.

mod cases;
mod heads;

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use winston_tests::canary::Canary;
use winston_tests::http::Answer;
use winston_tests::parallel::each;
use winston_tests::process::{TEST_TOKEN, is_root, skip};
use winston_tests::sidecar::Setup;
use winston_tests::wire::Wire;

/// What a path means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Want {
    /// A file that is not there yet, under exactly this name.
    New(&'static str),
    /// The same, with a name that is made.
    Named(String),
    /// This file of the layout.
    Existing(&'static str),
    /// A directory of the layout, or the root.
    Directory,
    /// The data directory itself.
    Root,
    /// It has a `..`.
    Climbs,
    /// Not UTF-8, or a NUL.
    Bad,
    /// Too long.
    Long,
    /// Below a file.
    BelowFile,
    /// In `.winston`.
    Internal,
    /// A secret of the gateway.
    Secret,
    /// A symbolic link.
    Link,
    /// Below one.
    ThroughLink,
    /// A FIFO, a socket, a device.
    Special,
    /// A hard link to a file of somebody else's.
    Foreign,
    /// Not even a request.
    Http,
}

const METHODS: [&str; 4] = ["GET", "PUT", "DELETE", "LIST"];

/// Status and code that each of [`METHODS`] is answered with; no code for a success, and none for what is not JSON.
fn answers(want: &Want) -> [(u16, &'static str); 4] {
    match want {
        Want::New(_) | Want::Named(_) => [(404, "not_found"), (200, ""), (200, ""), (404, "not_found")],
        Want::Existing(_) => [(200, ""), (200, ""), (200, ""), (409, "not_a_directory")],
        Want::Root => [(409, "is_directory"), (409, "is_directory"), (403, "protected_path"), (200, "")],
        Want::Directory => [(409, "is_directory"), (409, "is_directory"), (409, "directory_not_empty"), (200, "")],
        Want::Climbs => [(403, "access_denied"); 4],
        Want::Bad => [(400, "bad_path"), (400, "bad_path"), (400, "bad_path"), (400, "bad_path bad_query")],
        Want::Long => [(400, "path_too_long"); 4],
        Want::BelowFile => {
            let put = (409, "not_a_directory");
            [(404, "not_found"), put, (404, "not_found"), (409, "not_a_directory")]
        }
        Want::Internal => [(404, "not_found"), (403, "internal_path"), (403, "internal_path"), (404, "not_found")],
        Want::Secret => [(403, "secret_path"); 4],
        Want::Link => [(403, "access_denied"), (403, "access_denied"), (200, ""), (403, "access_denied")],
        Want::ThroughLink => [(403, "access_denied"); 4],
        Want::Special => [(409, "not_a_file"), (409, "not_a_file"), (200, ""), (409, "not_a_directory")],
        Want::Foreign => {
            [(403, "access_denied"), (403, "access_denied"), (403, "access_denied"), (409, "not_a_directory")]
        }
        Want::Http => [(400, ""); 4],
    }
}

/// What is inside besides `.winston`: kind and content by path, bytes of names as they are.
type Tree = BTreeMap<Vec<u8>, String>;

fn tree(data: &Path) -> Result<Tree> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut found = Tree::new();
    let mut waiting = vec![data.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            let meta = std::fs::symlink_metadata(&path)?;
            let name = path.strip_prefix(data)?;
            if name == Path::new(".winston") {
                continue;
            }
            let what = if meta.is_dir() {
                waiting.push(path.clone());
                "directory".to_owned()
            } else if meta.is_symlink() {
                format!("-> {}", std::fs::read_link(&path)?.display())
            } else if meta.is_file() && meta.uid() == 65534 {
                // Looking at it would look like somebody having read the file outside.
                "another's".to_owned()
            } else if meta.is_file() {
                String::from_utf8_lossy(&std::fs::read(&path)?).into_owned()
            } else {
                format!("special {}", meta.file_type().is_fifo())
            };
            found.insert(name.as_os_str().as_bytes().to_vec(), what);
        }
    }
    Ok(found)
}

/// What the rows are about. Made again before each row: a row may have removed a part of it.
fn lay_out(data: &Path, canary: &Path) -> Result<()> {
    for (path, content) in
        [("file.md", "inside"), ("dir/inner.md", "inner"), (".openclaw/credentials/creds.json", "hidden-credential")]
    {
        let path = data.join(path);
        if std::fs::read(&path).ok().as_deref() != Some(content.as_bytes()) {
            std::fs::create_dir_all(path.parent().context("parent")?)?;
            std::fs::write(path, content)?;
        }
    }
    let links = [
        ("link-file", canary.join("secret.md").to_string_lossy().into_owned()),
        ("link-dir", canary.to_string_lossy().into_owned()),
        ("link-relative", "../canary".to_owned()),
        ("link-inside", "file.md".to_owned()),
        ("link-inside-dir", "dir".to_owned()),
        ("link-root", "/".to_owned()),
        ("link-up", "..".to_owned()),
        ("link-dot", ".".to_owned()),
        ("link-internal", ".winston".to_owned()),
        ("link-secret", ".openclaw/credentials".to_owned()),
        ("dangling", "nowhere".to_owned()),
        ("loop-a", "loop-b".to_owned()),
        ("loop-b", "loop-a".to_owned()),
        ("loop-self", "loop-self".to_owned()),
        ("chain", "link-dir".to_owned()),
        ("proc-root", "/proc/self/root".to_owned()),
        ("proc-fd", "/proc/self/fd".to_owned()),
        ("dir/link-parent", "../..".to_owned()),
    ];
    for (name, target) in links {
        if std::fs::symlink_metadata(data.join(name)).is_err() {
            symlink(target, data.join(name))?;
        }
    }
    let missing = |name: &str| std::fs::symlink_metadata(data.join(name)).is_err();
    if missing("fifo") {
        nix::unistd::mkfifo(&data.join("fifo"), Mode::S_IRWXU)?;
    }
    if missing("socket") {
        drop(std::os::unix::net::UnixListener::bind(data.join("socket"))?);
    }
    if is_root() {
        // The null device, and a block device that no driver answers for.
        if missing("device") {
            mknod(&data.join("device"), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3))?;
        }
        if missing("device-block") {
            mknod(&data.join("device-block"), SFlag::S_IFBLK, Mode::S_IRWXU, makedev(250, 250))?;
        }
        if missing("hard.md") {
            std::fs::hard_link(canary.join("owned.md"), data.join("hard.md"))?;
        }
    }
    Ok(())
}

fn head(method: &str, target: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TEST_TOKEN}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// One method of one row, on a connection that is opened again when it was closed.
fn ask(wire: &mut Wire, sidecar: &winston_tests::sidecar::Sidecar, method: &str, path: &str) -> Result<Answer> {
    let request = match method {
        // In a query, a plus is a space and an ampersand ends the value.
        "LIST" => head("GET", &format!("/files?path={}", path.replace('+', "%2b").replace('&', "%26")), ""),
        "PUT" => head("PUT", &format!("/files/{path}"), "{\"content\":\"written\"}"),
        method => head(method, &format!("/files/{path}"), ""),
    };
    wire.send(&request)?;
    let answer = wire.answer(false)?.context("the connection was closed without an answer")?;
    if answer.status == 400 || answer.header("connection") == Some("close") {
        *wire = Wire::open(sidecar.address())?;
    }
    Ok(answer)
}

fn matches(answer: &Answer, status: u16, code: &str) -> bool {
    let found = answer.json().ok().and_then(|body| Some(body["code"].as_str()?.to_owned()));
    answer.status == status && (code.is_empty() || found.is_some_and(|found| code.split(' ').any(|code| code == found)))
}

/// Parts of the table at once, each with a tree and a sidecar of its own.
const PARTS: usize = 4;

#[test]
fn every_path_means_one_thing_and_stays_inside() -> Result<()> {
    if !is_root() {
        eprintln!("not here: devices and hard links to files of somebody else (not root)");
    }
    let cases = cases::cases();
    println!("{} paths, each with {} methods", cases.len(), METHODS.len());
    assert!(cases.len() >= 300, "{}", cases.len());
    let parts = cases.chunks(cases.len().div_ceil(PARTS)).enumerate();
    let parts: Vec<_> = parts.map(|(number, cases)| Part { number, cases }).collect();
    each(parts, PARTS, |part| every_path_of(part.cases))
}

/// Rows of the table.
struct Part<'a> {
    number: usize,
    cases: &'a [(String, Want)],
}

impl std::fmt::Debug for Part<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "part {}", self.number)
    }
}

fn every_path_of(cases: &[(String, Want)]) -> Result<()> {
    let setup = Setup::new()?;
    let (data, outside) = (setup.data().to_owned(), setup.outside().to_owned());
    let mut canary =
        Canary::plant(&outside.join("canary"), &[("secret.md", String::new()), ("owned.md", "other's".to_owned())])?;
    if is_root() {
        canary.linked("owned.md");
        std::os::unix::fs::chown(canary.root().join("owned.md"), Some(65534), Some(65534))?;
    }
    lay_out(&data, canary.root())?;
    canary.arm()?;
    let sidecar = setup.start()?;
    let mut wire = Wire::open(sidecar.address())?;
    let mut wrong = Vec::new();
    for (path, want) in cases {
        let name: String = path.chars().take(80).collect();
        if !is_root() && (*want == Want::Foreign || path.starts_with("device")) {
            continue;
        }
        for (method, (status, code)) in METHODS.into_iter().zip(answers(want)) {
            lay_out(&data, canary.root())?;
            let mut case = || -> Result<()> {
                // What is to be removed has to be there.
                if let (Want::New(_) | Want::Named(_), "DELETE") = (want, method) {
                    ensure!(ask(&mut wire, &sidecar, "PUT", path)?.status == 200, "PUT before DELETE");
                }
                let before = tree(&data)?;
                let answer = ask(&mut wire, &sidecar, method, path)?;
                let text = answer.text();
                ensure!(matches(&answer, status, code), "wanted {status} {code}, got {}: {text}", answer.status);
                ensure!(!canary.leaks(&answer.body) && !text.contains("hidden-credential"), "leaks: {text}");
                let after = tree(&data)?;
                effect(want, method, path, &answer, before, after)?;
                canary.check()
            };
            if let Err(error) = case() {
                let error: String = format!("{want:.60?}: {error:#}").chars().take(400).collect();
                wrong.push(format!("{method} {name:?}: {error}"));
                wire = Wire::open(sidecar.address())?;
            }
        }
        // Directories that a row has made would be in the way of another.
        if let Want::New(meant) | Want::Existing(meant) = want {
            clear(&data, meant)?;
        } else if let Want::Named(meant) = want {
            clear(&data, meant)?;
        }
    }
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), METHODS.len() * cases.len(), wrong.join("\n"));
    let (_, setup) = sidecar.stop()?;
    canary.check_unknown_to(&setup.data().join(".winston"))
}

/// Removes what a row has made; the layout stays.
fn clear(data: &Path, meant: &str) -> Result<()> {
    let first = meant.split('/').next().unwrap_or(meant);
    let path = data.join(first);
    let kept = ["dir", ".openclaw"].contains(&first);
    for path in [if kept { data.join(meant) } else { path }] {
        match std::fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(&path)?,
            Ok(_) => std::fs::remove_file(&path)?,
            Err(_) => {}
        }
    }
    Ok(())
}

/// The disk after a request is as the meaning says, and otherwise as before.
fn effect(want: &Want, method: &str, path: &str, answer: &Answer, mut before: Tree, mut after: Tree) -> Result<()> {
    let named = match want {
        Want::New(meant) | Want::Existing(meant) => Some((*meant).to_owned()),
        Want::Named(meant) => Some(meant.clone()),
        _ => None,
    };
    match (method, &named, want) {
        ("PUT", Some(meant), _) => {
            ensure!(after.remove(meant.as_bytes()).as_deref() == Some("written"), "{meant:?} was not written");
            ensure!(answer.json()?["path"] == meant.as_str(), "the answer names another path: {}", answer.text());
            before.remove(meant.as_bytes());
            // Directories on the way.
            for (at, _) in meant.match_indices('/') {
                ensure!(after.remove(&meant.as_bytes()[..at]).as_deref() == Some("directory"), "no directory above");
                before.remove(&meant.as_bytes()[..at]);
            }
        }
        ("DELETE", Some(meant), _) => {
            ensure!(before.remove(meant.as_bytes()).is_some() && !after.contains_key(meant.as_bytes()), "still there");
        }
        ("DELETE", None, Want::Link | Want::Special) => {
            let gone: Vec<_> = before.keys().filter(|name| !after.contains_key(*name)).cloned().collect();
            ensure!(gone.len() == 1, "removed {gone:?} for {path:?}");
            before.remove(&gone[0]);
        }
        _ => {}
    }
    for (name, what) in &before {
        if after.get(name) != Some(what) {
            bail!("{:?} became {:?}", String::from_utf8_lossy(name), after.get(name));
        }
    }
    match after.keys().find(|name| !before.contains_key(*name)) {
        Some(name) => bail!("{:?} was created", String::from_utf8_lossy(name)),
        None => Ok(()),
    }
}

#[test]
fn a_mount_below_the_root_is_read_and_not_written() -> Result<()> {
    const TEST: &str = "a_mount_below_the_root_is_read_and_not_written";
    let setup = Setup::new()?;
    let shared = setup.outside().join("shared");
    std::fs::create_dir(&shared)?;
    std::fs::write(shared.join("config.md"), "the operator's")?;
    let setup = match setup.volume("8m", &format!("mkdir mount && mount --bind {} mount", shared.display()))? {
        Ok(setup) => setup,
        Err(reason) => {
            skip(TEST, &reason);
            return Ok(());
        }
    };
    let sidecar = setup.start()?;
    // An operator put it there, so it may be read; nothing can be swapped into another volume.
    assert_eq!(sidecar.get("/files/mount/config.md")?.expect(200)?.json()?["content"], "the operator's");
    for (method, path) in [("PUT", "mount/config.md"), ("PUT", "mount/new.md"), ("DELETE", "mount/config.md")] {
        let body: &[u8] = if method == "PUT" { b"{\"content\":\"x\"}" } else { b"" };
        let answer = sidecar.call(method, &format!("/files/{path}"), &[], body)?;
        assert_eq!((answer.status, answer.json()?["code"].as_str()), (409, Some("cross_device")), "{method} {path}");
    }
    assert_eq!(std::fs::read_to_string(shared.join("config.md"))?, "the operator's");
    assert_eq!(std::fs::read_dir(&shared)?.count(), 1);
    assert_eq!(std::fs::read_dir(sidecar.volume().join(".winston/staging"))?.count(), 0);
    Ok(())
}
