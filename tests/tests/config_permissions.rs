//! A configuration that the gateway may not read: what is in it stays, and its user may read it again.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use winston_tests::process::{is_root, skip};
use winston_tests::sidecar::Setup;
use winston_tests::trial::{CONFIG, Host, config, setup};
use winston_tests::wait::eventually;

/// User of the gateway.
const AGENT: u32 = 64_001;

/// A sidecar of root's whose gateway is another user's. Elsewhere the test says that it is skipped.
fn two_users(test: &str) -> Result<Option<Setup>> {
    if !is_root() {
        skip(test, "needs root");
        return Ok(None);
    }
    let (setup, _) = setup(Setup::new()?.env("WINSTON_GATEWAY_UID", &AGENT.to_string()))?;
    std::fs::set_permissions(setup.outside(), PermissionsExt::from_mode(0o755))?;
    for directory in [".openclaw", ".home"] {
        chown(setup.data().join(directory), Some(AGENT), Some(AGENT))?;
    }
    Ok(Some(setup))
}

/// What `docker exec … openclaw config set` leaves behind.
fn root_writes(data: &Path, content: &str) -> Result<()> {
    let (file, new) = (data.join(CONFIG), data.join(".openclaw/new"));
    std::fs::write(&new, content)?;
    std::fs::set_permissions(&new, PermissionsExt::from_mode(0o600))?;
    Ok(std::fs::rename(new, file)?)
}

fn owner_and_mode(data: &Path) -> Result<(u32, u32, u32)> {
    let meta = data.join(CONFIG).symlink_metadata()?;
    Ok((meta.uid(), meta.gid(), meta.mode() & 0o7777))
}

fn wait_until_readable(host: &Host, mode: u32) -> Result<()> {
    eventually("its user may read it", || {
        let found = owner_and_mode(host.sidecar.data())?;
        ensure!(found == (AGENT, AGENT, mode), "{found:?}");
        Ok(Some(()))
    })
}

/// Nothing was brought back, and nothing is missing.
fn unrepaired(host: &Host) -> Result<()> {
    let report = host.report()?;
    ensure!((&report["repair"], &report["trouble"]) == (&Value::Null, &Value::Null), "{report}");
    Ok(())
}

#[test]
fn what_only_root_may_read_is_given_to_its_user() -> Result<()> {
    let Some(setup) = two_users("what_only_root_may_read_is_given_to_its_user")? else { return Ok(()) };
    let host = Host::start(&setup, &config("old", &json!({})))?;
    let new = config("new", &json!({}));
    root_writes(host.sidecar.data(), &new)?;
    host.gateway.order("restart")?;
    wait_until_readable(&host, 0o600)?;
    host.wait_until_good()?;
    assert_eq!(host.on_disk()?, new);
    host.sidecar.wait_for_log("the user of the gateway could not read openclaw.json; now it can")?;
    unrepaired(&host)
}

/// Not even the first start of a gateway meets it.
#[test]
fn what_a_start_finds_is_mended_before_the_gateway_reads_it() -> Result<()> {
    let Some(setup) = two_users("what_a_start_finds_is_mended_before_the_gateway_reads_it")? else { return Ok(()) };
    let setup = Host::start(&setup, &config("old", &json!({})))?.sidecar.kill()?;
    let new = config("new", &json!({}));
    for (content, owner, mode) in [(&new, 0, 0o600), (&new, AGENT, 0), (&new, 0, 0)] {
        root_writes(setup.data(), content)?;
        chown(setup.data().join(CONFIG), Some(owner), Some(owner))?;
        std::fs::set_permissions(setup.data().join(CONFIG), PermissionsExt::from_mode(mode))?;
        let host = Host::of(setup.start()?);
        wait_until_readable(&host, 0o600)?;
        host.wait_until_good()?;
        let status = host.gateway.status()?;
        assert_eq!((&status["restarts"], &status["last_exit"]), (&json!(0), &Value::Null), "{status}");
        assert_eq!(host.on_disk()?, new);
        unrepaired(&host)?;
        host.sidecar.kill()?;
    }
    Ok(())
}

/// Only the bits are lost; the watcher records nothing of that, so nobody looks before the start has failed.
#[test]
fn what_was_locked_away_is_opened_again() -> Result<()> {
    let Some(setup) = two_users("what_was_locked_away_is_opened_again")? else { return Ok(()) };
    let host = Host::start(&setup, &config("old", &json!({})))?;
    let old = host.on_disk()?;
    // More often than there are good sets.
    for _ in 0..3 {
        let pid = host.gateway.wait_until_ready(None)?;
        std::fs::set_permissions(host.sidecar.data().join(CONFIG), PermissionsExt::from_mode(0o000))?;
        host.gateway.order("restart")?;
        host.gateway.wait_until_ready(Some(pid))?;
        host.wait_until_good()?;
        assert_eq!(host.on_disk()?, old);
        unrepaired(&host)?;
    }
    Ok(())
}

/// What we put in the place of such a file is its user's.
#[test]
fn what_is_written_over_it_can_be_read() -> Result<()> {
    let Some(setup) = two_users("what_is_written_over_it_can_be_read")? else { return Ok(()) };
    let host = Host::start(&setup, &config("old", &json!({})))?;
    host.sidecar.pause()?;
    root_writes(host.sidecar.data(), &config("theirs", &json!({})))?;
    host.sidecar.resume()?;
    let new = config("new", &json!({}));
    let verdict = host.put(&new)?.expect(200)?.json()?;
    assert_eq!(verdict["verdict"], "applied", "{verdict}");
    assert_eq!(owner_and_mode(host.sidecar.data())?, (AGENT, AGENT, 0o600));
    assert_eq!(host.on_disk()?, new);
    Ok(())
}
