//! Disks that fail: errors of single system calls, inodes that run out, a device that takes no more writes.
//!
//! After each fault: the answer says what is wrong, the old content is there whole, what was acknowledged is there, nothing is recorded that
//! did not happen, and once the fault is gone everything goes on without a restart. `disk.rs` has the volume that is merely full.
//!
//! The faults of single calls need the build with failpoints, the devices root; without them the test says that it is skipped.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use winston_tests::http::Answer;
use winston_tests::process::{is_root, skip};
use winston_tests::sidecar::{Setup, Sidecar, journal_lines};
use winston_tests::wait::eventually;

const RAW: (&str, &str) = ("Content-Type", "application/octet-stream");

/// Status and code of a failure at a place.
fn meant(place: &str, error: &str) -> (u16, &'static str) {
    match error {
        "enospc" => (507, "no_space"),
        "erofs" if !place.starts_with("journal") => (503, "read_only"),
        _ if place.starts_with("journal") => (503, "journal_unavailable"),
        _ => (500, "internal"),
    }
}

fn check_refused(answer: &Answer, (status, code): (u16, &str)) -> Result<()> {
    let text = answer.text();
    ensure!(
        answer.status == status && answer.json()?["code"] == code,
        "wanted {status} {code}, got {}: {text}",
        answer.status
    );
    Ok(())
}

/// Sequence numbers without a gap, and every line whole.
fn check_journal(data: &Path) -> Result<()> {
    for (position, line) in journal_lines(data)?.iter().enumerate() {
        let record: Value = serde_json::from_str(line).with_context(|| format!("line {position}: {line:?}"))?;
        ensure!(record["seq"] == position as u64 + 1, "line {position} is {}", record["seq"]);
    }
    Ok(())
}

fn check_nothing_staged(data: &Path) -> Result<()> {
    let staged: Vec<_> =
        std::fs::read_dir(data.join(".winston/staging"))?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    ensure!(staged.is_empty(), "staged: {staged:?}");
    Ok(())
}

/// The same request until it is answered with 200.
fn until_it_works(call: impl Fn() -> Result<Answer>) -> Result<()> {
    eventually("it works again", || call()?.expect(200).map(|_| Some(())))
}

const PLACES: [&str; 5] = ["stage-write", "stage-sync", "dir-sync", "journal-write", "journal-sync"];

/// One place fails once with one error while a file is replaced, made and removed.
fn one_failure(place: &str, error: &str) -> Result<()> {
    let fails_at =
        |count: u32| Setup::new()?.failpoints(&format!("{place}={error}@{count}x1")).map_err(anyhow::Error::msg);
    // A file is replaced: its second write meets the fault.
    let sidecar = fails_at(2)?.start()?;
    sidecar.put("a.md", "old")?.expect(200)?;
    check_refused(&sidecar.put("a.md", "new")?, meant(place, error)).context("replacing")?;
    ensure!(std::fs::read_to_string(sidecar.data().join("a.md"))? == "old", "the old content is gone");
    ensure!(sidecar.get("/files/a.md")?.expect(200)?.json()?["content"] == "old");
    ensure!(sidecar.history("a.md")? == ["admin create"], "history: {:?}", sidecar.history("a.md")?);
    until_it_works(|| sidecar.put("a.md", "new")).context("replacing")?;
    sidecar.agent_writes("b.md", "the agent's")?;
    sidecar.wait_for_history("b.md", &["agent create"])?;
    ensure!(sidecar.history("a.md")? == ["admin create", "admin update"], "history: {:?}", sidecar.history("a.md")?);
    check_nothing_staged(sidecar.data())?;
    let (_, setup) = sidecar.stop()?;
    check_journal(setup.data())?;
    // A crash later, the same is there.
    let sidecar = setup.env("WINSTON_FAILPOINTS", "").start()?;
    ensure!(sidecar.history("a.md")? == ["admin create", "admin update"]);
    ensure!(sidecar.get("/files/a.md")?.expect(200)?.json()?["content"] == "new");

    // A file is made.
    let sidecar = fails_at(1)?.start()?;
    check_refused(&sidecar.put("new/a.md", "new")?, meant(place, error)).context("creating")?;
    ensure!(!sidecar.data().join("new/a.md").exists(), "the file is there after all");
    ensure!(sidecar.changes()?.is_empty(), "{:?}", sidecar.changes()?);
    until_it_works(|| sidecar.put("new/a.md", "new")).context("creating")?;
    ensure!(sidecar.history("new/a.md")? == ["admin create"], "history: {:?}", sidecar.history("new/a.md")?);
    check_nothing_staged(sidecar.data())?;

    // A file is removed.
    if !place.starts_with("stage") {
        let sidecar = fails_at(2)?.start()?;
        sidecar.put("a.md", "old")?.expect(200)?;
        let delete = || sidecar.call("DELETE", "/files/a.md", &[], b"");
        check_refused(&delete()?, meant(place, error)).context("removing")?;
        ensure!(std::fs::read_to_string(sidecar.data().join("a.md"))? == "old", "removed after all");
        ensure!(sidecar.history("a.md")? == ["admin create"], "history: {:?}", sidecar.history("a.md")?);
        until_it_works(delete).context("removing")?;
        ensure!(
            sidecar.history("a.md")? == ["admin create", "admin delete"],
            "history: {:?}",
            sidecar.history("a.md")?
        );
        check_nothing_staged(sidecar.data())?;
    }
    Ok(())
}

