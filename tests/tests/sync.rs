//! Changes on their way up: a real sidecar and a real control, and what happens when one of them, the database or the token is gone.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use winston_tests::control::Control;
use winston_tests::http::Client;
use winston_tests::sidecar::Sidecar;
use winston_tests::tenant::{Tenant, block_on, hash};
use winston_tests::wait::eventually;
use winston_wire::SESSION_HEADER;

/// The changes of one path.
fn of<'a>(changes: &'a [Value], path: &str) -> Vec<&'a Value> {
    changes.iter().filter(|change| change["path"] == path).collect()
}

/// Who did what to which file with which content: all of it is in control, once.
#[test]
fn every_kind_of_change_arrives_once_with_its_content() -> Result<()> {
    const LIMIT: usize = 300_000;
    let control = Tenant::control()?;
    let tenant = Tenant::create(&control, "kinds@test.example")?;
    let sidecar = tenant.sidecar()?.env("WINSTON_MAX_FILE_BYTES", &LIMIT.to_string()).start()?;

    sidecar.put_with("workspace/a.md", "one", &[("X-Winston-Actor", "Test Person")])?.expect(200)?;
    sidecar.agent_saves("workspace/a.md", "two")?;
    sidecar.wait_for_history("workspace/a.md", &["admin create", "agent update"])?;
    sidecar.call("DELETE", "/files/workspace/a.md", &[], b"")?.expect(200)?;
    sidecar.agent_saves("workspace/b.md", "agent's")?;
    sidecar.wait_for_history("workspace/b.md", &["agent create"])?;
    std::fs::remove_file(sidecar.data().join("workspace/b.md"))?;
    sidecar.wait_for_history("workspace/b.md", &["agent create", "agent delete"])?;

    let binary: Vec<u8> = (0..=u8::MAX).collect();
    let octets = [("Content-Type", "application/octet-stream")];
    sidecar.call("PUT", "/files/workspace/binary", &octets, &binary)?.expect(200)?;
    // Too large for the journal's lines, so kept as an object until it is sent.
    let large = "large ".repeat(35_000);
    sidecar.put("workspace/large.md", &large)?.expect(200)?;
    sidecar.agent_saves("workspace/over.md", vec![b'x'; LIMIT + 1])?;
    sidecar.wait_for_history("workspace/over.md", &["agent create"])?;

    let changes = tenant.wait_until_even(&sidecar)?;
    assert_eq!(changes.len(), 8, "{changes:#?}");
    let a = of(&changes, "workspace/a.md");
    for (change, source, action, actor, content) in [
        (a[0], "admin", "create", json!("Test Person"), Some("one")),
        (a[1], "agent", "update", Value::Null, Some("two")),
        (a[2], "admin", "delete", Value::Null, None),
    ] {
        assert_eq!((&change["source"], &change["action"]), (&json!(source), &json!(action)));
        assert_eq!((&change["actor"], &change["hash"]), (&actor, &json!(content.map(hash))));
    }
    assert_eq!(a[2]["previous_hash"], hash("two"));
    assert_eq!(tenant.content_of(of(&changes, "workspace/binary")[0])?, binary);
    assert_eq!(tenant.content_of(of(&changes, "workspace/large.md")[0])?, large.as_bytes());

    // Over the limit: the record is there, with hash and size, and says that the content is not.
    let over = of(&changes, "workspace/over.md")[0];
    assert_eq!((&over["content_omitted"], &over["size"]), (&json!(true), &json!(LIMIT + 1)));
    assert_eq!(tenant.listed("workspace/over.md")?["content_omitted"], true);
    let content = tenant.call("GET", "/files/workspace/over.md", &[], b"")?.expect(404)?;
    assert_eq!(content.json()?["code"], "content_omitted");
    assert_eq!(tenant.listed("workspace/a.md")?, Value::Null);
    Ok(())
}

/// Control is killed, and fifty versions of one file replace each other before it is back: history has each of them.
#[test]
fn a_version_that_was_overwritten_before_it_was_sent_is_in_history() -> Result<()> {
    const PATH: &str = "workspace/notes.md";
    let mut control = Tenant::control()?;
    let tenant = Tenant::create(&control, "overwritten@test.example")?;
    let sidecar = tenant.sidecar()?.start()?;
    sidecar.put("workspace/before.md", "x")?.expect(200)?;
    tenant.wait_until_even(&sidecar)?;

    control.kill();
    let written: Vec<String> = (0..50).map(|version| format!("version {version}")).collect();
    for version in &written {
        sidecar.put(PATH, version)?.expect(200)?;
    }
    assert_eq!(sidecar.status()?["journal"]["acked_seq"], 1);
    sidecar.wait_for_sync_state("unreachable")?;
    block_on(control.start_again())?;

    let changes = tenant.wait_until_even(&sidecar)?;
    let versions = of(&changes, PATH).into_iter().map(|change| tenant.content_of(change));
    let versions = versions.map(|content| Ok(String::from_utf8(content?)?)).collect::<Result<Vec<_>>>()?;
    assert_eq!(versions, written);
    Ok(())
}

