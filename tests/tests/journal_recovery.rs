//! The journal of a real sidecar: writes and flushes that fail, the cap while control is away, and crashes while contents are dropped.
//! What damaged files lead to is tested beside the code.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use winston_tests::process::skip;
use winston_tests::sidecar::{Setup, Sidecar, journal_lines};
use winston_tests::tenant::{Tenant, block_on, hash};
use winston_tests::wait::eventually;

/// Segments of 20 kB and a cap of five of them.
const SEGMENT: &str = "20000";
const CAP: u64 = 100_000;

/// A content that is too large for a line, and still small against [`CAP`].
const LARGE: usize = 65 * 1024;

fn segments(data: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(data.join(".winston/changes"))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// The records of a journal, whose numbers must be without gaps from 1.
fn records(data: &Path) -> Result<Vec<Value>> {
    let lines = journal_lines(data)?;
    let records: Vec<Value> = lines.iter().map(|line| Ok(serde_json::from_str(line)?)).collect::<Result<_>>()?;
    for (index, record) in records.iter().enumerate() {
        ensure!(record["seq"] == index + 1, "record {} has number {}", index + 1, record["seq"]);
    }
    Ok(records)
}

/// Control's address is taken by nobody, so that control is away for good.
fn capped(setup: Setup) -> Result<Setup> {
    let nobody = winston_tests::http::free_address()?;
    Ok(limits(setup.env("WINSTON_CONTROL_URL", &format!("http://{nobody}"))))
}

fn limits(setup: Setup) -> Setup {
    setup
        .env("WINSTON_JOURNAL_SEGMENT_BYTES", SEGMENT)
        .env("WINSTON_MAX_FILE_BYTES", "50000")
        .env("WINSTON_JOURNAL_MAX_BYTES", &CAP.to_string())
}

fn journal(sidecar: &Sidecar) -> Result<Value> {
    Ok(sidecar.status()?["journal"].take())
}

/// A write or flush of the journal fails: the edit is refused, nothing of it stays, and the sidecar goes on by itself once the
/// disk does. After a failed flush the segment is closed.
#[test]
fn a_failed_write_or_flush_is_refused_and_got_over() -> Result<()> {
    const TEST: &str = "a_failed_write_or_flush_is_refused_and_got_over";
    // What fails, how it is answered and how often, and the segments afterwards. With each failed append comes an attempt at mending,
    // whose flush is one of the journal's too.
    for (points, status, refusals, files) in [
        ("journal-write=enospc@3x1", 507, 1, 1),
        ("journal-write=eio@3x2", 503, 2, 1),
        ("journal-sync=eio@3x1", 503, 1, 2),
        ("journal-sync=eio@3x2", 503, 1, 2),
        ("journal-sync=eio@3x4", 503, 3, 2),
        ("journal-sync=enospc@3x3", 507, 2, 2),
        ("journal-sync=eio@1x2", 503, 1, 1),
        ("journal-write=eio@3x1,journal-mend=eio@1x2", 503, 2, 1),
        ("journal-sync=eio@3x1,journal-dir-sync=eio@2x2", 503, 3, 2),
    ] {
        let setup = match Setup::new()?.failpoints(points) {
            Ok(setup) => setup,
            Err(reason) => {
                skip(TEST, &reason);
                return Ok(());
            }
        };
        let sidecar = setup.start()?;
        let mut written = Vec::new();
        let mut refused = 0;
        for count in 0..6 {
            let (path, content) = (format!("f{count}.md"), format!("content {count}"));
            loop {
                let answer = sidecar.put(&path, &content)?;
                if answer.status == 200 {
                    break;
                }
                ensure!(answer.status == status, "{points}: {} {}", answer.status, answer.text());
                ensure!(!sidecar.data().join(&path).exists(), "{points}: {path} is there although it was refused");
                refused += 1;
                ensure!(refused <= 10, "{points}: it does not recover");
            }
            written.push(path);
        }
        ensure!(refused == refusals, "{points}: refused {refused} times");
        let setup = sidecar.kill()?;
        let paths: Vec<_> = records(setup.data())?.iter().map(|record| record["path"].clone()).collect();
        ensure!(paths == written, "{points}: {paths:?}");
        ensure!(segments(setup.data())?.len() == files, "{points}: {:?}", segments(setup.data())?);
        let sidecar = setup.env("WINSTON_FAILPOINTS", "").start()?;
        for path in &written {
            ensure!(sidecar.history(path)? == ["admin create"], "{points}: {path}");
        }
        ensure!(journal(&sidecar)?["corrupt_records"] == 0, "{points}");
    }
    Ok(())
}

/// A crash at any point of dropping contents costs no record, and the next start goes on with it.
#[test]
fn a_crash_while_contents_are_dropped_costs_no_record() -> Result<()> {
    const TEST: &str = "a_crash_while_contents_are_dropped_costs_no_record";
    for points in
        ["compact-written=kill@1", "compact-written=kill@3", "compact-renamed=kill@1", "compact-renamed=kill@2"]
    {
        let setup = match capped(Setup::new()?)?.failpoints(points) {
            Ok(setup) => setup,
            Err(reason) => {
                skip(TEST, &reason);
                return Ok(());
            }
        };
        let sidecar = setup.start()?;
        let mut written = 0;
        while sidecar.put("a.md", &content(written)).is_ok_and(|answer| answer.status == 200) {
            written += 1;
            ensure!(written < 500, "{points}: it was not reached");
        }
        let setup = sidecar.kill()?;
        let sidecar = setup.env("WINSTON_FAILPOINTS", "").start()?;
        for count in written + 1..written + 40 {
            sidecar.put("a.md", &content(count))?.expect(200)?;
        }
        let now = journal(&sidecar)?;
        ensure!(now["bytes"].as_u64().is_some_and(|bytes| bytes <= CAP), "{points}: {now}");
        ensure!(now["corrupt_records"] == 0 && now["contents_dropped"].as_u64() > Some(0), "{points}: {now}");
        let setup = sidecar.kill()?;
        let records = records(setup.data())?;
        let hashes: Vec<_> = records.iter().map(|record| record["hash"].clone()).collect();
        // The write that was interrupted after its record was in the journal was never answered.
        let all: Vec<_> = (0..written + 40).map(|count| json!(hash(content(count)))).collect();
        ensure!(hashes == all, "{points}: {} records", hashes.len());
        let names = segments(setup.data())?;
        ensure!(names.iter().all(|name| name.extension().is_some_and(|end| end == "jsonl")), "{points}: {names:?}");
    }
    Ok(())
}

/// About 2 kB, another one for every number.
fn content(count: usize) -> String {
    format!("version {count}\n").repeat(150)
}

/// Over the cap the oldest contents go, never a record; and what is still in the tree as it was then arrives with its content all the same.
#[test]
fn over_the_cap_every_record_arrives_and_unchanged_files_with_their_content() -> Result<()> {
    let mut control = Tenant::control()?;
    let tenant = Tenant::create(&control, "cap@test.example")?;
    let sidecar = limits(tenant.sidecar()?).start()?;
    sidecar.wait_for_sync_state("connected")?;
    control.kill();
    let mut wanted = HashMap::new();
    for path in ["early.md", "overwritten.md", "changed.md"] {
        wanted.insert(path, content(10_000));
        sidecar.put(path, &content(10_000))?.expect(200)?;
    }
    // The same content under another name is one content; this one is another.
    sidecar.put("changed.md", &content(10_001))?.expect(200)?;
    for count in 0..150 {
        sidecar.put("overwritten.md", &content(count))?.expect(200)?;
    }
    let before = journal(&sidecar)?;
    ensure!(before["bytes"].as_u64().is_some_and(|bytes| bytes <= CAP), "{before}");
    let dropped = before["contents_dropped"].as_u64().context("contents_dropped")?;
    ensure!((80..150).contains(&dropped), "{before}");
    ensure!(sidecar.log_text().matches("WINSTON_JOURNAL_MAX_BYTES").count() == 1, "told once");
    block_on(control.start_again())?;
    let changes = eventually("everything is in control", || {
        let changes = tenant.changes()?;
        if changes.len() == 154 { Ok(Some(changes)) } else { bail!("{} changes", changes.len()) }
    })?;
    let omitted = changes.iter().filter(|change| change["content_omitted"] == true).count() as u64;
    ensure!(omitted > 50 && omitted < dropped, "{omitted} of {dropped}");
    let newest = |path: &str| changes.iter().rfind(|change| change["path"] == path).context("change");
    for (path, text) in
        [("early.md", content(10_000)), ("changed.md", content(10_001)), ("overwritten.md", content(149))]
    {
        ensure!(tenant.content_of(newest(path)?)? == text.as_bytes(), "{path}");
    }
    sidecar.wait_for_log("control has every record whose content had been dropped")?;
    Ok(())
}

/// Large contents that are damaged, cut or gone in the journal: told as lost, unless the file itself still has them; nothing waits for them.
#[test]
fn damaged_contents_do_not_hold_up_the_rest() -> Result<()> {
    let mut control = Tenant::control()?;
    let tenant = Tenant::create(&control, "damaged@test.example")?;
    let sidecar = tenant.sidecar()?.start()?;
    sidecar.wait_for_sync_state("connected")?;
    control.kill();
    let large = |count: usize| format!("{count:016}").repeat(LARGE / 16 + count);
    for count in 0..4 {
        sidecar.put(&format!("gone{count}.md"), &large(count))?.expect(200)?;
        sidecar.put(&format!("gone{count}.md"), "replaced")?.expect(200)?;
        sidecar.put(&format!("kept{count}.md"), &large(10 + count))?.expect(200)?;
    }
    let setup = sidecar.kill()?;
    let object = |count: usize| setup.data().join(".winston/objects").join(hash(large(count)));
    for base in [0, 10] {
        // One flipped, one cut, one gone, one whole.
        let mut bytes = std::fs::read(object(base))?;
        bytes[LARGE / 2] ^= 1;
        std::fs::write(object(base), bytes)?;
        std::fs::OpenOptions::new().write(true).open(object(base + 1))?.set_len(LARGE as u64 / 2)?;
        std::fs::remove_file(object(base + 2))?;
    }
    block_on(control.start_again())?;
    let sidecar = setup.start()?;
    eventually("everything is in control", || {
        let now = journal(&sidecar)?;
        if now["acked_seq"] == 12 { Ok(Some(())) } else { bail!("{now}") }
    })?;
    let changes = tenant.changes()?;
    for (path, count) in
        (0..4).flat_map(|count| [(format!("gone{count}.md"), count), (format!("kept{count}.md"), 10 + count)])
    {
        let change = changes.iter().find(|change| change["path"] == path.as_str()).context("change")?;
        let lost = path.starts_with("gone") && count < 3;
        ensure!((change["content_omitted"] == true) == lost, "{change}");
        if !lost {
            ensure!(tenant.content_of(change)? == large(count).as_bytes(), "{path}");
        }
    }
    eventually("the contents are removed", || {
        Ok((std::fs::read_dir(sidecar.data().join(".winston/objects"))?.count() == 0).then_some(()))
    })?;
    Ok(())
}

/// A full volume: what control has and nobody needs any more makes room for new records.
#[test]
fn on_a_full_volume_acknowledged_history_makes_room() -> Result<()> {
    let control = Tenant::control()?;
    let tenant = Tenant::create(&control, "full@test.example")?;
    let setup = tenant.sidecar()?.env("WINSTON_JOURNAL_SEGMENT_BYTES", "2000");
    let sidecar = setup.start()?;
    for count in 0..20 {
        sidecar.put("a.md", &content(count))?.expect(200)?;
    }
    tenant.wait_until_even(&sidecar)?;
    // The index on disk, which a clean end writes, makes the records dispensable.
    let (_, setup) = sidecar.stop()?;
    let before = segments(setup.data())?.len();
    ensure!(before > 2, "{before} segments");
    let setup = match setup.failpoints("journal-write=enospc@1x1") {
        Ok(setup) => setup,
        Err(reason) => {
            skip("on_a_full_volume_acknowledged_history_makes_room", &reason);
            return Ok(());
        }
    };
    let sidecar = setup.start()?;
    eventually("what control has is removed", || Ok((segments(sidecar.data())?.len() == 2).then_some(())))?;
    sidecar.put("a.md", "new")?.expect(200)?;
    ensure!(segments(sidecar.data())?.len() < 3);
    sidecar.wait_for_log("the volume is full; the journal's local history window was removed early")?;
    eventually("the new record is in control", || {
        let changes = tenant.changes()?;
        if changes.len() == 21 { Ok(Some(())) } else { bail!("{} changes", changes.len()) }
    })?;
    Ok(())
}
