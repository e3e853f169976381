//! The gateway's output, with a scripted program in its place: what is kept, shown, followed and found again.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use winston_tests::process::{TEST_TOKEN, find_processes, skip};
use winston_tests::sidecar::{Setup, Sidecar};
use winston_tests::stream::Stream;
use winston_tests::wait::{eventually, within};

/// Made up, and long enough for the pattern.
const FAKE_KEY: &str = "sk-ant-api03-FAKE0FAKE1FAKE2FAKE3FAKE4FAKE5";

/// A sidecar whose gateway is a shell script. Its descriptor 3 is a FIFO: who reads a line of it waits for the test.
struct Rig {
    setup: Setup,
    script: Script,
}

/// A gateway goes on when its sidecar is killed, and a script that waits for the test would wait for ever. The tenant's directory is in its environment.
struct Script(PathBuf);

impl Drop for Script {
    fn drop(&mut self) {
        let home = format!("HOME={}", self.0.join(".home").display());
        for process in find_processes(|process| process.environment.contains(&home)).unwrap_or_default() {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
    }
}

impl Rig {
    fn new(script: &str) -> Result<Self> {
        let setup = Setup::new()?;
        let (program, data) = (setup.outside().join("openclaw"), setup.data().to_owned());
        let rig = Self { setup, script: Script(data) };
        nix::unistd::mkfifo(&rig.ctl(), nix::sys::stat::Mode::from_bits_truncate(0o666))?;
        winston_tests::process::write_program(
            &program,
            &format!("#!/bin/bash\nexec 3<>{}\n{script}\n", rig.ctl().display()),
        )?;
        let state = rig.setup.data().join(".openclaw");
        std::fs::create_dir(&state)?;
        std::fs::write(state.join("openclaw.json"), "{}")?;
        let program = program.to_str().context("path")?.to_owned();
        let rig = rig.env("WINSTON_GATEWAY", "on").env("WINSTON_OPENCLAW_BIN", &program);
        Ok(rig.env("OPENCLAW_GATEWAY_PORT", "9"))
    }

    fn env(self, name: &str, value: &str) -> Self {
        Self { setup: self.setup.env(name, value), ..self }
    }

    fn ctl(&self) -> PathBuf {
        self.setup.outside().join("ctl")
    }

    /// Lets the script go on: opening a FIFO waits for its reader.
    fn release(&self) -> Result<()> {
        Ok(std::fs::write(self.ctl(), "go\n")?)
    }
}

fn logs(sidecar: &Sidecar, query: &str) -> Result<Value> {
    sidecar.get(&format!("/gateway/logs?{query}"))?.expect(200)?.json()
}

fn lines(answer: &Value) -> Vec<Value> {
    answer["lines"].as_array().cloned().unwrap_or_default()
}

fn texts(answer: &Value) -> Vec<String> {
    lines(answer).iter().map(|line| line["line"].as_str().unwrap_or_default().to_owned()).collect()
}

fn seq(line: &Value) -> u64 {
    line["seq"].as_u64().unwrap_or(0)
}

/// Waits for a line with this text; its number.
fn wait_for_line(sidecar: &Sidecar, text: &str) -> Result<u64> {
    eventually(text, || {
        let answer = logs(sidecar, "limit=1000")?;
        Ok(lines(&answer).iter().find(|line| line["line"].as_str().is_some_and(|line| line.contains(text))).map(seq))
    })
}

fn follow(sidecar: &Sidecar, query: &str, headers: &[(&str, &str)]) -> Result<Stream> {
    Stream::open(sidecar.address(), TEST_TOKEN, &format!("/gateway/logs?follow{query}"), headers)
}

fn files(data: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(data.join(".winston/logs"))?;
    let mut files: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    Ok(files)
}

fn file_text(data: &Path) -> Result<String> {
    files(data)?.iter().map(|file| Ok(std::fs::read_to_string(file)?)).collect()
}

/// Resident size now and at most so far, in KiB.
fn memory(pid: u32) -> Result<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such value")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    Ok((value("VmRSS:")?, value("VmHWM:")?))
}

