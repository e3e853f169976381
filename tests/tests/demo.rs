//! The demo leaves nothing running, and touches nothing that runs.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use winston_tests::process::{Mode, Running, bin};
use winston_tests::wait::eventually;

fn directory() -> Result<Arc<TempDir>> {
    let dir = TempDir::with_prefix("winston-demo-")?;
    // Run as root, the database is another user's, who has to get through here.
    fs::set_permissions(dir.path(), Permissions::from_mode(0o711))?;
    Ok(Arc::new(dir))
}

fn demo(dir: &Arc<TempDir>, arguments: &[&str]) -> Result<Running> {
    let mut command = Command::new(bin("winston-demo")?);
    command.args(arguments).env("WINSTON_DEMO_DIR", dir.path()).env("WINSTON_OPENCLAW_BIN", "/bin/false");
    Running::spawn(command, Mode::Subreaper, Arc::clone(dir))
}

/// Processes whose environment, arguments or working directory point into a directory.
fn processes(dir: &Path) -> Result<Vec<String>> {
    let needle = dir.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let text = |name: &str| String::from_utf8_lossy(&fs::read(path.join(name)).unwrap_or_default()).into_owned();
        let cwd = fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
        if cwd || text("environ").contains(&needle) || text("cmdline").contains(&needle) {
            found.push(format!("{} {}", path.display(), text("cmdline").replace('\0', " ")));
        }
    }
    Ok(found)
}

/// Interrupts a start when `reached` exists, and looks for what is left.
fn interrupt_when(dir: &Arc<TempDir>, reached: &str, signal: Signal) -> Result<()> {
    let mut demo = demo(dir, &["--once"])?;
    eventually(reached, || Ok(dir.path().join(reached).exists().then_some(())))?;
    demo.signal(signal)?;
    assert_eq!(demo.wait()?, 1, "{}", demo.stderr());
    assert_eq!(processes(dir.path())?, [""; 0], "after {reached}");
    Ok(())
}

#[test]
fn an_interrupted_start_leaves_nothing_running() -> Result<()> {
    let dir = directory()?;
    interrupt_when(&dir, "control/control.lock", Signal::SIGINT)?;
    interrupt_when(&dir, "control/postgres/data/postmaster.pid", Signal::SIGTERM)
}

/// A control that cannot work ends by itself; its database must not stay.
#[test]
fn a_failed_start_leaves_nothing_running() -> Result<()> {
    let dir = directory()?;
    fs::create_dir(dir.path().join("control"))?;
    fs::write(dir.path().join("control/admin-api-key"), "no key\n")?;
    let mut demo = demo(&dir, &["--once"])?;
    let (code, _, log) = demo.finish()?;
    assert_eq!(code, 1);
    assert!(log.contains("control ended"), "{log}");
    assert_eq!(processes(dir.path())?, [""; 0]);
    Ok(())
}

#[test]
fn another_demo_is_said_and_left_alone() -> Result<()> {
    let dir = directory()?;
    let data = dir.path().join("control");
    fs::create_dir_all(data.join("postgres"))?;
    let lock = File::create(data.join("control.lock"))?;
    let held = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error)?;
    for arguments in [&["--once"][..], &["--once", "--reset"]] {
        let (code, _, log) = demo(&dir, arguments)?.finish()?;
        assert_eq!(code, 1);
        let line = log.lines().last().context("a line")?;
        let pid = std::process::id();
        for part in ["another demo runs in", &dir.path().display().to_string(), "Ctrl-C", &format!("`kill {pid}`")] {
            assert!(line.contains(part), "{part:?} in {line:?}");
        }
        assert!(data.join("postgres").exists(), "not deleted");
    }
    drop(held);
    Ok(())
}

/// A demo that was killed with SIGKILL leaves everything running; the next `--reset` stops it before it deletes.
#[test]
fn a_reset_stops_what_a_killed_demo_left() -> Result<()> {
    let dir = directory()?;
    let mut demo_process = demo(&dir, &["--once"])?;
    eventually("control answers", || Ok(dir.path().join("control/address").exists().then_some(())))?;
    demo_process.signal(Signal::SIGKILL)?;
    demo_process.wait()?;
    let (_, _, log) = demo(&dir, &["--once", "--reset"])?.finish()?;
    let told = log.lines().last().context("a line")?;
    let pid: i32 =
        told.rsplit_once("`kill ").and_then(|(_, rest)| rest.trim_end_matches('`').parse().ok()).context("a pid")?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    eventually("control is gone", || Ok((!Path::new(&format!("/proc/{pid}")).exists()).then_some(())))?;
    interrupt_when_reset(&dir)
}

fn interrupt_when_reset(dir: &Arc<TempDir>) -> Result<()> {
    let mark = dir.path().join("control/mark");
    File::create(&mark)?;
    let mut demo = demo(dir, &["--once", "--reset"])?;
    eventually("the directory is made anew", || {
        Ok((!mark.exists() && dir.path().join("control/control.lock").exists()).then_some(()))
    })?;
    demo.signal(Signal::SIGINT)?;
    assert_eq!(demo.wait()?, 1, "{}", demo.stderr());
    assert_eq!(processes(dir.path())?, [""; 0]);
    Ok(())
}
