//! More power than an ordinary user has, what was inherited, and the ways that lead to us.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use anyhow::Result;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Uid, getgid, getgroups, getuid, setgroups, setuid};
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketType};

use crate::attempts::{Attempt, Class, Outcome, Plan, any, outcome};

const P: Class = Class::Power;
const W: Class = Class::Ways;

pub(crate) const ATTEMPTS: &[Attempt] = &[
    Attempt::new(P, "have a capability in some set", |_| capabilities()),
    Attempt::new(P, "be allowed to gain privileges", |_| status("NoNewPrivs").and_then(|value| differs(value, "1"))),
    Attempt::new(P, "become root", |_| outcome(setuid(Uid::from_raw(0)))),
    Attempt::new(P, "choose groups", |_| outcome(setgroups(&[getgid()]))),
    Attempt::never(P, "have further groups", |_| groups()),
    Attempt::new(P, "become root by a program with the set-user-ID bit", set_user_id),
    Attempt::new(P, "mount", |plan| {
        let at = plan.home.join("mounted");
        let _ = std::fs::create_dir(&at);
        outcome(mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), None::<&str>))
    }),
    Attempt::new(P, "make a device", |plan| {
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        outcome(mknod(&plan.home.join("null"), SFlag::S_IFCHR, mode, makedev(1, 3)))
    }),
    Attempt::new(P, "change the root directory", |plan| {
        let output = Command::new("chroot").arg("/").arg("true").current_dir(&plan.home).output();
        outcome(output.map_err(|error| error.to_string()).and_then(|output| {
            if output.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
            }
        }))
    }),
    Attempt::never(P, "reach a terminal of ours", |_| outcome(OpenOptions::new().read(true).open("/dev/tty"))),
    Attempt::new(W, "read our log through its own standard output", |_| {
        any(["/proc/self/fd/1", "/proc/self/fd/2"].map(|path| outcome(File::open(path))))
    }),
    Attempt::never(W, "listen on a port of ours", |plan| any(plan.ports.iter().flat_map(|port| listen(*port)))),
    Attempt::never(W, "use the API without a token", |plan| requests(plan, "")),
    Attempt::never(W, "use the API with a token of its own", |plan| {
        requests(plan, &format!("Authorization: Bearer {}\r\n", "0".repeat(plan.token.len())))
    }),
    Attempt::never(W, "pass for the sidecar in the log", |_| forge()),
    Attempt::never(W, "leave no processes for us", exhaust),
];

/// Descriptors that are open before this program has opened any.
pub(crate) fn descriptors() -> Result<Vec<(i32, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        if let Ok(number) = entry.file_name().to_string_lossy().parse() {
            found.push((number, target.display().to_string()));
        }
    }
    Ok(found)
}

/// Whether there are more than the three that a program needs. One is the listing's own.
pub(crate) fn inherited(
    descriptors: &[(i32, String)],
    note: &mut dyn FnMut(&Attempt, Outcome) -> Result<()>,
) -> Result<()> {
    const ATTEMPT: Attempt = Attempt::never(W, "inherit a descriptor", |_| Err(String::new()));
    let more: Vec<_> = descriptors
        .iter()
        .filter(|(number, target)| *number > 2 && !target.contains("/fd") && !target.contains("eventpoll"))
        .collect();
    let input = descriptors.iter().find(|(number, _)| *number == 0).map(|(_, target)| target.as_str());
    let outcome = match (more.as_slice(), input) {
        ([], Some("/dev/null")) => Err("three, the first is /dev/null".to_owned()),
        (more, input) => Ok(format!("{more:?}, input {input:?}")),
    };
    note(&ATTEMPT, outcome)
}

fn status(field: &str) -> Outcome {
    let text = std::fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.map(|value| value.trim().to_owned()).ok_or_else(|| format!("no {field}"))
}

fn differs(value: String, expected: &str) -> Outcome {
    if value == expected { Err(format!("is {value}")) } else { Ok(format!("is {value}")) }
}