#[test]
fn levels_times_groups_and_secrets() -> Result<()> {
    let rig = Rig::new(&format!(
        r#"echo '2026-01-02T03:04:05.006Z [gateway] listening'
echo '{{"time":"2026-01-02T03:04:05.006Z","level":"warn","subsystem":"gateway/ws","message":"slow client"}}'
read _ <&3
printf 'Error: boom\n    at run (index.js:1:1)\n    at main (index.js:2:2)\n' | cat >&2
read _ <&3
echo "key {FAKE_KEY} and $OPENAI_API_KEY"
printf '%s' 'token=FAKE0FAKE'; read _ <&3; echo '1FAKE2 end'
printf -- '-----BEGIN PRIVATE KEY-----\n%064d\n%064d\nFAKE=\n-----END PRIVATE KEY-----\n' 0 0
echo last
read _ <&3"#
    ))?
    .env("OPENAI_API_KEY", "known-value-for-tests");
    let sidecar = rig.setup.start()?;
    wait_for_line(&sidecar, "slow client")?;
    rig.release()?;
    wait_for_line(&sidecar, "at main")?;
    rig.release()?;
    wait_for_line(&sidecar, "key [redacted] and [redacted]")?;
    rig.release()?;
    wait_for_line(&sidecar, "last")?;

    let all = logs(&sidecar, "limit=1000")?;
    let head = all["head"].as_u64().context("head")?;
    let seqs: Vec<_> = lines(&all).iter().map(seq).collect();
    assert_eq!(seqs, (1..=head).collect::<Vec<_>>());
    assert_eq!((&all["next"], &all["missing"], &all["dropped"]), (&json!(head), &json!(0), &json!(0)));
    let expected =
        ["token=[redacted] end", "-----BEGIN PRIVATE KEY-----", "[redacted]", "-----END PRIVATE KEY-----", "last"];
    assert!(texts(&all).ends_with(&expected.map(str::to_owned)), "{all:#}");

    let errors = logs(&sidecar, "level=error")?;
    assert_eq!(texts(&errors), ["Error: boom\n    at run (index.js:1:1)\n    at main (index.js:2:2)"]);
    assert_eq!(lines(&errors)[0]["stream"], "stderr");
    assert_eq!(texts(&logs(&sidecar, "level=WARN")?).len(), 2);
    // From the second line on, in pages and by time.
    let page = logs(&sidecar, "since=1&limit=2")?;
    assert_eq!((lines(&page).iter().map(seq).collect::<Vec<_>>(), &page["next"]), (vec![2, 3], &json!(3)));
    let error = lines(&errors)[0].clone();
    let by_time = logs(&sidecar, &format!("since={}&level=warn", error["time"].as_str().context("time")?))?;
    assert_eq!(lines(&by_time), [error]);
    for bad in ["level=loud", "since=yesterday", "since=-1", "follow=perhaps", "follow&since=x"] {
        assert_eq!(sidecar.get(&format!("/gateway/logs?{bad}"))?.status, 400, "{bad}");
    }
    let bad_id = sidecar.call("GET", "/gateway/logs?follow", &[("Last-Event-ID", "x")], b"")?;
    assert_eq!(bad_id.status, 400);

    // The same on standard output, for the platform, and in the file.
    eventually("the file", || Ok(file_text(sidecar.data())?.contains("\"last\"").then_some(())))?;
    let shown: Vec<Value> = sidecar
        .log_text()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["source"] == "gateway")
        .collect();
    let slow = shown.iter().find(|line| line["message"] == "slow client").context("in its own words")?;
    assert_eq!(
        (&slow["level"], &slow["subsystem"], &slow["stream"]),
        (&json!("WARN"), &json!("gateway/ws"), &json!("stdout"))
    );
    let boom = shown.iter().find(|line| line["level"] == "ERROR").context("the error")?;
    assert!(boom["message"].as_str().is_some_and(|text| text.ends_with("at main (index.js:2:2)")));
    for text in [sidecar.log_text(), file_text(sidecar.data())?, all.to_string()] {
        for secret in [FAKE_KEY, "known-value-for-tests", "FAKE0FAKE", &"0".repeat(64), TEST_TOKEN] {
            assert!(!text.contains(secret), "{secret}");
        }
    }
    // Nobody else reads these files, and they are no part of the tenant's.
    let mode = std::fs::metadata(&files(sidecar.data())?[0])?.permissions().mode();
    assert_eq!(mode & 0o077, 0);
    assert_ne!(sidecar.get("/files/.winston/logs")?.status, 200);
    Ok(())
}

