//! The real, unmodified OpenClaw gateway: hosted by control, with a broken configuration, and as a user of its own.
//!
//! A start takes ten seconds and more, so each test tells one long story, and they take turns.

use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use winston_tests::control::Control;
use winston_tests::gateway::configuration;
use winston_tests::gateway::{Gateway, is_up, openclaw, pid, processes_of};
use winston_tests::household::Household;
use winston_tests::http::{Client, free_address};
use winston_tests::process::{Entrypoint, Mode, Process, TEST_TOKEN, bin, children, find_processes, is_root, skip};
use winston_tests::sidecar::Setup;
use winston_tests::tenant::{Tenant, block_on, hash};
use winston_tests::wait::eventually;
use winston_tests::websocket::WebSocket;

const CONFIG: &str = ".openclaw/openclaw.json";
const GATEWAY_TOKEN: &str = "test-gateway-token-0123456789abcdef";

/// A tenant that control has provisioned.
struct Hosted {
    control: Control,
    tenant: Tenant,
    sidecar: Client,
    sidecar_token: String,
    gateway: Gateway,
    home: PathBuf,
}

impl Hosted {
    fn provision(program: &Path) -> Result<Self> {
        let program = program.to_str().context("the path of openclaw")?;
        let control = block_on(Control::start(&[("WINSTON_LOCAL_OPENCLAW", program)]))?;
        let tenant = Tenant::create(&control, "gateway@test.example")?;
        let answer = tenant.post("/provision", &json!({"agentName": "Ada"}))?.expect(200)?.json()?;
        let text = |key: &str| answer[key].as_str().with_context(|| format!("{key} in {answer}"));
        let (address, token) = (text("sidecarUrl")?.trim_start_matches("http://").parse()?, text("sidecarToken")?);
        let sidecar = Client::new(address, token);
        let home = control.data_dir().join("tenants").join(&tenant.id);
        let (gateway, sidecar_token) = (Gateway::of(sidecar.clone()), token.to_owned());
        Ok(Self { control, tenant, sidecar, sidecar_token, gateway, home })
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    fn state_dir(&self) -> PathBuf {
        self.data().join(".openclaw")
    }

    /// The sidecar's changes, newest first.
    fn changes(&self) -> Result<Vec<Value>> {
        let answer = self.sidecar.get("/changes?limit=1000")?;
        answer["changes"].as_array().cloned().context("changes")
    }

    fn put(&self, path: &str, content: &str) -> Result<()> {
        let body = json!({ "content": content }).to_string();
        self.sidecar.call("PUT", &format!("/files/{path}"), &[], body.as_bytes())?.expect(200)?;
        Ok(())
    }
}

/// The whole life of a hosted gateway, from provisioning to the end.
#[test]
fn a_hosted_gateway_lives_as_it_should() -> Result<()> {
    let Some((program, _turn)) = openclaw("a_hosted_gateway_lives_as_it_should") else { return Ok(()) };
    let hosted = Hosted::provision(&program)?;
    let first = hosted.gateway.wait_until_ready(None)?;
    it_sees_nothing_of_winston(&hosted, first)?;
    it_leaves_its_configuration_alone(&hosted)?;
    idle_it_changes_nothing(&hosted)?;
    let second = killed_it_comes_back(&hosted, first)?;
    a_new_model_needs_no_restart(&hosted, second)?;
    let third = it_restarts_when_asked(&hosted, second)?;
    it_stops_when_asked_and_starts_again(&hosted, third)?;
    control_stops_everything(&hosted)
}

/// Neither the gateway nor what it started has a variable of ours, or the sidecar's token under any name.
fn it_sees_nothing_of_winston(hosted: &Hosted, gateway: i32) -> Result<()> {
    let mut waiting = vec![gateway];
    let mut seen = 0;
    while let Some(pid) = waiting.pop() {
        let process = Process::of(pid);
        let ours = process.environment.iter().find(|variable| {
            variable.starts_with("WINSTON_")
                || variable.contains(&hosted.sidecar_token)
                || variable.contains("DATABASE_URL")
        });
        ensure!(ours.is_none(), "{process} has {ours:?}");
        seen += usize::from(!process.environment.is_empty());
        waiting.extend(children(Pid::from_raw(pid))?.into_iter().map(Pid::as_raw));
    }
    ensure!(seen > 0, "no environment could be read");
    // The probe can find the token: it is where it belongs.
    let state = format!("OPENCLAW_STATE_DIR={}", hosted.state_dir().display());
    ensure!(Process::of(gateway).environment.contains(&state), "the gateway has no {state}");
    // Entrypoint and sidecar are sealed for others than root.
    ensure!(
        !is_root()
            || !find_processes(|process| process
                .environment
                .iter()
                .any(|variable| variable.contains(&hosted.sidecar_token)))?
            .is_empty()
    );
    Ok(())
}

/// What control generated is still what is on disk, and nobody but control has ever written it.
fn it_leaves_its_configuration_alone(hosted: &Hosted) -> Result<()> {
    let versions = hosted.tenant.versions(CONFIG)?;
    ensure!(versions == [hash(std::fs::read(hosted.data().join(CONFIG))?)], "versions: {versions:?}");
    let authors: Vec<_> = hosted.changes()?.into_iter().filter(|change| change["path"] == CONFIG).collect();
    ensure!(authors.len() == 1 && authors[0]["source"] == "system", "{authors:?}");
    Ok(())
}

/// Databases, logs and caches of a gateway that nobody talks to are no changes. Each look waits until a change of ours is recorded, so
/// everything that happened before it has been looked at as well.
fn idle_it_changes_nothing(hosted: &Hosted) -> Result<()> {
    const LOOKS: usize = 20;
    for look in 0..LOOKS {
        let path = format!("workspace/memory/{look}.md");
        let file = hosted.data().join(&path);
        std::fs::create_dir_all(file.parent().context("a directory")?)?;
        std::fs::write(file, "x")?;
        eventually("the agent's change", || {
            Ok(hosted.changes()?.iter().any(|change| change["path"] == path).then_some(()))
        })?;
    }
    let changes = hosted.changes()?;
    let agents: Vec<_> = changes.iter().filter(|change| change["source"] == "agent").collect();
    let others: Vec<_> = agents
        .iter()
        .filter(|change| !change["path"].as_str().is_some_and(|path| path.starts_with("workspace/memory/")))
        .collect();
    ensure!(others.is_empty(), "{others:?}");
    ensure!(agents.len() == LOOKS, "{agents:?}");
    Ok(())
}

/// `kill -9`: it is started again, and until then the file API goes on.
fn killed_it_comes_back(hosted: &Hosted, gateway: i32) -> Result<i32> {
    kill(Pid::from_raw(gateway), Signal::SIGKILL)?;
    hosted.gateway.wait_for("the end is noticed", |status| status["last_exit"]["signal"] == 9)?;
    for content in ["one", "two", "three"] {
        hosted.put("workspace/meanwhile.md", content)?;
        let read = hosted.sidecar.get("/files/workspace/meanwhile.md")?;
        ensure!(read["content"] == content, "{read}");
    }
    let down = hosted.gateway.status()?;
    ensure!(down["state"] != "ready", "it was back before the file API was tried: {down}");
    let next = hosted.gateway.wait_until_ready(Some(gateway))?;
    ensure!(hosted.gateway.status()?["restarts"] == 1);
    Ok(next)
}

/// A pushed change of the model is taken over by the running process.
fn a_new_model_needs_no_restart(hosted: &Hosted, gateway: i32) -> Result<()> {
    let before = hosted.gateway.logs(1)?;
    let last = before.last().and_then(|line| line["seq"].as_u64()).context("a line")?;
    let known = hosted.tenant.get(&format!("/files/{CONFIG}"))?;
    let mut config: Value = serde_json::from_str(known["content"].as_str().context("content")?)?;
    // A provider that comes with OpenClaw: for others the next start fetches a plugin.
    config["agents"]["defaults"]["model"]["primary"] = json!("anthropic/claude-sonnet-4-5");
    let config = format!("{config:#}\n");
    hosted.tenant.push(CONFIG, &config)?;
    eventually("the configuration is on disk", || {
        Ok((std::fs::read_to_string(hosted.data().join(CONFIG))? == config).then_some(()))
    })?;
    eventually("the gateway has seen it", || {
        let lines = hosted.gateway.logs(1000)?;
        let mut new = lines.iter().filter(|line| line["seq"].as_u64() > Some(last));
        if new.any(|line| line["line"].as_str().is_some_and(|line| line.contains("hot reload applied"))) {
            return Ok(Some(()));
        }
        bail!("{}", hosted.gateway.log_text(20)?)
    })?;
    let status = hosted.gateway.status()?;
    ensure!(is_up(&status) && pid(&status)? == gateway, "{status}");
    let on_disk = std::fs::read_to_string(hosted.data().join(CONFIG))?;
    ensure!(on_disk == config, "the gateway rewrote its configuration: {on_disk}");
    Ok(())
}

/// A restart is another process.
fn it_restarts_when_asked(hosted: &Hosted, gateway: i32) -> Result<i32> {
    hosted.gateway.order("restart")?.expect(200)?;
    ensure!(Process::of(gateway).environment.is_empty(), "the old process is there still");
    hosted.gateway.wait_until_ready(Some(gateway))
}

/// After a stop nothing of the gateway is left, not even what it put in sessions of its own; a start brings it back.
fn it_stops_when_asked_and_starts_again(hosted: &Hosted, gateway: i32) -> Result<()> {
    ensure!(!processes_of(&hosted.state_dir())?.is_empty(), "the gateway cannot be found");
    let status = hosted.gateway.order("stop")?.expect(200)?.json()?;
    ensure!(status["state"] == "stopped" && status["pid"].is_null(), "{status}");
    let left = processes_of(&hosted.state_dir())?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    let sidecars = find_processes(|process| {
        process.environment.contains(&format!("WINSTON_SIDECAR_TOKEN={}", hosted.sidecar_token))
    })?;
    for sidecar in &sidecars {
        let left = children(Pid::from_raw(sidecar.pid))?;
        let foreign = left.iter().find(|child| !sidecars.iter().any(|sidecar| sidecar.pid == child.as_raw()));
        ensure!(foreign.is_none(), "{sidecar} has the child {foreign:?}");
    }
    hosted.gateway.order("start")?.expect(200)?;
    hosted.gateway.wait_until_ready(Some(gateway))?;
    let lines = hosted.gateway.logs(1000)?;
    ensure!(lines.iter().any(|line| line["stream"] == "stdout"), "no output of the gateway: {lines:?}");
    Ok(())
}

/// Control's stop reaches everything, in order and within the grace: nothing had to be killed.
fn control_stops_everything(hosted: &Hosted) -> Result<()> {
    const GRACE: Duration = Duration::from_secs(25);
    let belongs = |process: &Process| process.belongs_to(&hosted.home);
    ensure!(find_processes(belongs)?.len() >= 3, "entrypoint, sidecar and gateway cannot be found");
    let started = Instant::now();
    let instance = hosted.tenant.post("/stop", &json!({}))?.expect(200)?.json()?;
    ensure!(started.elapsed() < GRACE, "it took {:?}", started.elapsed());
    ensure!(instance["status"] == "stopped", "{instance}");
    let left = find_processes(belongs)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    ensure!(!hosted.control.log().contains("was killed"), "{}", hosted.control.log());
    Ok(())
}

/// A configuration with an unknown key: the end of the gateway is explained, files stay reachable, and repairing the file is enough.
#[test]
fn a_broken_configuration_is_told_and_repairing_it_is_enough() -> Result<()> {
    let Some((program, _turn)) = openclaw("a_broken_configuration_is_told_and_repairing_it_is_enough") else {
        return Ok(());
    };
    let port = free_address()?.port();
    let mut broken = configuration(port);
    broken["noSuchKey"] = json!(true);
    let setup = Setup::new()?
        .env("WINSTON_GATEWAY", "on")
        .env("WINSTON_OPENCLAW_BIN", program.to_str().context("the path of openclaw")?)
        .env("OPENCLAW_GATEWAY_PORT", &port.to_string())
        .env("OPENCLAW_GATEWAY_TOKEN", GATEWAY_TOKEN);
    // What entrypoint would have made.
    for directory in [".openclaw", ".home"] {
        std::fs::create_dir(setup.data().join(directory))?;
    }
    std::fs::write(setup.data().join(CONFIG), broken.to_string())?;
    let sidecar = setup.start()?;
    let gateway = Gateway::of(sidecar.client());

    let status = gateway.wait_for("the end with 78", |status| status["last_exit"]["code"] == 78)?;
    let meaning = status["last_exit"]["meaning"].as_str().unwrap_or_default();
    assert!(meaning.contains("config"), "{status}");
    assert_eq!(status["last_exit"]["likely"], "bad_config", "{status}");
    // From here only a rare retry, or something new, starts it again.
    gateway.wait_for("a crash loop", |status| status["state"] == "crash_looping")?;
    assert_eq!(sidecar.get(&format!("/files/{CONFIG}"))?.expect(200)?.json()?["content"], broken.to_string());
    assert!(gateway.log_text(1000)?.contains("noSuchKey"), "{}", gateway.log_text(1000)?);

    sidecar.put(CONFIG, &configuration(port).to_string())?.expect(200)?;
    gateway.wait_until_ready(None)?;
    let (status, setup) = sidecar.stop()?;
    assert!(status.success());
    assert_eq!(processes_of(&setup.data().join(".openclaw"))?, Vec::<String>::new());
    Ok(())
}

/// As root, below the real entrypoint: the gateway is an ordinary user who can have no more rights, owns the tenant's files and cannot read ours.
#[test]
fn the_gateway_is_a_user_of_its_own() -> Result<()> {
    const TEST: &str = "the_gateway_is_a_user_of_its_own";
    const UID: u32 = 61_234;
    if !is_root() {
        skip(TEST, "only root can change users");
        return Ok(());
    }
    let Some((program, _turn)) = openclaw(TEST) else { return Ok(()) };
    let as_user = |command: &str, argument: &Path| Command::new(command).arg(argument).uid(UID).gid(UID).output();
    if !as_user("cat", &program)?.status.success() {
        skip(TEST, "another user cannot read WINSTON_OPENCLAW_BIN");
        return Ok(());
    }
    let port = free_address()?.port();
    let entrypoint = Entrypoint::new(Mode::Subreaper, "")?
        .env("WINSTON_SIDECAR_BIN", &bin("winston-sidecar")?.to_string_lossy())
        .env("WINSTON_SIDECAR_LISTEN", "127.0.0.1:0")
        .env("WINSTON_GATEWAY_UID", &UID.to_string())
        .env("WINSTON_OPENCLAW_BIN", &program.to_string_lossy())
        .env("OPENCLAW_GATEWAY_PORT", &port.to_string())
        .env("OPENCLAW_GATEWAY_TOKEN", GATEWAY_TOKEN)
        .env("WINSTON_OPENCLAW_JSON", &configuration(port).to_string());
    let data = entrypoint.data();
    let mut running = entrypoint.start()?;
    let address: SocketAddr = loop {
        let line: Value = serde_json::from_str(&running.line()?).unwrap_or_default();
        if line["message"] == "listening" {
            break line["address"].as_str().context("address")?.parse()?;
        }
    };
    let sidecar = Client::new(address, TEST_TOKEN);
    let gateway = Gateway::of(sidecar.clone()).wait_until_ready(None)?;

    let status = std::fs::read_to_string(format!("/proc/{gateway}/status"))?;
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.split_whitespace().collect::<Vec<_>>())
    };
    let id = UID.to_string();
    assert_eq!((field("Uid:"), field("Gid:")), (Some(vec![id.as_str(); 4]), Some(vec![id.as_str(); 4])));
    assert_eq!((field("Groups:"), field("NoNewPrivs:")), (Some(vec![]), Some(vec!["1"])));
    for set in ["CapEff:", "CapPrm:", "CapAmb:"] {
        assert_eq!(field(set), Some(vec!["0000000000000000"]), "{set}");
    }

    let body = json!({"content": "hello"}).to_string();
    sidecar.call("PUT", "/files/workspace/new/dir/a.md", &[], body.as_bytes())?.expect(200)?;
    for path in ["workspace", "workspace/new", "workspace/new/dir", "workspace/new/dir/a.md", ".openclaw", CONFIG] {
        let metadata = data.join(path).metadata().with_context(|| path.to_owned())?;
        assert_eq!((metadata.uid(), metadata.gid()), (UID, UID), "{path}");
    }
    assert!(as_user("cat", &data.join("workspace/new/dir/a.md"))?.status.success());
    let ours = data.join(".winston").metadata()?;
    assert_eq!((ours.uid(), ours.permissions().mode() & 0o777), (0, 0o700));
    assert!(!as_user("ls", &data.join(".winston"))?.status.success());
    assert!(!as_user("cat", &data.join(".winston/epoch"))?.status.success());

    running.signal(Signal::SIGTERM)?;
    assert_eq!(running.wait()?, 0, "{}", running.stderr());
    assert_eq!(processes_of(&data.join(".openclaw"))?, Vec::<String>::new());
    Ok(())
}

