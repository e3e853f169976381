//! The table of attempts, and the program that makes them in the gateway's place.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use winston_tests::process::Process;
use winston_tests::wait::eventually;

use crate::{files, memory, power, read_json, secrets};

/// Kinds of attempts, for tests in which only some apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Memory, environment and descriptors of sidecar and entrypoint.
    Memory,
    /// Signals and limits of theirs.
    Signals,
    /// The token, wherever it may have been left.
    Token,
    /// `.winston` and what is around it.
    Files,
    /// More power than an ordinary user's.
    Power,
    /// Ports, descriptors and the API.
    Ways,
}

impl Class {
    pub(crate) const ALL: &[Self] = &[Self::Memory, Self::Signals, Self::Token, Self::Files, Self::Power, Self::Ways];

    fn name(self) -> String {
        format!("{self:?}")
    }
}

/// What came of an attempt: what it got hold of, or why not.
pub(crate) type Outcome = Result<String, String>;

/// A line of the table.
pub(crate) struct Attempt {
    pub(crate) class: Class,
    pub(crate) what: &'static str,
    /// Root can do it, so a refusal shows a protection of ours and no mistake in the attempt.
    pub(crate) root_can: bool,
    pub(crate) make: fn(&Plan) -> Outcome,
}

impl Attempt {
    pub(crate) const fn new(class: Class, what: &'static str, make: fn(&Plan) -> Outcome) -> Self {
        Self { class, what, root_can: true, make }
    }

    /// Not even root gets through.
    pub(crate) const fn never(class: Class, what: &'static str, make: fn(&Plan) -> Outcome) -> Self {
        Self { class, what, root_can: false, make }
    }
}

fn table() -> impl Iterator<Item = &'static Attempt> {
    // What can do harm where nothing protects comes last.
    let parts = [power::ATTEMPTS, secrets::ATTEMPTS, memory::ATTEMPTS, memory::SIGNALS, files::ATTEMPTS];
    parts.into_iter().flatten()
}

/// What the agent is told, as somebody would know who has looked around.
pub(crate) struct Plan {
    pub(crate) data: PathBuf,
    pub(crate) home: PathBuf,
    /// Whatever is below `.winston`.
    pub(crate) ours: Vec<PathBuf>,
    /// Entrypoint and sidecar.
    pub(crate) victims: Vec<i32>,
    pub(crate) ports: Vec<u16>,
    /// A program of root's with the set-user-ID bit.
    pub(crate) set_user_id: PathBuf,
    /// What to look for.
    pub(crate) token: String,
    /// Nothing protects: only what can be undone.
    pub(crate) gentle: bool,
}

/// What is written down about an attempt.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) attempt: String,
    pub(crate) outcome: String,
    pub(crate) got_through: bool,
    pub(crate) root_can: bool,
}

impl Note {
    pub(crate) fn read(line: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(line)?;
        let text = |key: &str| value[key].as_str().map(str::to_owned).context(key.to_owned());
        let flag = |key: &str| value[key].as_bool().context(key.to_owned());
        Ok(Self {
            attempt: text("attempt")?,
            outcome: text("outcome")?,
            got_through: flag("got_through")?,
            root_can: flag("root_can")?,
        })
    }
}

/// The order to begin, as the test writes it. The token is turned around, so that it is not found in the order itself.
pub(crate) fn order(
    classes: &[Class],
    ours: &[PathBuf],
    ports: &[u16],
    set_user_id: &Path,
    token: &str,
    gentle: bool,
) -> Value {
    json!({
        "classes": classes.iter().map(|class| class.name()).collect::<Vec<_>>(),
        "ours": ours, "ports": ports, "set_user_id": set_user_id, "gentle": gentle,
        "nekot": token.chars().rev().collect::<String>(),
    })
}

/// Serves as a gateway that is ready, waits for the order, tries everything, writes it down, and stays.
pub(crate) fn run() -> Result<()> {
    let descriptors = power::descriptors()?;
    let home = PathBuf::from(std::env::var_os("HOME").context("HOME")?);
    let port: u16 = std::env::var("OPENCLAW_GATEWAY_PORT")?.parse()?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    std::thread::spawn(move || {
        for mut caller in listener.incoming().flatten() {
            let _ = caller.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let order = eventually("the order to begin", || Ok(Some(read_json(&home.join("order"))?)))?;
    let plan = Plan::of(&order, home)?;
    let mut notes = std::fs::File::create(plan.home.join("notes.new"))?;
    power::inherited(&descriptors, &mut |attempt, outcome| note(&mut notes, attempt, &outcome))?;
    let wanted =
        |attempt: &&Attempt| order["classes"].as_array().is_some_and(|all| all.contains(&json!(attempt.class.name())));
    for attempt in table().filter(wanted) {
        note(&mut notes, attempt, &(attempt.make)(&plan))?;
    }
    std::fs::rename(plan.home.join("notes.new"), plan.home.join("notes"))?;
    loop {
        std::thread::park();
    }
}

fn note(notes: &mut std::fs::File, attempt: &Attempt, outcome: &Outcome) -> Result<()> {
    let (got_through, text) = match outcome {
        Ok(text) => (true, text),
        Err(text) => (false, text),
    };
    let line = json!({
        "attempt": attempt.what, "outcome": text, "got_through": got_through, "root_can": attempt.root_can,
    });
    Ok(writeln!(notes, "{line}")?)
}

impl Plan {
    fn of(order: &Value, home: PathBuf) -> Result<Self> {
        let paths = |key: &str| {
            let all = order[key].as_array().into_iter().flatten();
            all.filter_map(Value::as_str).map(PathBuf::from).collect::<Vec<_>>()
        };
        let ports = order["ports"].as_array().into_iter().flatten().filter_map(Value::as_u64);
        Ok(Self {
            data: home.parent().context("no parent")?.to_owned(),
            ours: paths("ours"),
            victims: victims()?,
            ports: ports.filter_map(|port| u16::try_from(port).ok()).collect(),
            set_user_id: order["set_user_id"].as_str().context("set_user_id")?.into(),
            token: order["nekot"].as_str().context("nekot")?.chars().rev().collect(),
            gentle: order["gentle"] == true,
            home,
        })
    }

    /// Below the data directory.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.data.join(path)
    }
}

/// Our parents: the sidecar, and the entrypoint above it. Anybody may read command lines and parents.
fn victims() -> Result<Vec<i32>> {
    let mut found = Vec::new();
    let mut pid = i32::try_from(std::process::id())?;
    while found.len() < 2 && pid > 1 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, after) = stat.rsplit_once(')').context("stat")?;
        pid = after.split_ascii_whitespace().nth(1).context("parent")?.parse()?;
        if Process::of(pid).command.contains("winston-") {
            found.push(pid);
        }
    }
    anyhow::ensure!(found.len() == 2, "sidecar and entrypoint are not above us: {found:?}");
    Ok(found)
}

/// A result in the words of an outcome.
pub(crate) fn outcome<T: std::fmt::Debug, E: std::fmt::Display>(result: Result<T, E>) -> Outcome {
    match result {
        Ok(got) => Ok(format!("{got:?}").chars().take(120).collect()),
        Err(error) => Err(error.to_string()),
    }
}

/// The first of many tries that got through; else why the last did not.
pub(crate) fn any(tries: impl IntoIterator<Item = Outcome>) -> Outcome {
    let mut last = Err("there was nothing to try it on".to_owned());
    for one in tries {
        last = one;
        if last.is_ok() {
            break;
        }
    }
    last
}