#[test]
fn a_follower_sees_every_line_and_resumes_behind_its_last_one() -> Result<()> {
    let rig =
        Rig::new("for round in a b c; do for n in {1..30}; do echo $round$n; done; read _ <&3; done; read _ <&3")?;
    let sidecar = rig.setup.start()?;
    let last = wait_for_line(&sidecar, "a30")?;
    let mut stream = follow(&sidecar, "", &[])?;
    assert_eq!((stream.status, stream.header("content-type")), (200, Some("text/event-stream")));
    let ready = stream.expect_event("ready")?;
    assert_eq!((ready.id, &ready.data["head"]), (last.to_string(), &json!(last)));
    rig.release()?;
    let mut seen = last;
    for number in 1..=30 {
        let event = stream.expect_event("line")?;
        assert_eq!((seq(&event.data), event.id), (seen + 1, (seen + 1).to_string()));
        assert_eq!(event.data["line"], format!("b{number}"));
        seen += 1;
    }
    drop(stream);
    rig.release()?;
    wait_for_line(&sidecar, "c30")?;
    // By the header, by the number, by the newest lines; `Accept` alone asks for a stream too.
    let id = seen.to_string();
    let mut resumed = follow(&sidecar, "", &[("Last-Event-ID", &id)])?;
    resumed.expect_event("ready")?;
    assert_eq!(resumed.expect_event("line")?.data["line"], "c1");
    let target = format!("/gateway/logs?since={}", seen + 29);
    let mut since = Stream::open(sidecar.address(), TEST_TOKEN, &target, &[("Accept", "text/event-stream")])?;
    since.expect_event("ready")?;
    assert_eq!(since.expect_event("line")?.data["line"], "c30");
    let mut newest = follow(&sidecar, "&limit=2", &[])?;
    newest.expect_event("ready")?;
    assert_eq!(newest.expect_event("line")?.data["line"], "c29");
    assert_eq!(newest.expect_event("line")?.data["line"], "c30");
    // No more than the places for streams.
    let streams: Vec<Stream> = (0..16).map(|_| follow(&sidecar, "", &[])).collect::<Result<_>>()?;
    assert!(streams.iter().any(|stream| stream.status == 429));
    assert_eq!(logs(&sidecar, "limit=1")?["lines"].as_array().map(Vec::len), Some(1));
    Ok(())
}

#[test]
fn a_flood_is_survived_counted_and_missed_by_the_slow_reader_only() -> Result<()> {
    // 400 MB in lines, as fast as they are taken, then 200 MB without an end; then one line a moment.
    // What is kept of them is more than a kernel holds for a reader that does not read.
    let line = "a long line of the flood, ".repeat(40);
    let rig = Rig::new(&format!(
        "echo first; read _ <&3
yes '{line}' | head -c 400000000
head -c 200000000 /dev/zero | tr '\\0' x
echo; echo flooded >&2; read _ <&3; echo after; read _ <&3"
    ))?
    .env("WINSTON_GATEWAY_LOG_FILE_BYTES", "300000")
    .env("WINSTON_GATEWAY_LOG_FILES", "2");
    let sidecar = rig.setup.start()?;
    let first = wait_for_line(&sidecar, "first")?;
    let mut slow = follow(&sidecar, "", &[])?;
    slow.expect_event("ready")?;
    let mut quick = follow(&sidecar, "&level=error", &[])?;
    quick.expect_event("ready")?;
    let (before, _) = memory(sidecar.pid())?;
    let start = std::time::Instant::now();
    rig.release()?;
    // Everything else is served meanwhile.
    let mut asked = 0;
    within(Duration::from_secs(240), "the flood has passed", || {
        sidecar.get("/health")?.expect(200)?;
        asked += 1;
        let found = lines(&logs(&sidecar, "limit=1000")?).iter().any(|line| line["line"] == "flooded");
        Ok(found.then_some(()))
    })?;
    let took = start.elapsed();
    let (_, peak) = memory(sidecar.pid())?;
    assert!(peak - before < 24 * 1024, "from {before} to {peak} KiB");
    let answer = logs(&sidecar, "limit=1000")?;
    let dropped = answer["dropped"].as_u64().context("dropped")?;
    let metrics = String::from_utf8(sidecar.get("/metrics")?.expect(200)?.body)?;
    let count = |fate: &str| -> Result<u64> {
        let name = format!("winston_gateway_log_lines_total{{fate=\"{fate}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name)).context(name.clone())?;
        Ok(line.parse()?)
    };
    // `first`, the whole lines of the flood, its last one with what has no end, `flooded`.
    let flood = 400_000_000 / (line.len() as u64 + 1) + 3;
    assert_eq!(count("kept")? + count("dropped")?, flood);
    assert!(dropped > 0 && count("dropped")? >= dropped);
    println!(
        "600 MB in {took:?}, {} lines kept, {dropped} dropped, {} KiB grown, asked {asked} times",
        count("kept")?,
        peak - before
    );
    for file in files(sidecar.data())? {
        assert!(std::fs::metadata(&file)?.len() <= 300_000);
    }
    assert!(files(sidecar.data())?.len() <= 2);

    // Whoever reads gets what happens now.
    assert_eq!(quick.expect_event("line")?.data["line"], "flooded");
    rig.release()?;
    let mut slow = Slow { sidecar: &sidecar, stream: slow, seen: first, missing: 0 };
    while slow.next()? != "after" {}
    assert!(slow.missing > 0);
    Ok(())
}

/// A reader that checks that each line is the next one, or that it was told how many are missing.
struct Slow<'a> {
    sidecar: &'a Sidecar,
    stream: Stream,
    seen: u64,
    missing: u64,
}

