//! `GET /changes`: newest first as the first sidecar had it, in order after a number, and live.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use winston_tests::process::TEST_TOKEN;
use winston_tests::sidecar::{Setup, Sidecar};
use winston_tests::stream::Stream;
use winston_tests::wait::eventually;

const LIVE: (&str, &str) = ("Accept", "text/event-stream");

fn live(sidecar: &Sidecar, target: &str, headers: &[(&str, &str)]) -> Result<Stream> {
    let mut all = vec![LIVE];
    all.extend_from_slice(headers);
    Stream::open(sidecar.address(), TEST_TOKEN, target, &all)
}

fn get(sidecar: &Sidecar, target: &str) -> Result<Value> {
    sidecar.get(target)?.expect(200)?.json()
}

fn seqs(answer: &Value) -> Vec<u64> {
    let changes = answer["changes"].as_array().into_iter().flatten();
    changes.map(|change| change["seq"].as_u64().unwrap_or(0)).collect()
}

fn segments(data: &Path) -> Result<Vec<std::path::PathBuf>> {
    let entries = std::fs::read_dir(data.join(".winston/changes"))?;
    let mut segments: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    segments.sort();
    Ok(segments)
}

/// First number of a segment, from its name.
fn first_of(segment: &Path) -> Result<u64> {
    Ok(segment.file_stem().and_then(|name| name.to_str()).context("name")?.parse()?)
}

/// Largest resident size so far, in KiB.
fn peak_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[test]
fn pages_in_order_reach_the_head() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    for number in 0..7 {
        sidecar
            .put_with(&format!("d{}/f.md", number % 2), &format!("{number}"), &[("X-Winston-Actor", "ana")])?
            .expect(200)?;
    }
    let epoch = sidecar.status()?["journal"]["epoch"].clone();
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let page = get(&sidecar, &format!("/changes?after={after}&limit=3"))?;
        assert_eq!((&page["epoch"], &page["head"], &page["lost"]), (&epoch, &json!(7), &json!([])));
        if seqs(&page).is_empty() {
            break;
        }
        seen.extend(seqs(&page));
        after = page["next"].as_u64().context("next")?;
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7]);
    let first = &get(&sidecar, "/changes?after=0&limit=1")?["changes"][0];
    assert_eq!(
        (&first["actor"], &first["action"], &first["source"]),
        (&json!("ana"), &json!("create"), &json!("admin"))
    );
    assert!(first.get("content").is_none());
    // A filter by whole components; `next` goes on all the same.
    let filtered = get(&sidecar, "/changes?after=0&path=d1")?;
    assert_eq!((seqs(&filtered), &filtered["next"]), (vec![2, 4, 6], &json!(7)));
    assert_eq!(seqs(&get(&sidecar, "/changes?after=0&path=d")?), [0; 0]);
    // Newest first without `after`.
    assert_eq!(seqs(&get(&sidecar, "/changes?limit=2")?), [7, 6]);
    Ok(())
}

#[test]
fn numbers_of_another_journal_are_refused() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("a.md", "a")?.expect(200)?;
    let epoch = sidecar.status()?["journal"]["epoch"].as_str().context("epoch")?.to_owned();
    let other = "00000000-0000-7000-8000-000000000000";
    get(&sidecar, &format!("/changes?after=1&epoch={epoch}"))?;
    for target in [format!("/changes?after=1&epoch={other}"), "/changes?after=99".to_owned()] {
        let answer = sidecar.get(&target)?.expect(409)?.json()?;
        assert_eq!((&answer["code"], &answer["epoch"]), (&json!("other_epoch"), &json!(epoch)), "{target}");
    }
    let resumed = live(&sidecar, "/changes", &[("Last-Event-ID", &format!("{other}:1"))])?;
    assert_eq!(resumed.status, 409);
    for target in ["/changes?after=x", "/changes?after=-1", "/changes?after=0&epoch=x"] {
        assert_eq!(sidecar.get(target)?.expect(400)?.json()?["code"], "bad_query", "{target}");
    }
    assert_eq!(live(&sidecar, "/changes", &[("Last-Event-ID", "7")])?.status, 400);
    Ok(())
}

