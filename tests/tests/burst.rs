//! Thousands of files that change at once: control has each change once, with its content, in bounded memory; and what a bad network does to the
//! requests that carry many contents.
//!
//! 2,000 files; with `WINSTON_LONG=1` 10,000.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio_postgres::NoTls;
use winston_tests::chaos::{Chaos, Fault};
use winston_tests::control::Control;
use winston_tests::parallel::each;
use winston_tests::sidecar::{Setup, Sidecar};
use winston_tests::tenant::{Tenant, block_on, hash};
use winston_tests::wait::{eventually, within};

/// How many files there are.
fn files() -> usize {
    if std::env::var_os("WINSTON_LONG").is_some() { 10_000 } else { 2_000 }
}

const FILES_EACH: usize = 100;

/// Memory of the process's own that it may take at any time, in KiB.
const MOST_KIB: u64 = 20 * 1024;

/// Longest time until everything is in control.
const PATIENCE: Duration = Duration::from_secs(540);

/// The request with many contents, as the proxy names it.
const MANY: &str = "POST /api/sidecar/contents";
/// The request with one.
const ONE: &str = "PUT /api/sidecar/contents";

fn path(number: usize) -> String {
    format!("workspace/{:03}/{number:05}.md", number / FILES_EACH)
}

fn content(turn: &str, number: usize) -> String {
    format!("{turn} {number} ").repeat(1 + number % 100)
}

/// Puts a version of every file in its place, whole, so that nothing in between can be recorded.
fn change_all(setup: &Setup, turn: &str) -> Result<()> {
    let new = setup.outside().join("new");
    std::fs::create_dir_all(&new)?;
    let paths: Vec<_> = (0..files()).map(|number| setup.data().join(path(number))).collect();
    for (number, path) in paths.iter().enumerate() {
        std::fs::create_dir_all(path.parent().context("a directory")?)?;
        std::fs::write(new.join(number.to_string()), content(turn, number))?;
    }
    for (number, path) in paths.iter().enumerate() {
        std::fs::rename(new.join(number.to_string()), path)?;
    }
    Ok(())
}

/// Resident memory that belongs to the process alone, in KiB. The pages of the program file are left out: a build for tests has many.
fn anonymous_kib(sidecar: &Sidecar) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sidecar.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Hashes before and after a change.
type Step = (Option<String>, String);

/// What control has of each path, checked to be in order and complete.
fn arrived(tenant: &Tenant) -> Result<HashMap<String, Vec<Step>>> {
    let mut all: HashMap<String, Vec<Step>> = HashMap::new();
    let mut count = 0;
    loop {
        let page = tenant.get(&format!("/changes?after={count}&limit=1000"))?;
        let changes = page["changes"].as_array().context("changes")?;
        if changes.is_empty() {
            return Ok(all);
        }
        for change in changes {
            count += 1;
            ensure!(change["seq"] == count, "{change} is number {count}");
            ensure!(change["content_omitted"] != true && change["version"].is_i64(), "{change}");
            let text = |key: &str| change[key].as_str().map(str::to_owned);
            let versions = all.entry(text("path").context("path")?).or_default();
            versions.push((text("previous_hash"), text("hash").context("hash")?));
        }
    }
}

