//! The Dockerfile, without Docker: what it says is true, and what it builds runs.
//!
//! The last test lays the image's file system out beneath a directory, over the host's libraries, and runs the
//! entrypoint there as PID 1 with namespaces of its own for processes, mounts and the network, and with the capabilities of a container.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use winston_tests::process::{
    CONTAINER_CAPABILITIES, Mode, PATIENCE, Running, TEST_TOKEN, bin, is_root, repository, skip, variables,
};
use winston_wire::SIDECAR_PORT;

/// One instruction of a Dockerfile: its name, and the rest with continued lines joined.
struct Instruction {
    stage: usize,
    name: String,
    rest: String,
}

fn dockerfile() -> Result<Vec<Instruction>> {
    let text = std::fs::read_to_string(repository().join("Dockerfile"))?;
    let code: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let joined = code.join("\n").replace("\\\n", " ");
    let mut stage = 0;
    let mut instructions = Vec::new();
    for line in joined.lines().filter(|line| !line.trim().is_empty()) {
        let (name, rest) = line.split_once(' ').context(line.to_owned())?;
        stage += usize::from(name == "FROM");
        instructions.push(Instruction {
            stage,
            name: name.to_owned(),
            rest: rest.split_ascii_whitespace().collect::<Vec<_>>().join(" "),
        });
    }
    Ok(instructions)
}

/// The rest of every instruction of this name.
fn all<'a>(file: &'a [Instruction], name: &str) -> Vec<&'a str> {
    let named = file.iter().filter(|one| one.name == name);
    named.map(|one| one.rest.as_str()).collect()
}

fn the<'a>(file: &'a [Instruction], name: &str) -> Result<&'a str> {
    match all(file, name).as_slice() {
        [rest] => Ok(rest),
        found => bail!("{} times {name}", found.len()),
    }
}

fn environment(file: &[Instruction]) -> Result<HashMap<&str, &str>> {
    let pairs = the(file, "ENV")?.split(' ');
    pairs.map(|pair| pair.split_once('=').context(pair.to_owned())).collect()
}

/// The words of an exec form: `["a", "b"]`.
fn words(text: &str) -> Result<Vec<String>> {
    let array = text.find('[').map(|at| &text[at..]);
    let array = array.with_context(|| format!("{text} is no exec form"))?;
    Ok(serde_json::from_str(array)?)
}

/// Files that the last stage takes from the build stage, with their place in the image.
fn binaries(file: &[Instruction]) -> Vec<(&str, &str)> {
    let copies = all(file, "COPY").into_iter();
    copies.filter_map(|copy| copy.strip_prefix("--from=build /out/")?.split_once(' ')).collect()
}

fn default_of(rows: &[[String; 3]], name: &str) -> Result<String> {
    let row = rows.iter().find(|[row, ..]| row == name);
    row.map(|[_, default, _]| default.clone()).with_context(|| format!("{name} is no variable"))
}

#[test]
fn everything_copied_exists() -> Result<()> {
    let file = dockerfile()?;
    let mut copied = 0;
    for copy in all(&file, "COPY") {
        if copy.starts_with("--from=") {
            continue;
        }
        let (sources, _) = copy.rsplit_once(' ').context(copy.to_owned())?;
        for source in sources.split(' ') {
            assert!(repository().join(source).exists(), "{source}");
            copied += 1;
        }
    }
    let manifest = std::fs::read_to_string(repository().join("Cargo.toml"))?;
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = ")).context("no members")?;
    let members: Vec<String> = serde_json::from_str(members)?;
    for member in &members {
        assert!(
            all(&file, "COPY").contains(&format!("{member} {member}").as_str()),
            "cargo needs every member, {member} too"
        );
    }
    assert_eq!(copied, members.len() + 3);
    Ok(())
}

