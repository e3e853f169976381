//! The logs of sidecar and entrypoint: whoever reads them, or does not, changes nothing else.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use winston_tests::http;
use winston_tests::process::{TEST_TOKEN, bin};
use winston_tests::sidecar::Setup;
use winston_tests::wait::eventually;

/// Killed when the test fails.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pipe into which nothing fits any more, and how much is in it.
fn full_pipe() -> Result<(File, OwnedFd, usize)> {
    let (reader, writer) = std::io::pipe()?;
    let mut writer = File::from(OwnedFd::from(writer));
    // The flag belongs to both ends of what the child inherits, so it is taken away again.
    rustix::io::ioctl_fionbio(&writer, true)?;
    let mut filled = 0;
    loop {
        // The last bytes one by one: a pipe takes a large write whole or in part, but may refuse it with some room left.
        match writer.write(&[b'.'; 4096]).or_else(|_| writer.write(b".")) {
            Ok(written) => filled += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
    }
    rustix::io::ioctl_fionbio(&writer, false)?;
    Ok((File::from(OwnedFd::from(reader)), writer.into(), filled))
}

fn healthy(address: SocketAddr) -> Result<()> {
    eventually("/health", || {
        let answer = http::request(address, "GET", "/health", &[], b"")?;
        Ok((answer.status == 200).then_some(()))
    })
}

fn start(mut command: Command, stdout: Stdio) -> Result<(Guard, SocketAddr)> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    command.env("WINSTON_SIDECAR_LISTEN", address.to_string()).stdout(stdout);
    let child = Guard(command.spawn().context("winston-sidecar")?);
    Ok((child, address))
}

fn stop(child: &mut Guard) -> Result<()> {
    kill(Pid::from_raw(i32::try_from(child.0.id())?), Signal::SIGTERM)?;
    let status = eventually("the sidecar ends", || Ok(child.0.try_wait()?))?;
    assert_eq!(status.code(), Some(0), "{status}");
    Ok(())
}

#[test]
fn an_output_that_nobody_reads_stops_nothing() -> Result<()> {
    let (_unread, stdout, _) = full_pipe()?;
    let setup = Setup::new()?;
    let mut command = setup.command()?;
    command.stderr(Stdio::null());
    let (mut child, address) = start(command, stdout.into())?;
    healthy(address)?;
    stop(&mut child)
}

#[test]
fn what_waited_for_a_slow_reader_comes() -> Result<()> {
    let (mut reader, stdout, filled) = full_pipe()?;
    let setup = Setup::new()?;
    let mut command = setup.command()?;
    command.stderr(Stdio::null());
    let (mut child, address) = start(command, stdout.into())?;
    healthy(address)?;
    let mut text = vec![0; filled];
    reader.read_exact(&mut text)?;
    stop(&mut child)?;
    let mut log = String::new();
    reader.read_to_string(&mut log)?;
    let messages: Vec<String> = log
        .lines()
        .map(|line| Ok(serde_json::from_str::<serde_json::Value>(line)?["message"].to_string()))
        .collect::<Result<_>>()?;
    assert!(messages.iter().any(|message| message == "\"listening\""), "{log}");
    assert!(log.ends_with('\n'), "the last line is whole");
    Ok(())
}

#[test]
fn a_start_that_fails_ends_whoever_reads() -> Result<()> {
    let setup = Setup::new()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let mut command = setup.command()?;
    command.env("WINSTON_SIDECAR_LISTEN", taken.local_addr()?.to_string());
    let output = command.output()?;
    assert_eq!(output.status.code(), Some(69));
    let (log, error) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    assert!(log.lines().last().is_some_and(|line| line.contains("cannot run")), "{log}");
    assert!(error.starts_with("winston-sidecar: "), "{error}");

    let (_unread, stdout, _) = full_pipe()?;
    let (_unread_too, stderr, _) = full_pipe()?;
    let mut child = Guard(command.stdout(stdout).stderr(stderr).spawn()?);
    let status = eventually("the sidecar ends", || Ok(child.0.try_wait()?))?;
    assert_eq!(status.code(), Some(69));
    Ok(())
}

#[test]
fn pid_1_does_not_wait_for_a_reader_either() -> Result<()> {
    let setup = Setup::new()?;
    let (_unread, stdout, _) = full_pipe()?;
    let (_unread_too, stderr, _) = full_pipe()?;
    let mut command = Command::new(bin("winston-entrypoint")?);
    command
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| name == "PATH"))
        .env("WINSTON_TENANT_ID", "test-tenant")
        .env("WINSTON_SIDECAR_TOKEN", TEST_TOKEN)
        .env("WINSTON_DATA_DIR", setup.data())
        .env("WINSTON_GATEWAY", "off")
        .stdin(Stdio::null())
        .stderr(stderr);
    let (mut child, address) = start(command, stdout.into())?;
    healthy(address)?;
    stop(&mut child)
}