fn all_failures_with(test: &str, error: &str) -> Result<()> {
    if let Err(reason) = Setup::new()?.failpoints("") {
        skip(test, &reason);
        return Ok(());
    }
    let outcomes = PLACES.map(|place| (place, one_failure(place, error)));
    let wrong: Vec<_> = outcomes
        .iter()
        .filter_map(|(place, outcome)| Some(format!("{place}={error}: {:#}", outcome.as_ref().err()?)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn an_io_error_anywhere_in_an_edit_changes_nothing() -> Result<()> {
    all_failures_with("an_io_error_anywhere_in_an_edit_changes_nothing", "eio")
}

#[test]
fn a_full_volume_anywhere_in_an_edit_changes_nothing() -> Result<()> {
    all_failures_with("a_full_volume_anywhere_in_an_edit_changes_nothing", "enospc")
}

#[test]
fn a_read_only_volume_anywhere_in_an_edit_changes_nothing() -> Result<()> {
    all_failures_with("a_read_only_volume_anywhere_in_an_edit_changes_nothing", "erofs")
}

/// What the agent does while nothing can be recorded is recorded once that works again.
#[test]
fn edits_of_the_agent_wait_for_the_journal() -> Result<()> {
    for place in ["journal-write", "journal-sync"] {
        let setup = match Setup::new()?.failpoints(&format!("{place}=eio@2x2")) {
            Ok(setup) => setup,
            Err(reason) => {
                skip("edits_of_the_agent_wait_for_the_journal", &reason);
                return Ok(());
            }
        };
        let sidecar = setup.start()?;
        sidecar.put("a.md", "old")?.expect(200)?;
        sidecar.agent_writes("a.md", "the agent's")?;
        sidecar.wait_for_history("a.md", &["admin create", "agent update"]).context(place)?;
        sidecar.agent_writes("b.md", "another")?;
        sidecar.wait_for_history("b.md", &["agent create"]).context(place)?;
        let (_, setup) = sidecar.stop()?;
        check_journal(setup.data()).context(place)?;
    }
    Ok(())
}

/// A tree that was there before goes to the journal in several parts at once. Some of them fail, those behind them may not: every file has one record
/// in the end.
#[test]
fn a_first_listing_whose_parts_fail_records_every_file_once() -> Result<()> {
    const FILES: usize = 400;
    for place in ["journal-write", "journal-sync"] {
        let setup = match Setup::new()?.failpoints(&format!("{place}=eio@3x3")) {
            Ok(setup) => setup,
            Err(reason) => {
                skip("a_first_listing_whose_parts_fail_records_every_file_once", &reason);
                return Ok(());
            }
        };
        let directory = setup.data().join("workspace");
        std::fs::create_dir(&directory)?;
        for number in 0..FILES {
            std::fs::write(directory.join(format!("{number}.md")), format!("{number} ").repeat(5000))?;
        }
        let sidecar = setup.start()?;
        eventually("every file is recorded", || Ok((journal_lines(sidecar.data())?.len() >= FILES).then_some(())))
            .context(place)?;
        sidecar.wait_for_log("could not record changes; trying again with growing pauses").context(place)?;
        let (_, setup) = sidecar.stop()?;
        check_journal(setup.data()).context(place)?;
        let mut recorded = Vec::new();
        for line in journal_lines(setup.data())? {
            let record: Value = serde_json::from_str(&line)?;
            ensure!(record["action"] == "create", "{place}: {line:.200}");
            recorded.push(record["path"].to_string());
        }
        recorded.sort();
        recorded.dedup();
        ensure!(recorded.len() == FILES, "{place}: {} files are recorded", recorded.len());
        ensure!(journal_lines(setup.data())?.len() == FILES, "{place}: a file is recorded twice");
    }
    Ok(())
}

/// The journal fails for good: edits are refused for as long as that lasts, everything else goes on, and the next start has it all.
#[test]
fn a_journal_that_stays_broken_stops_edits_and_nothing_else() -> Result<()> {
    let setup = match Setup::new()?.failpoints("journal-sync=eio@2") {
        Ok(setup) => setup,
        Err(reason) => {
            skip("a_journal_that_stays_broken_stops_edits_and_nothing_else", &reason);
            return Ok(());
        }
    };
    let sidecar = setup.start()?;
    sidecar.put("a.md", "old")?.expect(200)?;
    sidecar.agent_writes("b.md", "the agent's")?;
    for count in 0..3 {
        check_refused(&sidecar.put("a.md", &format!("new {count}"))?, (503, "journal_unavailable"))?;
        check_refused(&sidecar.put("c.md", &format!("new {count}"))?, (503, "journal_unavailable"))?;
        check_refused(&sidecar.call("DELETE", "/files/a.md", &[], b"")?, (503, "journal_unavailable"))?;
        assert_eq!(sidecar.get("/files/a.md")?.expect(200)?.json()?["content"], "old");
    }
    sidecar.get("/health")?.expect(200)?;
    sidecar.get("/files?path=")?.expect(200)?;
    assert!(!sidecar.data().join("c.md").exists());
    let setup = sidecar.kill()?;
    let sidecar = setup.env("WINSTON_FAILPOINTS", "").start()?;
    sidecar.wait_for_history("b.md", &["agent create"])?;
    assert_eq!(sidecar.history("a.md")?, ["admin create"]);
    sidecar.put("a.md", "new")?.expect(200)?;
    assert_eq!(sidecar.history("a.md")?, ["admin create", "admin update"]);
    Ok(())
}

/// A volume with room for bytes and none for names.
#[test]
fn inodes_that_run_out_are_a_full_volume() -> Result<()> {
    const TEST: &str = "inodes_that_run_out_are_a_full_volume";
    let setup = match Setup::new()?.volume("16m,nr_inodes=80", "")? {
        Ok(setup) => setup,
        Err(reason) => {
            skip(TEST, &reason);
            return Ok(());
        }
    };
    let sidecar = setup.start()?;
    sidecar.put("a.md", "old")?.expect(200)?;
    sidecar.put("b.md", "old")?.expect(200)?;
    let mut made = 0;
    while sidecar.put(&format!("fill/{made}.md"), "x")?.status == 200 {
        made += 1;
        assert!(made < 100, "the volume has more inodes than it was given");
    }
    // The last ones.
    let mut rest = 0;
    while std::fs::write(sidecar.volume().join(format!("rest{rest}.tmp")), "").is_ok() {
        rest += 1;
    }
    check_refused(&sidecar.put("a.md", "new")?, (507, "no_space"))?;
    check_refused(&sidecar.put("new.md", "new")?, (507, "no_space"))?;
    assert_eq!(sidecar.get("/files/a.md")?.expect(200)?.json()?["content"], "old");
    // Neither the agent's own writes nor recording them takes an inode.
    std::fs::write(sidecar.volume().join("b.md"), "the agent's")?;
    sidecar.wait_for_history("b.md", &["admin create", "agent update"])?;
    check_nothing_staged(&sidecar.volume())?;
    // Removing needs a name for its intent; where there is none left it says so, and room made by the agent is used at once.
    for number in 0..rest {
        std::fs::remove_file(sidecar.volume().join(format!("rest{number}.tmp")))?;
    }
    std::fs::remove_file(sidecar.volume().join("fill/0.md"))?;
    std::fs::remove_file(sidecar.volume().join("fill/1.md"))?;
    until_it_works(|| sidecar.put("a.md", "new"))?;
    assert_eq!(sidecar.history("a.md")?, ["admin create", "admin update"]);
    sidecar.call("DELETE", "/files/fill/2.md", &[], b"")?.expect(200)?;
    sidecar.wait_for_history("fill/0.md", &["admin create", "agent delete"])?;
    check_journal(&sidecar.volume())
}

/// A file system on a device that stops taking writes: as long as its backing file cannot grow, flushing fails with an I/O error.
fn device(setup: Setup) -> Result<Result<Setup, String>> {
    if !is_root() {
        return Ok(Err("a loop device needs root".to_owned()));
    }
    let disk = setup.outside().join("disk");
    std::fs::create_dir(&disk)?;
    // Without a journal of its own the file system does not turn read-only at the first failed write.
    let mount = format!(
        "mount -t tmpfs -o size=24m tmpfs {0} && truncate -s 64m {0}/image && mkfs.ext4 -q -F -N 1024 -O ^has_journal -E lazy_itable_init=0,nodiscard {0}/image && mount -o loop {0}/image \"$WINSTON_DATA_DIR\"",
        disk.display()
    );
    setup.mounted(&mount, "rmdir lost+found")
}

/// Takes the device's room, or gives it back.
struct Room(std::path::PathBuf);

impl Room {
    fn of(sidecar: &Sidecar) -> Result<Self> {
        let outside = sidecar.data().parent().context("parent")?;
        Ok(Self(sidecar.seen_by_it(&outside.join("disk")).join("filler")))
    }

    fn take(&self) -> Result<()> {
        let taken =
            Command::new("dd").args(["if=/dev/zero", "bs=4096", &format!("of={}", self.0.display())]).output()?;
        ensure!(!taken.status.success(), "the device's room has no end");
        Ok(())
    }

    fn give_back(&self) -> Result<()> {
        Ok(std::fs::remove_file(&self.0)?)
    }
}

#[test]
fn a_device_that_takes_no_writes_loses_nothing_that_was_acknowledged() -> Result<()> {
    const TEST: &str = "a_device_that_takes_no_writes_loses_nothing_that_was_acknowledged";
    let setup = match device(Setup::new()?)? {
        Ok(setup) => setup,
        Err(reason) => {
            skip(TEST, &reason);
            return Ok(());
        }
    };
    let sidecar = setup.start()?;
    let room = Room::of(&sidecar)?;
    let content = |number: u32| format!("{number} ").repeat(20_000);
    let mut acknowledged = vec![];
    for number in 0..4 {
        sidecar.call("PUT", &format!("/files/f{number}.md"), &[RAW], content(number).as_bytes())?.expect(200)?;
        acknowledged.push(number);
    }
    room.take()?;
    // New blocks cannot be written back, so sooner or later each large write fails.
    let mut refused = vec![];
    for number in 4..40 {
        let answer = sidecar.call("PUT", &format!("/files/f{number}.md"), &[RAW], content(number).as_bytes())?;
        match answer.status {
            200 => acknowledged.push(number),
            500 | 503 | 507 => refused.push(number),
            _ => bail!("{}: {}", answer.status, answer.text()),
        }
        if refused.len() == 4 {
            break;
        }
    }
    ensure!(refused.len() == 4, "the device took everything");
    let replaced = sidecar.call("PUT", "/files/f0.md", &[RAW], content(100).as_bytes())?;
    ensure!(matches!(replaced.status, 500 | 503 | 507), "{}: {}", replaced.status, replaced.text());
    sidecar.get("/health")?.expect(200)?;
    for number in &acknowledged {
        let read = sidecar.call("GET", &format!("/files/f{number}.md"), &[("Accept", RAW.1)], b"")?.expect(200)?;
        ensure!(read.body == content(*number).as_bytes(), "f{number}.md is another");
    }
    for number in &refused {
        sidecar.get(&format!("/files/f{number}.md"))?.expect(404)?;
        ensure!(sidecar.history(&format!("f{number}.md"))?.is_empty(), "f{number}.md is recorded");
    }
    // The device takes writes again: without a restart everything goes on.
    room.give_back()?;
    for number in &refused {
        until_it_works(|| sidecar.call("PUT", &format!("/files/f{number}.md"), &[RAW], content(*number).as_bytes()))?;
    }
    std::fs::write(sidecar.volume().join("agent.md"), "the agent's")?;
    sidecar.wait_for_history("agent.md", &["agent create"])?;
    for number in acknowledged.iter().chain(&refused) {
        assert_eq!(sidecar.history(&format!("f{number}.md"))?, ["admin create"], "f{number}.md");
    }
    check_journal(&sidecar.volume())?;
    check_nothing_staged(&sidecar.volume())?;
    // What the device has, and not only the kernel's memory.
    for number in acknowledged.iter().chain(&refused) {
        let file = std::fs::File::open(sidecar.volume().join(format!("f{number}.md")))?;
        nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    }
    for number in acknowledged.iter().chain(&refused) {
        let read = sidecar.call("GET", &format!("/files/f{number}.md"), &[("Accept", RAW.1)], b"")?.expect(200)?;
        ensure!(read.body == content(*number).as_bytes(), "f{number}.md is another on the device");
    }
    Ok(())
}

/// The kernel turns a damaged volume read-only under a running sidecar. (Nobody else can: its journal is open for writing, so a remount is
/// refused as busy. The way back is therefore the one of `a_read_only_volume_anywhere_in_an_edit_changes_nothing`.)
#[test]
fn a_volume_that_the_kernel_made_read_only_is_served() -> Result<()> {
    const TEST: &str = "a_volume_that_the_kernel_made_read_only_is_served";
    let setup = Setup::new()?;
    if !is_root() {
        skip(TEST, "a loop device needs root");
        return Ok(());
    }
    let image = setup.outside().join("image");
    let mount = format!(
        "truncate -s 32m {0} && mkfs.ext4 -q -F {0} && mount -o loop,errors=remount-ro {0} \"$WINSTON_DATA_DIR\"",
        image.display()
    );
    let setup = match setup.mounted(&mount, "rmdir lost+found")? {
        Ok(setup) => setup,
        Err(reason) => {
            skip(TEST, &reason);
            return Ok(());
        }
    };
    let sidecar = setup.start()?;
    sidecar.put("a.md", "old")?.expect(200)?;
    let mounts = std::fs::read_to_string(format!("/proc/{}/mounts", sidecar.pid()))?;
    let data = sidecar.data().display().to_string();
    let device = mounts.lines().find_map(|line| line.split_once(&format!(" {data} ")).map(|(device, _)| device));
    let device = device.and_then(|device| device.strip_prefix("/dev/")).context("the volume's device")?;
    if let Err(error) = std::fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1") {
        skip(TEST, &format!("trigger_fs_error: {error}"));
        return Ok(());
    }
    for _ in 0..3 {
        check_refused(&sidecar.put("a.md", "new")?, (503, "read_only"))?;
        check_refused(&sidecar.put("new/b.md", "new")?, (503, "read_only"))?;
        check_refused(&sidecar.call("DELETE", "/files/a.md", &[], b"")?, (503, "read_only"))?;
        assert!(sidecar.put("a.md", "new")?.header("retry-after").is_some());
        assert_eq!(sidecar.get("/files/a.md")?.expect(200)?.json()?["content"], "old");
    }
    sidecar.get("/files?path=")?.expect(200)?;
    sidecar.get("/health")?.expect(200)?;
    assert_eq!(sidecar.history("a.md")?, ["admin create"]);
    check_journal(&sidecar.volume())
}