#[test]
fn what_the_build_makes_is_what_the_image_takes() -> Result<()> {
    let file = dockerfile()?;
    let builds = file.iter().find(|one| one.stage == 1 && one.name == "RUN").context("no build")?;
    assert_eq!(builds.rest, "tools/build-programs /out");
    let script = std::fs::read_to_string(repository().join("tools/build-programs"))?;
    let built = script.lines().find_map(|line| line.strip_prefix("for program in ")?.strip_suffix("; do"));
    let mut built: Vec<_> = built.context("the script has no list of programs")?.split(' ').collect();
    built.sort_unstable();
    let mut taken = binaries(&file);
    taken.sort_unstable();
    assert_eq!(taken.iter().map(|(name, _)| *name).collect::<Vec<_>>(), built);
    assert_eq!(built.len(), 3);
    for (name, place) in &taken {
        assert_eq!(*place, format!("/usr/local/bin/{name}"));
    }
    assert!(script.contains("--locked"));
    let ignored = std::fs::read_to_string(repository().join(".dockerignore"))?;
    assert!(ignored.lines().any(|line| line == "!tools/build-programs"), "the build stage would not get it");
    let runs = [words(the(&file, "ENTRYPOINT")?)?, words(the(&file, "HEALTHCHECK")?)?];
    for command in runs {
        assert!(taken.iter().any(|(_, place)| *place == command[0]), "{command:?}");
    }
    Ok(())
}

#[test]
fn no_volume_no_user() -> Result<()> {
    let file = dockerfile()?;
    assert_eq!(all(&file, "VOLUME"), [""; 0], "refused by Railway");
    assert_eq!(all(&file, "USER"), [""; 0], "PID 1 gives the volume away, as root");
    assert_eq!(the(&file, "STOPSIGNAL")?, "SIGTERM");
    Ok(())
}

#[test]
fn port_paths_and_user_agree_with_the_code() -> Result<()> {
    let file = dockerfile()?;
    let rows = variables("winston-entrypoint")?;
    assert_eq!(the(&file, "EXPOSE")?, SIDECAR_PORT.to_string());
    let environment = environment(&file)?;
    let data = default_of(&rows, "WINSTON_DATA_DIR")?;
    assert_eq!(environment["WINSTON_DATA_DIR"], data);
    for name in environment.keys() {
        default_of(&rows, name)?;
    }
    let (uid, gid) = (environment["WINSTON_GATEWAY_UID"], environment["WINSTON_GATEWAY_GID"]);
    let user = all(&file, "RUN").join("\n");
    let rename = format!("usermod --login openclaw --uid {uid} --gid {gid} --home {data}/.home");
    assert!(user.contains(&rename), "{user}");
    assert!(user.contains(&format!("groupmod --new-name openclaw --gid {gid}")));
    Ok(())
}

#[test]
fn versions_have_one_source() -> Result<()> {
    let file = dockerfile()?;
    let versions = std::fs::read_to_string(repository().join("versions.env"))?;
    let versions: Vec<_> = versions.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(all(&file, "ARG"), versions);
    let bases = all(&file, "FROM");
    let toolchain = std::fs::read_to_string(repository().join("rust-toolchain.toml"))?;
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).context("no channel")?;
    let rust = format!("rust:{}-slim-bookworm AS build", channel.trim_matches('"'));
    assert_eq!(bases, [rust.as_str(), "node:${NODE_VERSION}-bookworm-slim"]);
    Ok(())
}

#[test]
fn the_railway_file_agrees_with_the_code() -> Result<()> {
    let text = std::fs::read_to_string(repository().join("railway.toml"))?;
    let lines = text.lines().filter(|line| !line.starts_with(['#', '[']));
    let settings: HashMap<_, _> = lines.filter_map(|line| line.split_once(" = ")).collect();
    let rows = variables("winston-entrypoint")?;
    let quoted = |text: &str| format!("{text:?}");
    assert_eq!(settings["builder"], "\"DOCKERFILE\"");
    assert_eq!(settings["dockerfilePath"], "\"Dockerfile\"");
    assert_eq!(settings["healthcheckPath"], "\"/healthz\"");
    assert_eq!(settings["requiredMountPath"], quoted(&default_of(&rows, "WINSTON_DATA_DIR")?));
    let draining: u64 = settings["drainingSeconds"].parse()?;
    let grace: u64 = default_of(&rows, "WINSTON_STOP_GRACE_SECONDS")?.parse()?;
    assert!(draining > grace, "the platform must not kill first");
    assert!(!settings.contains_key("startCommand"), "it replaces PID 1");
    assert!(text.contains("PORT=8080,"));
    Ok(())
}

/// Makes the image's root beneath `$ROOT` and becomes the entrypoint in it. `$BINARIES` are `<file> <place>` lines.
const LAY_OUT: &str = r#"set -eu
mount -t tmpfs tmpfs "$ROOT"
cd "$ROOT"
mkdir -p usr etc proc sys dev tmp data
mount --bind /usr usr
mount -o remount,bind,ro usr
for dir in bin sbin lib lib32 lib64; do
    if [ -L "/$dir" ]; then cp -P "/$dir" .
    elif [ -d "/$dir" ]; then mkdir "$dir"; mount --bind "/$dir" "$dir"
    fi