impl Slow<'_> {
    /// The next line.
    fn next(&mut self) -> Result<String> {
        let mut missing = 0;
        loop {
            let Ok(Some(event)) = self.stream.event() else {
                // Whoever reads nothing for half a minute is cut off, and resumes.
                self.stream = follow(self.sidecar, "", &[("Last-Event-ID", &self.seen.to_string())])?;
                self.stream.expect_event("ready")?;
                missing = 0;
                continue;
            };
            match event.name.as_str() {
                "missing" => missing += event.data["missing"].as_u64().context("missing")?,
                "line" => {
                    assert_eq!(seq(&event.data), self.seen + missing + 1);
                    self.seen = seq(&event.data);
                    self.missing += missing;
                    return Ok(event.data["line"].as_str().context("line")?.to_owned());
                }
                other => bail!("{other}"),
            }
        }
    }
}

#[test]
fn a_killed_sidecar_goes_on_with_file_and_numbers() -> Result<()> {
    let rig =
        Rig::new("for n in {1..200}; do echo line $n of $$ $(printf %01000d 0); done; echo done $$; exec sleep 1000")?
            .env("WINSTON_GATEWAY_LOG_RING_BYTES", "65536")
            .env("WINSTON_GATEWAY_LOG_FILE_BYTES", "262144");
    let sidecar = rig.setup.start()?;
    let last = wait_for_line(&sidecar, "done")?;
    // The ring is smaller than that; the first lines come from the files.
    let first = logs(&sidecar, "since=0&limit=3")?;
    assert!(texts(&first)[0].starts_with("gateway started"), "{first}");
    let mut stream = follow(&sidecar, "&since=0", &[])?;
    stream.expect_event("ready")?;
    for expected in 1..=last {
        assert_eq!(seq(&stream.expect_event("line")?.data), expected);
    }
    eventually("the file", || Ok(file_text(sidecar.data())?.contains("done").then_some(())))?;
    let before = files(sidecar.data())?;
    kill(Pid::from_raw(i32::try_from(sidecar.pid())?), Signal::SIGKILL)?;
    drop(sidecar);

    let sidecar = rig.setup.start()?;
    let again = eventually("the next gateway", || {
        let found = lines(&logs(&sidecar, &format!("since={last}&limit=1000"))?);
        Ok(found.iter().rev().find(|line| line["line"].as_str().is_some_and(|line| line.starts_with("done"))).map(seq))
    })?;
    assert!(files(sidecar.data())?.starts_with(&before), "it goes on with the same file");
    let mut resumed = follow(&sidecar, "", &[("Last-Event-ID", "150")])?;
    resumed.expect_event("ready")?;
    for expected in 151..=again {
        assert_eq!(seq(&resumed.expect_event("line")?.data), expected);
    }
    Ok(())
}

#[test]
fn a_full_volume_costs_the_file_only() -> Result<()> {
    let rig = Rig::new(
        "read _ <&3; for n in {1..3000}; do echo line $n $(printf %01000d 0); done; echo done; exec sleep 1000",
    )?;
    let script = "mkdir -p .openclaw && echo {} > .openclaw/openclaw.json";
    let rig = match rig.setup.volume("3m", script)? {
        Ok(setup) => {
            let setup = setup.env("WINSTON_GATEWAY_LOG_FILE_BYTES", "262144").env("WINSTON_GATEWAY_LOG_FILES", "50");
            Rig { setup, script: rig.script }
        }
        Err(why) => {
            skip("a_full_volume_costs_the_file_only", &why);
            return Ok(());
        }
    };
    let sidecar = rig.setup.start()?;
    // Something else takes what is left of the volume but a little.
    let volume = sidecar.volume();
    let mut hog = std::fs::File::create(volume.join("hog"))?;
    let taken = std::io::copy(&mut std::io::repeat(0), &mut hog);
    assert!(taken.is_err(), "the volume is full");
    rig.release()?;
    wait_for_line(&sidecar, "done")?;
    sidecar.get("/health")?.expect(200)?;
    assert_eq!(sidecar.get("/gateway")?.expect(200)?.json()?["state"], "starting");
    // With room again the file goes on by itself, and what is missing in it is told.
    drop(hog);
    std::fs::remove_file(volume.join("hog"))?;
    sidecar.call("POST", "/gateway/stop", &[], b"")?.expect(200)?;
    sidecar.wait_for_log("gateway log file can be written again")?;
    let (mut since, mut found, mut missing) = (0, 0, 0);
    loop {
        let page = logs(&sidecar, &format!("since={since}&limit=1000"))?;
        found += lines(&page).len() as u64;
        missing += page["missing"].as_u64().context("missing")?;
        since = page["next"].as_u64().context("next")?;
        if page["next"] == page["head"] {
            break;
        }
    }
    assert_eq!(found + missing, since);
    assert!(missing > 0);
    Ok(())
}