/// The sidecar is killed and replaced while somebody talks to the gateway: the same process answers on the same connection.
#[test]
fn the_gateway_outlives_its_sidecar() -> Result<()> {
    const TEST: &str = "the_gateway_outlives_its_sidecar";
    let Some((program, _turn)) = openclaw(TEST) else { return Ok(()) };
    let household = Household::new(Mode::Subreaper)?
        .env("WINSTON_OPENCLAW_BIN", &program.to_string_lossy())
        .env("OPENCLAW_GATEWAY_TOKEN", GATEWAY_TOKEN);
    let config = configuration(household.gateway().port()).to_string();
    std::fs::write(household.data().join(CONFIG), config)?;
    let mut home = household.start()?;
    let gateway = home.gateway.wait_until_ready(None)?;
    let mut socket = WebSocket::open(household.gateway())?;
    socket.receive("the challenge", |message| message["event"] == "connect.challenge")?;
    let request =
        |id: &str, method: &str, params: Value| json!({"type": "req", "id": id, "method": method, "params": params});
    socket.send(&request(
        "hello",
        "connect",
        json!({
            "minProtocol": 4, "maxProtocol": 4, "role": "operator", "caps": [],
            "scopes": ["operator.read", "operator.write", "operator.admin"],
            "client": {"id": "gateway-client", "mode": "backend", "version": "0.1.0", "platform": "linux"},
            "auth": {"token": GATEWAY_TOKEN},
        }),
    ))?;
    let hello = socket.receive("the greeting", |message| message["id"] == "hello")?;
    ensure!(hello["ok"] == true, "{hello}");

    for round in ["killed", "killed again", "replaced"] {
        let before = home.sidecar()?;
        if round == "replaced" {
            home.client.call("POST", "/upgrade", &[], b"")?.expect(202)?;
        } else {
            kill(before, Signal::SIGKILL)?;
        }
        socket.send(&request(round, "health", json!({})))?;
        home.another_sidecar(before)?;
        let health = socket.receive("an answer", |message| message["id"] == round)?;
        ensure!(health["ok"] == true, "{health}");
        let status = home.ready()?;
        ensure!(pid(&status)? == gateway && status["adopted"] == true && status["restarts"] == 0, "{status}");
    }
    // Its end is known, and it is followed by another one.
    kill(Pid::from_raw(gateway), Signal::SIGKILL)?;
    home.gateway.wait_for("the end is noticed", |status| status["last_exit"]["signal"] == 9)?;
    home.gateway.wait_until_ready(Some(gateway))?;
    // A stop without a sidecar.
    std::fs::remove_file(household.sidecar())?;
    home.kill_sidecar()?;
    home.entrypoint.expect_log("not found")?;
    home.entrypoint.signal(Signal::SIGTERM)?;
    ensure!(home.entrypoint.wait()? == 0, "{}", home.entrypoint.stderr());
    ensure!(home.gateways()?.is_empty());
    Ok(())
}