/// The sidecar is killed again and again, while writers write and contents are on their way.
#[test]
fn kills_during_the_upload_lose_and_double_nothing() -> Result<()> {
    const ROUNDS: usize = 6;
    const WRITERS: usize = 3;
    let control = Tenant::control()?;
    let tenant = Tenant::create(&control, "killed@test.example")?;
    let mut setup = tenant.sidecar()?;
    let mut acknowledged = Vec::new();
    let mut killed_behind = 0;
    for round in 0..ROUNDS {
        let sidecar = setup.start()?;
        let before = tenant.changes()?.len() as u64;
        std::thread::scope(|scope| -> Result<()> {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    scope.spawn({
                        let sidecar = &sidecar;
                        move || write_until_killed(sidecar, round, writer)
                    })
                })
                .collect();
            // At another moment in each round: control has committed more than before, and lacks something still.
            let progress = before + round as u64 * 3;
            eventually("an upload", || Ok((tenant.changes()?.len() as u64 > progress).then_some(())))?;
            // Looked at in this order, "more than control has" is certain.
            let head = sidecar.status()?["journal"]["head_seq"].as_u64();
            killed_behind += u32::from(head > Some(tenant.changes()?.len() as u64));
            kill_9(&sidecar)?;
            acknowledged.extend(writers.into_iter().flat_map(|writer| writer.join().unwrap_or_default()));
            Ok(())
        })?;
        setup = sidecar.kill()?;
    }
    assert!(killed_behind > 0, "every kill came after the upload");
    let sidecar = setup.start()?;
    let changes = tenant.wait_until_even(&sidecar)?;
    let arrived: Vec<_> = changes.iter().map(|change| (change["path"].as_str(), change["hash"].as_str())).collect();
    let once: HashSet<_> = arrived.iter().collect();
    assert_eq!(once.len(), arrived.len(), "something came twice");
    for (path, hash) in &acknowledged {
        assert!(once.contains(&(Some(path.as_str()), Some(hash.as_str()))), "{path} was acknowledged and is lost");
    }
    assert!(changes.iter().all(|change| change["source"] == "admin"));
    Ok(())
}

/// Writes new files, every fourth one large, until there is no answer; paths and hashes of what was acknowledged.
fn write_until_killed(sidecar: &Sidecar, round: usize, writer: usize) -> Vec<(String, String)> {
    let mut acknowledged = Vec::new();
    for count in 0..40 {
        let (path, mut content) =
            (format!("workspace/{writer}/{round}-{count}.md"), format!("{writer} {round} {count} "));
        if count % 4 == 0 {
            content = content.repeat(20_000);
        }
        match sidecar.put(&path, &content) {
            Ok(answer) if answer.status == 200 => acknowledged.push((path, hash(content))),
            _ => break,
        }
    }
    acknowledged
}

fn kill_9(sidecar: &Sidecar) -> Result<()> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(sidecar.pid())?);
    Ok(nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL)?)
}

/// A sidecar whose token was revoked says so and goes on serving; with a new token everything arrives.
#[test]
fn without_a_valid_token_the_tenant_goes_on_alone() -> Result<()> {
    let control = Tenant::control()?;
    let tenant = Tenant::create(&control, "revoked@test.example")?;
    let sidecar = tenant.sidecar()?.start()?;
    sidecar.put("workspace/before.md", "x")?.expect(200)?;
    tenant.wait_until_even(&sidecar)?;

    let tokens = tenant.get("/tokens")?;
    let token = tokens["tokens"][0]["id"].as_str().context("the id of the token")?;
    tenant.call("DELETE", &format!("/tokens/{token}"), &[], b"")?.expect(200)?;
    let sync = sidecar.wait_for_sync_state("unauthorized")?;
    assert!(sync["error"].is_string(), "{sync}");

    sidecar.put("workspace/after.md", "admin's")?.expect(200)?;
    assert_eq!(sidecar.get("/files/workspace/after.md")?.expect(200)?.json()?["content"], "admin's");
    sidecar.agent_writes("workspace/agent.md", "agent's")?;
    sidecar.wait_for_history("workspace/agent.md", &["agent create"])?;
    assert_eq!(sidecar.status()?["journal"]["acked_seq"], 1);
    assert_eq!(tenant.changes()?.len(), 1);

    let issued = tenant.post("/tokens", &json!({}))?.expect(201)?.json()?;
    let setup = sidecar.kill()?.token(issued["token"].as_str().context("token")?);
    let changes = tenant.wait_until_even(&setup.start()?)?;
    assert_eq!(changes.len(), 3);
    Ok(())
}