done
mount -t tmpfs tmpfs usr/local
mkdir usr/local/bin
printf '%s\n' "$BINARIES" | while read -r file place; do cp "$file" ".$place"; done
printf 'root:x:0:0::/root:/bin/sh\nopenclaw:x:1000:1000::/data/.home:/bin/sh\n' > etc/passwd
printf 'root:x:0:\nopenclaw:x:1000:\n' > etc/group
printf '127.0.0.1 localhost\n' > etc/hosts
mount -t proc proc proc
mount -t sysfs sysfs sys
echo 9 > sys/class/net/lo/flags # up, loopback: there may be no `ip`
mount --rbind /dev dev
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=0755 tmpfs data # the volume, root-owned as platforms mount it
capabilities=$CAPABILITIES
unset ROOT BINARIES CAPABILITIES
exec setpriv "$capabilities" chroot . "$@"
"#;

#[test]
fn the_image_runs_as_pid_1() -> Result<()> {
    if !is_root() {
        skip("the_image_runs_as_pid_1", "only root can lay an image out and change users in it");
        return Ok(());
    }
    let file = dockerfile()?;
    let image_environment = environment(&file)?;
    let taken = binaries(&file);
    let mut lines = Vec::new();
    for (name, place) in &taken {
        lines.push(format!("{} {place}", bin(name)?.display()));
    }
    let dir = Arc::new(tempfile::tempdir()?);
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--mount", "--net", "--fork", "--kill-child"])
        .args(["sh", "-c", LAY_OUT, "lay-out"])
        .args(words(the(&file, "ENTRYPOINT")?)?)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(&image_environment)
        .env("ROOT", dir.path())
        .env("BINARIES", lines.join("\n"))
        .env("CAPABILITIES", CONTAINER_CAPABILITIES)
        .env("WINSTON_TENANT_ID", "image-test")
        .env("WINSTON_SIDECAR_TOKEN", TEST_TOKEN)
        .env("WINSTON_SOUL_MD", "# Soul of the image test\n")
        .env("WINSTON_GATEWAY", "off");
    let mut container = Running::spawn(command, Mode::Pid1, dir)?;
    container.expect_log("started the sidecar")?;
    let pid1 = container.entrypoint()?;

    let health = words(the(&file, "HEALTHCHECK")?)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = inside(pid1, &health)?;
        if output.status.success() {
            break;
        }
        if Instant::now() > deadline {
            bail!("never healthy: {output:?}\n{}", container.stderr());
        }
    }
    let answer = get_health(pid1)?;
    let (head, body) = answer.split_once("\r\n\r\n").context(answer.clone())?;
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    let body: serde_json::Value = serde_json::from_str(body).context(answer.clone())?;
    assert_eq!(body["status"], "ok");

    let data = Path::new("/proc").join(pid1.to_string()).join("root/data");
    let uid: u32 = image_environment["WINSTON_GATEWAY_UID"].parse()?;
    for (path, owner) in [(".openclaw", uid), ("workspace", uid), (".winston", 0)] {
        assert_eq!(std::fs::metadata(data.join(path))?.uid(), owner, "{path}");
    }

    container.signal(Signal::SIGTERM)?;
    let (code, _, log) = container.finish()?;
    assert_eq!(code, 0, "{log}");
    Ok(())
}

/// Runs a command in the container, as its engine would.
fn inside(pid1: Pid, command: &[String]) -> Result<Output> {
    let run = Command::new("nsenter")
        .arg(format!("--target={pid1}"))
        .args(["--mount", "--net", "--pid", "--root", "--wd=/"])
        .args(command)
        .output()?;
    Ok(run)
}

/// `GET /health` from a thread that has entered the container's network.
fn get_health(pid1: Pid) -> Result<String> {
    let network = File::open(format!("/proc/{pid1}/ns/net"))?;
    let thread = std::thread::spawn(move || -> Result<String> {
        setns(network, CloneFlags::CLONE_NEWNET)?;
        let mut stream = TcpStream::connect(("127.0.0.1", SIDECAR_PORT))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    thread.join().map_err(|_| anyhow!("the thread panicked"))?
}