/// Versions whose content is missing or is another one.
async fn wrong_contents(control: &Control) -> Result<i64> {
    let url = format!("host={} user=winston dbname=postgres", control.socket_dir().display());
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    let sql =
        "SELECT count(*) FROM file_changes c LEFT JOIN file_contents f ON f.tenant_id = c.tenant_id AND f.hash = c.hash
               WHERE c.hash IS DISTINCT FROM sha256(f.content) OR f.size <> length(f.content) OR c.size <> f.size";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

#[test]
fn files_that_change_at_once_arrive_once_in_bounded_memory() -> Result<()> {
    let control = Tenant::control()?;
    let tenant = Tenant::create(&control, "burst@test.example")?;
    let chaos = Chaos::before(tenant.control_address())?;
    let setup = tenant.sidecar()?.env("WINSTON_CONTROL_URL", &format!("http://{}", chaos.address()));
    change_all(&setup, "before")?;
    let sidecar = setup.start()?;
    let mut most = 0;
    for (turn, done) in [("before", files()), ("after", 2 * files())] {
        if turn == "after" {
            change_all(&setup, turn)?;
        }
        within(PATIENCE, "everything is in control", || {
            most = most.max(anonymous_kib(&sidecar)?);
            let journal = sidecar.status()?["journal"].take();
            if journal["acked_seq"] == done { Ok(Some(())) } else { bail!("{journal}") }
        })?;
    }
    let arrived = arrived(&tenant)?;
    ensure!(arrived.len() == files(), "{} paths in control", arrived.len());
    for number in 0..files() {
        let (before, after) = (hash(content("before", number)), hash(content("after", number)));
        let expected = [(None, before.clone()), (Some(before), after)];
        let versions = arrived.get(&path(number)).with_context(|| path(number))?;
        ensure!(versions[..] == expected, "{} has {versions:?}", path(number));
    }
    ensure!(block_on(wrong_contents(&control))?? == 0, "a content is not what its hash says");
    ensure!(most < MOST_KIB, "{most} KiB of memory");
    // Small contents do not go one by one, but for a batch of a single change.
    let count = |what: &str| chaos.seen().iter().filter(|seen| seen.what == what).count();
    let (many, one) = (count(MANY), count(ONE));
    ensure!(many + one < files() / 10, "{many} requests with many contents and {one} with one");
    println!("{} files twice: {many} requests with many contents and {one} with one, at most {most} KiB", files());
    Ok(())
}

/// Small files for several requests at once, and a large one, while something is wrong with the requests that carry many contents.
fn under(control: &Control, name: &str, fault: Fault) -> Result<()> {
    let tenant = Tenant::create(control, &format!("{name}@test.example"))?;
    let chaos = Chaos::before(tenant.control_address())?;
    let url = format!("http://{}", chaos.address());
    let sidecar = tenant.sidecar()?.env("WINSTON_CONTROL_URL", &url).start()?;
    sidecar.put("workspace/before.md", "before")?.expect(200)?;
    tenant.wait_until_even(&sidecar)?;
    // A request with many contents whose answer can come again. They are found together: nobody looks while they are written.
    sidecar.pause()?;
    for number in 0..20 {
        sidecar.agent_writes(&format!("workspace/first/{number}.md"), format!("{number}"))?;
    }
    sidecar.resume()?;
    eventually("the first files in control", || {
        let count = tenant.changes()?.len();
        if count == 21 { Ok(Some(())) } else { bail!("{count} changes") }
    })?;
    ensure!(chaos.seen().iter().any(|seen| seen.what == MANY), "contents went one by one");
    chaos.set_for(MANY, fault);
    for number in 0..600 {
        let content = format!("{number}\n").repeat(600);
        sidecar.agent_writes(&format!("workspace/small/{number}.md"), content)?;
    }
    sidecar.put("workspace/large.md", &"large ".repeat(40_000))?.expect(200)?;
    eventually("a request that meets the fault", || {
        Ok(chaos.seen().iter().any(|seen| seen.fault == fault).then_some(()))
    })?;
    // These lead to single requests instead, so that everything arrives although the fault remains.
    if !matches!(fault, Fault::Status(404 | 413, _)) {
        chaos.set(Fault::None);
    }
    let changes = tenant.wait_until_even(&sidecar)?;
    let small = changes.iter().filter(|change| change["path"].as_str().is_some_and(|path| path.contains("/small/")));
    ensure!(small.count() >= 600, "{} changes", changes.len());
    Ok(())
}

#[test]
fn whatever_happens_to_a_request_with_many_contents_nothing_is_lost() -> Result<()> {
    let control = Tenant::control()?;
    let faults = [
        Fault::ResetRequest,
        Fault::ResetAnswer,
        Fault::Twice,
        Fault::Stale,
        Fault::Late(Duration::from_millis(300)),
        Fault::Status(404, None),
        Fault::Status(413, None),
        Fault::Status(503, Some(1)),
        Fault::Garbage,
    ];
    let cases: Vec<_> = faults.into_iter().enumerate().collect();
    each(cases, faults.len(), |(number, fault)| under(&control, &format!("fault-{number}"), *fault))
}