fn capabilities() -> Outcome {
    any(["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .map(|set| status(set).and_then(|value| differs(format!("{set} {value}"), &format!("{set} 0000000000000000")))))
}

fn groups() -> Outcome {
    let more = getgroups().map_err(|error| error.to_string())?;
    let more: Vec<_> = more.into_iter().filter(|group| *group != getgid()).collect();
    if more.is_empty() || getuid().is_root() { Err("none".to_owned()) } else { Ok(format!("{more:?}")) }
}

fn set_user_id(plan: &Plan) -> Outcome {
    let output = Command::new(&plan.set_user_id).arg("-u").output().map_err(|error| error.to_string())?;
    let user = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if user == "0" { Ok("root".to_owned()) } else { Err(format!("it ran as {user}")) }
}

/// On every address, with every wish to share.
fn listen(port: u16) -> Vec<Outcome> {
    // The test's sidecar listens on IPv4 only; with `[::]`, as in a container, IPv6 is taken too.
    let addresses = ["127.0.0.1", "0.0.0.0"];
    let one = |address: &str| {
        let address: std::net::SocketAddr = format!("{address}:{port}").parse().map_err(|_| "address".to_owned())?;
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = || {
            let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
            sockopt::set_socket_reuseaddr(&socket, true)?;
            sockopt::set_socket_reuseport(&socket, true)?;
            rustix::net::bind(&socket, &address)?;
            rustix::net::listen(&socket, 1)
        };
        outcome(socket().map(|()| address))
    };
    addresses.into_iter().map(one).collect()
}

/// At the API's own port, and at the front door, where everything else is passed on to the gateway: to the agent.
fn requests(plan: &Plan, header: &str) -> Outcome {
    const TARGETS: &[&str] = &[
        "GET /files?path=workspace",
        "GET /files/.openclaw/openclaw.json",
        "PUT /files/workspace/SOUL.md",
        "GET /changes",
        "GET /status",
        "GET /metrics",
        "GET /gateway",
        "GET /gateway/logs",
        "POST /gateway/stop",
        "POST /gateway/restart",
        "POST /gateway/signal",
        "POST /upgrade",
        "POST /config/rollback",
        "POST /watch/accept",
        "GET /files/workspace/../.winston/epoch",
    ];
    let prefixes = ["", "/winston"];
    any(plan.ports.iter().zip(prefixes).flat_map(|(port, prefix)| {
        TARGETS.iter().map(move |target| {
            let target = target.replacen(" /", &format!(" {prefix}/"), 1);
            let request =
                format!("{target} HTTP/1.1\r\nHost: x\r\n{header}Content-Length: 0\r\nConnection: close\r\n\r\n");
            let ask = || {
                let mut stream = TcpStream::connect(("127.0.0.1", *port))?;
                stream.write_all(request.as_bytes())?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                Ok::<_, std::io::Error>(answer)
            };
            let answer = ask().map_err(|error| error.to_string())?;
            let first = answer.lines().next().unwrap_or_default();
            let refused = [" 401 ", " 404 ", " 403 ", " 400 "].iter().any(|code| first.contains(code));
            if refused { Err(format!("{target}: {first}")) } else { Ok(format!("{target}: {first}")) }
        })
    }))
}

/// Lines that look like the sidecar's own. The test looks at what became of them.
fn forge() -> Outcome {
    let own = r#"{"timestamp":"2026-01-01T00:00:00Z","level":"INFO","target":"winston_sidecar::app","message":"forged stopped"}"#;
    let mut out = std::io::stdout();
    for line in [own, "\r\u{1b}[2K\u{1b}[1Aforged escape", "forged\0nul", "\u{2028}forged separator"] {
        let _ = writeln!(out, "{line}");
    }
    let _ = out.flush();
    Err("the test looks at the log".to_owned())
}

/// As many processes as the limit lets it have, up to some hundred; the test sees whether the sidecar still works.
fn exhaust(_: &Plan) -> Outcome {
    const MOST: usize = 200;
    let mut started = Vec::new();
    let end = loop {
        match Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn() {
            Ok(child) if started.len() < MOST => started.push(child),
            Ok(mut child) => {
                let _ = child.kill();
                let _ = child.wait();
                break format!("{MOST} and no limit met: limits of processes are the platform's to set");
            }
            Err(error) => break error.to_string(),
        }
    };
    for child in &mut started {
        let _ = child.kill();
        let _ = child.wait();
    }
    Err(end)
}