#[test]
fn a_damaged_record_is_named() -> Result<()> {
    let setup = Setup::new()?;
    let sidecar = setup.start()?;
    for name in ["a.md", "b.md", "c.md"] {
        sidecar.put(name, name)?.expect(200)?;
    }
    let setup = sidecar.kill()?;
    let segment = segments(setup.data())?.pop().context("segment")?;
    let text = std::fs::read_to_string(&segment)?;
    std::fs::write(&segment, text.replacen("\"path\":\"b.md\"", "\"path\":\"x.md\"", 1))?;
    let sidecar = setup.start()?;
    let page = get(&sidecar, "/changes?after=0&limit=3")?;
    assert_eq!((seqs(&page), &page["lost"], &page["next"]), (vec![1, 3], &json!([2]), &json!(3)));
    let mut stream = live(&sidecar, "/changes?after=0", &[])?;
    stream.expect_event("ready")?;
    assert_eq!(stream.expect_event("change")?.data["path"], "a.md");
    let lost = stream.expect_event("lost")?;
    assert_eq!(lost.data, json!({ "lost": [2] }));
    assert!(lost.id.ends_with(":2"));
    assert_eq!(stream.expect_event("change")?.data["path"], "c.md");
    Ok(())
}

#[test]
fn removed_numbers_are_said_to_be_gone() -> Result<()> {
    let sidecar = Setup::new()?.env("WINSTON_JOURNAL_SEGMENT_BYTES", "4096").start()?;
    for number in 0..60 {
        sidecar.put("a.md", &format!("{number}"))?.expect(200)?;
    }
    // The index is on disk after an orderly end; then the first look at the window removes what is behind it.
    let (_, setup) = sidecar.stop()?;
    let sidecar = setup.start()?;
    let first = eventually("old segments are removed", || {
        // The two newest are kept; until only they are left, the numbers still move.
        let segments = segments(setup.data())?;
        if segments.len() == 2 { first_of(&segments[0]).map(Some) } else { Ok(None) }
    })?;
    let gone = sidecar.get("/changes?after=0")?.expect(410)?.json()?;
    assert_eq!((&gone["code"], &gone["first_seq"]), (&json!("trimmed"), &json!(first)));
    assert_eq!(seqs(&get(&sidecar, &format!("/changes?after={}&limit=1", first - 1))?), [first]);
    sidecar.get(&format!("/changes?after={}", first - 2))?.expect(410)?;
    assert_eq!(live(&sidecar, "/changes?after=0", &[])?.status, 410);
    Ok(())
}

#[test]
fn live_changes_come_as_they_happen_and_resume_after_a_crash() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("before.md", "1")?.expect(200)?;
    let mut stream = live(&sidecar, "/changes", &[])?;
    assert_eq!((stream.status, stream.header("content-type")), (200, Some("text/event-stream")));
    let ready = stream.expect_event("ready")?;
    assert!(ready.id.ends_with(":1"), "{ready:?}");
    sidecar.put("live.md", "2")?.expect(200)?;
    let change = stream.expect_event("change")?;
    assert_eq!((&change.data["seq"], &change.data["path"]), (&json!(2), &json!("live.md")));
    let epoch = sidecar.status()?["journal"]["epoch"].as_str().context("epoch")?.to_owned();
    assert_eq!(change.id, format!("{epoch}:2"));
    sidecar.agent_writes("agent.md", "3")?;
    let change = stream.expect_event("change")?;
    assert_eq!((&change.data["path"], &change.data["source"]), (&json!("agent.md"), &json!("agent")));

    let setup = sidecar.kill()?;
    assert!(stream.event().is_err(), "a killed server ends no stream in order");
    let sidecar = setup.start()?;
    sidecar.put("after.md", "4")?.expect(200)?;
    // The header wins over the parameter.
    let mut stream = live(&sidecar, "/changes?after=0", &[("Last-Event-ID", &change.id)])?;
    stream.expect_event("ready")?;
    assert_eq!(stream.expect_event("change")?.data["path"], "after.md");
    // Only what is asked for.
    let mut filtered = live(&sidecar, "/changes?after=0&path=live.md", &[])?;
    filtered.expect_event("ready")?;
    assert_eq!(filtered.expect_event("change")?.data["seq"], 2);
    sidecar.put("other.md", "5")?.expect(200)?;
    sidecar.put("live.md", "6")?.expect(200)?;
    assert_eq!(filtered.expect_event("change")?.data["seq"], 6);
    Ok(())
}

