//! Every fault that a network has, between a sidecar and a control: edits go on, `/status` says what is wrong, and afterwards both sides have
//! everything exactly once.
//!
//! One control serves all scenarios, which run at the same time, each with a tenant, a sidecar and a proxy of its own. With `WINSTON_LONG=1`
//! faults that are noticed by a timeout of a minute, or waited out for a minute, are waited for too.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use winston_tests::chaos::{Chaos, Fault};
use winston_tests::control::Control;
use winston_tests::sidecar::Sidecar;
use winston_tests::tenant::{Tenant, block_on};
use winston_tests::wait::{eventually, within};

/// The pause that a busy control asks for, in seconds.
const ASKED: u64 = 2;

/// Requests at once: check-in, upload with its contents, and long poll with its contents. One more may be on its way out.
const AT_ONCE: usize = 4;

/// What `/status` must say during a fault.
#[derive(Debug, Clone, Copy)]
enum Says {
    /// This state, with a reason.
    State(&'static str),
    /// Control is there.
    Connected,
    /// Nothing yet: the fault shows only after a minute. What is not in control is not called acknowledged.
    LaterUnreachable,
}

const FAULTS: &[(Fault, Says)] = &[
    (Fault::Refused, Says::State("unreachable")),
    (Fault::BlackHole, Says::LaterUnreachable),
    (Fault::HalfOpen, Says::LaterUnreachable),
    (Fault::Trickle, Says::LaterUnreachable),
    (Fault::ResetRequest, Says::State("unreachable")),
    (Fault::ResetAnswer, Says::State("unreachable")),
    (Fault::Twice, Says::Connected),
    (Fault::Late(Duration::from_millis(700)), Says::Connected),
    (Fault::Stale, Says::Connected),
    (Fault::Status(429, Some(1)), Says::State("unreachable")),
    (Fault::Status(503, Some(1)), Says::State("unreachable")),
    (Fault::Status(503, None), Says::State("unreachable")),
    (Fault::Html(502), Says::State("unreachable")),
    (Fault::Garbage, Says::State("unreachable")),
];

/// A tenant behind a bad network.
struct Scene {
    tenant: Tenant,
    chaos: Chaos,
    sidecar: Sidecar,
}

impl Scene {
    fn new(control: &Control, name: &str) -> Result<Self> {
        let tenant = Tenant::create(control, &format!("{name}@test.example"))?;
        let chaos = Chaos::before(tenant.control_address())?;
        let url = format!("http://{}", chaos.address());
        let sidecar = tenant.sidecar()?.env("WINSTON_CONTROL_URL", &url).start()?;
        sidecar.put("workspace/before.md", "before")?.expect(200)?;
        tenant.wait_until_even(&sidecar)?;
        Ok(Self { tenant, chaos, sidecar })
    }

    /// Work as on any other day: each answer is the usual one, and history has it at once.
    fn work(&self) -> Result<()> {
        let sidecar = &self.sidecar;
        sidecar.put("workspace/small.md", "small")?.expect(200)?;
        sidecar.put("workspace/large.md", &"large ".repeat(40_000))?.expect(200)?;
        sidecar.put("workspace/small.md", "smaller")?.expect(200)?;
        sidecar.put("workspace/gone.md", "soon gone")?.expect(200)?;
        sidecar.call("DELETE", "/files/workspace/gone.md", &[], b"")?.expect(200)?;
        sidecar.agent_saves("workspace/agent.md", "the agent's")?;
        sidecar.wait_for_history("workspace/agent.md", &["agent create"])?;
        ensure!(sidecar.get("/files/workspace/small.md")?.expect(200)?.json()?["content"] == "smaller");
        self.tenant.push("workspace/pushed.md", "pushed")?;
        Ok(())
    }

    fn says(&self, says: Says) -> Result<()> {
        match says {
            Says::State(state) => {
                let sync = self.sidecar.wait_for_sync_state(state)?;
                ensure!(sync["error"].is_string(), "no reason in {sync}");
            }
            Says::Connected => {
                self.sidecar.wait_for_sync_state("connected")?;
            }
            Says::LaterUnreachable => {
                let status = self.sidecar.status()?;
                let (journal, sync) = (&status["journal"], &status["sync"]);
                ensure!(journal["acked_seq"].as_u64() < journal["head_seq"].as_u64(), "{journal}");
                if is_long() {
                    within(Duration::from_secs(150), "unreachable", || {
                        let sync = self.sidecar.status()?["sync"].take();
                        if sync["state"] == "unreachable" { Ok(Some(())) } else { bail!("{sync}") }
                    })?;
                } else {
                    ensure!(sync["state"] == "connected" || sync["state"] == "unreachable", "{sync}");
                }
            }
        }
        Ok(())
    }

    /// After the fault: the same on both sides, change by change, and the push is on disk.
    fn is_even(&self) -> Result<()> {
        let changes = self.tenant.wait_until_even(&self.sidecar)?;
        let of = |path: &str| changes.iter().filter(|change| change["path"] == path).count();
        ensure!(of("workspace/small.md") == 2 && of("workspace/gone.md") == 2, "{changes:?}");
        for path in ["workspace/before.md", "workspace/large.md", "workspace/agent.md", "workspace/pushed.md"] {
            ensure!(of(path) == 1, "{path} has {} changes", of(path));
        }
        ensure!(std::fs::read(self.sidecar.data().join("workspace/pushed.md"))? == b"pushed");
        Ok(())
    }

