//! A sidecar that was away from control for long: thousands of changes wait, and all of them arrive once, in bounded memory.
//!
//! 5,000 changes; with `WINSTON_LONG=1` 100,000.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use winston_tests::sidecar::Sidecar;
use winston_tests::tenant::{Tenant, block_on, hash};
use winston_tests::wait::within;

/// Connections that write at the same time; each has some files of its own.
const WRITERS: usize = 8;
const FILES: usize = 25;

/// Every so many changes one with a content that is a file of its own in the journal.
const LARGE_EVERY: usize = 500;
const LARGE: usize = 600_000;

/// Memory of the process's own that it may take at any time, in KiB.
const MOST_KIB: u64 = 20 * 1024;

/// Longest time for writing and sending, each.
const PATIENCE: Duration = Duration::from_secs(540);

/// Resident memory that belongs to the process alone, in KiB. The pages of the program file are left out: a build for tests has many.
fn anonymous_kib(sidecar: &Sidecar) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sidecar.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn content(number: usize) -> Vec<u8> {
    let text = format!("change {number}\n");
    let repeat = if number.is_multiple_of(LARGE_EVERY) { LARGE / text.len() } else { 1 };
    text.repeat(repeat).into_bytes()
}

/// Writes all changes; path and hash of each.
fn write_all(sidecar: &Sidecar, changes: usize) -> Result<HashSet<(String, String)>> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let next = &next;
                scope.spawn(move || -> Result<_> {
                    let (client, mut written) = (sidecar.client(), Vec::new());
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= changes {
                            return Ok(written);
                        }
                        let (path, content) = (format!("workspace/w{writer}/f{}.md", number % FILES), content(number));
                        let octets = [("Content-Type", "application/octet-stream")];
                        client.call("PUT", &format!("/files/{path}"), &octets, &content)?.expect(200)?;
                        written.push((path, hash(&content)));
                    }
                })
            })
            .collect();
        let mut written = HashSet::new();
        for writer in writers {
            written.extend(writer.join().map_err(|_| anyhow::anyhow!("a writer failed"))??);
        }
        Ok(written)
    })
}

/// Everything that control has of the journal, checked to be in order: path and hash of each change.
fn arrived(tenant: &Tenant) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    loop {
        let page = tenant.get(&format!("/changes?after={}&limit=1000", all.len()))?;
        let changes = page["changes"].as_array().context("changes")?;
        if changes.is_empty() {
            return Ok(all);
        }
        for change in changes {
            ensure!(change["seq"] == all.len() + 1, "{change} is number {}", all.len() + 1);
            ensure!(change["content_omitted"] != true, "{change}");
            let text = |key: &str| change[key].as_str().map(str::to_owned).context("text");
            all.push((text("path")?, text("hash")?));
        }
    }
}

#[test]
fn a_long_backlog_arrives_once_in_bounded_memory() -> Result<()> {
    let changes = if std::env::var_os("WINSTON_LONG").is_some() { 100_000 } else { 5_000 };
    let mut control = Tenant::control()?;
    let tenant = Tenant::create(&control, "backlog@test.example")?;
    let sidecar = tenant.sidecar()?.start()?;
    sidecar.wait_for_sync_state("connected")?;
    control.kill();
    let written = write_all(&sidecar, changes)?;
    ensure!(written.len() == changes);
    // A new process, as after a week: what it needs to know it reads from the disk.
    let sidecar = sidecar.kill()?.start()?;
    let mut most = anonymous_kib(&sidecar)?;
    block_on(control.start_again())?;
    within(PATIENCE, "everything is acknowledged", || {
        most = most.max(anonymous_kib(&sidecar)?);
        let journal = sidecar.status()?["journal"].take();
        if journal["acked_seq"] == changes { Ok(Some(())) } else { bail!("{journal}") }
    })?;
    ensure!(most < MOST_KIB, "{most} KiB of memory");
    let arrived = arrived(&tenant)?;
    ensure!(arrived.len() == changes, "{} changes in control", arrived.len());
    let once: HashSet<_> = arrived.iter().cloned().collect();
    ensure!(once == written, "control has other changes than were written");
    println!("{changes} changes, at most {most} KiB");
    Ok(())
}