/// Control is up and its database is not: the sidecar keeps everything and catches up, in both directions.
#[test]
fn without_a_database_nothing_is_lost() -> Result<()> {
    // The second control uses the first one's database, so that the test can take it away.
    let mut owner = Tenant::control()?;
    let url = format!("host={} user=winston dbname=postgres", owner.socket_dir().display());
    let control = block_on(Control::start(&[("DATABASE_URL", &url)]))?;
    let tenant = Tenant::create(&owner, "database@test.example")?;
    let address = format!("http://{}", control.client(None).authority());
    let sidecar = tenant.sidecar()?.env("WINSTON_CONTROL_URL", &address).start()?;
    sidecar.put("workspace/before.md", "x")?.expect(200)?;
    tenant.wait_until_even(&sidecar)?;

    let ended = owner.terminate().context("control had ended before")?;
    assert!(ended.success());
    for content in ["one", "two", "three"] {
        sidecar.put("workspace/meanwhile.md", content)?.expect(200)?;
    }
    sidecar.wait_for_sync_state("unreachable")?;
    assert_eq!(sidecar.status()?["journal"]["acked_seq"], 1);

    block_on(owner.start_again())?;
    tenant.push("workspace/pushed.md", "pushed")?;
    let changes = tenant.wait_until_even(&sidecar)?;
    assert_eq!(of(&changes, "workspace/meanwhile.md").len(), 3);
    assert_eq!(read(sidecar.data(), "workspace/pushed.md")?, "pushed");
    Ok(())
}

fn read(data: &Path, path: &str) -> Result<String> {
    std::fs::read_to_string(data.join(path)).with_context(|| path.to_owned())
}

/// Two tenants of one control use the same paths; neither sees, gets or overwrites anything of the other.
#[test]
fn two_tenants_do_not_see_each_other() -> Result<()> {
    const PATH: &str = "workspace/SOUL.md";
    let control = Tenant::control()?;
    let start = |name: &str| -> Result<(Tenant, Sidecar)> {
        let tenant = Tenant::create(&control, &format!("{name}@test.example"))?;
        let sidecar = tenant.sidecar()?.start()?;
        sidecar.put(PATH, name)?.expect(200)?;
        sidecar.put(&format!("workspace/{name}.md"), name)?.expect(200)?;
        tenant.wait_until_even(&sidecar)?;
        Ok((tenant, sidecar))
    };
    let ((one, first), (two, second)) = (start("one")?, start("two")?);
    one.push(PATH, "pushed to one")?;
    for (tenant, sidecar, name, wanted) in [(&one, &first, "one", "pushed to one"), (&two, &second, "two", "two")] {
        tenant.wait_until_even(sidecar)?;
        assert_eq!(read(sidecar.data(), PATH)?, wanted);
        let files = tenant.get("/files")?;
        let paths: Vec<_> = files["files"].as_array().into_iter().flatten().map(|file| file["path"].as_str()).collect();
        assert_eq!(paths, [Some(PATH), Some(format!("workspace/{name}.md").as_str())]);
    }
    assert_eq!(one.versions(PATH)?, ["one", "pushed to one"].map(hash));
    assert_eq!(two.versions(PATH)?, [hash("two")]);

    // Another tenant's token opens neither the other's file API nor its contents.
    let stranger = Client::new(first.address(), &two.token).call("GET", "/status", &[], b"")?;
    assert_eq!(stranger.status, 401);
    let content = format!("/api/sidecar/contents/{}", hash("one"));
    for (token, status) in [(&one.token, 200), (&two.token, 404)] {
        let session = [(SESSION_HEADER, "0190b3a0-0000-7000-8000-000000000002")];
        assert_eq!(Client::new(one.control_address(), token).call("GET", &content, &session, b"")?.status, status);
    }
    Ok(())
}