    fn requests(&self, what: &str, fault: Fault) -> Vec<std::time::Instant> {
        let seen = self.chaos.seen().into_iter();
        seen.filter(|seen| seen.what == what && seen.fault == fault).map(|seen| seen.at).collect()
    }
}

fn is_long() -> bool {
    std::env::var_os("WINSTON_LONG").is_some()
}

fn fault(control: &Control, name: &str, fault: Fault, says: Says) -> Result<()> {
    let scene = Scene::new(control, name)?;
    scene.chaos.set(fault);
    scene.work()?;
    if fault != Fault::Refused {
        eventually("a request that meets the fault", || {
            Ok(scene.chaos.seen().iter().any(|seen| seen.fault == fault && seen.what.contains("changes")).then_some(()))
        })?;
    }
    scene.says(says)?;
    scene.chaos.set(Fault::None);
    scene.is_even()
}

/// Between two requests of one kind lies what control asked for.
fn asked_pauses_are_kept(control: &Control) -> Result<()> {
    let scene = Scene::new(control, "pauses")?;
    let busy = Fault::Status(503, Some(ASKED));
    scene.chaos.set(busy);
    scene.work()?;
    for what in ["POST /api/sidecar/check-in", "POST /api/sidecar/changes", "GET /api/sidecar/desired"] {
        let times = eventually(what, || Ok(Some(scene.requests(what, busy)).filter(|times| times.len() >= 3)))?;
        for pair in times.windows(2) {
            let pause = pair[1].duration_since(pair[0]);
            ensure!(pause >= Duration::from_secs(ASKED), "{what} came again after {pause:?}");
        }
    }
    scene.chaos.set(Fault::None);
    scene.is_even()
}

/// An answer that only a person can change is not asked for again and again, however much there is to send.
fn refusals_are_not_retried_hot(control: &Control) -> Result<()> {
    let scene = Scene::new(control, "refused")?;
    let refusal = Fault::Status(400, None);
    scene.chaos.set(refusal);
    scene.work()?;
    let whats = ["POST /api/sidecar/check-in", "POST /api/sidecar/changes", "GET /api/sidecar/desired"];
    for what in whats {
        eventually(what, || Ok((!scene.requests(what, refusal).is_empty()).then_some(())))?;
    }
    scene.says(Says::State("refused"))?;
    for number in 0..30 {
        scene.sidecar.put(&format!("workspace/more-{number}.md"), "more")?.expect(200)?;
    }
    for what in whats {
        let count = scene.requests(what, refusal).len();
        ensure!(count <= 2, "{what} came {count} times");
    }
    scene.chaos.set(Fault::None);
    if is_long() {
        let connected = || Ok((scene.sidecar.status()?["sync"]["state"] == "connected").then_some(()));
        within(Duration::from_secs(150), "connected again", connected)?;
        within(Duration::from_secs(150), "everything is there", || {
            let journal = scene.sidecar.status()?["journal"].take();
            Ok((journal["acked_seq"] == journal["head_seq"]).then_some(()))
        })?;
        return scene.is_even();
    }
    // A person has changed something, and starts it again.
    let Scene { tenant, chaos, sidecar } = scene;
    let sidecar = sidecar.kill()?.start()?;
    Scene { tenant, chaos, sidecar }.is_even()
}

/// Control was away for long: what piled up arrives in order, by few requests at a time, with more pushes than one.
fn a_week_alone(control: &Control) -> Result<()> {
    let scene = Scene::new(control, "alone")?;
    scene.chaos.set(Fault::Refused);
    scene.work()?;
    for number in 0..800 {
        scene.sidecar.agent_writes(&format!("workspace/days/{}/{number}.md", number % 7), format!("day {number}"))?;
    }
    for number in 0..20 {
        scene.tenant.push(&format!("workspace/pushes/{number}.md"), &format!("push {number}"))?;
    }
    eventually("the journal has it", || {
        let head = scene.sidecar.status()?["journal"]["head_seq"].as_u64().context("head_seq")?;
        if head >= 807 { Ok(Some(())) } else { bail!("{head} records") }
    })?;
    scene.says(Says::State("unreachable"))?;
    scene.chaos.forget_most();
    scene.chaos.set(Fault::None);
    scene.is_even()?;
    let most = scene.chaos.most();
    ensure!(most <= AT_ONCE, "{most} requests at once");
    Ok(())
}

type Scenario<'a> = (String, Box<dyn FnOnce() -> Result<()> + Send + 'a>);

#[test]
fn a_bad_network_loses_nothing_and_is_told_about() -> Result<()> {
    let address = winston_tests::http::free_address()?.to_string();
    let environment = [("WINSTON_CONTROL_LISTEN", address.as_str()), ("WINSTON_HEARTBEAT_SECONDS", "1")];
    let control = block_on(Control::start(&environment))?;
    let here = &control;
    let mut scenarios: Vec<Scenario<'_>> = vec![
        ("pauses".to_owned(), Box::new(|| asked_pauses_are_kept(here))),
        ("refusals".to_owned(), Box::new(|| refusals_are_not_retried_hot(here))),
        ("a week alone".to_owned(), Box::new(|| a_week_alone(here))),
    ];
    for (number, (bad, says)) in FAULTS.iter().enumerate() {
        scenarios.push((format!("{bad:?}"), Box::new(move || fault(here, &format!("fault-{number}"), *bad, *says))));
    }
    let failures: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = scenarios.into_iter().map(|(name, run)| (name, scope.spawn(run))).collect();
        let ended = running.into_iter().map(|(name, thread)| (name, thread.join()));
        ended
            .filter_map(|(name, result)| match result {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("{name}: {error:#}")),
                Err(_) => Some(format!("{name}: panicked")),
            })
            .collect()
    });
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}
