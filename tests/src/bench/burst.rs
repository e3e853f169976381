//! Many files changed at once: how soon control has every version, set against plain SQL that writes the same rows and contents.
//!
//! The plain SQL goes to the same database, to the tables of the same schema, with the same settings, as another tenant's: what control
//! wrote is read back and written once more, in transactions of as many rows as a batch of changes has. It knows nothing of files, hashes, HTTP or
//! who may do what; that is what is counted.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};
use tokio_postgres::{Client, NoTls};

use self::peer::Peer;
use super::control::{Control, Tenant};
use super::report::{Goal, Row, Unit, millis};
use super::{FILE_BYTES, Plan, proc};
use crate::process::PATIENCE;
use crate::sidecar::{Setup, Sidecar};

mod peer;

/// Files in a directory.
const FILES_EACH: usize = 100;

/// Bursts, each with plain SQL after it; the one with the middle ratio counts.
const TURNS: usize = 3;

/// Pause between two looks at the sidecar: the resolution of the figure.
const PAUSE: Duration = Duration::from_millis(10);

/// Multiples of plain SQL.
const RATIO: Goal = Goal::Below(2.0);

/// In megabytes.
const MEMORY: Goal = Goal::Below(20.0);

/// One burst and what it is compared with.
struct Turn {
    /// The files were in place.
    written: Duration,
    /// They were in the journal.
    recorded: Duration,
    /// They were in control.
    synced: Duration,
    plain: Duration,
}

impl Turn {
    fn ratio(&self) -> f64 {
        self.synced.as_secs_f64() / self.plain.as_secs_f64()
    }
}

/// Lets a sidecar have the bursts, and compares.
pub(super) fn run(plan: Plan) -> Result<Vec<Row>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let control = Control::start()?;
    let (tenant, other) = (control.tenant()?, control.another("plain")?);
    let mut database = runtime.block_on(connect(&control))?;
    let setup = Setup::new()?.token(&tenant.token).env("WINSTON_CONTROL_URL", &format!("http://{}", control.address()));
    let sidecar = setup.start()?;
    // What is changed has to be there first; on both sides.
    let files = plan.burst_files;
    let mut burst = Burst { setup: &setup, sidecar: &sidecar, tenant: &tenant, files, turn: 0 };
    burst.write_and_wait()?;
    let mut peer = runtime.block_on(Peer::prepare(&database, &other.id))?;
    runtime.block_on(burst.plain(&mut database, &mut peer))?;

    let mut turns = Vec::with_capacity(TURNS);
    for _ in 0..TURNS {
        let (written, recorded, synced) = burst.write_and_wait()?;
        let plain = runtime.block_on(burst.plain(&mut database, &mut peer))?;
        turns.push(Turn { written, recorded, synced, plain });
    }
    turns.sort_by(|one, other| one.ratio().total_cmp(&other.ratio()));
    let middle = turns.get(TURNS / 2).context("no turn")?;
    let peak = proc::peak_rss(sidecar.pid())? as f64 / 1e6;
    sidecar.stop()?;
    Ok(vec![
        Row::new("burst", format!("{files} files changed → versions in control"))
            .value("time", millis(middle.synced), Unit::Millis)
            .value("plain SQL", millis(middle.plain), Unit::Millis)
            .goal("ratio", middle.ratio(), Unit::Times, RATIO)
            .value("files in place after", millis(middle.written), Unit::Millis)
            .value("in the journal after", millis(middle.recorded), Unit::Millis),
        Row::new("burst.memory", "sidecar, most of its memory during that").goal("peak", peak, Unit::Megabytes, MEMORY),
    ])
}

async fn connect(control: &Control) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(&control.database(), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

struct Burst<'a> {
    setup: &'a Setup,
    sidecar: &'a Sidecar,
    tenant: &'a Tenant,
    files: usize,
    turn: usize,
}

impl Burst<'_> {
    fn path(number: usize) -> String {
        format!("workspace/burst/{:03}/{number:05}.md", number / FILES_EACH)
    }

    /// Text that no other file and no other turn has.
    fn content(&self, number: usize) -> Vec<u8> {
        let mut content = String::new();
        while content.len() < FILE_BYTES {
            content.push_str(&format!("turn {} file {number} byte {}\n", self.turn, content.len()));
        }
        content.truncate(FILE_BYTES);
        content.into_bytes()
    }

    /// Puts a new version in the place of every file; how long that took, and until the journal and control had them.
    fn write_and_wait(&mut self) -> Result<(Duration, Duration, Duration)> {
        self.turn += 1;
        let head = (self.turn * self.files) as u64;
        let new = self.setup.outside().join("new");
        fs::create_dir_all(&new)?;
        for number in 0..self.files {
            fs::write(new.join(number.to_string()), self.content(number))?;
        }
        let paths: Vec<_> = (0..self.files).map(|number| self.sidecar.data().join(Self::path(number))).collect();
        for directory in paths.iter().filter_map(|path| path.parent()) {
            fs::create_dir_all(directory)?;
        }
        // Some file systems flush a new file when it takes the place of another one: that is not what is measured.
        rustix::fs::syncfs(fs::File::open(&new)?)?;
        // A rename, so that no version is there in part: what is recorded is one version of each file.
        let started = Instant::now();
        for (number, path) in paths.iter().enumerate() {
            fs::rename(new.join(number.to_string()), path)?;
        }
        let written = started.elapsed();
        let mut recorded = None;
        loop {
            let journal = self.sidecar.status()?["journal"].take();
            if journal["head_seq"].as_u64() >= Some(head) {
                recorded.get_or_insert_with(|| started.elapsed());
            }
            if let Some(recorded) = recorded.filter(|_| journal["acked_seq"].as_u64() >= Some(head)) {
                return Ok((written, recorded, started.elapsed()));
            }
            ensure!(started.elapsed() < PATIENCE, "not in control within {} s: {journal}", PATIENCE.as_secs());
            std::thread::sleep(PAUSE);
        }
    }

    /// Checks that control has the newest turn as it was written, and writes the same rows again; how long that took.
    async fn plain(&self, database: &mut Client, peer: &mut Peer) -> Result<Duration> {
        let first = ((self.turn - 1) * self.files) as i64;
        let batches = peer.read(database, &self.tenant.id, first).await?;
        let mut arrived = HashMap::new();
        for (path, hash) in batches.iter().flat_map(|batch| batch.versions()) {
            ensure!(arrived.insert(path.to_owned(), hash.to_owned()).is_none(), "{path} is in control twice");
        }
        ensure!(arrived.len() == self.files, "{} of {} changes are in control", arrived.len(), self.files);
        for number in 0..self.files {
            let (path, hash) = (Self::path(number), Sha256::digest(self.content(number)));
            ensure!(arrived.get(&path).is_some_and(|found| found[..] == hash[..]), "{path} is not what was written");
        }
        let started = Instant::now();
        for batch in &batches {
            peer.write(database, batch).await?;
        }
        Ok(started.elapsed())
    }
}