#[test]
fn streams_are_limited_kept_alive_and_end_with_the_server() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let mut streams = Vec::new();
    for _ in 0..16 {
        let mut stream = live(&sidecar, "/changes", &[])?;
        stream.expect_event("ready")?;
        streams.push(stream);
    }
    let refused = live(&sidecar, "/changes", &[])?;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    // A page is no stream.
    sidecar.get("/changes?after=0")?.expect(200)?;
    streams.pop();
    eventually("a place is free again", || {
        let mut stream = live(&sidecar, "/changes", &[])?;
        if stream.status == 200 {
            stream.expect_event("ready")?;
            streams.push(stream);
            return Ok(Some(()));
        }
        Ok(None)
    })?;
    while streams[0].line()?.context("the stream ended")? != ": keep-alive" {}
    let (status, _) = sidecar.stop()?;
    assert_eq!(status.code(), Some(0));
    for mut stream in streams {
        assert!(stream.event()?.is_none(), "ends in order");
    }
    Ok(())
}

/// Clients that do not read hold a few pieces each; when what they have not read is removed they are told.
#[test]
fn a_slow_reader_costs_little_and_is_told_of_a_gap() -> Result<()> {
    const FILES: usize = 4000;
    let setup = Setup::new()?.env("WINSTON_JOURNAL_SEGMENT_BYTES", "1048576");
    // Long paths make many bytes of few changes: more than the kernel keeps for a connection.
    let directory =
        std::iter::repeat_n("d".repeat(250), 11).fold(setup.data().to_owned(), |path, name| path.join(name));
    std::fs::create_dir_all(&directory)?;
    let directory = std::fs::File::open(&directory)?;
    for number in 0..FILES {
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
        rustix::fs::openat(&directory, format!("{number:05}.md"), flags, rustix::fs::Mode::from_raw_mode(0o644))?;
    }
    let sidecar = setup.start()?;
    assert_eq!(sidecar.status()?["journal"]["head_seq"], FILES);
    // One client at its own pace, so that what reading takes is counted already.
    let mut steady = live(&sidecar, "/changes?after=0", &[])?;
    steady.expect_event("ready")?;
    for seq in 1..=FILES {
        assert_eq!(steady.expect_event("change")?.data["seq"], seq);
    }
    let before = peak_kib(sidecar.pid())?;
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = live(&sidecar, "/changes?after=0", &[])?;
        stream.expect_event("ready")?;
        slow.push(stream);
    }
    let all = segments(setup.data())?;
    let (old, kept) = all.split_at(all.len() - 2);
    // All at once, as far as the sidecar can see.
    sidecar.pause()?;
    for segment in old {
        std::fs::remove_file(segment)?;
    }
    sidecar.resume()?;
    let first = first_of(&kept[0])?;
    for mut stream in slow {
        let mut next = 1;
        let gap = loop {
            let event = stream.event()?.context("the stream ended without a word")?;
            if event.name == "gap" {
                break event;
            }
            assert_eq!((event.name.as_str(), &event.data["seq"]), ("change", &json!(next)));
            next += 1;
        };
        assert!(next <= first, "{next}");
        assert_eq!((&gap.data["first_seq"], stream.event()?.is_none()), (&json!(first), true));
        let mut resumed = live(&sidecar, "/changes", &[("Last-Event-ID", &gap.id)])?;
        resumed.expect_event("ready")?;
        assert_eq!(resumed.expect_event("change")?.data["seq"], first);
    }
    let grown = peak_kib(sidecar.pid())?.saturating_sub(before);
    assert!(grown < 16 * 1024, "slow readers took {grown} KiB");
    Ok(())
}
